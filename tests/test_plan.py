"""Plans: a virtual clock, stations, the funnel's own times, sizes, and the paper's tables."""

import asyncio
import json
import math
import time
import tracemalloc
from collections import Counter
from dataclasses import replace

import anyio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speceyes.bench.comparison import compare
from speceyes.bench.looks import judged_of
from speceyes.bench.page.planned import lay_out_plan, write_plan
from speceyes.bench.page.published import tables
from speceyes.calibration.two_gates import Gates
from speceyes.config import Settings
from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.errors import ConfigError, SpecEyesError
from speceyes.plan.clock import run_virtually
from speceyes.plan.drive import Closed, Poisson, Scenario, simulate, trace_of
from speceyes.plan.fates import ByHand, Fate, LookFate, Recorded
from speceyes.plan.fitting import Seen, fit_servers, in_blocks, seen_in
from speceyes.plan.formulas import Costs, costs_of
from speceyes.plan.papers import fit_batches, fit_pair, fit_published, mean_residual
from speceyes.plan.recorded import fates_of, fates_with_looks, gate_at, turn_seconds
from speceyes.plan.sizing import knee, size
from speceyes.plan.station import Servers, Station
from speceyes.plan.tally import Latencies
from speceyes.plan.terminal import Planned, document, rows_of
from speceyes.types import GenerateRequest
from tests.looking_pair import CLOSER_GATE, deep_run
from tests.pages import only
from tests.scripted_pair import GATE, tiny_run
from tests.test_calibrating import kept
from tests.test_cli import call

HAND = ByHand(
    beta=0.6,
    alpha=0.9,
    screen_s=0.05,
    speculate_s=0.1,
    turn_s=1.0,
    tool_s=0.1,
    depths={0: 0.3, 1: 0.5, 2: 0.2},
)
EIGHTHS = st.integers(0, 40).map(lambda n: n / 8)
SEEN = ("agent_only", "serial")
POLICIES = ("agent_only", "serial", "overlap", "race", "adaptive", "small_only")


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


fates = st.builds(
    Fate,
    between_s=EIGHTHS,
    screen_s=EIGHTHS,
    speculate_s=EIGHTHS,
    needs_tool=st.booleans(),
    accepted=st.booleans(),
    turns_s=st.lists(EIGHTHS, min_size=1, max_size=4).map(tuple),
    tools_s=st.lists(EIGHTHS, max_size=3).map(tuple),
)


def unlike(rng):
    """Draw a fate whose times are like no other's: who comes first of two is then no tie."""
    turns = int(rng.integers(1, 5))
    needs_tool = bool(rng.random() < 0.4)
    return Fate(
        between_s=rng.random() / 4,
        screen_s=rng.random(),
        speculate_s=rng.random() * 2,
        needs_tool=needs_tool,
        accepted=not needs_tool and bool(rng.random() < 0.7),
        turns_s=tuple((3 * rng.random(turns)).tolist()),
        tools_s=tuple((rng.random(turns - 1) * rng.integers(2)).tolist()),
    )


def looking(rng):
    """Draw a fate like no other whose small model looks closer, perhaps."""
    fate = unlike(rng)
    if fate.accepted:
        return fate
    count = int(rng.integers(0, 3))
    ends = ["doubted"] * (count - 1) + [str(rng.choice(["accepted", "doubted", "nowhere"]))]
    looks = [LookFate(rng.random() / 2, rng.random(), end) for end in ends[:count]]
    return replace(
        fate, looks=tuple(replace(k, answer_s=0.0) if k.ends == "nowhere" else k for k in looks)
    )


