"""Shadow work: nothing of it is served or waited for, it is bounded, and it finds what breaks."""

import json
import logging
import random
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from speceyes.assemble_gateway import shadowed
from speceyes.calibration.audit import Seen
from speceyes.calibration.thresholds import closed
from speceyes.engines.replay import Take, scripted, scripted_screen
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec
from speceyes.gateway.figures import Model
from speceyes.gateway.metrics import expose
from speceyes.gateway.observer import Watcher
from speceyes.gateway.reports import overview
from speceyes.gateway.settings import GatewaySettings, RouteSettings
from speceyes.gateway.settings_file import plan_of
from speceyes.gateway.shadowing import put_together
from speceyes.shadow.settings import ShadowSettings
from speceyes.shadow.watch import begin, checked, edges_above, scored, watched
from speceyes.shadow.work import Heard, Shadow
from tests.gateway_rig import a_gateway, body
from tests.shadow_plans import AGREES, WORLD
from tests.stand_ins import (
    ACCEPTED,
    GATE,
    NEEDS_TOOL,
    REJECTED,
    Plan,
    a_funnel,
    a_query,
    engines,
    turns,
)

virtual = [pytest.mark.anyio, pytest.mark.virtual_time]
AUDIT = ShadowSettings(mode="audit", share=1.0, max_loss=0.05)


@asynccontextmanager
async def a_shadow(settings, plan=AGREES, *, seed=1, **more):
    """Open a shadow on a funnel of scripted engines, and count what it tells."""
    small, large = engines(plan)
    funnel = a_funnel(small, large)
    told = Counter()
    shadow = Shadow(
        settings,
        draw=random.Random(seed).random,
        tell=lambda outcome, usage: told.update([outcome]),
        **more,
    )
    watching = shadow.over(funnel)
    async with shadow:
        yield shadow, watching, told


async def ask(shadow, funnel, question="which?", **more):
    query = a_query(question)
    answer = await funnel.answer(query)
    shadow.hear(Heard(query, answer, funnel), **more)
    return answer


async def served(rig):
    reply = await rig.client.post(body())
    return reply.json()["choices"][0]["message"]["content"]


