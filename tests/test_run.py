"""Running a suite: blocks, turns, what is kept, and going on after whatever ended a run."""

import itertools
from collections import Counter
from dataclasses import replace

import anyio
import pytest

from speceyes.bench.contenders import Contenders, contenders_on
from speceyes.bench.items import Spoiled
from speceyes.bench.run import Memory, Plan, run_suite
from speceyes.engines.replay import ReplayEngine, Take
from speceyes.errors import ConfigError, EngineUnavailable, StorageError, SuiteError
from tests.scripted_pair import (
    GATE,
    METHODS,
    ListSuite,
    Quiet,
    ScriptedPair,
    funnel,
    keep,
    run,
    tiny_items,
)

pytestmark = pytest.mark.anyio

ALL_METHODS = ("baseline", "speceyes", "specreason", "small")
BAD = Spoiled("bad-17", "attribute", SuiteError("a.tsv, row 17", "answer 'E' is no option"))


def a_plan(items, **more):
    return Plan(**({"suite": ListSuite(items), "methods": METHODS, "spec": GATE} | more))


def keys(records):
    return Counter((record.method, record.item_id) for record in records)


@pytest.mark.parametrize("concurrency", [1, 6])
@pytest.mark.parametrize("methods", [ALL_METHODS, ("speceyes",)], ids=["all", "one"])
async def test_every_item_has_one_record_of_each_method(methods, concurrency):
    items = [*tiny_items(7), BAD]
    done = await run(items, methods=methods, concurrency=concurrency)
    assert keys(done.records) == Counter((m, item.item_id) for m in methods for item in items)


async def test_a_row_that_cannot_be_asked_is_a_failed_record():
    done = await run([BAD, *tiny_items(2)])
    spoiled = [record for record in done.records if record.item_id == "bad-17"]
    assert len(spoiled) == len(METHODS)
    assert {(r.split, r.text, r.is_right) for r in spoiled} == {("attribute", None, False)}
    assert "a.tsv, row 17: answer 'E' is no option" in spoiled[0].mishap.message