def servers_drawn(rng):
    replicas, seats = rng.integers(1, 3), rng.integers(1, 4)
    slowdown = rng.choice([0.0, 0.0, 0.25, 1.0])
    crowding = rng.choice([0.0, 0.0, 0.3])
    return Servers(
        replicas=int(replicas),
        seats=int(seats),
        slowdown=float(slowdown),
        crowding=float(crowding),
    )


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("policy", POLICIES)
def test_a_rehearsal_takes_the_times_of_the_real_funnel(policy, seed, looks):
    rng = np.random.default_rng(100 * looks + seed)
    scenario = Scenario(
        draw=looking if looks else unlike,
        depth=1 + seed % 2 if looks else 0,
        seed=seed,
        policy=policy,
        arrivals=[Closed(1), Closed(3), Closed(9), Poisson(0.2), Poisson(1.0)][seed % 5],
        small=servers_drawn(rng),
        large=servers_drawn(rng),
        queries=25,
        screen_by=str(rng.choice(["large", "small", "none"])),
    )
    rehearsed, real = trace_of(scenario), trace_of(replace(scenario, is_real=True))
    assert len(rehearsed) == 25
    assert [route for _, route in rehearsed] == [route for _, route in real]
    assert [s for s, _ in rehearsed] == pytest.approx([s for s, _ in real], abs=1e-6)


def test_looks_are_taken_only_where_there_is_a_depth():
    scenario = Scenario(draw=looking, policy="serial", arrivals=Closed(1), queries=60, warm_up=0)
    shares = [simulate(replace(scenario, depth=depth)).speculative for depth in (0, 1, 2)]
    assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize("policy", POLICIES)
def test_on_many_queries_both_are_the_same(policy):
    scenario = Scenario(
        draw=replace(HAND, spread=0.6),
        policy=policy,
        arrivals=Closed(8),
        queries=150,
        large=Servers(seats=4, slowdown=0.1),
    )
    rehearsed, real = trace_of(scenario), trace_of(replace(scenario, is_real=True))
    assert len(rehearsed) == 150
    assert [route for _, route in rehearsed] == [route for _, route in real]
    assert [s for s, _ in rehearsed] == pytest.approx([s for s, _ in real])


def test_one_after_the_other_it_is_the_papers_formula():
    costs = Costs(beta=0.6, alpha=0.9, screen_s=0.05, speculate_s=0.1, agent_s=HAND.agent_s)
    scenario = Scenario(draw=HAND, policy="serial", arrivals=Closed(1), queries=6000, warm_up=0)
    found = simulate(scenario)
    assert found.mean_s == pytest.approx(costs.seconds, rel=0.05)
    assert found.throughput == pytest.approx(1 / found.mean_s, rel=1e-3)
    alone = simulate(replace(scenario, policy="agent_only"))
    assert alone.mean_s / found.mean_s == pytest.approx(costs.speedup, rel=0.05)
    assert costs.limit == pytest.approx(1 / (1 - 0.54))
    assert replace(costs, alpha=1.0, beta=1.0).limit is None


@given(st.lists(fates, min_size=1, max_size=8))
def test_the_formula_is_exact_for_fates(found):
    costs = costs_of(
        [replace(fate, accepted=fate.accepted and not fate.needs_tool) for fate in found]
    )
    by_hand = [
        fate.between_s
        + fate.screen_s
        + (0.0 if fate.needs_tool else fate.speculate_s)
        + (0.0 if fate.accepted and not fate.needs_tool else fate.agent_s)
        for fate in found
    ]
    assert costs.seconds == pytest.approx(sum(by_hand) / len(by_hand))


def test_the_formula_is_exact_for_fates_with_looks():
    rng = np.random.default_rng(3)
    found = [looking(rng) for _ in range(50)]
    costs = costs_of(found, depth=2)
    by_hand = [
        fate.between_s
        + fate.screen_s
        + fate.speculate_s
        + sum(look.where_s + look.answer_s for look in fate.looks)
        + (0.0 if fate.accepted or fate.accepted_closer else fate.agent_s)
        for fate in found
    ]
    assert costs.seconds == pytest.approx(sum(by_hand) / 50)
    assert costs.looked == sum(fate.accepted_closer for fate in found) / 50 > 0.0
    settled = sum(fate.accepted or fate.accepted_closer for fate in found) / 50
    assert costs.limit == pytest.approx(1 / (1 - settled))
    draw = Recorded(found, depth=2)
    scenario = Scenario(draw=draw, policy="serial", arrivals=Closed(1), queries=6000, depth=2)
    assert simulate(scenario).mean_s == pytest.approx(costs.seconds, rel=0.05)


