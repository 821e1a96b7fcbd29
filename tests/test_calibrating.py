"""`speceyes calibrate`: from a run's records to a gate with its certificate, and into use."""

import json
from dataclasses import replace
from functools import cache, partial

import anyio
import pytest

from speceyes.bench.agreement import agree
from speceyes.bench.calibrating import Wish, calibrate
from speceyes.bench.comparison import compare
from speceyes.bench.folder import Run, open_folder
from speceyes.bench.items import Spoiled
from speceyes.bench.trials import fails, trials_of
from speceyes.calibration.certificate import certifies, from_json, to_json
from speceyes.errors import ConfigError, SuiteError
from speceyes.gate import GateSpec
from speceyes.gate_match import check_gate
from speceyes.settings_file import load_gate
from speceyes.specs import gate_from_json, gate_to_json
from tests.command_line import call
from tests.scripted_pair import GATE, run, tiny_items

COUNT = 90
WISH = Wish(max_loss=0.1, made_at="2026-01-02T03:04:05+00:00", version="0.1.0")


@cache
def a_run(seed=7, methods=("baseline", "speceyes", "small")):
    """Run tiny items whose names are the seed's, so that another seed's are other items."""
    items = [replace(item, item_id=f"{seed}-{item.item_id}") for item in tiny_items(COUNT)]
    made = anyio.run(partial(run, items, seed=seed, pace=0.0, methods=methods))
    return replace(made, name=f"run-{seed}")


def kept(path, made):
    with open_folder(path, made.manifest) as folder:
        for record in made.records:
            folder.add(record)
    return path


@pytest.mark.parametrize(
    ("reply", "other", "options", "same"),
    [
        ("B", "The answer is star.", ("ring", "star"), True),
        ("ring", "(B) star", ("ring", "star"), False),
        ("Yes.", "Yes, there is a dog.", (), True),
        ("no", "yes", (), False),
        ("Red.", "red", (), True),
        ("a red disc", "a disc", (), None),  # nobody says that these are the same
        ("ring", "ring or star", ("ring", "star"), None),
        ("ring", None, ("ring", "star"), None),
        (" ", "ring", ("ring", "star"), None),
    ],
)
def test_answers_are_compared_by_what_they_mean(reply, other, options, same):
    assert agree(reply, other, options) is same


def test_every_item_is_joined_as_its_records_have_it():
    trials = trials_of(compare([a_run()]))
    by = {(r.method, r.item_id): r for r in a_run().records}
    assert len(trials) == COUNT
    for trial in trials:
        small, agent = (by[method, trial.item_id] for method in ("small", "baseline"))
        assert trial.small_right == small.is_right
        assert trial.agent_maybe_right == agent.is_right
        assert fails(trial, "lost") == (agent.is_right and not small.is_right)
        assert fails(trial, "wrong") == (not small.is_right)
        assert fails(trial, "differs") == (small.text != agent.text)


def test_what_is_lost_is_wrong_and_differs():
    for trial in trials_of(compare([a_run()])):
        if fails(trial, "lost"):
            assert fails(trial, "wrong")
            assert fails(trial, "differs")


def test_an_item_asked_twice_counts_once():
    again = replace(a_run(), manifest=_of_checksum(a_run(), "another"), name="again")
    assert len(trials_of(compare([a_run(), again]))) == COUNT


def _of_checksum(made, checksum):
    return replace(made.manifest, suite=replace(made.manifest.suite, checksum=checksum))


def test_rows_that_could_not_be_asked_served_nobody():
    rows = [*tiny_items(6), Spoiled("bad", "attribute", SuiteError("row 7", "has no picture"))]
    made = anyio.run(partial(run, rows, pace=0.0))
    assert len(trials_of(compare([made]))) == 6


def test_a_certificate_says_what_how_and_on_what():
    made = calibrate([a_run()], WISH)
    told, gate = made.certificate, made.gate
    assert certifies(told, gate)
    assert (gate.k, gate.definition, gate.aggregation) == (GATE.k, "rivals", "min")
    assert (gate.small_model, gate.large_model) == ("scripted small", "scripted large")
    assert (told.risk, told.count, told.max_loss, told.confidence) == ("lost", COUNT, 0.1, 0.95)
    assert told.failures <= told.bound * COUNT <= 0.1 * COUNT
    assert told.beta.count == sum(t.is_screened for t in trials_of(compare([a_run()])))
    assert told.alpha.count == told.accepted.count > 0
    assert set(told.beside) == {"wrong", "differs"}
    assert told.held_out.of == COUNT
    assert [source.items for source in told.sources] == [COUNT]
    assert from_json(to_json(made)) == made
    assert gate_from_json(to_json(made)) == gate
    assert from_json(gate_to_json(gate)) is None


def test_without_labels_it_goes_by_agreement():
    told = calibrate([a_run()], replace(WISH, by="agreement")).certificate
    assert (told.risk, set(told.beside)) == ("differs", {"lost", "wrong"})


def test_without_the_agent_alone_wrong_answers_count():
    alone = a_run(methods=("speceyes", "small"))
    told = calibrate([alone], WISH).certificate
    assert (told.risk, told.beside) == ("wrong", {})
    with pytest.raises(ConfigError, match="lacks the agent's own answers"):
        calibrate([alone], replace(WISH, by="agreement"))
    with pytest.raises(ConfigError, match="has no answers by SpecEyes"):
        calibrate([a_run(methods=("small",))], WISH)


