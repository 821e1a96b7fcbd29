"""What a run keeps of each answer that a gate judged, and two gates calibrated on it."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from speceyes.assemble import SpecEyes
from speceyes.bench.calibrating import Wish, calibrate
from speceyes.bench.comparison import compare
from speceyes.bench.lines import from_line, to_line
from speceyes.bench.looks import judged_of, look_trials_of, observe_looks
from speceyes.bench.page.calibrated import holding_of
from speceyes.bench.records import Look, Place, record_of
from speceyes.calibration.certificate import certifies, from_json, to_json
from speceyes.calibration.two_gates import Gates
from speceyes.commands.choosing import chosen
from speceyes.config import Settings
from speceyes.engines.replay import ReplayEngine
from speceyes.errors import ConfigError
from speceyes.gate import judge
from speceyes.gate_match import check_choices, check_depth
from speceyes.gateway.settings_file import plan_of
from speceyes.policies.fixed import overlap, serial
from speceyes.settings_file import Choices, load_closer_gate, load_gate, load_settings
from speceyes.shadow.settings import ShadowSettings
from speceyes.shadow.work import Shadow
from speceyes.specs import gate_id, gate_to_json
from speceyes.types import Box
from tests.command_line import call
from tests.looking_pair import CLOSER_GATE, NOWHERE, deep_run
from tests.scripted_pair import GATE, tiny_items
from tests.stand_ins import a_funnel
from tests.test_calibrating import a_run, kept
from tests.test_depth import BOX, Script, settle, sure, unsure

WISH = Wish(max_loss=0.2, made_at="2026-01-02T03:04:05+00:00", version="0.1.0")
OWN = Gates(GATE, CLOSER_GATE)


def ours(run):
    return [record for record in run.records if record.method == "speceyes"]


@pytest.mark.parametrize("depth", [1, 2])
def test_every_answer_that_a_gate_judged_is_kept_in_order(depth):
    run = deep_run(depth=depth)
    lengths, told_nothing = set(), 0
    for record in ours(run):
        judged = judged_of(record)
        said = record.speculation
        lengths.add(len(judged))
        assert [one.gate for one in judged] == ["first"] + ["closer"] * (len(judged) - 1)
        for one in judged:
            gate = CLOSER_GATE if one.gate == "closer" else GATE
            verdict = judge(one.said, gate)
            assert (verdict.score, verdict.reason) == (one.score, one.reason)
        assert judged[-1].said == said.generation
        assert judged[-1].accepted == (record.route == "speculative")
        assert not any(one.accepted for one in judged[:-1])
        nowhere = [look for look in said.looks if look.box_px is None]
        assert all(look.text == NOWHERE and not look.answered for look in nowhere)
        assert len(said.looks) == len(judged) - 1 + len(nowhere)
        told_nothing += len(nowhere)
    assert told_nothing > 1
    assert lengths == set(range(1, depth + 2))


def test_what_needs_a_tool_is_not_accepted_at_first_sight_whatever_its_score():
    screened_out = [r for r in ours(deep_run(seed=8)) if r.needs_tool]
    firsts = [judged_of(record)[0] for record in screened_out]
    assert any(one.reason == "accepted" for one in firsts)
    alone = [r for r in screened_out if len(judged_of(r)) == 1]
    assert alone  # it did not say where to look
    assert not any(judged_of(record)[0].accepted for record in alone)


def test_when_each_began_and_how_long_it_took():
    for record in ours(deep_run(20, pace=0.05)):
        spans = [one.span for one in judged_of(record)]
        looks = [look.span for look in record.speculation.looks]
        assert spans == [record.speculation.span, *looks[: len(spans) - 1]]
        every = [record.speculation.span, *looks]
        assert all(a.began_s + a.took_s <= b.began_s for a, b in pairwise(every))
        assert all(0.0 < look.where_s <= look.took_s for look in looks)
        assert every[0].where_s == 0.0
        whole = record.phase_s["speculate"] + record.phase_s["gate"]
        assert whole - 1e-9 <= sum(span.took_s for span in every)
        assert every[-1].began_s + every[-1].took_s <= record.elapsed_s


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("policy", [serial, overlap])
async def test_when_each_began_to_the_second(policy):
    script = Script([unsure("star"), BOX, unsure("ring"), BOX, sure("disc")])
    outcome, _ = await settle(script, policy, depth=2)
    record = record_of(tiny_items(1)[0], outcome.trace, GATE, place=Place("speceyes"))
    first, *looks = [one.span for one in judged_of(record)]
    assert (first.took_s, first.where_s) == (2.0, 0.0)
    assert [(look.took_s, look.where_s) for look in looks] == [(2.5, 0.5)] * 2
    assert [look.began_s - first.began_s for look in looks] == [2.0, 4.5]


def test_a_record_with_looks_is_read_back_as_it_was():
    for record in ours(deep_run(depth=2)):
        line = to_line(record)
        again = from_line(line)
        assert to_line(again) == line
        for one, other in zip(judged_of(record), judged_of(again), strict=True):
            assert judge(one.said, GATE) == judge(other.said, GATE)
            assert replace(one, said=other.said) == other


def test_a_look_of_an_earlier_version_is_read_and_says_what_it_lacks():
    record = next(r for r in ours(deep_run()) if r.speculation.looks)
    raw = json.loads(to_line(record))
    raw["speculation"].pop("span")
    raw["speculation"]["looks"] = [{"doubted": "a", "text": "b", "box_px": None}]
    again = from_line(json.dumps(raw))
    assert again.speculation.looks == (Look("a", "b", None),)
    with pytest.raises(ConfigError, match="run: was made before closer looks were kept"):
        judged_of(again)
    assert Look("a", "b", Box(0, 0, 1, 1)).answered


@pytest.mark.parametrize("depth", [1, 2])
def test_under_its_own_gates_a_run_is_what_it_was(depth):
    run = deep_run(depth=depth)
    (comparison,) = compare([run])
    trials = look_trials_of([comparison], depth=depth)
    found = observe_looks(trials, OWN, "wrong", depth=depth).outcome(OWN)
    assert (found.at_first | found.closer).tolist() == [
        record.route == "speculative" for record in ours(run)
    ]
    assert found.failed.tolist() == [
        record.route == "speculative" and not record.is_right for record in ours(run)
    ]
    assert not found.unknown.any()
    assert found.closer.sum() > 10


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("shift", [-1.5, 1.5])
def test_what_other_gates_would_give_is_what_a_run_under_them_gives(depth, shift):
    """Looser ones are known whole; of stricter ones, all that is not marked as unknown."""
    other = Gates(
        replace(GATE, threshold=GATE.threshold + shift),
        replace(CLOSER_GATE, threshold=CLOSER_GATE.threshold + shift),
    )
    run, truth = deep_run(depth=depth), deep_run(depth=depth, gates=(other.first, other.closer))
    trials = look_trials_of(compare([run]), depth=depth)
    found = observe_looks(trials, other, "wrong", depth=depth).outcome(other)
    accepted = np.array([record.route == "speculative" for record in ours(truth)])
    wrong = accepted & np.array([not record.is_right for record in ours(truth)])
    known = ~found.unknown
    assert ((found.at_first | found.closer) == accepted)[known].all()
    assert (found.failed == wrong)[known].all()
    assert found.unknown.any() == (shift > 0)


def test_two_gates_are_certified_together():
    made = calibrate([deep_run()], WISH)
    told = made.certificate
    assert made.gate.threshold == GATE.threshold  # the run's own, kept
    assert made.closer_gate.threshold < CLOSER_GATE.threshold
    assert {gate.depth for gate in (made.gate, made.closer_gate)} == {1}
    assert made.closer_gate.k == CLOSER_GATE.k
    assert made.closer_gate.small_model == made.gate.small_model == "scripted small"
    assert certifies(told, made.gate, made.closer_gate)
    assert not certifies(told, made.gate)
    assert told.gate_id == gate_id(made.gate, made.closer_gate) != gate_id(made.gate)
    assert (told.risk, told.count, set(told.beside)) == ("lost", 90, {"wrong", "differs"})
    assert told.bound <= 0.2
    assert told.accepted.count == told.alpha.count + told.closer_accepted.count
    assert told.closer_accepted.count > 20
    assert told.reference is None
    assert from_json(to_json(made)) == made


def test_what_two_gates_came_to_on_other_runs_is_held_out():
    other = deep_run(seed=8)
    told = calibrate([deep_run()], WISH, others=[other]).certificate
    assert (told.held_out.of, told.held_out_on) == (90, "deep-8")
    own = calibrate([deep_run()], WISH).certificate
    assert own.held_out_on == "5 folds of the same items"
    assert replace(told, held_out=None, held_out_on="") == replace(
        own, held_out=None, held_out_on=""
    )
    with pytest.raises(ConfigError, match="check: holds no item but those"):
        calibrate([deep_run()], WISH, others=[deep_run()])


def test_several_runs_of_alike_gates_go_together():
    told = calibrate([deep_run(), deep_run(seed=8)], replace(WISH, by="agreement")).certificate
    assert (told.count, told.risk) == (180, "differs")


@pytest.mark.parametrize(
    ("runs", "wish", "complaint"),
    [
        (lambda: [deep_run(), deep_run(seed=8, gates=(GATE, GATE))], WISH, "differ in their gates"),
        (lambda: [deep_run(), deep_run(depth=2, seed=8)], WISH, "runs differ in depth"),
        (lambda: [deep_run(), a_run()], WISH, "runs differ in"),
        (lambda: [deep_run()], replace(WISH, k=8), "k: is for runs of depth 0"),
        (lambda: [deep_run()], replace(WISH, aggregation="mean"), "aggregation: is for runs"),
        (lambda: [_raced(deep_run())], WISH, "run: its policy is race, under which the agent may"),
    ],
)
def test_what_does_not_go_together_is_refused(runs, wish, complaint):
    with pytest.raises(ConfigError, match=complaint):
        calibrate(runs(), wish)


def _raced(run):
    return replace(run, manifest=replace(run.manifest, policy="race"))


def written(tmp_path, wish=WISH):
    folder = kept(tmp_path / "run", deep_run())
    done = call("calibrate", folder, "--max-loss", str(wish.max_loss))
    assert done.exit_code == 0, done.output
    return folder / "gate.json", done


def test_the_command_writes_both_gates_into_one_file(tmp_path):
    file, done = written(tmp_path)
    made = calibrate([deep_run()], WISH)
    assert load_gate(str(file)) == made.gate
    assert load_closer_gate(str(file)) == made.closer_gate
    told = " ".join(done.stdout.split())
    assert "closer gate min over rivals, K = 12, raw; threshold" in told
    assert "up to 1 closer look" in told
    assert "after a look" in told


def test_too_little_data_shuts_both(tmp_path):
    file, done = written(tmp_path, replace(WISH, max_loss=0.01))
    assert "closer gate accepts nothing" in " ".join(done.stdout.split())
    assert from_json(file.read_text()).certificate.accepts_nothing


def test_a_closer_gate_changed_by_hand_is_refused(tmp_path):
    file, _ = written(tmp_path)
    document = json.loads(file.read_text())
    document["closer_gate"]["threshold"] -= 1.0
    file.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="not the gate that its certificate speaks of"):
        load_gate(str(file))


def test_whoever_takes_the_file_takes_both_gates(tmp_path):
    file, _ = written(tmp_path)
    made = calibrate([deep_run()], WISH)
    by_flag = chosen(gate=str(file), depth=1)
    assert (by_flag.gate, by_flag.closer_gate) == (made.gate, made.closer_gate)
    config = tmp_path / "speceyes.toml"
    config.write_text(f'gate = "{file.name}"\n[settings]\ndepth = 1\n')
    config.rename(file.parent / config.name)
    by_file = load_settings(file.parent / config.name)
    assert (by_file.gate, by_file.closer_gate) == (made.gate, made.closer_gate)
    assert by_file.certificate.closer_accepted is not None
    alone = tmp_path / "alone.json"
    alone.write_text(gate_to_json(GATE))
    other = chosen(config=file.parent / config.name, gate=str(alone))
    assert (other.gate, other.closer_gate) == (GATE, None)  # they are replaced together
    again = file.parent / "twice.toml"
    again.write_text(f'gate = "{file.name}"\n[closer_gate]\nthreshold = 1.0\nk = 8\n')
    with pytest.raises(ConfigError, match=r"closer_gate: is in gate\.json too"):
        load_settings(again)


def test_a_route_of_the_gateway_takes_both_gates_too(tmp_path):
    file, _ = written(tmp_path)
    made = calibrate([deep_run()], WISH)
    table = {"routes": {"deep": {"gate": file.name, "settings": {"depth": 1}}}}
    (route,) = plan_of(table, file.parent, flags={}).routes
    assert (route.choices.gate, route.choices.closer_gate) == (made.gate, made.closer_gate)


def test_a_shadow_takes_a_certificate_of_both_gates():
    made = calibrate([deep_run()], WISH)
    settings = ShadowSettings(mode="audit", share=0.5, max_loss=0.2)
    engine = ReplayEngine(Script([]), name="any")
    rules = {"gate": made.gate, "closer_gate": made.closer_gate, "depth": 1}
    Shadow(settings, certificate=made.certificate).over(
        a_funnel(engine, engine, **rules), prompts={}
    )
    other = a_funnel(engine, engine, **(rules | {"closer_gate": GATE}))
    with pytest.raises(ConfigError, match=r"shadow\.certificate"):
        Shadow(settings, certificate=made.certificate).over(other, prompts={})


DEEP = replace(GATE, depth=1)


@pytest.mark.parametrize(
    ("gate", "depth", "told"),
    [
        (DEEP, 0, "gate.depth: it was calibrated with depth 1, and this is depth 0"),
        (DEEP, 2, "gate.depth: it was calibrated with depth 1, and this is depth 2"),
        (replace(GATE, small_model="any"), 1, "gate.depth: it was calibrated with depth 0"),
        (DEEP, 1, None),
        (replace(GATE, small_model="any"), 0, None),
        (GATE, 3, None),  # nothing is recorded of it
    ],
)
def test_a_gate_is_for_the_depth_that_it_was_calibrated_with(gate, depth, told):
    if told is None:
        check_depth(gate, depth)
        return
    with pytest.raises(ConfigError, match=told):
        check_depth(gate, depth)


def test_a_gate_of_another_depth_is_refused_before_anything_is_opened(tmp_path):
    file = tmp_path / "gate.json"
    file.write_text(gate_to_json(replace(DEEP, small_model="builtin:closer")))
    for command in (("bench", "builtin:3", "--out", tmp_path / "run"), ("demo",)):
        done = call(*command, "--gate", file)
        assert done.exit_code == 2
        assert "gate.depth: it was calibrated with depth 1" in done.stderr
        assert "give --depth 1" in done.stderr
    with pytest.raises(ConfigError, match=r"gate\.depth"):
        check_choices(Choices(gate=GATE, closer_gate=DEEP, settings=Settings(depth=2)))


@pytest.mark.anyio
async def test_the_library_refuses_it_too():
    eyes = SpecEyes(gate=DEEP, settings=Settings(depth=2))
    with pytest.raises(ConfigError, match=r"gate\.depth"):
        await eyes.__aenter__()


def test_a_gate_without_a_depth_has_the_name_that_it_had_before_there_was_one():
    assert gate_id(replace(GATE, depth=0)) == "3a54c9cbf8643ede"
    assert gate_id(DEEP) != gate_id(GATE)


def test_a_report_says_how_both_gates_hold_on_a_run_that_they_gated():
    made = calibrate([deep_run()], WISH)
    served = deep_run(seed=9, gates=(made.gate, made.closer_gate))
    (held,) = holding_of(*compare([served]), [made])
    speculative = sum(record.route == "speculative" for record in ours(served))
    assert (held.accepted.count, held.is_own, held.is_fresh) == (speculative, True, True)
    assert held.risk.count <= held.risk.of * 0.2
    assert holding_of(*compare([deep_run(seed=8)]), [made]) == ()  # it had gates of its own
    assert holding_of(*compare([a_run()]), [made]) == ()
