"""A plan is fitted to runs under load: servers are found, their bend too; blocks are foretold."""

from dataclasses import replace

import pytest

from speceyes.bench.comparison import compare
from speceyes.errors import ConfigError
from speceyes.plan.drive import Closed, Scenario
from speceyes.plan.fates import Fate, InOrder
from speceyes.plan.fitting import Seen, fit_servers, in_blocks, seen_in
from speceyes.plan.recorded import fates_of
from speceyes.plan.station import Servers
from tests.scripted_pair import tiny_run
from tests.test_plan import HAND

SEEN = ("agent_only", "serial")


def scenario_of(draw, *, slowdown, crowding=0.0, bend=1.0, policy="serial"):
    servers = Servers(seats=64, slowdown=slowdown, crowding=crowding, bend=bend)
    return Scenario(draw=draw, policy=policy, arrivals=Closed(1), small=servers, large=servers)


def seen_under(scenario, policies, callers, block=40):
    """Measure a simulation as if it were a machine."""
    seen = [Seen(policy=policy, callers=callers, block=block, mean_s=0.0) for policy in policies]
    return [replace(one, mean_s=in_blocks(scenario, one, queries=400)[0]) for one in seen]


@pytest.mark.parametrize(
    ("slowdown", "crowding"), [(0.3, 0.2), (0.05, 0.0), (1.0, 1.0), (0.3, 1.8)]
)
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
    assert [(one.policy, one.callers, one.queries) for one in fit.found] == [
        ("agent_only", 8, 40),
        ("serial", 8, 40),
    ]
    for one, agreed in zip(seen, fit.found, strict=True):
        assert agreed.seen_s == one.mean_s
        assert agreed.found_s == pytest.approx(one.mean_s, rel=0.02)


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


def test_what_was_seen_of_a_block_is_simulated_with_its_queries_in_their_order():
    run = tiny_run(60)
    (comparison,) = compare([run])
    fates = fates_of(comparison, run.manifest.gate)
    placed = [
        replace(r, block=int(place >= 48), ended_s=10.0 + place, elapsed_s=1.0 + 9.0 * (place > 47))
        for method in ("baseline", "speceyes")
        for place, r in enumerate(r for r in run.records if r.method == method)
    ]
    lost = replace(placed[9], text=None, elapsed_s=300.0)
    records = [*placed[:9], lost, *placed[10:]][::-1]
    loaded = replace(run, manifest=replace(run.manifest, concurrency=4), records=records)
    (comparison,) = compare([loaded])
    seen = seen_in(comparison, "race", [fates, fates[1:]])
    assert [(s.policy, s.callers, s.block, s.mean_s, s.lasted_s) for s in seen] == [
        ("agent_only", 4, 46, 1.0, 47.0),
        ("agent_only", 4, 12, 10.0, 21.0),
        ("race", 4, 47, 1.0, 47.0),
        ("race", 4, 12, 10.0, 21.0),
    ]
    came = [r.item_id for r in placed if r.method == "baseline"]
    assert fates[0].item_id == came[0]  # unknown in one of the runs alone, so left out
    answered = [*came[1:9], *came[10:48]]
    for one, ids in zip(seen, [answered, came[48:], came[1:48], came[48:]], strict=True):
        assert [[fate.item_id for fate in take.fates] for take in one.takes] == [ids, ids]


def test_blocks_whose_queries_are_known_are_foretold_of_these():
    """Two long ones and two short ones: beside each other or not is a matter of their order."""
    servers = Servers(slowdown=1.0)
    short, long = (
        Fate(screen_s=0.0, speculate_s=0.0, needs_tool=True, accepted=False, turns_s=(seconds,))
        for seconds in (1.0, 9.0)
    )
    scenario = replace(scenario_of(HAND, slowdown=0.0), small=servers, large=servers)
    for order, mean_s, lasted_s in (
        ((short, short, long, long), (2.0 + 2.0 + 18.0 + 18.0) / 4, 20.0),
        ((long, short, short, long), (18.0 + 2.0 + 2.0 + 16.0) / 4, 20.0),
    ):
        seen = Seen(policy="agent_only", callers=2, block=4, mean_s=0.0, takes=(InOrder(order),))
        found = in_blocks(scenario, seen)
        assert found == pytest.approx((mean_s, 4 / lasted_s))


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
