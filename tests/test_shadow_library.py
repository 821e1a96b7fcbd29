"""A library's shadow: SpecEyes answers as ever, and what runs beside it is bounded and kept."""

import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import anyio
import pytest

from speceyes import GateSpec, Query, Settings, Shadow, ShadowSettings, SpecEyes
from speceyes.bench.calibrating import Wish, calibrate
from speceyes.bench.shadows import read_shadows
from speceyes.calibration.certificate import from_json, to_json
from speceyes.calibration.drift import reference_of
from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
from speceyes.errors import ConfigError, EngineUnavailable, InputError, RunFolderError
from speceyes.events import Answered
from speceyes.gate import judge
from speceyes.policies.fixed import overlap, serial
from speceyes.settings_file import load_settings
from speceyes.shadow.keep import Keep
from speceyes.shadow.records import UNSAID, from_line, read_records
from speceyes.shadow.watch import begin, scored, watched
from tests.stand_ins import a_funnel, a_picture, an_agent, engines
from tests.test_cli import call
from tests.test_eyes import RING, SURE, UNSURE, ask, says, small_says
from tests.test_shadow import AGREES, WORLD

GATE = GateSpec(threshold=4.0, k=16)
AUDIT = ShadowSettings(mode="audit", share=1.0, max_loss=0.05)
OBSERVE = ShadowSettings(mode="observe")
WISH = Wish(max_loss=0.1, by="agreement", made_at="2026-01-02T03:04:05+00:00", version="0.1.0")

pytestmark = pytest.mark.anyio


def eyes_with(shadow, small=SURE, large=None, **more):
    large = large or says(RING)
    return SpecEyes(small=small_says(small), large=large, gate=GATE, shadow=shadow, **more)


async def test_an_accepted_answer_stands_and_the_agent_is_asked_beside():
    told = Counter()
    shadow = Shadow(AUDIT, tell=lambda outcome, usage: told.update([outcome]))
    async with eyes_with(shadow) as eyes:
        answer = await eyes.answer(ask())
        assert (answer.text, answer.route) == ("disc", "speculative")
        await shadow.drain()
    shown = shadow.watched()
    assert told == Counter(differed=1)
    assert (shown.queries, shown.accepted, shown.checked, shown.differing) == (1, 1, 1, 1)
    assert (shown.risk, shown.disagreement.count, shown.disagreement.of) == (1.0, 1, 1)


async def test_options_say_what_an_answer_means():
    # "A" and "disc" are the same answer to this question, and to no other.
    shadow = Shadow(AUDIT)
    large = says("<think>seen</think> <answer>A</answer>")
    async with eyes_with(shadow, large=large) as eyes:
        await eyes.answer(ask())
        await shadow.drain()
    assert (shadow.watched().checked, shadow.watched().differing) == (1, 0)


@pytest.mark.parametrize("way", ["answer", "answer_many", "stream"])
@pytest.mark.parametrize("policy", ["serial", "overlap", "race"])
async def test_every_way_of_asking_is_heard(way, policy):
    shadow = Shadow(replace(AUDIT, max_in_flight=9))
    async with eyes_with(shadow, policy=policy) as eyes:
        if way == "answer":
            await eyes.answer(ask())
        elif way == "answer_many":
            async with aclosing(eyes.answer_many([ask()])) as outcomes:
                assert [outcome.answer is not None async for outcome in outcomes] == [True]
        else:
            async with aclosing(eyes.stream(ask())) as events:
                assert isinstance([event async for event in events][-1], Answered)
        await shadow.drain()
    assert shadow.watched().queries == 1


async def test_a_broken_bound_turns_speculation_off():
    settings = replace(AUDIT, on_breach="off")
    shadow = Shadow(settings)
    async with eyes_with(shadow) as eyes:
        for _ in range(30):
            answer = await eyes.answer(ask())
            await shadow.drain()
            if answer.route == "agentic":
                break
    assert (answer.reason, answer.text) == ("agent_only", "ring")
    assert shadow.watched().state == "off"


async def test_observe_leaves_all_to_the_agent_and_keeps_what_the_small_side_said(tmp_path):
    file = tmp_path / "seen.jsonl"
    shadow = Shadow(replace(OBSERVE, file=str(file)), name="mine")
    async with eyes_with(shadow) as eyes:
        answer = await eyes.answer(ask("the-one"))
        assert (answer.text, answer.reason) == ("ring", "agent_only")
        await shadow.drain()
    (record,) = read_records(file.read_text().splitlines(keepends=True))
    assert (record.query_id, record.model, record.agrees) == ("the-one", "mine", False)
    assert (record.passed, record.verdict) == (True, "accepted")
    assert (record.setup.small, record.setup.large) == ("small", "large")
    assert record.setup.prompts["speculate"]
    assert record.score == pytest.approx(judge(record.said, GATE).score)


