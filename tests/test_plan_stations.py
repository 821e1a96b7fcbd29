"""A plan's clock and stations: virtual hours, seats, crowds, and a call's time in company."""

import asyncio
import math
import time
from dataclasses import replace

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.errors import SpecEyesError
from speceyes.plan.clock import run_virtually
from speceyes.plan.station import Servers, Station
from speceyes.types import GenerateRequest

EIGHTHS = st.integers(0, 40).map(lambda n: n / 8)


def test_hours_pass_in_no_time():
    async def wait():
        began_s = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 7200.0)
            tasks.start_soon(anyio.sleep, 3600.0)
        return anyio.current_time() - began_s

    began_s = time.perf_counter()
    assert run_virtually(wait) == pytest.approx(7200.0)
    assert time.perf_counter() - began_s < 5.0


def test_a_simulation_that_would_wait_for_ever_says_so():
    with pytest.raises(SpecEyesError, match="waits for something that never comes"):
        run_virtually(anyio.sleep_forever)


def served(servers, calls):
    """Serve calls of (start, work, cancelled at or None): when each ended, and the station."""

    async def run():
        station = Station(servers)
        ends = [math.inf] * len(calls)

        async def one(place, start_s, work_s, until_s):
            await anyio.sleep(start_s)
            with anyio.move_on_after(math.inf if until_s is None else until_s - start_s):
                await station.serve(work_s)
                ends[place] = anyio.current_time()

        async with anyio.create_task_group() as tasks:
            for place, call_ in enumerate(calls):
                tasks.start_soon(one, place, *call_)
        return ends, station, station.company, station.busy_s

    return run_virtually(run)


@pytest.mark.parametrize(
    ("servers", "calls", "ends"),
    [
        # One seat: one after the other, in order.
        (Servers(seats=1), [(0, 2, None), (0, 3, None), (1, 1, None)], [2, 5, 6]),
        # Perfect batching: nobody minds anybody.
        (Servers(seats=9), [(0, 2, None), (0, 3, None), (1, 1, None)], [2, 3, 2]),
        # One processor shared by all: 2 and 2 beside each other take 4.
        (Servers(seats=9, slowdown=1.0), [(0, 2, None), (0, 2, None)], [4, 4]),
        # Half as bad: 1.5 times as long while both run; the first ends at 1.5, the rest alone.
        (Servers(seats=9, slowdown=0.5), [(0, 1, None), (0, 2, None)], [1.5, 2.5]),
        # The first companion costs .5, the next three one more .5 between them (4**.5 is 2).
        (
            Servers(seats=9, slowdown=0.5, bend=0.5),
            [(0, 1, None)] * 5,
            [2.0] * 5,
        ),
        (Servers(seats=9, slowdown=0.5, bend=0.5), [(0, 2, None), (0, 1, None)], [2.5, 1.5]),
        # Two replicas: the emptier one serves.
        (Servers(replicas=2, seats=1), [(0, 2, None), (0, 3, None), (1, 1, None)], [2, 3, 3]),
        # A call that gives up makes room at once, and the others are faster from then on.
        (Servers(seats=1), [(0, 5, 2), (0, 3, None)], [math.inf, 5]),
        (Servers(seats=2, slowdown=1.0), [(0, 5, 2), (0, 3, None)], [math.inf, 4]),
        # One that gives up while it waits never had a seat.
        (Servers(seats=1), [(0, 5, None), (0, 3, 2), (0, 1, None)], [5, math.inf, 6]),
    ],
)
def test_calls_end_when_worked_out_by_hand(servers, calls, ends):
    assert served(servers, calls)[0] == pytest.approx(ends)


def served_beside(servers, calls):
    """Serve calls of (station, start, work, cancelled at or None) at two stations of one machine.

    `servers`: those of each, or of one station for all calls. Gives when each ended.
    """

    async def run():
        stations = [Station(one) for one in servers]
        if len(stations) > 1:
            stations[0].stand_beside(stations[1])
        ends = [math.inf] * len(calls)

        async def one(place, at, start_s, work_s, until_s):
            await anyio.sleep(start_s)
            with anyio.move_on_after(math.inf if until_s is None else until_s - start_s):
                await stations[at % len(stations)].serve(work_s)
                ends[place] = anyio.current_time()

        async with anyio.create_task_group() as tasks:
            for place, call_ in enumerate(calls):
                tasks.start_soon(one, place, *call_)
        return ends

    return run_virtually(run)