async def test_the_methods_take_turns_at_going_first():
    watcher = Quiet()
    await run(tiny_items(45), watcher=watcher)
    turns = dict.fromkeys((m, int(i.split("-")[1]) // 20) for m, i in watcher.seen)
    assert [method for method, _ in turns] == [
        "baseline", "speceyes", "small",
        "speceyes", "small", "baseline",
        "small", "baseline", "speceyes",
    ]  # fmt: skip


async def test_engines_forget_before_every_turn_of_a_block():
    items, told = tiny_items(25), []
    pair = ScriptedPair(items)

    class Remembering(ReplayEngine):
        def forget(self):
            told.append(self.name)

    class Noting(Quiet):
        def saw(self, record):
            told.append((record.method, record.block))

    pair.small = Remembering(pair.small._script, name="small")
    await run(items, pair=pair, watcher=Noting(), methods=("baseline", "speceyes"))
    assert [then for now, then in itertools.pairwise(told) if now == "small"] == [
        ("baseline", 0), ("speceyes", 0), ("speceyes", 1), ("baseline", 1),
    ]  # fmt: skip


async def test_warming_up_leaves_no_record():
    items = tiny_items(3)
    pair = ScriptedPair(items)
    done = await run(items[:1], pair=pair, warm_up=items[1:])
    assert {record.item_id for record in done.records} == {"tiny-0"}
    assert len(pair.large.calls) > 5


async def test_concurrency_is_kept_and_blocks_grow_with_it():
    items = tiny_items(40)
    pair = ScriptedPair(items, pace=0.02)
    done = await run(items, pair=pair, concurrency=6)
    assert 2 < pair.large.max_in_flight <= 6
    assert Counter(r.block for r in done.records if r.method == "small") == {0: 30, 1: 10}


async def test_a_single_method_is_run_without_pauses_between_blocks():
    done = await run(tiny_items(50), methods=("baseline",), concurrency=2)
    assert {record.block for record in done.records} == {0}


async def test_blocks_are_bounded_in_bytes_too(monkeypatch):
    monkeypatch.setattr("speceyes.bench.run._MOST_BLOCK_BYTES", 1)
    done = await run(tiny_items(3))
    assert {record.block for record in done.records} == {0, 1, 2}


async def test_records_tell_when_they_ended_on_one_clock():
    done = await run(tiny_items(3), pace=0.02)
    ends = [record.ended_s for record in done.records]
    assert ends == sorted(ends)
    starts = [record.ended_s - record.elapsed_s for record in done.records]
    assert all(start >= end for start, end in zip(starts[1:], ends, strict=False))


async def test_a_failure_is_kept_and_counts_as_wrong():
    items = tiny_items(4)
    pair = ScriptedPair(items)
    pair.large = ReplayEngine(lambda _: Take(EngineUnavailable("large", "is down")), name="large")
    done = await run(items, pair=pair)
    baseline = [record for record in done.records if record.method == "baseline"]
    assert [record.mishap.name for record in baseline] == ["EngineUnavailable"] * 4
    assert not any(record.is_right for record in baseline)


@pytest.mark.parametrize("methods", [METHODS, ("baseline",)], ids=["several", "one"])
async def test_what_is_done_is_not_done_again(methods):
    items = [*tiny_items(30), BAD]
    whole = await run(items, methods=methods)
    kept = Memory(records=list(whole.records[:23]), part=1)
    kept.done = frozenset((r.method, r.item_id) for r in kept.records)
    watcher = Quiet()
    await keep(kept, items, methods=methods, watcher=watcher)
    assert keys(kept.records) == keys(whole.records)
    assert watcher.stages[-1] == ("answering", len(whole.records), 23)
    assert {record.part for record in kept.records[23:]} == {1}


async def test_a_whole_run_is_not_warmed_up_again():
    items = tiny_items(3)
    pair = ScriptedPair(items)
    whole = await run(items)
    kept = Memory(done=frozenset((r.method, r.item_id) for r in whole.records))
    await keep(kept, items, pair=pair)
    assert (pair.large.calls, kept.records) == ([], [])


async def test_a_run_cut_short_leaves_what_it_had():
    keeper = Memory()

    class Impatient(Quiet):
        def saw(self, record):
            super().saw(record)
            if len(self.seen) == 23:
                scope.cancel()

    with anyio.CancelScope() as scope:
        await keep(keeper, tiny_items(25), watcher=Impatient())
    assert scope.cancelled_caught
    assert len(keeper.records) == 23


@pytest.mark.parametrize("methods", [METHODS, ("baseline",)], ids=["several", "one"])
async def test_a_suite_that_breaks_ends_the_run_by_its_error(methods):
    class Breaking(ListSuite):
        def entries(self):
            yield from tiny_items(2)
            raise SuiteError("pope.parquet", "ends early")

    items, keeper = tiny_items(3), Memory()
    made = funnel(ScriptedPair(items))
    plan = a_plan(items, suite=Breaking(items), methods=methods)
    with pytest.raises(SuiteError, match=r"pope.parquet: ends early"):
        async with contenders_on(made.parts, made.rules, methods) as contenders:
            await run_suite(contenders, plan, keeper, watcher=Quiet())
    assert len(keeper.records) == (2 if methods == ("baseline",) else 0)


async def test_a_record_that_cannot_be_kept_ends_the_run():
    class Full(Memory):
        def add(self, record):
            raise StorageError("no room")

    with pytest.raises(StorageError, match="no room"):
        await keep(Full(), tiny_items(3))


async def test_a_defect_in_one_query_is_that_querys_failure_alone(monkeypatch):
    items = tiny_items(3)
    pair = ScriptedPair(items)
    answers = pair.large._script

    def script(request):
        if len(pair.large.calls) == 2:
            raise ZeroDivisionError
        return answers(request)

    pair.large = ReplayEngine(script, name="large")
    done = await run(items, pair=pair, methods=("baseline",), warm_up=[])
    assert [record.mishap is None for record in done.records].count(False) == 1
    assert len(done.records) == 3


async def test_the_small_model_alone_answers_whatever_the_gate_says():
    items = tiny_items(9)
    pair = ScriptedPair(items)
    done = await run(items, pair=pair, methods=("small",), warm_up=[])
    assert {record.route for record in done.records} == {"speculative"}
    assert {record.reason for record in done.records} == {"accepted", "below_threshold"}
    assert pair.large.calls == []


async def test_specreason_keeps_its_proposals_with_their_scores():
    done = await run(tiny_items(12), methods=("specreason",), warm_up=[])
    turns = [turn for record in done.records for turn in record.turns]
    assert {turn.proposal.score for turn in turns} == {3, 8}
    for turn in turns:
        assert turn.proposal.accepted == (turn.proposal.score >= 7)
        assert (turn.text == turn.proposal.text) == turn.proposal.accepted


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"methods": ()}, "method"),
        ({"methods": ("small", "small")}, "method"),
        ({"concurrency": 0}, "concurrency"),
        ({"suite": ListSuite([])}, "suite"),
    ],
)
def test_a_plan_that_asks_for_nothing_is_refused(more, field):
    with pytest.raises(ConfigError) as refused:
        a_plan(tiny_items(1), **more)
    assert refused.value.field == field


def test_engines_that_remember_nothing_are_left_alone():
    Contenders(eyes={}, engines=(ScriptedPair(tiny_items(1)).small,)).forget()


async def test_a_gate_that_lets_nothing_pass_sends_all_to_the_agent():
    items = tiny_items(6)
    made = funnel(ScriptedPair(items))
    rules = replace(made.rules, gate=replace(GATE, threshold=float("inf")))
    keeper = Memory()
    async with contenders_on(made.parts, rules, ("speceyes",)) as contenders:
        await run_suite(contenders, a_plan(items, methods=("speceyes",)), keeper, watcher=Quiet())
    assert {record.route for record in keeper.records} == {"agentic"}
