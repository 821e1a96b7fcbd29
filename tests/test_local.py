"""The local engine against transformers itself, and against itself alone in a batch."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from anyio.from_thread import start_blocking_portal
from transformers import AutoModelForImageTextToText, AutoTokenizer, Qwen2VLImageProcessorPil

from speceyes.pictures import decode
from speceyes.types import GenerateRequest, Generation, Image, Message, Text
from tests.tiny_checkpoints import ARCHITECTURES, ask, checkpoint_folder, noise, opened, together

pytestmark = [pytest.mark.local]

WIDE, TALL, SMALL = noise((96, 32), seed=1), noise((40, 90), seed=2), noise((20, 20), seed=3)


SAID = Message("assistant", (Text("yes, the red "),))
LOOKED = Message("assistant", (Text("yes, the "), Image(SMALL), Text(" is red. ")))
# Mixed lengths and picture counts; several pictures also side by side.
REQUESTS = {
    "text": ask("yes or no?", tokens=9, k=5),
    "one": ask(WIDE, "What shape is the red object?", tokens=12, k=7),
    "two": ask("First ", TALL, " then ", WIDE, " which is red? " * 9, tokens=7),
    "side_by_side": ask(SMALL, SMALL, TALL, "?", tokens=14, k=3),
    "long": ask(SMALL, "Où est-il ? 这个红色的东西是什么形状？ " * 8, tokens=5, k=20),
    "continued": replace(
        ask(WIDE, "What is it?", tokens=6, continue_final_message=True),
        messages=(*ask(WIDE, "What is it?").messages, SAID),
    ),
    "seen_midway": replace(
        ask(WIDE, "What is it?", tokens=6, continue_final_message=True),
        messages=(*ask(WIDE, "What is it?").messages, LOOKED),
    ),
    "screen": ask(TALL, "Is the answer yes or no?", tokens=1, k=20),
}


@cache
def alone(architecture: str) -> dict[GenerateRequest, Generation]:
    """Answer all of REQUESTS one after another, each with the engine to itself."""

    async def main() -> list[Generation]:
        async with opened(architecture) as engine:
            return [await engine.generate(request) for request in REQUESTS.values()]

    with start_blocking_portal() as portal:  # also where a loop is running
        return dict(zip(REQUESTS.values(), portal.call(main), strict=True))


@cache
def reference(architecture: str) -> tuple[Any, Any, Any]:
    folder = checkpoint_folder(architecture)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    return model, AutoTokenizer.from_pretrained(folder), processor


def generate_by_transformers(
    architecture: str, request: GenerateRequest
) -> tuple[list[int], np.ndarray]:
    """Answer with transformers' own template, processor and `generate`: token ids, log-probs."""
    model, tokenizer, processor = reference(architecture)
    messages = [
        {
            "role": m.role,
            "content": [
                {"type": "text", "text": p.text} if isinstance(p, Text) else {"type": "image"}
                for p in m.parts
            ],
        }
        for m in request.messages
    ]
    text = tokenizer.apply_chat_template(
        messages,
        tokenize=False,
        add_generation_prompt=not request.continue_final_message,
        continue_final_message=request.continue_final_message,
    )
    inputs: dict[str, Any] = {}
    images = [p.picture for m in request.messages for p in m.parts if isinstance(p, Image)]
    if images:
        inputs = dict(processor(images=[decode(image) for image in images], return_tensors="pt"))
        for grid in inputs["image_grid_thw"]:  # as Qwen's processors do
            text = text.replace("<|image_pad|>", "<here>" * (int(grid.prod()) // 4), 1)
        text = text.replace("<here>", "<|image_pad|>")
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        max_new_tokens=request.max_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **inputs,
    )
    drawn = out.sequences[0, ids.shape[1] :].tolist()
    logp = torch.log_softmax(torch.cat(out.logits).float(), dim=-1)  # (T, V)
    ends = model.generation_config.eos_token_id
    count = next((n for n, token in enumerate(drawn) if token in ends), len(drawn))
    return drawn[:count], logp[:count].numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_and_evidence_are_those_of_transformers(architecture: str):
    tokenizer = reference(architecture)[1]
    for request, answer in alone(architecture).items():
        token_ids, logp = generate_by_transformers(architecture, request)
        assert answer.text == tokenizer.decode(token_ids, skip_special_tokens=True)
        assert answer.token_count == len(token_ids)
        if request.top_logprobs == 0:
            assert answer.evidence is None
            continue
        best = -np.sort(-logp, axis=1)[:, : request.top_logprobs]
        np.testing.assert_allclose(answer.evidence.logp_topk, best, atol=1e-4)
        chosen = logp[np.arange(len(token_ids)), token_ids]
        np.testing.assert_allclose(answer.evidence.logp_chosen, chosen, atol=1e-4)
        named = [tokenizer.decode([token_id]) for token_id in token_ids]
        assert [row[0] for row in answer.evidence.candidates] == named


def same(one: Generation, other: Generation) -> None:
    """Both say the same, token for token, for the same reasons to within rounding."""
    assert (one.text, one.finish, one.token_count) == (other.text, other.finish, other.token_count)
    assert replace(one.usage, cached_tokens=0) == replace(other.usage, cached_tokens=0)
    assert (one.evidence is None) == (other.evidence is None)
    if one.evidence is not None and other.evidence is not None:
        np.testing.assert_allclose(one.evidence.logp_topk, other.evidence.logp_topk, atol=1e-4)
        assert [c[0] for c in one.evidence.candidates] == [c[0] for c in other.evidence.candidates]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.anyio
async def test_a_row_does_not_feel_its_batch(architecture: str):
    requests = list(REQUESTS.values()) * 3
    async with opened(architecture) as engine:
        answers = await together(engine, requests)
        assert engine.tally.widest_step > 12
    for answer, request in zip(answers, requests, strict=True):
        same(answer, alone(architecture)[request])