def test_a_full_server_serves_at_its_capacity():
    servers = Servers(seats=4, slowdown=0.2)
    assert servers.capacity == pytest.approx(4 / 1.6)
    found = simulate(
        Scenario(draw=HAND, policy="agent_only", arrivals=Closed(64), queries=4000, large=servers)
    )
    work = sum(turn * share for turn, share in ((1, 0.3), (2, 0.5), (3, 0.2)))
    assert found.throughput == pytest.approx(servers.capacity / work, rel=0.05)
    assert found.large.filled == pytest.approx(1.0, abs=0.02)


def test_queries_that_pile_up_are_told():
    scenario = Scenario(draw=HAND, policy="agent_only", arrivals=Poisson(2.0), queries=3000)
    assert not simulate(replace(scenario, large=Servers(seats=16))).is_overloaded
    assert simulate(replace(scenario, large=Servers(seats=1))).is_overloaded


def test_a_seed_gives_the_same_queries_to_all_policies():
    scenario = Scenario(draw=replace(HAND, spread=1.0), policy="serial", arrivals=Poisson(1.0))
    few = replace(scenario, queries=300)
    assert trace_of(few) == trace_of(few)
    routes = [sorted(r for _, r in trace_of(replace(few, policy=p))) for p in ("serial", "overlap")]
    assert routes[0] == routes[1]
    assert trace_of(replace(few, seed=1)) != trace_of(few)


def test_racing_wastes_and_serial_does_not():
    scenario = Scenario(draw=HAND, policy="serial", arrivals=Closed(2), queries=500)
    serial, race = (simulate(replace(scenario, policy=p)) for p in ("serial", "race"))
    assert serial.large.wasted_s == 0.0 < race.large.wasted_s
    assert race.mean_s < serial.mean_s


def test_memory_does_not_grow_with_the_queries():
    def peak_bytes(queries):
        tracemalloc.start()
        scenario = Scenario(draw=HAND, policy="serial", arrivals=Closed(8), queries=queries)
        simulate(scenario)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    peak_bytes(200)  # what is imported and cached on the way
    assert peak_bytes(2500) < peak_bytes(500) + 200_000


@given(st.lists(st.floats(1e-5, 1e5), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_quantiles_are_within_half_a_percent(values, share):
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]
    assert latencies.quantile_s(share) == pytest.approx(exact, rel=0.006)
    assert latencies.mean_s == pytest.approx(sum(values) / len(values))


def test_nothing_counted_has_no_quantile():
    assert Latencies().quantile_s(0.5) is None
    assert Latencies().mean_s is None


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: replace(HAND, beta=1.2), "beta"),
        (lambda: replace(HAND, turn_s=-1.0), "turn_s"),
        (lambda: replace(HAND, depths={0: 0.5}), "depth"),
        (lambda: Servers(seats=0), "seats"),
        (lambda: Servers(slowdown=1.5), "slowdown"),
        (lambda: Servers(bend=0.0), "bend: 0.0"),
        (lambda: Servers(bend=1.5), "bend: 1.5"),
        (lambda: Servers(price=-1.0), "price"),
        (lambda: Closed(0), "concurrency"),
        (lambda: Poisson(0.0), "rate"),
        (lambda: Recorded([]), "run"),
        (lambda: Scenario(draw=HAND, policy="race", arrivals=Closed(1), queries=0), "queries"),
        (
            lambda: Scenario(draw=HAND, policy="race", arrivals=Closed(1), screen_by="agent"),
            "screen_by",
        ),
    ],
)
def test_what_cannot_be_planned_is_named(make, field):
    with pytest.raises(ConfigError, match=field):
        make()


def test_the_knee_is_where_more_is_mostly_wait():
    scenario = Scenario(draw=HAND, policy="agent_only", arrivals=Closed(1), queries=1500)
    loads = [
        simulate(replace(scenario, arrivals=Closed(n), large=Servers(seats=8)))
        for n in (1, 2, 4, 8, 16, 32)
    ]
    assert knee(loads).scenario.arrivals == Closed(8)
    assert knee([]) is None


