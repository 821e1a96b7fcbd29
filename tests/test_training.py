"""Training speaks the library's own prompts, token for token as the engines will write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from jinja2 import Environment
from PIL import Image
from tokenizers import Tokenizer

from speceyes.builtin.pair import MODELS
from speceyes.builtin.questions import SPLITS, ask, ask_relation
from speceyes.builtin.scenes import PX_PER_VIEW_PX, VIEW_PX, draw_scene, render
from speceyes.builtin.zones import WHOLE_VIEW
from speceyes.notebook import OUTPUT_FOLDER
from speceyes.types import Conversation, Text
from training import transcripts
from training.architecture import build_large
from training.export import CHAT_TEMPLATE
from training.grow import corpus, grow_tokenizer, grow_weights, text_of
from training.language import mrope_positions
from training.vision import batched_attention, grid, label_view, to_patches

pytestmark = pytest.mark.local
IDS = {"<|endoftext|>": 0, "<|im_end|>": 1, "<|image_pad|>": 2, "<|video_pad|>": 3}
IDS |= {"<|vision_start|>": 4, "<|vision_end|>": 5}


def as_chat(conversation: Conversation) -> list[dict[str, object]]:
    return [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part.text} if isinstance(part, Text) else {"type": "image"}
                for part in message.parts
            ],
        }
        for message in conversation
    ]


def test_transcripts_are_written_as_the_chat_template_writes_them() -> None:
    rng = np.random.default_rng(0)
    scene = draw_scene(rng, large=2, tiny=2)
    query = transcripts._query(ask(rng, scene, "attribute"))
    conversation = transcripts.PROTOCOL.opening(query, (transcripts._WHOLE,))
    template = Environment(autoescape=False).from_string(CHAT_TEMPLATE)  # noqa: S701
    written = template.render(messages=as_chat(conversation), add_generation_prompt=False)
    pads = written.replace("<|image_pad|>", "<|image_pad|>" * 16)
    assert pads == transcripts.render_chat(conversation)


@pytest.mark.parametrize("role", ["small", "closer", "large"])
def test_the_shipped_chat_template_is_that_of_the_training(role: str) -> None:
    assert (MODELS / role / "chat_template.jinja").read_text() == CHAT_TEMPLATE


def test_the_large_models_tokenizer_is_the_small_ones_with_more_words() -> None:
    small, large = (
        Tokenizer.from_file(str(MODELS / role / "tokenizer.json")) for role in ("small", "large")
    )
    known = small.get_vocab()
    assert {word: large.get_vocab()[word] for word in known} == known
    for kept, new in corpus(20):
        for example in kept:
            assert large.encode(text_of(example)).ids == small.encode(text_of(example)).ids
        assert len(large.encode(text_of(new)).ids) < 0.7 * len(small.encode(text_of(new)).ids)
        assert large.decode(large.encode(text_of(new)).ids, skip_special_tokens=False) == (
            text_of(new)
        )


def test_every_tag_and_every_coordinate_is_one_token() -> None:
    tokenizer = Tokenizer.from_file(str(MODELS / "large" / "tokenizer.json"))
    for number in range(VIEW_PX + 1):
        for text in (f" {number}", f"{number}"):
            assert len(tokenizer.encode(text).ids) == 1, text
    for tag in ("<think>", "</tool_call>", "<answer>", "<|image_pad|>", " red", " star"):
        assert len(tokenizer.encode(tag).ids) == 1, tag
    said = "<think>Now I see a red star.</think>\n<answer>star</answer>"
    assert tokenizer.decode(tokenizer.encode(said).ids, skip_special_tokens=True) == said


def test_the_agents_transcript_zooms_once_for_each_thing_and_ends_in_the_answer() -> None:
    rng = np.random.default_rng(5)
    for i in range(60):
        scene = draw_scene(rng, large=3, tiny=2)
        asked = ask(rng, scene, SPLITS[i % 3])
        if i % 5 == 0:
            asked = ask_relation(rng, scene.things) or asked
        said = [piece.text for piece in transcripts.agent(scene, asked).pieces if piece.is_target]
        views = (transcripts._WHOLE,)
        replies = [
            transcripts.PROTOCOL.parse(text.removesuffix("<|im_end|>"), views) for text in said
        ]
        kinds = [type(reply).__name__ for reply in replies]
        assert kinds == ["ToolCall"] * max(len(asked.targets), 1) + ["FinalAnswer"]
        assert replies[-1].text == asked.answer  # type: ignore[union-attr]


def test_the_coders_transcript_cuts_out_each_thing_in_one_turn_and_ends_in_the_answer() -> None:
    rng = np.random.default_rng(6)
    for i in range(60):
        scene = draw_scene(rng, large=3, tiny=2)
        asked = ask(rng, scene, SPLITS[i % 3])
        if i % 5 == 0:
            asked = ask_relation(rng, scene.things) or asked
        example = transcripts.coder(scene, asked)
        replies = [
            transcripts.CODER.parse(piece.text.removesuffix("<|im_end|>"), ())
            for piece in example.pieces
            if piece.is_target
        ]
        kinds = [type(reply).__name__ for reply in replies]
        assert kinds == ["ToolCall"] * max(len(asked.targets), 1) + ["FinalAnswer"]
        assert replies[-1].text == asked.answer  # type: ignore[union-attr]
        said = text_of(example).partition("<|im_start|>assistant")[2]
        assert "<|im_start|>" not in said
        assert said.count("<|im_end|>") == 1


def test_the_code_it_is_taught_cuts_out_the_box_of_the_view(tmp_path: Path) -> None:
    scene = draw_scene(np.random.default_rng(7), large=2, tiny=2)
    render(scene).save(tmp_path / "image_1.png")
    known: dict[str, object] = {}
    for place, box in enumerate([(28, 40, 42, 54), (0, 0, 112, 112)]):
        code = transcripts.crop_code(str(tmp_path / "image_1.png"), box, place)
        exec(code.replace(OUTPUT_FOLDER, str(tmp_path)), known)  # noqa: S102 - it is our own
        crop = Image.open(str(known["path"]))
        left, top, right, bottom = (v * PX_PER_VIEW_PX for v in box)
        assert np.array_equal(crop, np.asarray(render(scene))[top:bottom, left:right])


def test_a_tokenizer_grows_by_new_words_only_and_a_new_word_begins_as_its_parts() -> None:
    old = Tokenizer.from_file(str(MODELS / "small" / "tokenizer.json"))
    kept, new = "the red object is a star", "the sandbox is a red sandbox"
    grown = grow_tokenizer(old, kept=[kept], new=[new])
    assert grown.encode(kept).ids == old.encode(kept).ids
    assert grown.encode(new).tokens.count("Ġsandbox") == 2
    table = torch.randn(old.get_vocab_size(), 4)
    names = ("model.language_model.embed_tokens.weight", "lm_head.weight", "other")
    weights = grow_weights(dict.fromkeys(names, table), old, grown)
    for name in names[:2]:
        assert torch.equal(weights[name][: len(table)], table)
        word = weights[name][grown.token_to_id("Ġsandbox")]
        assert torch.allclose(word, table[old.encode(" sandbox").ids].mean(0))
    assert weights["other"] is table


def test_a_pair_of_tokens_that_old_texts_have_is_never_merged() -> None:
    old = Tokenizer.from_file(str(MODELS / "small" / "tokenizer.json"))
    grown = grow_tokenizer(old, kept=["a sand castle"], new=["a sandbox"])
    assert grown.encode("a sand castle").ids == old.encode("a sand castle").ids


def test_positions_are_those_that_transformers_computes() -> None:
    model = build_large(64, IDS)
    ids = [7, 8, 4, *[2] * 16, 5, 9, 9, 4, *[2] * 16, 5, 10]
    types = torch.tensor([[int(i == 2) for i in ids]])
    theirs, _ = model.model.get_rope_index(
        torch.tensor([ids]), mm_token_type_ids=types, image_grid_thw=grid(2)
    )
    assert np.array_equal(mrope_positions(ids, 2), theirs[:, 0].numpy())


def test_batched_attention_sees_what_the_towers_own_forward_sees() -> None:
    torch.manual_seed(0)
    visual = build_large(64, IDS).model.visual.eval()
    images = torch.randint(0, 256, (3, VIEW_PX, VIEW_PX, 3), dtype=torch.uint8)
    with torch.no_grad():
        own = visual(to_patches(images), grid_thw=grid(3)).pooler_output
        batched_attention(visual, 64)
        fast = visual(to_patches(images), grid_thw=grid(3)).pooler_output
    assert torch.allclose(own, fast, atol=1e-5)


def test_dense_labels_name_each_things_cell() -> None:
    scene = draw_scene(np.random.default_rng(2), large=2, tiny=2)
    labels = label_view(scene.things, WHOLE_VIEW)
    large = sum(t.size == "large" for t in scene.things)
    assert int((labels[:, 0] > 0).sum()) == large
    assert int((labels[:, 6] > 0).sum()) == len(scene.things) - large
