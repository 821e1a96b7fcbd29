"""A plan is driven: the funnel's times, the paper's formula, loads, quantiles, knee and sizes."""

import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.errors import ConfigError
from speceyes.plan.drive import Closed, Poisson, Scenario, simulate, trace_of
from speceyes.plan.fates import ByHand, Fate, LookFate, Recorded
from speceyes.plan.formulas import Costs, costs_of
from speceyes.plan.sizing import knee, size
from speceyes.plan.station import Servers
from speceyes.plan.tally import Latencies

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
POLICIES = ("agent_only", "serial", "overlap", "race", "adaptive", "small_only")


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
        (lambda: Servers(crowding=-0.1), "crowding: -0.1"),
        (lambda: Servers(crowding=math.inf), "crowding: inf"),
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