def test_a_rate_takes_so_many_servers():
    scenario = Scenario(
        draw=HAND, policy="serial", arrivals=Closed(1), queries=1500, large=Servers(seats=2)
    )
    found = size(scenario, rate=4.0, p95_s=4.5).forecast
    needed = found.scenario.large.replicas
    assert found.p95_s <= 4.5
    assert 2 <= needed <= 4
    fewer = replace(found.scenario, large=Servers(seats=2, replicas=needed - 1))
    assert simulate(fewer).is_overloaded or simulate(fewer).p95_s > 4.5
    alone = size(replace(scenario, policy="agent_only"), rate=4.0, p95_s=4.5).forecast
    assert alone.scenario.large.replicas > needed
    assert size(scenario, rate=4.0, p95_s=0.5).forecast is None


def agent_s(record):
    """Give the agent's time up to its last word, or all of it before that."""
    return min(record.phase_s["fall_back"], record.turns[-1].at_s)


def test_a_runs_records_become_fates():
    run = tiny_run(60)
    (comparison,) = compare([run])
    found = fates_of(comparison, GATE)
    base = {r.item_id: r for r in run.records if r.method == "baseline"}
    ours = [r for r in run.records if r.method == "speceyes"]
    asked = [(base[r.item_id], r) for r in ours if r.route == "agentic"]
    # How much longer the agent took where it was not the only one.
    ratio = sum(agent_s(mine) for _, mine in asked) / sum(agent_s(alone) for alone, _ in asked)
    assert len(found) == 60
    for fate, record in zip(found, ours, strict=True):
        alone = base[record.item_id]
        assert fate.needs_tool == record.needs_tool
        accepted = record.speculation is not None and record.speculation.accepted
        assert fate.accepted == accepted
        assert len(fate.turns_s) == len(alone.turns)
        asked_s = agent_s(record) if record.route == "agentic" else ratio * agent_s(alone)
        assert fate.agent_s == pytest.approx(asked_s)
        assert fate.speculate_s > 0.0
        assert sum(fate.lone_turns_s) == pytest.approx(agent_s(alone))
        assert fate.alone.agent_s == pytest.approx(sum(fate.lone_turns_s))
    closed_gate = fates_of(comparison, gate_at(GATE, 99.0))
    assert not any(fate.accepted for fate in closed_gate)
    assert gate_at(GATE, None) == GATE


@pytest.mark.parametrize("depth", [1, 2])
def test_the_records_of_a_run_that_looked_closer_become_fates_with_looks(depth):
    run = deep_run(60, depth=depth, pace=0.02)
    (comparison,) = compare([run])
    found = fates_with_looks(comparison, Gates(GATE, CLOSER_GATE))
    ours = [r for r in run.records if r.method == "speceyes"]
    ends = Counter()
    for fate, record in zip(found, ours, strict=True):
        first, *later = judged_of(record)
        looks = record.speculation.looks
        assert fate.needs_tool == record.needs_tool
        assert fate.accepted == first.accepted
        assert (fate.accepted or fate.accepted_closer) == (record.route == "speculative")
        assert fate.speculate_s == first.span.took_s
        assert [look.took_s for look in fate.looks] == pytest.approx(
            [look.span.took_s for look in looks]
        )
        assert [look.where_s for look in fate.looks if look.ends != "nowhere"] == [
            one.span.where_s for one in later
        ]
        if record.route == "speculative":
            assert fate.small_is_right == record.is_right
        ends.update(look.ends for look in fate.looks)
    assert min(ends[end] for end in ("accepted", "doubted", "nowhere")) > 0


@pytest.mark.parametrize("depth", [1, 2])
def test_a_looser_gate_has_the_fates_of_a_run_under_it(depth):
    loose = replace(GATE, threshold=2.5)
    (comparison,), (truth,) = (
        compare([deep_run(depth=depth, gates=(gate, CLOSER_GATE))]) for gate in (GATE, loose)
    )
    gates = Gates(loose, CLOSER_GATE)
    for fate, known in zip(
        fates_with_looks(comparison, gates), fates_with_looks(truth, gates), strict=True
    ):
        assert fate.accepted == known.accepted
        assert [look.ends for look in fate.looks] == [look.ends for look in known.looks]
        if fate.accepted or fate.accepted_closer:
            assert fate.small_is_right == known.small_is_right