class TestNothingIsServed:
    pytestmark = virtual

    async def test_the_reply_is_the_small_models_and_comes_when_it_would(self):
        for settings in (ShadowSettings(), AUDIT):
            async with a_gateway(ACCEPTED, route=RouteSettings(shadow=settings)) as rig:
                began_s = anyio.current_time()
                assert await served(rig) == "small words"
                assert anyio.current_time() - began_s == 3.0  # the agent takes 5 s more

    async def test_a_request_that_comes_while_shadow_work_runs_does_not_wait(self):
        async with a_gateway(ACCEPTED, route=RouteSettings(shadow=AUDIT)) as rig:
            shadow = next(iter(rig.gateway.routes)).shadow
            await served(rig)
            assert shadow.in_flight == 1
            began_s = anyio.current_time()
            await served(rig)
            assert anyio.current_time() - began_s == 3.0
            await anyio.sleep(10)
            assert (shadow.in_flight, shadow.watched().checked) == (0, 1)
            assert len(rig.witness.ends) == 2  # shadow work is no request

    async def test_observe_serves_the_agents_answer(self):
        settings = ShadowSettings(mode="observe")
        async with a_gateway(ACCEPTED, route=RouteSettings(shadow=settings)) as rig:
            began_s = anyio.current_time()
            assert await served(rig) == "large"
            assert anyio.current_time() - began_s == 5.0  # no screen, no small model before it
            assert rig.witness.ends[0].reason == "agent_only"
            await anyio.sleep(10)
            shown = next(iter(rig.gateway.routes)).shadow.watched()
            assert (shown.queries, shown.accepted, shown.differing) == (1, 1, 1)

    async def test_a_stream_is_sent_whole_before_the_agent_is_asked(self):
        async with a_gateway(ACCEPTED, route=RouteSettings(shadow=AUDIT)) as rig:
            shadow, began_s = next(iter(rig.gateway.routes)).shadow, anyio.current_time()
            reply = await rig.client.post(body(stream=True))
            assert reply.is_whole
            assert reply.events()[-1] == "[DONE]"
            assert anyio.current_time() - began_s == 3.0
            assert rig.witness.end.route == "speculative"
            await shadow.drain()
            assert anyio.current_time() - began_s == 8.0
            assert (shadow.watched().checked, shadow.watched().differing) == (1, 1)

    async def test_observe_streams_the_agents_answer(self):
        settings = ShadowSettings(mode="observe")
        async with a_gateway(ACCEPTED, route=RouteSettings(shadow=settings)) as rig:
            shadow = next(iter(rig.gateway.routes)).shadow
            reply = await rig.client.post(body(stream=True))
            said = [e["choices"][0]["delta"].get("content") for e in reply.events()[:-1]]
            assert "".join(filter(None, said)) == "large"
            await shadow.drain()
            assert shadow.watched().queries == 1

    async def test_a_client_that_leaves_in_mid_stream_leaves_nothing_to_check(self):
        for mode in ("audit", "observe"):
            settings = ShadowSettings(mode=mode, share=1.0)
            async with a_gateway(REJECTED, route=RouteSettings(shadow=settings)) as rig:
                shadow = next(iter(rig.gateway.routes)).shadow
                await rig.client.post(body(stream=True), leaves_after_s=4.0)
                assert rig.witness.end.route == "cancelled"
                await anyio.sleep(20)
                assert (shadow.in_flight, shadow.watched().queries) == (0, 0)

    async def test_a_client_that_leaves_before_it_has_the_answer_leaves_nothing_to_check(self):
        # It takes two seconds for each message: the last one is under way when it leaves.
        for mode, leaves_s in (("audit", 4.0), ("observe", 6.5)):
            for is_stream in (True, False):
                settings = ShadowSettings(mode=mode, share=1.0)
                async with a_gateway(ACCEPTED, route=RouteSettings(shadow=settings)) as rig:
                    shadow = next(iter(rig.gateway.routes)).shadow
                    leaving = {"leaves_after_s": leaves_s, "takes_s": 2.0}
                    reply = await rig.client.post(body(stream=is_stream), **leaving)
                    assert not reply.is_whole
                    assert rig.witness.end.route == "cancelled"
                    assert rig.witness.end.answer is not None  # it was known, and not taken
                    await anyio.sleep(20)
                    assert (shadow.in_flight, shadow.watched().queries) == (0, 0)

    async def test_an_engine_that_is_down_is_left_alone(self):
        async with a_gateway(ACCEPTED, route=RouteSettings(shadow=AUDIT)) as rig:
            route = next(iter(rig.gateway.routes))
            accepted = Heard(a_query(), await route.funnel.answer(a_query()), route.funnel)
            route.shadow.hear(accepted)
            assert route.shadow.in_flight == 1
            await route.shadow.drain()
            for _ in range(rig.gateway.settings.breaker.failures):
                route.small.breaker.end("failed", is_trial=False)
            route.shadow.hear(accepted)
            assert route.shadow.in_flight == 0


