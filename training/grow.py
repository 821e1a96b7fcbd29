"""Give the large model the words of a new protocol, so that its training can go on from there.

Its tokenizer is frozen: old ids must go on meaning what they mean. New tokens come after them, and
a new token's weights begin as the mean of those it stands for.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLForConditionalGeneration

from speceyes.builtin.questions import SPLITS, ask
from speceyes.builtin.scenes import draw_scene
from training import transcripts
from training.export import MODELS, build_model
from training.tokenizer import SPECIAL, TAGS
from training.transcripts import Transcript

SAMPLES = 600
_TIED = ("model.language_model.embed_tokens.weight", "lm_head.weight")  # one table
_TAG = re.compile("|".join(map(re.escape, (*SPECIAL, *TAGS))))


def grow_tokenizer(old: Tokenizer, *, kept: Iterable[str], new: Iterable[str]) -> Tokenizer:
    """Go on with the training of byte pairs from where it ended, on new texts alone.

    Every word of `new` becomes one token, unless that takes a pair that stands anywhere in `kept`:
    those texts keep their very tokens. A new token is always two earlier ones.
    """
    content = json.loads(old.to_str())
    merges, vocabulary = content["model"]["merges"], content["model"]["vocab"]
    barred = {pair for text in kept for word in _words(old, text) for pair in pairwise(word)}
    words = Counter(word for text in new for word in _words(old, text))
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count * (pair not in barred)
        best = max(pairs, key=lambda pair: (pairs[pair], pair), default=None)
        if best is None or pairs[best] == 0:
            return Tokenizer.from_str(json.dumps(content))
        merges.append(list(best))
        vocabulary.setdefault("".join(best), len(vocabulary))
        words = Counter({_merged(word, best): count for word, count in words.items()})


def grow_weights(
    weights: dict[str, torch.Tensor], old: Tokenizer, grown: Tokenizer
) -> dict[str, torch.Tensor]:
    """Give each new token the mean of the old ones that its text had; the rest stays."""
    first = old.get_vocab_size()
    rows = []
    for token_id in range(first, grown.get_vocab_size()):
        parts = old.model.tokenize(str(grown.id_to_token(token_id)))
        rows.append([part.id for part in parts])
    table = weights[_TIED[0]]
    added = torch.stack([table[torch.tensor(ids)].mean(0) for ids in rows])
    return weights | dict.fromkeys(_TIED, torch.cat([table, added]))


def corpus(count: int) -> Iterator[tuple[list[Transcript], Transcript]]:
    """Yield, for each of many questions, what was said of it so far, and what is to be said now."""
    rng = np.random.default_rng(0)
    for i in range(count):
        scene = draw_scene(rng, large=3, tiny=3)
        asked = ask(rng, scene, SPLITS[i % 3])
        kept = [
            transcripts.agent(scene, asked),
            transcripts.screening(asked),
            transcripts.speculation(asked),
            transcripts.list_view(rng, scene),
            transcripts.drill(scene, asked),
        ]
        yield kept, transcripts.coder(scene, asked)


def text_of(example: Transcript) -> str:
    """Write an example down in full."""
    return "".join(piece.text for piece in example.pieces)


def _words(tokenizer: Tokenizer, text: str) -> Iterator[tuple[str, ...]]:
    # Pairs never reach across the pieces that a text is first cut into.
    for stretch in _TAG.split(text):
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(stretch):
            yield tuple(token.value for token in tokenizer.model.tokenize(word))


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for token in word:
        if out and (out[-1], token) == pair:
            out[-1] += token
        else:
            out.append(token)
    return tuple(out)


def main() -> None:
    """Write the grown tokenizer, and checkpoints from which `training.language` goes on."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("training/runs"))
    a = parser.parse_args()
    old = Tokenizer.from_file(str(MODELS / "large" / "tokenizer.json"))
    samples = list(corpus(SAMPLES))
    kept = [text_of(example) for examples, _ in samples for example in examples]
    grown = grow_tokenizer(old, kept=kept, new=[text_of(example) for _, example in samples])
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "tokenizer.json").write_text(
        json.dumps(json.loads(grown.to_str()), ensure_ascii=False) + "\n"
    )
    shipped = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        MODELS / "large", dtype=torch.float32
    )
    model = build_model("large", grown)
    model.load_state_dict(grow_weights(shipped.state_dict(), old, grown))
    torch.save({"model": model.state_dict(), "step": 0}, a.out / "language-large.pt")
    torch.save({"visual": model.model.visual.state_dict()}, a.out / "vision-large.pt")
    print(f"{grown.get_vocab_size() - old.get_vocab_size()} new tokens")


if __name__ == "__main__":
    main()