def test_a_plan_of_a_run_that_looked_closer(tmp_path):
    folder = kept(tmp_path / "run", deep_run(60, pace=0.02))
    asked = ("--policy", "serial", "--concurrency", "1", "--queries", "500", "--json")
    done = call("plan", folder, "--threshold", "5,2.5", *asked)
    assert done.exit_code == 0, done.output
    assert "accepted after one" in " ".join(done.stderr.split())
    plan = json.loads(done.stdout)
    by_costs = {costs["threshold"]: costs["seconds"] for costs in plan["costs"]}
    for forecast in plan["forecasts"]:
        assert forecast["mean_s"] == pytest.approx(by_costs[forecast["threshold"]], rel=0.2)
    assert plan["costs"][0]["looked"] > 0.1
    refused = call("plan", folder, "--threshold", "5.5", *asked)
    assert refused.exit_code == 2
    assert "threshold: 5.5 is stricter than the run's own, 5" in refused.stderr


def test_a_plan_of_looks_is_fitted_to_runs_of_the_same_depth(tmp_path):
    one, other = deep_run(60, pace=0.02), deep_run(60, depth=2, pace=0.02)
    loaded = replace(other, manifest=replace(other.manifest, concurrency=3))
    folders = [kept(tmp_path / str(place), run) for place, run in enumerate((one, loaded))]
    done = call("plan", folders[0], "--fit", folders[1])
    assert done.exit_code == 2
    assert "fit: its depth is 2, not 1 as in the run planned from" in done.stderr


def slower(record, times):
    """Let a record's agent have taken so many times as long."""
    turns = tuple(replace(turn, at_s=times * turn.at_s) for turn in record.turns)
    phases = {**record.phase_s}
    phases["fall_back"] = times * phases.get("fall_back", 0.0)
    return replace(record, turns=turns, phase_s=phases)


def test_an_agent_that_is_slower_under_speceyes_is_planned_as_such():
    run = tiny_run(60)
    made = [slower(r, 1.5) if r.method == "baseline" else r for r in run.records]
    made = [slower(r, 3.0) if r.method == "speceyes" else r for r in made]
    (comparison,) = compare([replace(run, records=made)])
    found = fates_of(comparison, GATE)
    by = {(r.method, r.item_id): r for r in made}
    ours = [r for r in made if r.method == "speceyes"]
    lone_s = under_s = 0.0
    for fate, mine in zip(found, ours, strict=True):
        base = by["baseline", mine.item_id]
        assert sum(fate.lone_turns_s) == pytest.approx(sum(turn_seconds(base)))
        if mine.route == "agentic":
            assert fate.agent_s == pytest.approx(sum(turn_seconds(mine)))
            lone_s, under_s = lone_s + fate.alone.agent_s, under_s + fate.agent_s
    assert under_s > 1.2 * lone_s
    ratios = [fate.agent_s / fate.alone.agent_s for fate in found if fate.accepted]
    assert ratios == pytest.approx([under_s / lone_s] * len(ratios))
    assert len(ratios) > 10
    draw = Recorded(found)
    alone, serial = (
        simulate(Scenario(draw=draw, policy=policy, arrivals=Closed(1), queries=400, warm_up=0))
        for policy in ("agent_only", "serial")
    )
    lone = [fate.between_s + fate.alone.agent_s for fate in found]
    assert alone.mean_s == pytest.approx(sum(lone) / len(lone), rel=0.15)
    assert serial.mean_s == pytest.approx(costs_of(found).seconds, rel=0.15)


def test_an_agent_that_never_spoke_took_its_whole_time():
    record = replace(tiny_run(60).records[0], turns=(), phase_s={"fall_back": 3.0})
    assert turn_seconds(record) == (3.0,)


def test_a_run_without_both_methods_is_refused():
    (comparison,) = compare([only(tiny_run(60), "speceyes")])
    with pytest.raises(ConfigError, match="needs the methods baseline and speceyes"):
        fates_of(comparison, GATE)


def test_the_papers_batches_follow_from_the_smallest_and_the_largest():
    batches, pairs = fit_published(tables())
    assert len(batches) == len(pairs) == 7
    for fit in batches:
        assert mean_residual(fit.points) < 0.03
        assert 0.0 < fit.front < 0.3
        assert 0.2 < fit.rest < 0.9
    for pair in pairs:
        assert mean_residual(pair.points) < 0.16