class TestBounds:
    pytestmark = virtual

    async def test_what_finds_no_room_is_dropped_and_counted(self):
        settings = ShadowSettings(mode="audit", share=1.0, max_in_flight=2)
        async with a_shadow(settings) as (shadow, funnel, told):
            answer = await funnel.answer(a_query())
            for _ in range(5):
                shadow.hear(Heard(a_query(), answer, funnel))
            assert (shadow.in_flight, told["dropped"]) == (2, 3)
            await anyio.sleep(10)
            shown = shadow.watched()
            assert (shadow.in_flight, told["agreed"], shown.checked) == (0, 2, 2)
            assert (shown.queries, shown.accepted) == (5, 5)  # all count, checked or not

    async def test_nothing_begins_while_others_wait(self):
        async with a_shadow(AUDIT) as (shadow, funnel, told):
            await ask(shadow, funnel, is_busy=True)
            assert (shadow.in_flight, told["dropped"]) == (0, 1)

    async def test_queries_behind_a_slow_check_wait_in_a_bounded_line(self, monkeypatch):
        monkeypatch.setattr("speceyes.shadow.work._MOST_SLOTS", 3)
        settings = ShadowSettings(mode="audit", share=1.0)
        async with a_shadow(settings) as (shadow, funnel, _told):
            answer = await funnel.answer(a_query())
            for _ in range(10):
                shadow.hear(Heard(a_query(), answer, funnel))
            assert len(shadow._slots) <= 3

    async def test_about_the_stated_share_is_checked(self):
        settings = ShadowSettings(mode="audit", share=0.2, max_in_flight=50)
        async with a_shadow(settings) as (shadow, funnel, told):
            answer = await funnel.answer(a_query())
            for _ in range(1000):
                shadow.hear(Heard(a_query(), answer, funnel))
                await anyio.sleep(1)
            assert 160 <= told.total() <= 240

    async def test_only_what_was_accepted_is_checked(self):
        async with a_shadow(AUDIT, NEEDS_TOOL) as (shadow, funnel, told):
            await ask(shadow, funnel)
            await anyio.sleep(10)
            assert not told
            assert (shadow.watched().queries, shadow.watched().accepted) == (1, 0)

    async def test_leaving_cancels_it(self):
        async with a_shadow(AUDIT) as (shadow, funnel, told):
            await ask(shadow, funnel)
            left_at_s = anyio.current_time()
        assert anyio.current_time() == left_at_s
        assert (shadow.in_flight, told.total()) == (0, 0)

    async def test_an_agent_that_fails_checks_nothing(self):
        plan = Plan(small=AGREES.small, turns=turns("no such thing"))
        async with a_shadow(AUDIT, plan) as (shadow, funnel, told):
            await ask(shadow, funnel)
            await anyio.sleep(200)
            shown = shadow.watched()
            assert shown.checked == told["agreed"] + told["differed"]
            assert told.total() == 1


async def drive(shadow, funnel, questions):
    """Ask one after the other, each checked before the next; give the first after a change."""
    for count, question in enumerate(questions, start=1):
        await ask(shadow, funnel, question)
        await anyio.sleep(6)
        if shadow.watched().state != "watching":
            return count
    return None


def mixed(rng, *, share, count=600):
    return ["slice" if rng.random() < share else "easy" for _ in range(count)]


# Calm for so long that what lies above the slice is known to hold; then the slice comes often.
TURNED = ["easy"] * 200 + mixed(random.Random(2), share=0.3)


