"""A library's shadow: SpecEyes answers as ever, and what runs beside it is bounded and kept."""

import subprocess
import sys
from collections import Counter
from contextlib import aclosing
from dataclasses import replace

import anyio
import pytest

from speceyes import Settings, Shadow, ShadowSettings
from speceyes.engines.replay import ReplayEngine, Take, scripted_screen
from speceyes.errors import ConfigError, EngineUnavailable
from speceyes.events import Answered
from speceyes.gate import judge
from speceyes.policies.fixed import overlap
from speceyes.shadow.records import UNSAID, from_line, read_records
from tests.shadow_plans import AGREES
from tests.shadowed_eyes import AUDIT, OBSERVE, certified, eyes_with, query, slow
from tests.stand_in_pair import GATE, ask, says

pytestmark = pytest.mark.anyio


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


def test_importing_the_library_loads_no_shadow():
    code = "import speceyes, sys; assert not [m for m in sys.modules if 'speceyes.shadow' in m]"
    subprocess.run([sys.executable, "-c", code], check=True)
