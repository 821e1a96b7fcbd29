"""What a library's shadow keeps, the gate made of it, and scores held against that gate's own."""

import json
import random
from dataclasses import replace

import anyio
import pytest

from speceyes import Shadow, SpecEyes
from speceyes.bench.calibrating import calibrate
from speceyes.bench.shadows import read_shadows
from speceyes.calibration.certificate import from_json, to_json
from speceyes.calibration.drift import reference_of
from speceyes.engines.replay import Take, scripted
from speceyes.errors import ConfigError, InputError, RunFolderError
from speceyes.settings_file import load_settings
from speceyes.shadow.keep import Keep
from speceyes.shadow.records import from_line
from speceyes.shadow.watch import begin, scored, watched
from tests.command_line import call
from tests.shadowed_eyes import AUDIT, OBSERVE, WISH, certified, eyes_with, observed
from tests.stand_in_pair import GATE, RING, UNSURE, ask, says, small_says

pytestmark = pytest.mark.anyio


# --- what it keeps, and a gate of it


async def test_what_was_observed_becomes_a_gate_with_no_labels(tmp_path):
    made = await certified(tmp_path, count=100, every=5)
    told = made.certificate
    assert (told.risk, told.count, told.failures, told.beside) == ("differs", 100, 0, {})
    assert 6.0 < made.gate.threshold < 8.0  # the slice says "no" at 6, and is kept out
    assert (made.gate.small_model, made.gate.large_model) == ("small", "large")
    (source,) = told.sources
    assert (source.suite, source.items) == ("shadow:seen.jsonl", 100)
    assert sum(told.reference.counts) == 100
    assert from_json(to_json(made)) == made


async def test_there_are_no_labels_to_go_by(tmp_path):
    shadows = read_shadows(await observed(tmp_path))
    with pytest.raises(ConfigError, match=r"by: .* has no labels; calibrate with --by agreement"):
        calibrate([shadows], replace(WISH, by="label"))


async def test_other_records_check_it_and_the_same_do_not(tmp_path):
    first = read_shadows(await observed(tmp_path))
    other = read_shadows(await observed(tmp_path, name="later.jsonl"))
    told = calibrate([first], WISH, others=[other]).certificate
    assert (told.held_out.of, told.held_out_on) == (60, "later.jsonl")
    both = read_shadows(_joined(tmp_path, "seen.jsonl", "later.jsonl"))
    assert calibrate([first], WISH, others=[both]).certificate.held_out.of == 60
    assert calibrate([first, both], WISH).certificate.count == 120
    with pytest.raises(ConfigError, match="holds no item but those"):
        calibrate([first], WISH, others=[first])


def _joined(path, *names):
    file = path / "both.jsonl"
    file.write_text("".join((path / name).read_text() for name in names))
    return file


@pytest.mark.parametrize(
    ("change", "named"),
    [({"small": "another"}, "small"), ({"prompts": {}}, "prompts"), ({"depth": 1}, "depth")],
)
async def test_records_of_other_models_or_words_are_refused(tmp_path, change, named):
    file = await observed(tmp_path, count=2)
    first, second = map(json.loads, file.read_text().splitlines())
    first["setup"]["prompts"] = second["setup"]["prompts"] = {"speculate": "p"}
    second["setup"] |= change
    file.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    with pytest.raises(ConfigError, match=f"runs differ in {named}"):
        calibrate([read_shadows(file)], WISH)


async def test_the_command_reads_them(tmp_path):
    file = await observed(tmp_path)
    done = await anyio.to_thread.run_sync(
        call, "calibrate", file, "--by", "agreement", "--max-loss", ".1"
    )
    assert done.exit_code == 0, done.output
    assert from_json((tmp_path / "gate.json").read_text()).certificate.count == 60
    settings = tmp_path / "speceyes.toml"
    settings.write_text('gate = "gate.json"\n')
    choices = load_settings(settings)
    assert choices.certificate.count == 60
    assert choices.certificate.reference is not None


