"""A run becomes a plan: its records' fates and looks, its gates, its one page."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from speceyes.bench.comparison import compare
from speceyes.bench.looks import judged_of
from speceyes.bench.page.planned import lay_out_plan, write_plan
from speceyes.calibration.two_gates import Gates
from speceyes.errors import ConfigError
from speceyes.plan.drive import Closed, Poisson, Scenario, simulate
from speceyes.plan.fates import Recorded
from speceyes.plan.formulas import Costs, costs_of
from speceyes.plan.recorded import fates_of, fates_with_looks, gate_at, turn_seconds
from speceyes.plan.sizing import size
from speceyes.plan.terminal import Planned, document, rows_of
from tests.command_line import call
from tests.looking_pair import CLOSER_GATE, deep_run
from tests.pages import only
from tests.scripted_pair import GATE, tiny_run
from tests.test_calibrating import kept
from tests.test_plan import HAND


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