async def test_no_word_and_no_picture_is_kept_unless_words_are_asked_for(tmp_path):
    found = {}
    for answers in (False, True):
        file = tmp_path / f"{answers}.jsonl"
        shadow = Shadow(replace(OBSERVE, file=str(file), answers=answers))
        async with eyes_with(shadow, system_prompt="between us") as eyes:
            await eyes.answer(ask())
            await shadow.drain()
        text = file.read_text()
        assert "Which shape" not in text
        assert "between us" not in text
        assert "image/png" not in text
        found[answers] = from_line(text)
    assert (found[False].said.text, found[False].answer) == (UNSAID, None)
    assert (found[True].said.text, found[True].answer) == ("disc", "ring")


async def test_the_agents_failures_beside_touch_no_answer():
    # Screen and agent are one engine: the agent fails, and the screen does not.
    def script(request):
        if request.max_tokens == 1:
            return Take(scripted_screen(0.1))
        raise EngineUnavailable("large", "is gone")

    told = Counter()
    shadow = Shadow(AUDIT, tell=lambda outcome, usage: told.update([outcome]))
    async with eyes_with(shadow, large=ReplayEngine(script, name="large")) as eyes:
        for _ in range(3):
            assert (await eyes.answer(ask())).text == "disc"
            await shadow.drain()
    assert told == Counter(failed=3)
    assert (shadow.watched().accepted, shadow.watched().checked) == (3, 0)


