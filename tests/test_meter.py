"""Work that was cut short: who notes it, who reads it, and what is said where nobody noted."""

import anyio
import pytest

from speceyes.engines.replay import Take, scripted
from speceyes.errors import EngineUnavailable
from speceyes.events import PhaseEnded, usage_by_phase
from speceyes.meter import metering, note_lost, one_call
from speceyes.types import Usage
from tests.stand_ins import NEEDS_TOOL, Plan, a_funnel, a_query, engines

SOME = Usage(10, 2, 3, 1)


def cut_short(*noted):
    with one_call():
        for usage in noted:
            note_lost(usage)
        raise KeyError


def test_a_call_that_was_cut_short_without_a_note_leaves_the_loss_unknown():
    with metering() as meter, pytest.raises(KeyError):
        cut_short()
    assert meter.lost is None


def test_what_was_noted_stands_beside_what_was_not():
    with metering() as meter:
        with pytest.raises(KeyError):
            cut_short(SOME)
        assert meter.lost == SOME
        with pytest.raises(KeyError):
            cut_short()
    assert meter.lost == Usage(10, None, 3, 1)


def test_calls_that_end_well_lose_nothing():
    with metering() as meter, one_call():
        pass
    assert meter.lost == Usage.zero


def test_a_note_where_nobody_measures_goes_nowhere():
    with one_call():
        note_lost(SOME)
    with metering() as outer:
        with metering() as inner:
            note_lost(SOME)
        assert (outer.lost, inner.lost) == (Usage.zero, SOME)


@pytest.mark.anyio
async def test_each_task_has_its_own_meter():
    lost = {}

    async def work(name, usage):
        with metering() as meter:
            await anyio.sleep(0.001)
            note_lost(usage)
            await anyio.sleep(0.001)
            lost[name] = meter.lost

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work, "one", SOME)
        tasks.start_soon(work, "two", SOME + SOME)
    assert lost == {"one": SOME, "two": SOME + SOME}


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_phase_that_is_cut_short_tells_what_its_engine_had_done():
    said = scripted("answer " + "word " * 99, separability=None)
    small, large = engines(Plan(screen=NEEDS_TOOL.screen, turns=(Take(said, 100.0),)))
    got = await a_funnel(small, large, fall_back_timeout_s=25.0).settle(a_query())
    ended = next(e for e in got.trace if isinstance(e, PhaseEnded) and e.phase == "fall_back")
    assert ended.lost == Usage(100, 0, 25, 1)
    assert usage_by_phase(got.trace)["fall_back"] == ended.lost


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_call_that_failed_and_was_done_over_is_marked_in_a_phase_that_ended_well():
    with metering() as meter:
        with pytest.raises(EngineUnavailable), one_call():
            raise EngineUnavailable("e", "down")
        with one_call():
            pass
    assert meter.lost is None