async def test_a_line_that_is_cut_off_at_the_end_is_left_out_and_others_are_named(tmp_path):
    file = await observed(tmp_path, count=3)
    whole = file.read_text()
    file.write_text(whole + whole[:50])
    assert len(read_shadows(file).records) == 3
    file.write_text(whole[:50] + "\n" + whole)
    with pytest.raises(RunFolderError, match="line 1"):
        read_shadows(file)
    file.write_text("")
    with pytest.raises(RunFolderError, match="no record yet"):
        read_shadows(file)
    with pytest.raises(InputError, match="version 9"):
        from_line(whole.splitlines()[0].replace('"shadow_version":1', '"shadow_version":9'))


async def test_whatever_a_model_says_is_one_line(tmp_path):
    file = tmp_path / "seen.jsonl"
    shadow = Shadow(replace(OBSERVE, file=str(file), answers=True))
    small = Take(scripted("disc\u2028and\x85ring", k=16))
    async with eyes_with(shadow, small=small) as eyes:
        await eyes.answer(ask())
        await shadow.drain()
    (record,) = read_shadows(file).records.values()
    assert record.said.text == "disc\u2028and\x85ring"


def test_a_torn_line_spoils_no_more_than_itself(tmp_path):
    file = tmp_path / "kept.jsonl"
    file.write_bytes(b'{"torn')
    assert Keep(str(file), most=10).add("{}")
    assert file.read_bytes() == b'{"torn\n{}\n'
    assert file.stat().st_mode & 0o077 == 0o044  # as it was; a file of our own is ours alone
    assert Keep(str(tmp_path / "own"), most=1).add("{}")
    assert (tmp_path / "own").stat().st_mode & 0o077 == 0


def test_several_processes_share_a_bound(tmp_path):
    file = tmp_path / "kept.jsonl"
    first, second = Keep(str(file), most=5), Keep(str(file), most=5)
    added = [keep.add("{}") for _ in range(4) for keep in (first, second)]
    assert added == [True] * 5 + [False] * 3
    assert file.read_text() == "{}\n" * 5
    file.write_text("")  # moved away, and begun anew
    assert first.add("{}")


# --- held against the calibration's scores


def test_scores_are_held_against_the_calibrations_from_the_first_one_on():
    rng = random.Random(3)
    reference = reference_of([rng.gauss(8.0, 1.0) for _ in range(400)])
    settings = replace(AUDIT, drift_after=100)
    with_it, without = (begin(settings, GATE, reference=one) for one in (reference, None))
    for _ in range(300):  # another traffic from the beginning, and steady
        score = rng.gauss(5.0, 1.0)
        with_it, without = scored(with_it, score), scored(without, score)
    assert watched(with_it).has_drifted
    assert watched(with_it).drift_from == "calibration"
    assert not watched(without).has_drifted
    assert watched(without).drift_from == "first"


def test_the_calibrations_own_scores_raise_no_alarm():
    alarms = 0
    for seed in range(40):
        rng = random.Random(seed)
        reference = reference_of([rng.gauss(8.0, 1.0) for _ in range(400)])
        watch = begin(replace(AUDIT, drift_after=100), GATE, reference=reference)
        for _ in range(500):
            watch = scored(watch, rng.gauss(8.0, 1.0))
        alarms += watched(watch).has_drifted
    assert alarms <= 4  # 5 % of 40, and a little


async def test_a_certificate_without_scores_is_read_as_before(tmp_path):
    made = await certified(tmp_path)
    document = json.loads(to_json(made))
    del document["certificate"]["reference"]
    old = from_json(json.dumps(document))
    assert old.certificate == replace(made.certificate, reference=None)
    shadow = Shadow(AUDIT, certificate=old.certificate)
    async with SpecEyes(small=small_says(UNSURE), large=says(RING), gate=old.gate, shadow=shadow):
        assert shadow.watched().drift_from == "first"


async def test_a_shadow_takes_its_certificates_scores(tmp_path):
    made = await certified(tmp_path)
    shadow = Shadow(AUDIT, certificate=made.certificate)
    async with SpecEyes(
        small=small_says(Take(scripted("disc", separability=9.0, k=16))),
        large=says(RING),
        gate=made.gate,
        shadow=shadow,
    ) as eyes:
        await eyes.answer(ask())
        assert shadow.watched().drift_from == "calibration"
