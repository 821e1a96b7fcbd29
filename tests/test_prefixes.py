"""What was read is not read again, and nobody can tell but by the count of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import anyio
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speceyes import prompts
from speceyes.builtin.pair import load
from speceyes.builtin.suite import draw_items
from speceyes.engines import stack
from speceyes.engines.local import LocalEngine
from speceyes.engines.prefixes import PrefixTree, common, picture_mark, text_marks
from speceyes.engines.worker import LocalLimits
from speceyes.errors import ConfigError
from speceyes.types import GenerateRequest, Generation, Image, Message, Text
from tests.tiny_checkpoints import ARCHITECTURES, ask, noise, opened, together

pytestmark = [pytest.mark.local]

WIDE, SMALL, CROP = noise((96, 64), seed=1), noise((20, 20), seed=2), noise((40, 50), seed=3)
NOTHING_KEPT = LocalLimits(prefix_bytes=0)
OPENING = ask("Zoom if you must. ", WIDE, "What shape is the red object?", tokens=9, k=5)
ENDING = 8  # tokens after the question, up to where the model speaks
SCREEN = replace(OPENING, messages=prompts.screen_within(OPENING.messages), max_tokens=1)


# The tree


def held(tokens: Sequence[int]) -> torch.Tensor:
    """Stands in for keys and values: the tokens themselves, (1, 2, 1, T, 1)."""
    return torch.tensor(tokens, dtype=torch.int64).view(1, 1, 1, -1, 1).expand(1, 2, 1, -1, 1)


def keep(tree: PrefixTree, tokens: Sequence[int]) -> None:
    values = held(tokens)
    tree.keep(text_marks(tokens), lambda start, stop: values[..., start:stop, :])


def find(tree: PrefixTree, tokens: Sequence[int]) -> list[int]:
    kept = tree.find(text_marks(tokens), most=len(tokens))
    found = [n for part in kept.parts for n in part[0, 1, 0, :, 0].tolist()]
    assert kept.tokens == len(found)
    return found


def agreeing(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


words = st.lists(st.integers(0, 2), min_size=1, max_size=8)


@given(st.lists(words, max_size=8), words)
def test_the_longest_beginning_that_is_kept_is_found(kept: list[list[int]], asked: list[int]):
    tree = PrefixTree(1 << 20)
    for tokens in kept:
        keep(tree, tokens)
    longest = max((agreeing(asked, tokens) for tokens in kept), default=0)
    assert find(tree, asked) == asked[:longest]
    # A beginning that is shared is held once.
    beginnings = {tuple(tokens[: n + 1]) for tokens in kept for n in range(len(tokens))}
    assert tree.held_bytes == len(beginnings) * (2 * 8 + 2 * 8)


@given(st.lists(st.tuples(words, st.booleans()), max_size=20))
def test_a_tree_never_holds_more_than_it_may_and_never_finds_what_is_not_so(steps):
    tree = PrefixTree(6 * 32)  # six tokens
    for tokens, is_kept in steps:
        if is_kept:
            keep(tree, tokens)
        assert find(tree, tokens) == tokens[: len(find(tree, tokens))]
        assert 0 <= tree.held_bytes <= 6 * 32
    tree.clear()
    assert (tree.held_bytes, find(tree, [0, 1])) == (0, [])


def test_what_was_not_asked_for_longest_goes_first():
    tree = PrefixTree(6 * 32)
    keep(tree, [1, 1, 1])
    keep(tree, [2, 2])
    find(tree, [1, 1])
    keep(tree, [3, 3])
    assert [find(tree, [n, n, n]) for n in (1, 2, 3)] == [[1, 1, 1], [], [3, 3]]


def test_what_is_let_go_of_is_not_held_on_to_by_what_it_was_split_from():
    tree = PrefixTree(8 * 32)
    keep(tree, [1, 2, 3, 4, 5, 6])
    keep(tree, [1, 2, 9])  # splits the first
    find(tree, [1, 2, 9])
    keep(tree, [7, 7, 7])  # for which 3, 4, 5, 6 must go
    assert find(tree, [1, 2, 3]) == [1, 2]
    (part,) = tree.find(text_marks([1, 2]), most=2).parts
    assert part.untyped_storage().nbytes() == 2 * 2 * 8


def test_a_kept_prompt_is_a_copy_and_one_too_large_is_left_out():
    tree = PrefixTree(4 * 32)
    values = held([7, 8]).clone()
    tree.keep(text_marks([7, 8]), lambda start, stop: values[..., start:stop, :])
    values.zero_()
    assert find(tree, [7, 8]) == [7, 8]
    keep(tree, [1, 2, 3, 4, 5])
    assert find(tree, [1, 2]) == []
    assert find(tree, [7, 8]) == [7, 8]


def test_marks_tell_pictures_apart_but_not_the_places_within_one():
    one, other = picture_mark("a"), picture_mark("b")
    assert common(one.repeat(3, axis=0), one.repeat(2, axis=0)) == 2
    assert common(one, other) == common(one, text_marks([5])) == 0


# The engine


def turn(request: GenerateRequest, said: str, seen) -> GenerateRequest:
    """Go on with a conversation as an agent does after a tool."""
    reply = Message("assistant", (Text(said),))
    observed = Message("user", (Text("Here it is: "), Image(seen), Text("Go on.")))
    return replace(request, messages=(*request.messages, reply, observed))


async def converse(engine: LocalEngine) -> list[Generation]:
    """Screen, then three turns, each after the one before."""
    said = [await engine.generate(SCREEN), await engine.generate(OPENING)]
    request = OPENING
    for seen in (CROP, SMALL):
        request = turn(request, said[-1].text, seen)
        said.append(await engine.generate(request))
    return said


def same(one: Generation, other: Generation) -> None:
    assert (one.text, one.finish, one.token_count) == (other.text, other.finish, other.token_count)
    np.testing.assert_allclose(one.evidence.logp_topk, other.evidence.logp_topk, atol=1e-4)
    assert [c[0] for c in one.evidence.candidates] == [c[0] for c in other.evidence.candidates]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.anyio
async def test_a_conversation_that_is_read_once_is_answered_as_one_read_anew(architecture: str):
    async with opened(architecture, limits=NOTHING_KEPT) as engine:
        want = await converse(engine)
        assert engine.tally.reused_tokens == 0
    async with opened(architecture) as engine:
        got = await converse(engine)
        assert engine.tally.pictures_seen == 3
        assert engine.tally.reused_tokens == sum(said.usage.cached_tokens for said in got)
    for one, other in zip(got, want, strict=True):
        same(one, other)
    screen, *turns = got
    # The agent's opening is the screen's, but for the end of its last message.
    assert screen.usage.cached_tokens == 0
    assert turns[0].usage.cached_tokens == turns[0].usage.prompt_tokens - ENDING
    # Then nothing that was read is read again, nor what was said, where it is spelt as it was
    # drawn: these models draw tokens that no tokenizer would choose.
    for before, after in pairwise(turns):
        known = before.usage.prompt_tokens + before.usage.completion_tokens - 1
        assert before.usage.prompt_tokens < after.usage.cached_tokens <= known


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.anyio
async def test_a_prompt_may_be_taken_up_at_any_token(architecture: str, monkeypatch):
    async with opened(architecture, limits=NOTHING_KEPT) as engine:
        want = await engine.generate(OPENING)
    find_all = PrefixTree.find
    reached = set()
    monkeypatch.setattr(stack, "_ONWARD_STEP", 7)  # so that what is left is read in several goes
    async with opened(architecture) as engine:
        await engine.generate(OPENING)
        for most in range(1, want.usage.prompt_tokens, 3):  # also within the picture

            def find_some(tree, marks, *, most, at=most):
                return find_all(tree, marks, most=min(most, at))

            monkeypatch.setattr(PrefixTree, "find", find_some)
            got = await engine.generate(OPENING)
            same(got, want)
            reached.add(got.usage.cached_tokens)
    assert reached == set(range(1, want.usage.prompt_tokens, 3))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.anyio
async def test_rows_that_come_together_lend_each_other_their_beginnings(architecture: str):
    other = ask("Zoom if you must. ", CROP, "And this one?", tokens=7, k=5)
    requests = [SCREEN, other, OPENING, OPENING, turn(OPENING, "yes", SMALL)]
    async with opened(architecture, limits=NOTHING_KEPT) as engine:
        want = [await engine.generate(request) for request in requests]
    async with opened(architecture) as engine:
        got = await together(engine, requests)
        tally = engine.tally
        again = await engine.generate(OPENING)
    for one, two in zip([*got, again], [*want, want[2]], strict=True):
        same(one, two)
    assert tally.pictures_seen == 3
    fresh = [got[n].usage.prompt_tokens - got[n].usage.cached_tokens for n in (0, 2, 3)]
    assert min(fresh) == 1, "of two that are alike only one is read"
    # Whichever came first: all that differs once, and a last token for the second of the two.
    assert sum(fresh) <= got[0].usage.prompt_tokens + ENDING + 1
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1


@pytest.mark.anyio
async def test_the_built_in_models_judge_alike_from_what_was_read_before():
    picture = next(iter(draw_items(1, seed=4))).query.pictures[0]
    for engine in (load("small"), load("large")):
        asked = ask("Look. ", picture, "Is there a red star?", tokens=6, k=20)
        screen = replace(asked, messages=prompts.screen_within(asked.messages), max_tokens=1)
        want = []
        for request in (screen, asked):
            engine.forget()
            want.append(await engine.generate(request))
        got = [await engine.generate(request) for request in (screen, asked)]
        for one, other in zip(got, want, strict=True):
            same(one, other)
        assert got[1].usage.cached_tokens > want[1].usage.prompt_tokens * 0.8
        await engine.aclose()


@pytest.mark.anyio
async def test_a_row_under_way_lends_its_beginning_to_who_comes_later(monkeypatch):
    async with opened(limits=NOTHING_KEPT) as engine:
        long = replace(OPENING, max_tokens=60)
        want = [await engine.generate(long), await engine.generate(SCREEN)]
    async with opened(limits=LocalLimits(max_batch=2)) as engine:
        monkeypatch.setattr(PrefixTree, "keep", lambda *_: None)  # nothing is found but rows
        said: dict[str, Generation] = {}

        async def one(name: str, request: GenerateRequest) -> None:
            said[name] = await engine.generate(request)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one, "long", long)
            while engine.tally.steps < 3:  # noqa: ASYNC110 - a thread's counter rings no bell
                await anyio.sleep(0.001)
            tasks.start_soon(one, "screen", SCREEN)
    same(said["long"], want[0])
    same(said["screen"], want[1])
    assert said["screen"].usage.cached_tokens > 40


@pytest.mark.anyio
async def test_another_picture_of_the_same_size_is_another_prompt():
    other = replace(
        OPENING, messages=ask("Zoom if you must. ", noise((96, 64), seed=9), "?").messages
    )
    async with opened(limits=NOTHING_KEPT) as engine:
        want = await engine.generate(other)
    async with opened() as engine:
        await engine.generate(OPENING)
        got = await engine.generate(other)
    same(got, want)
    assert 20 < got.usage.cached_tokens < 40


@pytest.mark.anyio
async def test_what_is_forgotten_is_read_again():
    async with opened() as engine:
        one = await engine.generate(OPENING)
        engine.forget()
        two = await engine.generate(OPENING)
    assert one == two
    assert two.usage.cached_tokens == 0


@pytest.mark.anyio
async def test_what_is_forgotten_while_it_is_under_way_is_not_kept_either():
    async with opened() as engine:
        said: list[Generation] = []

        async def long() -> None:
            said.append(await engine.generate(replace(OPENING, max_tokens=120)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(long)
            while engine.tally.steps < 3:  # noqa: ASYNC110 - a thread's counter rings no bell
                await anyio.sleep(0.001)
            engine.forget()
            beside = await engine.generate(OPENING)
            engine.forget()
        after = await engine.generate(OPENING)
    assert len(said) == 1
    assert (beside.usage.cached_tokens, after.usage.cached_tokens) == (0, 0)


@pytest.mark.anyio
async def test_a_small_room_for_prefixes_changes_no_answer():
    token_bytes = 2 * 3 * 2 * 16 * 4 + 16
    for tokens in (1, 40, 90):
        limits = LocalLimits(prefix_bytes=tokens * token_bytes)
        async with opened(limits=NOTHING_KEPT) as engine:
            want = await converse(engine)
        async with opened(limits=limits) as engine:
            for one, other in zip(await converse(engine), want, strict=True):
                same(one, other)


@pytest.mark.anyio
async def test_all_is_kept_but_the_last_token_which_nobody_read(monkeypatch):
    kept: list[int] = []
    keep_all = PrefixTree.keep

    def watch(tree, marks, read):
        kept.append(len(marks))
        keep_all(tree, marks, read)

    monkeypatch.setattr(PrefixTree, "keep", watch)
    async with opened() as engine:
        said = await engine.generate(OPENING)
    assert kept == [said.usage.prompt_tokens + said.token_count - 1]


def test_a_negative_room_is_named():
    with pytest.raises(ConfigError, match="-1 is below 0") as caught:
        LocalLimits(prefix_bytes=-1)
    assert caught.value.field == "local.prefix_bytes"