class TestDrift:
    pytestmark = virtual

    @pytest.mark.parametrize("on_breach", ["tell", "off", "tighten"])
    async def test_a_slice_that_goes_wrong_is_caught_and_answered(self, on_breach, caplog):
        settings = ShadowSettings(mode="audit", share=1.0, max_loss=0.05, on_breach=on_breach)
        async with a_shadow(settings, WORLD) as (shadow, funnel, _told):
            calm = mixed(random.Random(1), share=0.01, count=300)
            assert await drive(shadow, funnel, calm) is None
            with caplog.at_level(logging.WARNING):
                took = await drive(shadow, funnel, mixed(random.Random(2), share=0.3))
            assert took is not None
            assert took < 150
            state = {"tell": "broken", "off": "off", "tighten": "tightened"}[on_breach]
            assert shadow.watched().state == state
            assert f"state={state}" in caplog.text
            wrong = await funnel.answer(a_query("slice"))
            right = await funnel.answer(a_query("easy"))
            assert wrong.route == ("speculative" if on_breach == "tell" else "agentic")
            assert right.route == ("agentic" if on_breach == "off" else "speculative")

    async def test_once_tightened_the_slice_breaks_nothing_any_more(self):
        settings = ShadowSettings(mode="audit", share=1.0, max_loss=0.05, on_breach="tighten")
        async with a_shadow(settings, WORLD) as (shadow, funnel, _told):
            assert await drive(shadow, funnel, TURNED) is not None
            threshold = shadow.watched().threshold
            for question in mixed(random.Random(3), share=0.3, count=200):
                await ask(shadow, funnel, question)
                await anyio.sleep(6)
            assert shadow.watched().state == "tightened"
            assert shadow.watched().threshold == threshold
            assert shadow.watched().differing == 0

    async def test_with_too_little_to_go_by_tightening_accepts_nothing(self):
        settings = ShadowSettings(mode="audit", share=1.0, max_loss=0.05, on_breach="tighten")
        async with a_shadow(settings, WORLD) as (shadow, funnel, _told):
            assert await drive(shadow, funnel, ["slice"] * 20) is not None
            assert shadow.watched().state == "off"
            assert (await funnel.answer(a_query("easy"))).reason == "agent_only"

    async def test_twenty_clean_runs_raise_no_alarm(self):
        # As many differ as may: 5 % of all. Each false alarm is due with at most 1 % here.
        settings = ShadowSettings(mode="audit", share=1.0, max_loss=0.05, false_alarm=0.01)
        alarms = 0
        for seed in range(20):
            async with a_shadow(settings, WORLD) as (shadow, funnel, _told):
                answers = {name: await funnel.answer(a_query(name)) for name in WORLD}
                for question in mixed(random.Random(seed), share=0.05, count=200):
                    shadow.hear(Heard(a_query(question), answers[question], funnel))
                    await anyio.sleep(6)
                assert shadow.watched().checked == 200
                alarms += shadow.watched().state != "watching"
        assert alarms == 0

    async def test_a_query_accepted_before_the_change_counts_as_it_would_now(self):
        settings = ShadowSettings(mode="audit", share=1.0, max_loss=0.05, on_breach="tighten")
        async with a_shadow(settings, WORLD) as (shadow, funnel, _told):
            before = await funnel.answer(a_query("slice"))
            await drive(shadow, funnel, TURNED)
            shadow.hear(Heard(a_query("slice"), before, funnel))
            await anyio.sleep(6)
            assert shadow.watched().accepted == 0


def test_checks_that_were_dropped_are_not_counted_on():
    settings = ShadowSettings(mode="audit", share=1.0, max_loss=0.05, on_breach="tighten")
    found = {}
    for every in (1, 10):  # of the calm queries' checks, how many found room
        watch = begin(settings, GATE)
        for place in range(300):
            watch = checked(watch, Seen(8.0, differs=None if place % every else False))
        while watch.state == "watching":
            watch = checked(watch, Seen(6.0, differs=True))
        found[every] = watch.state
    assert found == {1: "tightened", 10: "off"}


class TestScores:
    def test_scores_that_fall_otherwise_are_found_and_others_are_not(self):
        settings = ShadowSettings(mode="audit", drift_after=100)
        rng = random.Random(5)
        watch = begin(settings, GATE)
        for _ in range(500):
            watch = scored(watch, rng.gauss(8.0, 1.0))
        assert not watched(watch).has_drifted
        assert watched(watch).psi is not None
        for _ in range(200):
            watch = scored(watch, rng.gauss(5.0, 1.0))
        assert watched(watch).has_drifted
        assert watched(watch).psi > 0.25

    def test_edges_rise_from_the_gates_own_threshold(self):
        for gate in (GATE, GateSpec(threshold=0.98, k=16, scale="squashed"), closed(GATE)):
            edges = edges_above(gate)
            assert edges[0] == gate.threshold
            assert list(edges) == sorted(set(edges))

    def test_workers_share_the_false_alarms_and_add_up(self):
        watch = begin(AUDIT, GATE, workers=4)
        assert watch.audit.spec.false_alarm == pytest.approx(AUDIT.false_alarm / 4)
        whole = put_together([watched(watch)] * 4)
        assert whole.states == {"watching": 4}
        assert whole.disagreement.value is None