def test_fits_worked_out_by_hand():
    made = fit_batches("x", [0, 1, 2, 4], [1, 1 / 0.7, 1 / 0.6, 1 / 0.55])
    assert (made.rest, made.front) == pytest.approx((0.5, 0.2))
    assert mean_residual(made.points) is None
    pair = fit_pair("x", [3, 2, 1], ([1.0, 2.0, 4.0], [1 / 0.7, 1 / 0.45, 1 / 0.325]))
    assert (pair.slope, pair.start) == pytest.approx((0.5, 0.2))
    assert mean_residual(pair.points) == pytest.approx(0.0, abs=1e-9)


def planned(tmp_path=None):
    scenario = Scenario(draw=HAND, policy="serial", arrivals=Closed(1), queries=200)
    found = [
        (4.0, simulate(replace(scenario, policy=policy, arrivals=load)))
        for load in (Closed(1), Closed(4), Poisson(0.3))
        for policy in ("agent_only", "serial", "race")
    ]
    sizing = size(scenario, rate=0.5, p95_s=9.0)
    costs = Costs(beta=0.6, alpha=0.9, screen_s=0.05, speculate_s=0.1, agent_s=1.0)
    return Planned(
        source="x <y>",
        costs=((4.0, costs),),
        rows=rows_of(found),
        sizings=((4.0, "serial", sizing),),
    )


def test_a_plan_is_one_document_and_one_page(tmp_path):
    made = planned()
    told = json.loads(json.dumps(document(made)))
    assert len(told["forecasts"]) == 9
    assert {f["speedup"] is None for f in told["forecasts"] if f["policy"] == "agent_only"} == {
        True
    }
    assert all(f["speedup"] > 1.0 for f in told["forecasts"] if f["policy"] == "serial")
    write_plan(made, tmp_path / "new" / "plan.html")
    page = (tmp_path / "new" / "plan.html").read_text(encoding="utf-8")
    assert "x &lt;y&gt;" in page
    assert page.count("<circle") == 2 * 9
    with pytest.raises(ConfigError, match="html"):
        write_plan(made, tmp_path / "new" / "plan.html" / "x")


def test_a_chart_stays_on_its_canvas():
    chart = lay_out_plan(planned()).chart
    for panel in chart.panels:
        assert all(chart.x.start <= dot.x <= chart.x.end for dot in panel.dots)
        assert all(panel.y.end <= dot.y <= panel.y.start for dot in panel.dots)


BY_HAND = [
    "--beta",
    ".6",
    "--alpha",
    ".9",
    "--screen-s",
    ".05",
    "--speculate-s",
    ".1",
    "--turn-s",
    "1",
    "--depth",
    "0:.4,1:.6",
]