def test_other_runs_are_held_out():
    other = replace(a_run(8), manifest=_of_checksum(a_run(8), "another"))
    told = calibrate([a_run()], WISH, others=[other]).certificate
    assert (told.held_out.of, told.held_out_on) == (COUNT, "run-8")
    assert replace(told, held_out=None, held_out_on="") == replace(
        calibrate([a_run()], WISH).certificate, held_out=None, held_out_on=""
    )
    with pytest.raises(ConfigError, match="check: holds no item but those"):
        calibrate([a_run()], WISH, others=[a_run()])


def test_another_score_may_be_asked_for():
    gate = calibrate([a_run()], replace(WISH, k=8, aggregation="log", definition="all")).gate
    assert (gate.k, gate.aggregation, gate.definition, gate.scale) == (8, "log", "all", "raw")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"small": "another"}, "small"),
        ({"large": "another"}, "large"),
        ({"prompts": {"speculate": "another"}}, "prompts"),
        ({"protocol": "thyme"}, "protocol"),
    ],
)
def test_runs_that_do_not_go_together_are_refused(change, named):
    other = Run(replace(a_run().manifest, **change), a_run().records, "other")
    with pytest.raises(ConfigError, match=f"runs differ in {named}"):
        calibrate([a_run(), other], WISH)


def test_the_command_writes_a_gate_that_can_be_used(tmp_path):
    folder = kept(tmp_path / "run", a_run())
    done = call("calibrate", folder, "--max-loss", ".1", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert not document["accepts_nothing"]
    assert load_gate(str(folder / "gate.json")) == GateSpec(**document["gate"])
    assert "with 95 % confidence (asked: 10 %)" in done.stderr


def test_too_little_data_gives_a_gate_that_accepts_nothing_and_says_so(tmp_path):
    folder = kept(tmp_path / "run", a_run())
    out = tmp_path / "new" / "gate.json"
    done = call("calibrate", folder, "--out", out)
    assert done.exit_code == 0
    told = " ".join(done.stdout.split())
    assert "Too little data: 90 items. For 0.01 at 0.95 it takes at least 299" in told
    assert from_json(out.read_text()).certificate.accepts_nothing


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--max-loss", "0"), "max_loss: 0.0 is not between 0 and 1"),
        (("--by", "luck"), "by: 'luck' is unknown; choose from label, agreement"),
        (("--aggregation", "max"), "aggregation: 'max' is unknown; choose from min"),
        (("--k", "1"), "gate.k: 1 is below 3"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(tmp_path, words, complaint):
    done = call("calibrate", kept(tmp_path / "run", a_run()), *words)
    assert done.exit_code == 2
    assert complaint in done.stderr


def test_a_gate_changed_by_hand_is_refused():
    document = json.loads(to_json(calibrate([a_run()], WISH)))
    document["gate"]["k"] = 8
    with pytest.raises(ConfigError, match="not the gate that its certificate speaks of"):
        gate_from_json(json.dumps(document))
    del document["certificate"]
    assert gate_from_json(json.dumps(document)).k == 8


@pytest.mark.parametrize("change", [{"certificate_version": 9}, {"alpha": 3}, {"luck": 1}])
def test_what_is_no_certificate_is_refused(change):
    document = json.loads(to_json(calibrate([a_run()], WISH)))
    document["certificate"] |= change
    with pytest.raises(ConfigError, match="calibrate again"):
        from_json(json.dumps(document))


QWEN = replace(GATE, small_model="Qwen/S", large_model="Qwen/L", prompt_id="p1")


@pytest.mark.parametrize(
    ("small", "large", "prompt_id", "field"),
    [
        ("http://h:1/v1#Qwen/S", "local:Qwen/L", "p1", None),
        ("http://h:1/v1", "http://h:2/v1", "p1", None),  # what they serve is not known yet
        ("builtin", "local:Qwen/L", "p1", "small_model"),
        ("local:Qwen/S", "http://h:1/v1#Qwen/M", "p1", "large_model"),
        ("local:Qwen/S", "local:Qwen/L", "p2", "prompt_id"),
    ],
)
def test_a_gate_is_for_the_models_and_the_prompt_that_it_was_calibrated_with(
    small, large, prompt_id, field
):
    if field is None:
        check_gate(QWEN, small=small, large=large, prompt_id=prompt_id)
        return
    with pytest.raises(ConfigError, match=f"gate.{field}: the threshold was calibrated with"):
        check_gate(QWEN, small=small, large=large, prompt_id=prompt_id)


def test_a_gate_of_which_nothing_is_recorded_goes_with_all():
    check_gate(GATE, small="builtin", large="local:x", prompt_id="p")
    check_gate(replace(GATE, small_model="builtin:small"), small="builtin", large="x", prompt_id="")


def test_a_gate_of_other_models_is_refused_before_anything_is_opened(tmp_path):
    file = tmp_path / "gate.json"
    file.write_text(gate_to_json(replace(GATE, small_model="Qwen/S")))
    done = call("bench", "builtin:3", "--gate", file, "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "gate.small_model: the threshold was calibrated with Qwen/S" in done.stderr