async def test_a_defect_beside_touches_no_answer(monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("a defect")

    monkeypatch.setattr("speceyes.shadow.work.agree", broken)
    shadow = Shadow(AUDIT)
    async with eyes_with(shadow) as eyes:
        assert (await eyes.answer(ask())).text == "disc"
        await shadow.drain()
        assert (await eyes.answer(ask())).text == "disc"
        await shadow.drain()
    assert "shadow work failed" in caplog.text
    assert shadow.in_flight == 0


async def test_a_full_disk_is_told_and_no_more(monkeypatch, caplog, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("speceyes.shadow.keep._write", full)
    shadow = Shadow(replace(OBSERVE, file=str(tmp_path / "seen.jsonl")))
    async with eyes_with(shadow) as eyes:
        assert (await eyes.answer(ask())).text == "ring"
        await shadow.drain()
    assert "cannot keep a record" in caplog.text


async def test_left_before_its_work_began_it_has_none_and_can_be_used_again():
    shadow = Shadow(AUDIT)
    for _ in range(2):
        async with eyes_with(shadow) as eyes:
            await eyes.answer(ask())
            assert shadow.in_flight == 1
        assert shadow.in_flight == 0
        with anyio.fail_after(5.0):
            await shadow.drain()


async def test_any_number_may_wait_for_it():
    shadow = Shadow(AUDIT)
    with anyio.fail_after(10.0):
        async with eyes_with(shadow) as eyes:
            await eyes.answer(ask())
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(shadow.drain)


@asynccontextmanager
async def slow(settings, plan=AGREES, *, policy=serial, **engine):
    """Open a shadow over a funnel whose engines take their time, and hear of all it answers."""
    small, large = engines(plan, **engine)
    shadow = Shadow(settings, draw=random.Random(1).random)
    told = Counter()
    shadow.tell = lambda outcome, usage: told.update([outcome])
    funnel = a_funnel(small, large, policy, parts={"agent": an_agent(large)})
    async with shadow.overheard(funnel, prompts={}) as overheard, shadow:
        yield shadow, overheard, told


def query(question="which?"):
    return Query(question, (a_picture(),), query_id=question)


class TestBounds:
    pytestmark = pytest.mark.virtual_time

    async def test_no_answer_waits_and_no_more_runs_than_may(self):
        async with slow(AUDIT) as (shadow, funnel, told):
            for _ in range(4):
                began_s = anyio.current_time()
                await funnel.answer(query())
                assert anyio.current_time() - began_s == 3.0  # the agent takes 5 s
                assert shadow.in_flight <= 1
            assert told["dropped"] == 2  # each check outlasts the next query
            await shadow.drain()
            assert told["agreed"] == 2

    async def test_an_engine_with_a_queue_is_left_alone(self):
        settings = replace(AUDIT, max_in_flight=9)
        async with slow(settings, max_batch=1) as (shadow, funnel, told):
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(funnel.answer, query())
            await shadow.drain()
            assert told["dropped"] >= 2
            assert told["agreed"] == 5 - told["dropped"] >= 1  # the last ones find it free
            assert shadow.watched().accepted == 5

    async def test_leaving_cancels_what_is_under_way(self):
        async with slow(AUDIT) as (shadow, funnel, told):
            await funnel.answer(query())
            assert shadow.in_flight == 1
            left_s = anyio.current_time()
        assert anyio.current_time() == left_s
        assert (shadow.in_flight, told) == (0, Counter())
        assert shadow.watched().accepted == 1  # what was seen stays

    async def test_a_query_that_is_cancelled_was_not_answered(self):
        async with slow(AUDIT) as (shadow, funnel, told):
            with anyio.move_on_after(2.0):
                await funnel.answer(query())
            async with aclosing(funnel.stream(query())) as events:
                async for _ in events:
                    break
            await anyio.sleep(20)
            assert not told
            assert shadow.watched().queries == 0

    async def test_a_check_outlives_the_query_that_was_cancelled_after_it(self):
        async with slow(AUDIT) as (shadow, funnel, told):
            with anyio.CancelScope() as scope:
                await funnel.answer(query())
                scope.cancel()
            await shadow.drain()
            assert told == Counter(agreed=1)

    async def test_only_what_the_screen_lets_pass_counts_as_a_score(self):
        turned_away = replace(AGREES, screen=Take(scripted_screen(0.9), 3.0))
        for settings in (AUDIT, OBSERVE):
            few = replace(settings, drift_after=2)
            # The small model has answered, and was gated, when the screen says no.
            async with slow(few, turned_away, policy=overlap) as (shadow, funnel, _):
                await funnel.answer(query())
                await shadow.drain()
                assert shadow._watch.first == ()
            async with slow(few) as (shadow, funnel, _):
                await funnel.answer(query())
                await shadow.drain()
                assert len(shadow._watch.first) == 1


class TestMistakes:
    def test_a_shadow_that_does_nothing_is_named(self):
        with pytest.raises(ConfigError, match=r"shadow\.mode: is off"):
            Shadow(ShadowSettings())

    @pytest.mark.parametrize(
        "told", [{"mode": "aduit"}, {"unread": "no"}, {"on_breach": "shout"}, {"max_records": 0}]
    )
    def test_a_setting_that_is_none_is_named(self, told):
        with pytest.raises(ConfigError, match=next(iter(told))):
            ShadowSettings(**told)

    @pytest.mark.parametrize("policy", ["agent_only", "small_only"])
    def test_a_policy_without_a_gate_has_nothing_to_watch(self, policy):
        with pytest.raises(ConfigError, match=r"shadow\.mode: needs a policy with a gate"):
            eyes_with(Shadow(AUDIT), policy=policy)

    async def test_two_gates_are_not_tightened(self):
        shadow = Shadow(replace(AUDIT, on_breach="tighten"))
        with pytest.raises(ConfigError, match="closer"):
            async with eyes_with(shadow, closer_gate=GATE, settings=Settings(depth=1)):
                pass

    async def test_a_certificate_is_for_its_own_gate(self, tmp_path):
        certificate = (await certified(tmp_path)).certificate
        with pytest.raises(ConfigError, match=r"shadow\.certificate: speaks of another gate"):
            async with eyes_with(Shadow(AUDIT, certificate=certificate)):
                pass

    async def test_one_shadow_watches_one_at_a_time(self):
        shadow = Shadow(AUDIT)
        with pytest.raises(EngineUnavailable, match="watches nothing yet"):
            shadow.watched()
        async with eyes_with(shadow):
            with pytest.raises(EngineUnavailable, match="at work already"):
                async with eyes_with(shadow):
                    pass
        async with eyes_with(shadow) as eyes:  # anew
            await eyes.answer(ask())
        assert shadow.watched().queries == 1


# --- what it keeps, and a gate of it


def at_once(plan):
    turns = tuple(replace(turn, latency_s=0.0) for turn in plan.turns)
    screen, small = (replace(take, latency_s=0.0) for take in (plan.screen, plan.small))
    return replace(plan, screen=screen, small=small, turns=turns)


AT_ONCE = {name: at_once(plan) for name, plan in WORLD.items()}


async def observed(path, *, count=60, every=20, name="seen.jsonl", **more):
    """Observe queries, of which one in so many the small model answers wrongly and less sure."""
    file = path / name
    settings = replace(OBSERVE, file=str(file), **more)
    async with slow(settings, AT_ONCE) as (shadow, funnel, _):
        for place in range(count):
            await funnel.answer(
                replace(query("easy" if place % every else "slice"), query_id=f"{name}{place}")
            )
            await shadow.drain()
    return file


async def certified(path, **more):
    return calibrate([read_shadows(await observed(path, **more))], WISH)


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


def test_importing_the_library_loads_no_shadow():
    code = "import speceyes, sys; assert not [m for m in sys.modules if 'speceyes.shadow' in m]"
    subprocess.run([sys.executable, "-c", code], check=True)
