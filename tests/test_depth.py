"""Deeper speculation: a small model that is not sure looks closer, and only then gives way."""

from dataclasses import dataclass, replace

import pytest

from speceyes.engines.replay import ReplayEngine, Take, scripted, scripted_screen
from speceyes.errors import EngineTimeout, EngineUnavailable
from speceyes.events import Gated, Looked, Speculated, usage_by_phase
from speceyes.policies.fixed import overlap, race, serial, small_only
from speceyes.protocols.closer import Closer
from speceyes.types import Image
from tests.stand_ins import GATE, NO_TOOL, a_funnel, a_query, key_of, turns

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

CLOSER = Closer(extent=None, min_px=28 * 28, max_px=28 * 28, factor=28)
HARD = Take(scripted_screen(0.9), 1.0)
BOX = Take(scripted("[2, 2, 6, 6]", separability=None), 0.5)
POLICIES = pytest.mark.parametrize("policy", [serial, overlap, race])


def unsure(text):
    return Take(scripted(text, separability=1.0, k=16), 2.0)


def sure(text):
    return Take(scripted(text, separability=8.0, k=16), 2.0)


@dataclass
class Script:
    """The small model's replies in order, the screen's, and an agent that takes long."""

    small: list
    screen: Take = NO_TOOL

    def __call__(self, request):
        kind, _, turn = key_of(request)
        if kind == "agent":
            return turns("answer large", latency_s=60.0)[turn]
        if kind == "screen":
            return self.screen
        return self.small[turn]


async def settle(script, policy=serial, *, depth=1, closer=CLOSER):
    small, large = ReplayEngine(script, name="small"), ReplayEngine(script, name="large")
    funnel = a_funnel(small, large, policy, parts={"closer": closer}, depth=depth)
    return await funnel.settle(a_query()), small


def of(outcome, kind):
    return [event for event in outcome.trace if isinstance(event, kind)]


@POLICIES
async def test_what_is_rejected_at_first_sight_may_be_accepted_at_the_second(policy):
    outcome, small = await settle(Script([unsure("small star"), BOX, sure("small ring")]), policy)
    answer = outcome.answer
    assert (answer.text, answer.route, answer.reason) == ("small ring", "speculative", "accepted")
    assert [event.verdict.accepted for event in of(outcome, Gated)] == [False, True]
    (looked,) = of(outcome, Looked)
    assert looked.box_px is not None
    first, where, last = (call.request.messages for call in small.calls if not _is_screen(call))
    assert where[: len(first)] == first
    assert last[: len(where)] == where
    assert isinstance(last[-1].parts[0], Image)


def _is_screen(call):
    return key_of(call.request)[0] == "screen"


@POLICIES
async def test_without_depth_nobody_looks_twice(policy):
    outcome, _ = await settle(Script([unsure("small star")]), policy, depth=0)
    assert outcome.answer.route == "agentic"
    assert of(outcome, Looked) == []


@POLICIES
async def test_what_needs_a_tool_is_looked_at_before_it_may_be_accepted(policy):
    script = Script([sure("small star"), BOX, sure("small ring")], screen=HARD)
    outcome, _ = await settle(script, policy)
    assert (outcome.answer.text, outcome.answer.reason) == ("small ring", "accepted")


@POLICIES
async def test_what_needs_a_tool_and_stays_unsure_goes_to_the_agent_for_that(policy):
    script = Script([sure("small star"), BOX, unsure("small ring")], screen=HARD)
    outcome, _ = await settle(script, policy)
    assert (outcome.answer.text, outcome.answer.reason) == ("large", "needs_tool")


async def test_it_looks_as_often_as_it_may():
    script = Script([unsure("a"), BOX, unsure("b"), BOX, unsure("c"), BOX, sure("d")])
    twice, _ = await settle(script, depth=2)
    assert (twice.answer.route, len(of(twice, Speculated)), len(of(twice, Looked))) == (
        "agentic", 3, 2,
    )  # fmt: skip
    thrice, _ = await settle(script, depth=3)
    assert thrice.answer.text == "d"


@pytest.mark.parametrize("said", ["I do not know", "", "[9, 9, 1, 1]"])
async def test_who_does_not_say_where_is_given_up(said):
    nowhere = Take(scripted(said, separability=None), 0.5)
    outcome, _ = await settle(Script([unsure("small star"), nowhere, sure("small ring")]), depth=3)
    assert (outcome.answer.route, outcome.answer.reason) == ("agentic", "below_threshold")
    (looked,) = of(outcome, Looked)
    assert looked.box_px is None


async def test_evidence_that_is_unsound_is_no_reason_to_look():
    unsound = Take(scripted("small star", separability=None), 2.0)
    outcome, _ = await settle(Script([unsound, BOX, sure("small ring")]))
    assert (outcome.answer.route, outcome.answer.reason) == ("agentic", "no_evidence")
    assert of(outcome, Looked) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EngineUnavailable("small", "is down"), "small_failed"),
        (EngineTimeout("small", "slow"), "small_timeout"),
    ],
)
async def test_an_engine_that_fails_while_it_looks_is_doubt(error, reason):
    outcome, _ = await settle(Script([unsure("small star"), Take(error, 0.5)]))
    assert (outcome.answer.route, outcome.answer.reason) == ("agentic", reason)
    assert outcome.answer.is_degraded


async def test_every_look_is_paid_for_in_speculation():
    outcome, _ = await settle(Script([unsure("small star"), BOX, sure("small ring")]))
    said = [e.generation.usage for e in (*of(outcome, Speculated), *of(outcome, Looked))]
    spent = usage_by_phase(outcome.trace)["speculate"]
    assert spent.completion_tokens == sum(usage.completion_tokens for usage in said)
    assert outcome.answer.phase_s["speculate"] == pytest.approx(2.0 + 0.5 + 2.0)


async def test_a_closer_look_may_have_a_gate_of_its_own():
    script = Script([unsure("small star"), BOX, sure("small ring")])
    small, large = ReplayEngine(script, name="small"), ReplayEngine(script, name="large")
    strict = replace(GATE, threshold=99.0)
    funnel = a_funnel(small, large, parts={"closer": CLOSER}, depth=1, closer_gate=strict)
    outcome = await funnel.settle(a_query())
    assert [event.verdict.spec for event in of(outcome, Gated)] == [GATE, strict]
    assert outcome.answer.route == "agentic"


async def test_each_answer_is_asked_for_with_the_candidates_that_its_own_gate_reads():
    small = ReplayEngine(Script([unsure("small star"), BOX, sure("small ring")]), name="small")
    large = ReplayEngine(Script([]), name="large")
    wide = replace(GATE, k=GATE.k + 48)
    funnel = a_funnel(small, large, parts={"closer": CLOSER}, depth=1, closer_gate=wide)
    await funnel.settle(a_query())
    assert [call.request.top_logprobs for call in small.calls] == [GATE.k, 0, GATE.k + 48]


async def test_the_small_model_alone_looks_as_often_as_it_may():
    outcome, _ = await settle(Script([unsure("star"), BOX, unsure("ring")]), small_only)
    assert (outcome.answer.text, outcome.answer.route) == ("ring", "speculative")
