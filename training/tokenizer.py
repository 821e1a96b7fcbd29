"""Make the built-in pair's tokenizer: byte-level BPE on the project's own prompts and words.

Frozen before any language training: one changed prompt would shift the ids. The tags of the tool
protocols are whole tokens, as in the Qwen tokenizers, and so are numbers.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.transcripts import corpus

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TAGS = (
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
    "<answer>", "</answer>", "<tools>", "</tools>", "<code>", "</code>",
    "<sandbox_output>", "</sandbox_output>",
)  # fmt: skip
VOCABULARY = 1400
_PIECES = r" ?[\p{L}_][\p{L}\p{M}\p{N}_]*| ?\p{N}+| ?[^\s\p{L}\p{N}_]+|\s+(?!\S)|\s+"


def train_tokenizer(folder: Path) -> Tokenizer:
    """Train and write `tokenizer.json` and `tokenizer_config.json`; the same bytes every time."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        show_progress=False,
        special_tokens=[*SPECIAL, *TAGS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(np.random.default_rng(0), 4000), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(_with_plain_tags(tokenizer) + "\n")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 4096,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return Tokenizer.from_file(str(path))


def _with_plain_tags(tokenizer: Tokenizer) -> str:
    # Tags are whole tokens, but text: they must survive when special tokens are skipped.
    content = json.loads(tokenizer.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["content"] in SPECIAL
    return json.dumps(content, ensure_ascii=False)