def test_the_command_plans_by_hand(tmp_path):
    out = tmp_path / "plan.html"
    words = [*BY_HAND, "--queries", "150", "--rate", ".2", "--policy", "agent_only,race"]
    words += ["--target-rate", ".5", "--target-p95", "9", "--html", out, "--large-price", "3"]
    done = call("plan", *words, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [f["policy"] for f in told["forecasts"]] == ["agent_only", "race"]
    assert told["forecasts"][0]["cost"] > 0.0
    assert told["sizes"][0]["found"]["servers"]["large"]["replicas"] == 1
    assert "limit 2.17x" in " ".join(done.stderr.split())
    assert out.exists()


def test_the_command_plans_from_a_run(tmp_path):
    folder = kept(tmp_path / "run", tiny_run(60))
    words = ("--queries", "100", "--concurrency", "1,2", "--threshold", "4,99")
    done = call("plan", folder, *words, "--policy", "agent_only,serial", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [cost["alpha"] > 0 for cost in told["costs"]] == [True, False]
    assert len(told["forecasts"]) == 2 * 3
    assert {(knee["policy"], knee["threshold"]) for knee in told["knees"]} == {
        ("agent_only", None),
        ("serial", 4.0),
        ("serial", 99.0),
    }


def scenario_of(draw, *, slowdown, crowding=0.0, bend=1.0, policy="serial"):
    servers = Servers(seats=64, slowdown=slowdown, crowding=crowding, bend=bend)
    return Scenario(draw=draw, policy=policy, arrivals=Closed(1), small=servers, large=servers)


def seen_under(scenario, policies, callers, block=40):
    """Measure a simulation as if it were a machine."""
    seen = [Seen(policy=policy, callers=callers, block=block, mean_s=0.0) for policy in policies]
    return [replace(one, mean_s=in_blocks(scenario, one, queries=400)[0]) for one in seen]


@pytest.mark.parametrize(("slowdown", "crowding"), [(0.3, 0.2), (0.05, 0.0), (1.0, 1.0)])
def test_a_fit_finds_the_servers_that_were_measured(slowdown, crowding):
    draw = replace(HAND, spread=0.3, screen_s=0.3, speculate_s=0.5)
    true = scenario_of(draw, slowdown=slowdown, crowding=crowding)
    seen = seen_under(true, ["agent_only", "serial"], 8)
    fit = fit_servers(scenario_of(draw, slowdown=0.0), seen, queries=400)
    assert fit.large.slowdown == fit.small.slowdown == pytest.approx(slowdown, abs=0.01)
    assert fit.large.crowding == fit.small.crowding == pytest.approx(crowding, abs=0.03)
    assert fit.large.seats == 64
    planned = replace(true, small=fit.small, large=fit.large)
    for other in seen_under(true, ["agent_only", "serial", "race"], 16):
        assert in_blocks(planned, other, queries=400)[0] == pytest.approx(other.mean_s, rel=0.03)
    for one, found_s in fit.found:
        assert found_s == pytest.approx(one.mean_s, rel=0.02)


def test_a_fit_to_two_companies_finds_the_bend():
    draw = replace(HAND, spread=0.3, screen_s=0.3, speculate_s=0.5)
    true = scenario_of(draw, slowdown=0.4, crowding=0.3, bend=0.6)
    few, many = (seen_under(true, ["agent_only", "serial"], callers) for callers in (4, 12))
    straight = scenario_of(draw, slowdown=0.0)
    bent, line = (fit_servers(straight, seen, queries=400) for seen in (few + many, many))
    assert bent.large.bend == bent.small.bend == pytest.approx(0.6, abs=0.03)
    assert bent.large.slowdown == pytest.approx(0.4, abs=0.03)
    assert bent.large.crowding == pytest.approx(0.3, abs=0.05)
    assert line.large.bend == 1.0
    for other in seen_under(true, ["agent_only", "serial", "race"], 2):
        by_bend, by_line = (
            in_blocks(replace(true, small=fit.small, large=fit.large), other, queries=400)[0]
            for fit in (bent, line)
        )
        assert by_bend == pytest.approx(other.mean_s, rel=0.03)
        assert by_line < 0.93 * other.mean_s  # what a line makes of the first companion


def test_a_last_block_that_is_shorter_is_left_out():
    run = tiny_run(60)
    run = replace(
        run,
        manifest=replace(run.manifest, concurrency=4),
        records=[
            replace(r, block=0 if place % 60 < 48 else 1, elapsed_s=1.0 + 9.0 * (place % 60 >= 48))
            for place, r in enumerate(sorted(run.records, key=lambda r: r.method))
        ],
    )
    (comparison,) = compare([run])
    assert [(s.policy, s.callers, s.block, s.mean_s) for s in seen_in(comparison, "race")] == [
        ("agent_only", 4, 48, 1.0),
        ("race", 4, 48, 1.0),
    ]


def test_what_no_fit_can_explain_is_the_end_that_comes_nearest():
    true = scenario_of(HAND, slowdown=0.0)
    fast, slow = (
        [replace(one, mean_s=times * one.mean_s) for one in seen_under(true, SEEN, 4)]
        for times in (0.5, 50.0)
    )
    assert fit_servers(true, fast, queries=80).large.slowdown == 0.0
    assert fit_servers(true, slow, queries=80).large.slowdown == 1.0


@pytest.mark.parametrize("policies", [["agent_only"], ["serial"]])
def test_a_fit_takes_both_methods_in_company(policies):
    true = scenario_of(HAND, slowdown=0.0)
    seen = seen_under(true, policies, 4) + seen_under(true, SEEN, 1)
    with pytest.raises(ConfigError, match="fit: needs baseline and speceyes with several"):
        fit_servers(true, seen)


def test_blocks_are_foretold_with_their_beginnings_and_ends():
    """Five queries, four at once, in an engine with room: the fifth begins when the first ends."""
    turn_s = 2.0
    draw = replace(HAND, spread=0.0, depths={0: 1.0}, turn_s=turn_s)
    seen = Seen(policy="agent_only", callers=4, block=5, mean_s=0.0)
    mean_s, per_s = in_blocks(scenario_of(draw, slowdown=0.0), seen)
    assert mean_s == pytest.approx(turn_s)
    assert per_s == pytest.approx(5 / (2 * turn_s))


def test_the_command_fits_a_run_under_load(tmp_path):
    run = tiny_run(60)
    loaded = replace(
        run,
        manifest=replace(run.manifest, concurrency=4),
        records=[replace(r, elapsed_s=1.5 * r.elapsed_s) for r in run.records],
    )
    alone, under = kept(tmp_path / "run", run), kept(tmp_path / "loaded", loaded)
    words = ("--queries", "100", "--concurrency", "4", "--policy", "agent_only,serial", "--json")
    done = call("plan", alone, "--fit", under, *words)
    assert done.exit_code == 0, done.output
    assert "fitted   large: slowdown 0." in done.stderr
    assert "agent_only, 4 at once" in done.stderr
    told = json.loads(done.stdout)
    large = told["forecasts"][0]["servers"]["large"]
    assert 0.1 < large["slowdown"] < 0.5  # half as long again for at most three in company
    assert (
        told["forecasts"][0]["mean_s"]
        > json.loads(call("plan", alone, *words).stdout)["forecasts"][0]["mean_s"]
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, "fit: needs baseline and speceyes with several queries at once"),
        ({"concurrency": 4, "large": "other"}, "fit: its large model is other, not"),
    ],
)
def test_a_run_that_nothing_can_be_fitted_to_is_refused(tmp_path, change, complaint):
    run = tiny_run(60)
    folder = kept(tmp_path / "run", run)
    other = kept(tmp_path / "other", replace(run, manifest=replace(run.manifest, **change)))
    done = call("plan", folder, "--fit", other)
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert call("plan", *BY_HAND, "--fit", other).exit_code == 2


