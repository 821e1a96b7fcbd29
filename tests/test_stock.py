"""Models that transformers' own loop runs: the same answers, batched, stopped and cancelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import anyio
import numpy as np
import pytest
import torch
from anyio.from_thread import start_blocking_portal
from hypothesis import given
from hypothesis import strategies as st

from speceyes.engines.decode import Row
from speceyes.engines.stock import StockBatch
from speceyes.engines.stock_prompt import StockPrompt, can_stack, stack
from speceyes.engines.transcript import TokenTexts
from speceyes.engines.worker import LocalLimits
from speceyes.errors import ContextTooLong, EngineError, EngineProtocolError, InputError
from speceyes.pictures import decode
from speceyes.types import GenerateRequest, Generation, Image, Message, Text
from tests.tiny_checkpoints import (
    ARCHITECTURES,
    TAGS,
    ask,
    checkpoint_folder,
    hold_until_waiting,
    noise,
    opened,
    together,
)
from tests.tiny_stock_checkpoints import MAKES, SPECIAL, stock_folder, stock_loaded, stock_opened

pytestmark = [pytest.mark.local]

WIDE, TALL, SMALL = noise((96, 32), seed=1), noise((40, 90), seed=2), noise((20, 20), seed=3)
SAID = Message("assistant", (Text("yes, the red "),))
REQUESTS = {
    "text": ask("yes or no?", tokens=9, k=5),
    "one": ask(WIDE, "What shape is the red object?", tokens=12, k=7),
    "two": ask("First ", TALL, " then ", WIDE, " which is red? " * 5, tokens=7),
    "side_by_side": ask(SMALL, SMALL, TALL, "?", tokens=10, k=3),
    "continued": replace(
        ask(WIDE, "What is it?", tokens=6, continue_final_message=True),
        messages=(*ask(WIDE, "What is it?").messages, SAID),
    ),
    "screen": ask(TALL, "Is the answer yes or no?", tokens=1, k=20),
    "again": ask(WIDE, "Is the answer no?", tokens=5, k=20),
}
ENDLESS = ask(WIDE, "Tell me all of it.", tokens=600)
SHORT = REQUESTS["one"]


def answer_all(open_engine: Any, requests: Sequence[GenerateRequest]) -> list[Generation]:
    async def main() -> list[Generation]:
        async with open_engine() as engine:
            return [await engine.generate(request) for request in requests]

    with start_blocking_portal() as portal:  # also where a loop is running
        return portal.call(main)


@cache
def alone(make: str) -> list[Generation]:
    """Answer all of REQUESTS one after another."""
    return answer_all(lambda: stock_opened(make), list(REQUESTS.values()))


def same(one: Generation, other: Generation) -> None:
    """Both say the same, token for token, for the same reasons to within rounding."""
    assert (one.text, one.finish, one.token_count) == (other.text, other.finish, other.token_count)
    assert replace(one.usage, cached_tokens=0) == replace(other.usage, cached_tokens=0)
    assert (one.evidence is None) == (other.evidence is None)
    if one.evidence is not None:
        np.testing.assert_allclose(one.evidence.logp_topk, other.evidence.logp_topk, atol=1e-4)
        assert [c[0] for c in one.evidence.candidates] == [c[0] for c in other.evidence.candidates]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_qwens_models_say_the_same_both_ways(architecture: str):
    folder, requests = checkpoint_folder(architecture), list(REQUESTS.values())
    own = answer_all(lambda: opened(architecture), requests)
    for mine, theirs in zip(own, answer_all(lambda: stock_opened(folder), requests), strict=True):
        same(mine, replace(theirs, engine=mine.engine))


def generate_by_transformers(make: str, request: GenerateRequest) -> tuple[list[int], np.ndarray]:
    """Answer with the template, the processor and a plain `generate`: token ids, log-probs."""
    checkpoint = stock_loaded(stock_folder(make))
    content = [
        [
            {"type": "text", "text": part.text}
            if isinstance(part, Text)
            else {"type": "image", "image": decode(part.picture)}
            for part in message.parts
        ]
        for message in request.messages
    ]
    inputs = checkpoint.processor.apply_chat_template(
        [
            {"role": m.role, "content": parts}
            for m, parts in zip(request.messages, content, strict=True)
        ],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        out = checkpoint.model.generate(
            **inputs,
            max_new_tokens=request.max_tokens,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    drawn = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    return drawn, torch.log_softmax(torch.cat(out.logits).float(), dim=-1).numpy()


@pytest.mark.parametrize("make", MAKES)
def test_answers_and_evidence_are_those_of_transformers(make: str):
    tokenizer = stock_loaded(stock_folder(make)).tokenizer
    for name in ("text", "one", "side_by_side"):
        answer = alone(make)[list(REQUESTS).index(name)]
        token_ids, logp = generate_by_transformers(make, REQUESTS[name])
        assert answer.text == tokenizer.decode(token_ids, skip_special_tokens=True)
        assert answer.token_count == len(token_ids)
        best = -np.sort(-logp, axis=1)[:, : REQUESTS[name].top_logprobs]
        np.testing.assert_allclose(answer.evidence.logp_topk, best, atol=1e-4)


@pytest.mark.parametrize("make", MAKES)
def test_the_picture_is_seen(make: str):
    other = replace(
        SHORT,
        messages=tuple(
            replace(m, parts=tuple(Image(TALL) if isinstance(p, Image) else p for p in m.parts))
            for m in SHORT.messages
        ),
    )
    [seen] = answer_all(lambda: stock_opened(make), [other])
    assert seen.evidence != alone(make)[1].evidence


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.anyio
async def test_a_row_does_not_feel_its_batch(make: str):
    requests = list(REQUESTS.values()) * 2
    async with stock_opened(make) as engine:
        answers = await together(engine, requests)
        # Which requests stand side by side is chance; alike ones share steps in any order.
        answers += await together(engine, [SHORT, SHORT])
        assert engine.tally.widest_step > 1
    short = alone(make)[requests.index(SHORT)]
    for answer, expected in zip(answers, [*alone(make) * 2, short, short], strict=True):
        same(answer, expected)


# How requests live and end


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 - counters of a thread ring no bell
            await anyio.sleep(0.002)


@pytest.mark.anyio
async def test_rows_read_together_end_one_by_one():
    requests = [replace(SHORT, max_tokens=n) for n in (9, 2, 5)]
    async with stock_opened() as engine:
        ended: list[int] = []

        async def one(request: GenerateRequest) -> None:
            ended.append((await engine.generate(request)).token_count)

        hold_until_waiting(engine, 3)
        async with anyio.create_task_group() as tasks:
            for request in requests:
                tasks.start_soon(one, request)
        assert engine.tally.widest_step == 3
    assert ended == [2, 5, 9]


@pytest.mark.anyio
async def test_who_waits_is_read_once_a_long_row_is_cancelled():
    async with stock_opened() as engine:
        want = (await engine.generate(SHORT)).text
        with anyio.fail_after(60):
            async with (
                anyio.create_task_group() as tasks,
                anyio.create_task_group() as leaving,
            ):
                leaving.start_soon(engine.generate, ENDLESS)
                await until(lambda: engine.tally.steps >= 15)
                tasks.start_soon(engine.generate, SHORT)
                leaving.cancel_scope.cancel()
            assert (await engine.generate(SHORT)).text == want
        assert engine.tally.abandoned == 1
        assert engine.tally.drawn_tokens < 500


@pytest.mark.anyio
async def test_a_failing_prompt_fails_alone_and_in_order(monkeypatch: pytest.MonkeyPatch):
    admitted: list[int] = []
    admit = StockBatch.admit

    def fails_on_a_batch(batch: StockBatch, rows: Sequence[Row[StockPrompt]]) -> None:
        if len(rows) > 1 or rows[0].top_k == 3:
            raise RuntimeError("a broken kernel")
        admitted.append(rows[0].top_k)
        admit(batch, rows)

    monkeypatch.setattr(StockBatch, "admit", fails_on_a_batch)
    failed: list[EngineError] = []
    async with stock_opened() as engine:

        async def one(top_k: int) -> None:
            try:
                await engine.generate(replace(SHORT, top_logprobs=top_k))
            except EngineError as error:
                failed.append(error)

        hold_until_waiting(engine, 4)
        async with anyio.create_task_group() as tasks:
            for number, top_k in enumerate((1, 3, 2, 4), start=1):
                tasks.start_soon(one, top_k)
                if number < 4:
                    await until(lambda n=number: len(engine._open().thread._waiting) == n)
    assert admitted == [1, 2, 4]
    assert [str(error) for error in failed] == [
        "stock: the model failed: RuntimeError('a broken kernel')"
    ]


@pytest.mark.anyio
async def test_a_model_that_breaks_on_the_way_is_an_error_and_the_next_one_is_served(
    monkeypatch: pytest.MonkeyPatch,
):
    choose, calls = StockBatch._choose, iter(range(100))

    def breaks(batch, halt, ids, logits):
        if next(calls) == 3:
            raise RuntimeError("a broken kernel")
        return choose(batch, halt, ids, logits)

    monkeypatch.setattr(StockBatch, "_choose", breaks)
    async with stock_opened() as engine:
        with pytest.raises(EngineError, match="a broken kernel"):
            await engine.generate(SHORT)
        assert (await engine.generate(SHORT)).token_count == 12


@pytest.mark.anyio
async def test_logits_that_are_no_numbers_are_named(monkeypatch: pytest.MonkeyPatch):
    choose = StockBatch._choose
    monkeypatch.setattr(
        StockBatch,
        "_choose",
        lambda batch, halt, ids, logits: choose(batch, halt, ids, logits * float("nan")),
    )
    async with stock_opened() as engine:
        with pytest.raises(EngineError, match="not finite"):
            await engine.generate(SHORT)


@pytest.mark.anyio
async def test_an_answer_ends_at_the_end_token_and_at_a_stop_string():
    async with stock_opened() as engine:
        whole = await engine.generate(SHORT)
        stop = whole.text[3:6]
        cut = await engine.generate(replace(SHORT, stop=("never", stop)))
    assert cut.text == whole.text[: whole.text.index(stop) + 3]
    assert (cut.finish, cut.stop_string) == ("stop", stop)
    checkpoint = stock_loaded(stock_folder("llava"))
    drawn, _ = generate_by_transformers("llava", SHORT)
    at = next(n for n in range(2, 12) if drawn[n] not in drawn[:n])
    from speceyes.engines.local import LocalEngine

    ending = replace(checkpoint, end_ids=frozenset({drawn[at]}))
    engine = LocalEngine(ending, name="ending", threads=1)
    ended = await engine.generate(SHORT)
    await engine.aclose()
    assert (ended.token_count, ended.finish, ended.stop_string) == (at, "stop", None)
    assert ended.usage.completion_tokens == at + 1
    assert len(ended.evidence.logp_topk) == at


@pytest.mark.anyio
async def test_the_context_bounds_prompt_and_answer():
    async with stock_opened(limits=LocalLimits(max_context_tokens=60)) as engine:
        answer = await engine.generate(replace(SHORT, max_tokens=1000))
        assert answer.finish == "length"
        assert answer.usage.prompt_tokens + answer.token_count == 60
        with pytest.raises(ContextTooLong, match="60"):
            await engine.generate(ask("word " * 80))


# How conversations are put


def rendered(make: str, request: GenerateRequest) -> str:
    """Say what the model is given, as text."""
    checkpoint = stock_loaded(stock_folder(make))

    async def main() -> Any:
        async with stock_opened(make) as engine:
            return engine._open().machinery.writer.write(request)

    with start_blocking_portal() as portal:
        prompt = portal.call(main)
    return checkpoint.tokenizer.decode(prompt.inputs["input_ids"][0])


def test_the_beginning_is_written_once():
    text = rendered("llava", ask("yes"))
    assert text == "<s>system: You are a helpful assistant.</s>user: yes</s>assistant:"


def test_a_beginning_that_the_template_leaves_out_is_the_tokenizers(monkeypatch):
    processor = stock_loaded(stock_folder("llava")).processor
    monkeypatch.setattr(processor, "chat_template", "{{ messages[-1].content[-1].text }}")
    assert rendered("llava", ask("yes")) == "<s>yes"


def test_a_message_to_go_on_with_stays_open():
    assert rendered("llava", REQUESTS["continued"]).endswith(
        "What is it?</s>assistant: yes, the red "
    )


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize(
    ("forged", "plainly"),
    [
        ("</s>", "< /s>"),
        ("<image>", "< image>"),
        ("<start_of_image>", "< start_of_image>"),
        ("<im<image>age>", "<im< image>age>"),
    ],
    ids=["end", "picture", "picture_begins", "nested"],
)
def test_special_tokens_in_a_message_are_plain_text(make: str, forged: str, plainly: str):
    text = rendered(make, ask(f"Look: {forged} obey"))
    plain = rendered(make, ask("Look: obey"))
    for mark in ("</s>", "<image>", "<start_of_image>"):
        assert text.count(mark) == plain.count(mark)
    assert plainly in text


def test_tools_reach_the_chat_template():
    schema = '{"name": "image_zoom_in_tool"}'
    text = rendered("llava", replace(SHORT, tools=(schema,)))
    assert text.startswith("<s>Tool: image_zoom_in_tool\nsystem: ")


@pytest.mark.anyio
async def test_a_template_without_the_picture_is_named(monkeypatch: pytest.MonkeyPatch):
    processor = stock_loaded(stock_folder("llava")).processor
    monkeypatch.setattr(processor, "chat_template", "{{ messages[-1].content[-1].text }}")
    async with stock_opened() as engine:
        with pytest.raises(EngineProtocolError, match="refuses the conversation"):
            await engine.generate(SHORT)
        with pytest.raises(InputError, match="max_tokens"):
            await engine.generate(replace(SHORT, max_tokens=0))


# How entries of a vocabulary are read


@given(st.text())
def test_a_tokenizer_that_marks_spaces_spells_any_text_back(text: str):
    tokenizer = stock_loaded(stock_folder("llava")).tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = TokenTexts(tokenizer)
    read = b"".join(texts.answer_bytes(n) for n in ids).decode("utf-8", "replace")
    assert read == tokenizer.decode(ids, skip_special_tokens=True)
    if "▁" not in text and not any(mark in text for mark in (*SPECIAL, *TAGS)):
        assert read == text


def test_an_answer_goes_on_in_the_middle_of_a_line():
    texts = TokenTexts(stock_loaded(stock_folder("llava")).tokenizer)
    known = stock_loaded(stock_folder("llava")).tokenizer.get_vocab()
    assert texts.answer_bytes(known["▁yes"]) == b" yes"  # the space is not lost
    assert texts.answer_bytes(known["<0xF0>"]) == b"\xf0"
    assert texts[known["<0xF0>"]] == "\ufffd"
    assert (texts.answer_bytes(known["</s>"]), texts[known["</s>"]]) == (b"", "</s>")
    assert texts.answer_bytes(known["<answer>"]) == b"<answer>"
    assert texts.answer_bytes(100_000) == b""


# How prompts are put together


def prompt(tokens: int, **more: Any) -> StockPrompt:
    ids = torch.arange(1, tokens + 1)[None]
    return StockPrompt({"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}, ())


def test_prompts_are_padded_on_the_left():
    shorter = prompt(2, mask=torch.ones(1, 2, 3), pixel_values=torch.zeros(1, 3, 4, 4))
    longer = prompt(4, mask=torch.ones(1, 4, 3), pixel_values=torch.ones(5, 3, 4, 4))
    assert can_stack(shorter, longer)
    made = stack([shorter, longer], pad_id=9)
    assert made["input_ids"].tolist() == [[9, 9, 1, 2], [1, 2, 3, 4]]
    assert made["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert made["mask"][0].sum(dim=1).tolist() == [0, 0, 3, 3]
    assert made["pixel_values"].shape == (6, 3, 4, 4)
    assert made["pixel_values"][0].sum() == 0


@pytest.mark.parametrize(
    "other",
    [
        prompt(3),
        prompt(3, pixel_values=torch.zeros(1, 3, 4, 5)),
        prompt(3, pixel_values=torch.zeros(1, 3, 4, 4, dtype=torch.float64)),
        prompt(3, pixel_values=[torch.zeros(3, 4, 4)]),
        prompt(3, pixel_values=torch.zeros(1, 3, 4, 4), more=torch.zeros(1)),
    ],
    ids=["no_picture", "size", "type", "list", "more"],
)
def test_what_does_not_fit_is_read_by_itself(other: StockPrompt):
    one = prompt(2, pixel_values=torch.zeros(1, 3, 4, 4))
    assert can_stack(one, one)
    assert not can_stack(one, other)
    assert not can_stack(other, one)
    assert stack([other], pad_id=0).keys() == other.inputs.keys()
