"""The demo's race: blocks, turns, times, what is kept, and what is left when it is cut short."""

import io
import itertools
import math
from collections import Counter
from dataclasses import replace

import anyio
import pytest

from speceyes.bench.demo import Contestants, Ledger, Plan, race, speculate_alone
from speceyes.bench.records import read_records
from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.errors import ConfigError, EngineUnavailable
from speceyes.events import Answered, Failed, TurnFinished, ending
from speceyes.funnel import agent_only
from tests.scripted_pair import GATE, Quiet, ScriptedPair, funnel, run, sure, tiny_items

pytestmark = pytest.mark.anyio


LETS_ALL_PASS = replace(GATE, threshold=-math.inf)


class Ticking:
    """A clock that moves one second each time it is read."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        self.now_s += 1.0
        return self.now_s


def a_plan(items, **more):
    return Plan(**({"items": items, "warm_up": items[:1], "spec": GATE} | more))


async def test_every_item_has_one_record_of_each_method():
    items = tiny_items(7)
    done = await run(items)
    found = Counter((record.method, record.item_id) for record in done.records)
    methods = ("baseline", "speceyes", "small")
    assert found == Counter((method, item.item_id) for method in methods for item in items)


async def test_who_goes_first_changes_from_block_to_block():
    watcher = Quiet()
    await run(tiny_items(45), watcher=watcher)
    turns = list(dict.fromkeys((m, int(i.split("-")[1]) // 20) for m, i in watcher.seen))
    assert [turn for turn in turns if turn[0] != "small"] == [
        ("baseline", 0), ("speceyes", 0),
        ("speceyes", 1), ("baseline", 1),
        ("baseline", 2), ("speceyes", 2),
    ]  # fmt: skip


async def test_the_wall_clock_is_read_once_before_and_once_after_a_block():
    items = tiny_items(25)
    pair, ledger = ScriptedPair(items), Ledger()
    async with (
        funnel(pair, agent_only) as alone,
        funnel(pair) as eyes,
        funnel(pair, screener=False) as small,
    ):
        sides = Contestants(baseline=alone, speceyes=eyes, small=small)
        await race(sides, a_plan(items), ledger, watcher=Quiet(), clock=Ticking())
    assert [(t.block, t.method, t.items, t.wall_s) for t in ledger.times] == [
        (0, "baseline", 20, 1.0),
        (0, "speceyes", 20, 1.0),
        (1, "speceyes", 5, 1.0),
        (1, "baseline", 5, 1.0),
    ]


async def test_engines_forget_before_every_block():
    items, told = tiny_items(25), []
    pair = ScriptedPair(items)

    class Remembering(ReplayEngine):
        def forget(self):
            told.append(self.name)

    class Noting(Quiet):
        def saw(self, record):
            told.append((record.method, record.block))

    small = Remembering(pair.small._script, name="small")
    async with (
        funnel(pair, agent_only) as alone,
        funnel(pair) as eyes,
        funnel(pair, screener=False) as tiny,
    ):
        engines = (small, pair.large)  # the other one has nothing to forget
        sides = Contestants(baseline=alone, speceyes=eyes, small=tiny, engines=engines)
        await race(sides, a_plan(items), Ledger(), watcher=Noting())
    assert [then for now, then in itertools.pairwise(told) if now == "small"] == [
        ("baseline", 0), ("speceyes", 0), ("speceyes", 1), ("baseline", 1),
    ]  # fmt: skip


async def test_warming_up_leaves_no_record():
    items = tiny_items(3)
    pair, ledger = ScriptedPair(items), Ledger()
    async with (
        funnel(pair, agent_only) as alone,
        funnel(pair) as eyes,
        funnel(pair, screener=False) as small,
    ):
        sides = Contestants(baseline=alone, speceyes=eyes, small=small)
        plan = a_plan(items[:1], warm_up=items[1:])
        await race(sides, plan, ledger, watcher=Quiet())
    assert {record.item_id for record in ledger.records} == {"tiny-0"}
    assert pair.large.calls


async def test_concurrency_is_kept_and_blocks_grow_with_it():
    items = tiny_items(40)
    pair = ScriptedPair(items, pace=0.02)
    done = await run(items, pair=pair, concurrency=6)
    assert pair.large.max_in_flight == 6
    assert [time.items for time in done.times] == [30, 30, 10, 10]


async def test_a_failure_is_kept_and_counts_as_wrong():
    items = tiny_items(4)
    pair = ScriptedPair(items)
    pair.large = ReplayEngine(lambda _: Take(EngineUnavailable("large", "is down")), name="large")
    done = await run(items, pair=pair)
    baseline = [record for record in done.records if record.method == "baseline"]
    assert [record.mishap.name for record in baseline] == ["EngineUnavailable"] * 4
    assert not any(record.is_right for record in baseline)


async def test_records_are_on_disk_line_by_line(tmp_path):
    path = tmp_path / "records.jsonl"

    class Looking(Quiet):
        def saw(self, record):
            assert path.read_text(encoding="utf-8").count("\n") == len(self.seen) + 1
            super().saw(record)

    with path.open("w", encoding="utf-8") as file:
        done = await run(tiny_items(3), ledger=Ledger(file), watcher=Looking())
    with path.open(encoding="utf-8") as file:
        assert list(read_records(file)) == list(done.records)


async def test_a_race_cut_short_leaves_what_it_had():
    items, file = tiny_items(25), io.StringIO()
    ledger = Ledger(file)

    class Impatient(Quiet):
        def saw(self, record):
            super().saw(record)
            if len(self.seen) == 23:
                scope.cancel()

    with anyio.CancelScope() as scope:
        await run(items, ledger=ledger, watcher=Impatient())
    assert scope.cancelled_caught
    assert len(ledger.records) == 23
    assert len(ledger.times) == 1
    assert list(read_records(io.StringIO(file.getvalue()))) == ledger.records


@pytest.mark.parametrize("separability", [9.0, 2.0], ids=["sure", "unsure"])
async def test_the_small_model_alone_gets_the_plans_verdict_and_no_help(separability):
    (item,) = tiny_items(1)
    pair = ScriptedPair([item])
    pair.small = ReplayEngine(lambda _: Take(sure("ring", separability)), name="small")
    async with funnel(pair, screener=False, gate=LETS_ALL_PASS) as eyes:
        trace = await speculate_alone(eyes, item.query, GATE)
    end = ending(trace)
    assert isinstance(end, Answered)
    assert (end.text, end.reason) == ("ring", "accepted" if separability > 5 else "below_threshold")
    assert pair.large.calls == []


async def test_the_small_model_alone_is_judged_by_the_plans_spec():
    (item,) = tiny_items(1)
    pair = ScriptedPair([item])
    pair.small = ReplayEngine(
        lambda _: Take(scripted("ring", separability=9.0, k=16)), name="small"
    )
    async with funnel(pair, screener=False, gate=replace(GATE, k=64)) as eyes:
        trace = await speculate_alone(eyes, item.query, GATE)
    assert ending(trace).reason == "accepted"


async def test_a_small_model_that_is_down_fails_by_name():
    (item,) = tiny_items(1)
    pair = ScriptedPair([item])
    pair.small = ReplayEngine(lambda _: Take(EngineUnavailable("small", "is down")), name="small")
    async with funnel(pair, screener=False) as eyes:
        trace = await speculate_alone(eyes, item.query, GATE)
    end = ending(trace)
    assert isinstance(end, Failed)
    assert str(end.error) == "small: is down"
    assert not any(isinstance(event, TurnFinished) for event in trace)


async def test_a_query_that_is_screened_away_is_no_speculation():
    (item,) = tiny_items(1)
    pair = ScriptedPair([item], slips=0.0)
    async with funnel(pair) as eyes:
        end = ending(await speculate_alone(eyes, item.query, GATE))
    assert isinstance(end, Failed)
    assert "never asked" in str(end.error)


async def test_a_plan_without_items_or_concurrency_is_refused():
    with pytest.raises(ConfigError, match="items"):
        a_plan([])
    with pytest.raises(ConfigError, match="concurrency"):
        a_plan(tiny_items(1), concurrency=0)