def test_the_command_drives_the_real_funnel_too():
    words = [*BY_HAND, "--queries", "40", "--policy", "serial", "--concurrency", "3", "--json"]
    rehearsed, real = (json.loads(call("plan", *words, *more).stdout) for more in ((), ("--real",)))
    assert rehearsed["forecasts"][0]["mean_s"] == pytest.approx(real["forecasts"][0]["mean_s"])


def test_the_command_foretells_the_papers_tables():
    done = call("plan", "--published", "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["batches"]) == 7


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "beta: is missing: give a run's folder, or --beta, --alpha"),
        (BY_HAND[2:], "beta: is missing"),
        ((*BY_HAND, "--policy", "hope"), "policy: 'hope' is unknown"),
        ((*BY_HAND, "--concurrency", "some"), "concurrency: 'some' holds what is no number"),
        ((*BY_HAND, "--target-rate", "2"), "target_rate: goes with --target-p95"),
        ((*BY_HAND[:-1], "deep"), "depth: 'deep' is no depth"),
        (("nowhere", "--beta", ".5"), "run: goes without figures by hand"),
    ],
)
def test_the_command_refuses(words, complaint):
    done = call("plan", *words)
    assert done.exit_code == 2
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"concurrency": 6}, "its queries overlapped (6 at once)"),
        ({"settings": Settings(depth=1), "policy": "race"}, "its policy is race, under which"),
    ],
)
def test_a_run_of_which_no_plan_can_be_made_is_refused(tmp_path, change, complaint):
    run = tiny_run(60)
    folder = kept(tmp_path / "run", replace(run, manifest=replace(run.manifest, **change)))
    done = call("plan", folder)
    assert done.exit_code == 2
    assert complaint in done.stderr


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