@pytest.mark.parametrize(
    ("crowdings", "ends"),
    [
        ((0.0, 0.0), [2, 3]),  # machines of their own
        ((1.0, 1.0), [4, 5]),  # one processor: 2 and 2 done by 4, the last 1 alone
        ((0.5, 0.0), [3, 3]),  # only the first minds: 2 at two thirds of the speed
        ((0.0, 0.5), [2, 11 / 3]),  # only the second: 4/3 done by 2, 5/3 alone
    ],
)
def test_stations_crowd_each_other_as_worked_out_by_hand(crowdings, ends):
    servers = [Servers(crowding=crowding) for crowding in crowdings]
    calls = [(0, 0, 2, None), (1, 0, 3, None)]
    assert served_beside(servers, calls) == pytest.approx(ends)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), EIGHTHS, EIGHTHS, st.none() | EIGHTHS),
        min_size=1,
        max_size=10,
    ),
    st.sampled_from([0.25, 1.0]),
)
def test_two_stations_on_one_processor_are_one_station(calls, slowdown):
    calls = [
        (at, start + n * 0.00137, work + n * 0.00071, None if wait is None else start + wait + 0.1)
        for n, (at, start, work, wait) in enumerate(calls)
    ]
    one = Servers(seats=64, slowdown=slowdown)
    both = replace(one, crowding=slowdown)
    assert served_beside([both, both], calls) == pytest.approx(served_beside([one], calls))


def test_work_is_counted():
    servers = Servers(seats=2, slowdown=1.0)
    _, station, company, busy_s = served(servers, [(0, 5, 2), (0, 3, None), (9, 1, None)])
    assert station.calls == 3
    assert station.wasted_s == pytest.approx(1.0)  # two seconds at half speed
    assert station.worked_s == pytest.approx(4.0)
    assert busy_s == pytest.approx(5.0)
    assert company == pytest.approx((2 * 2 + 2 * 1 + 1) / 5)
    assert (station.running, station.waiting) == (0, 0)


@settings(max_examples=50)
@given(st.lists(st.tuples(EIGHTHS, EIGHTHS), min_size=1, max_size=12), st.integers(1, 4))
def test_a_station_that_batches_perfectly_is_a_replay_engine(calls, seats):
    """The engine of the tests, with its `max_batch`, is the oracle."""
    unlike_times = [(s + n * 0.00137, w + n * 0.00071) for n, (s, w) in enumerate(sorted(calls))]
    calls = sorted(unlike_times)  # who comes first of two is then no tie

    async def replayed():
        takes = iter([Take(scripted("x", separability=None), work) for _, work in calls])
        engine = ReplayEngine(lambda _: next(takes), max_batch=seats)
        ends = []

        async def one(start_s):
            await anyio.sleep(start_s)
            await engine.generate(GenerateRequest((), 1))
            ends.append(anyio.current_time())

        async with anyio.create_task_group() as tasks:
            for start_s, _ in calls:
                tasks.start_soon(one, start_s)
        return ends

    ends, *_ = served(Servers(seats=seats), [(start, work, None) for start, work in calls])
    assert sorted(ends) == pytest.approx(sorted(run_virtually(replayed)))


def test_a_cancelled_call_leaves_the_station_as_it_was():
    async def run():
        station = Station(Servers(seats=1))
        lost = []
        task = asyncio.ensure_future(station.serve(5.0, lost=lost.append))
        waits = asyncio.ensure_future(station.serve(5.0, lost=lost.append))
        await anyio.sleep(1.0)
        for one in (waits, task):
            one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one
        return station.running, station.wasted_s, lost

    assert run_virtually(run) == (0, pytest.approx(1.0), [0.0, pytest.approx(1.0)])