class TestObserve:
    pytestmark = virtual

    async def test_records_are_kept_up_to_the_bound(self, tmp_path, monkeypatch):
        async def inline(work, *args):
            return work(*args)

        monkeypatch.setattr("anyio.to_thread.run_sync", inline)
        file = tmp_path / "records.jsonl"
        settings = ShadowSettings(mode="observe", file=str(file), max_records=2)
        async with a_shadow(settings, {**WORLD, "tool": NEEDS_TOOL}) as (shadow, funnel, told):
            for question in ("easy", "tool", "slice"):
                answer = await ask(shadow, funnel, question)
                assert answer.route == "agentic"
                await anyio.sleep(10)
        first, second = map(json.loads, file.read_text().splitlines())
        assert (first["agrees"], first["passed"], first["verdict"]) == (True, True, "accepted")
        assert first["score"] == pytest.approx(8.0, abs=0.01)
        assert second["passed"] is False
        assert told == Counter(agreed=1, differed=1, unread=1)
        assert shadow.watched().accepted == 2

    async def test_a_small_model_that_fails_is_a_record_too(self):
        plan = Plan(
            screen=Take(scripted_screen(0.1), 1.0),
            small=Take(scripted("", separability=8.0, k=16), 2.0),
        )
        async with a_shadow(ShadowSettings(mode="observe"), plan) as (shadow, funnel, told):
            await ask(shadow, funnel)
            await anyio.sleep(10)
            assert told == Counter(failed=1)
            assert shadow.watched().accepted == 0


class TestSettings:
    @pytest.mark.parametrize(
        ("told", "field"),
        [
            ({"mode": "aduit"}, "mode"),
            ({"share": 0.0}, "share"),
            ({"max_loss": 1.0}, "max_loss"),
            ({"on_breach": "shout"}, "on_breach"),
            ({"max_in_flight": 0}, "max_in_flight"),
            ({"mode": "audit", "file": "here"}, "file"),
        ],
    )
    def test_a_mistake_is_named(self, told, field):
        with pytest.raises(ConfigError) as caught:
            plan_of({"routes": {"r": {"shadow": told}}}, Path(), flags={})
        assert caught.value.field == f"routes.r.shadow.{field}"

    def test_a_route_has_one_of_its_own_and_is_off_without(self):
        shadow = {"mode": "observe", "file": "x.jsonl", "state_folder": "state"}
        told = {"routes": {"r": {"shadow": shadow}, "s": {}}}
        one, other = plan_of(told, Path("/etc/eyes"), flags={}).routes
        assert one.settings.shadow.file == "/etc/eyes/x.jsonl"
        assert one.settings.shadow.state_folder == "/etc/eyes/state"
        assert other.settings.shadow.state_folder is None
        assert other.settings.shadow.mode == "off"

    def test_no_shadow_where_all_is_passed_on(self):
        with pytest.raises(ConfigError, match="bypass"):
            RouteSettings(mode="bypass", shadow=AUDIT)


@pytest.mark.anyio
async def test_no_tightening_of_two_gates():
    async with a_gateway(ACCEPTED) as rig:
        route = next(iter(rig.gateway.routes))
    settings = ShadowSettings(mode="audit", on_breach="tighten")
    funnel = a_funnel(rig.small, rig.large, closer_gate=GATE)
    twice = replace(route, settings=RouteSettings(shadow=settings), funnel=funnel)
    with pytest.raises(ConfigError, match="closer"):
        shadowed(twice, workers=1)


class TestShown:
    pytestmark = virtual

    async def test_it_counts_and_shows(self):
        models = [Model(name="speceyes", threshold=GATE.threshold)]
        watcher = Watcher(GatewaySettings(), models)
        async with a_shadow(AUDIT, WORLD) as (shadow, funnel, _told):
            watcher.watch(shadow)
            await drive(shadow, funnel, ["easy", "easy", "slice", "easy"])
            whole = await watcher.whole()
        text = expose(whole, models)[0].decode()
        assert 'speceyes_shadow_total{model="speceyes",outcome="agreed"} 3.0' in text
        assert 'speceyes_shadow_total{model="speceyes",outcome="differed"} 1.0' in text
        assert 'speceyes_shadow_disagreement{bound="value",model="speceyes"} 0.25' in text
        assert 'speceyes_shadow_workers{model="speceyes",state="watching"} 1.0' in text
        shown = overview(whole, models, version="1").now.shadows["speceyes"]
        assert (shown.checked, shown.differing, shown.risk) == (4, 1, 0.25)
        assert shown.disagreement.low < 0.25 < shown.disagreement.high
