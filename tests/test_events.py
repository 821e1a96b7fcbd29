"""The fold: one whole story gives one answer; work and time stay with the phase that took them."""

import pytest

from speceyes.errors import EngineTimeout, NoAnswer, TraceError
from speceyes.events import (
    Answered,
    Failed,
    FellBack,
    Gated,
    PhaseEnded,
    PhaseStarted,
    QueryStarted,
    Screened,
    Speculated,
    ToolFinished,
    TurnFinished,
    fold,
    phase_seconds,
    tool_calls,
    usage_by_phase,
)
from speceyes.gate import PAPER, Verdict
from speceyes.types import FinalAnswer, Generation, Malformed, Observation, ToolCall, Usage

CALL = ToolCall("zoom", {}, "")
BAD = Malformed("bad_json", "Expecting value")
REJECTED = Verdict(accepted=False, score=0.9, reason="below_threshold", spec=PAPER)


def said(text, tokens):
    usage = Usage(100, 10, tokens, 1)
    return Generation(text, "stop", None, tokens, None, usage, "engine")


def speculative():
    accepted = Verdict(accepted=True, score=0.99, reason="accepted", spec=PAPER)
    return [
        QueryStarted("q", 0.0),
        PhaseStarted("q", 0.0, "screen"),
        Screened("q", 0.2, 0.1, needs_tool=False, generation=said("no", 1)),
        PhaseEnded("q", 0.2, "screen"),
        PhaseStarted("q", 0.2, "speculate"),
        Speculated("q", 0.5, said("A", 2)),
        PhaseEnded("q", 0.5, "speculate"),
        Gated("q", 0.5, accepted),
        Answered("q", 0.6, "A", "speculative", "accepted"),
    ]


def agentic():
    return [
        *speculative()[:7],
        Gated("q", 0.5, REJECTED),
        FellBack("q", 0.5, "below_threshold"),
        PhaseStarted("q", 0.5, "fall_back"),
        TurnFinished("q", 1.0, 1, said("call", 30), CALL),
        ToolFinished("q", 1.1, 1, CALL, Observation("seen")),
        TurnFinished("q", 1.5, 2, said("cal", 20), BAD),
        ToolFinished("q", 1.5, 2, BAD, Observation(error="no JSON")),
        TurnFinished("q", 2.0, 3, said("B", 10), FinalAnswer("B"), forced=True),
        PhaseEnded("q", 2.0, "fall_back"),
        Answered("q", 2.0, "B", "agentic", "below_threshold"),
    ]


def test_a_speculative_story():
    answer = fold(speculative())
    assert (answer.text, answer.route, answer.reason) == ("A", "speculative", "accepted")
    assert (answer.depth, answer.turns, answer.p_tool) == (0, 0, 0.1)
    assert answer.verdict.accepted
    assert answer.phase_s == pytest.approx({"screen": 0.2, "speculate": 0.3})
    assert answer.elapsed_s == 0.6
    assert answer.trace == tuple(speculative())


def test_a_story_that_falls_back_keeps_the_rejected_work_in_its_phase():
    answer = fold(agentic())
    assert (answer.text, answer.route, answer.reason) == ("B", "agentic", "below_threshold")
    assert (answer.depth, answer.turns) == (1, 3)
    assert answer.verdict == REJECTED
    assert answer.usage_by_phase == {
        "screen": Usage(100, 10, 1, 1),
        "speculate": Usage(100, 10, 2, 1),
        "fall_back": Usage(300, 30, 60, 3),
    }
    assert answer.usage == Usage(500, 50, 63, 5)
    assert answer.phase_s["fall_back"] == pytest.approx(1.5)


def test_the_baseline_story_has_neither_screen_nor_verdict():
    answer = fold(
        [
            QueryStarted("q", 0.0),
            TurnFinished("q", 1.0, 1, said("B", 10), FinalAnswer("B")),
            Answered("q", 1.0, "B", "agentic", "agent_only"),
        ]
    )
    assert (answer.verdict, answer.p_tool, answer.turns) == (None, None, 1)


def test_cancelled_work_stays_in_usage():
    lost = Usage(50, 0, 7, 1)
    story = speculative()
    story.insert(-1, PhaseStarted("q", 0.5, "fall_back"))
    story.insert(-1, PhaseEnded("q", 0.6, "fall_back", "cancelled", lost=lost))
    assert fold(story).usage_by_phase["fall_back"] == lost


def test_lost_work_that_was_not_measured_leaves_the_phase_marked():
    ended = PhaseEnded("q", 1.0, "screen", "failed", lost=None)
    assert usage_by_phase([ended])["screen"].cached_tokens is None
    assert usage_by_phase([PhaseEnded("q", 1.0, "screen")]) == {}


def test_overlapping_phases_are_each_timed():
    events = [
        PhaseStarted("q", 0.0, "screen"),
        PhaseStarted("q", 0.0, "speculate"),
        PhaseEnded("q", 2.0, "screen"),
        PhaseEnded("q", 3.0, "speculate"),
        PhaseStarted("q", 3.0, "speculate"),
        Answered("q", 4.0, "A", "speculative", "accepted"),
    ]
    assert phase_seconds(events) == {"screen": 2.0, "speculate": 4.0}


def test_a_failed_story_raises_its_error_and_its_work_is_still_counted():
    error = NoAnswer("the budget of 6 turns ended; raise it")
    story = [*agentic()[:-1], Failed("q", 2.0, error)]
    with pytest.raises(NoAnswer) as caught:
        fold(story)
    assert caught.value is error
    assert usage_by_phase(story)["fall_back"].completion_tokens == 60
    assert tool_calls(story) == 1


@pytest.mark.parametrize(
    ("story", "complaint"),
    [
        ([], "first event"),
        (speculative()[1:], "first event"),
        ([QueryStarted("q", 0.0), *speculative()], "starts twice"),
        (speculative()[:-1], "0 endings"),
        ([*speculative(), speculative()[-1]], "2 endings"),
        ([*speculative(), Failed("q", 1.0, EngineTimeout("e", "late"))], "2 endings"),
        ([*speculative(), FellBack("q", 1.0, "needs_tool")], "must be the last"),
        ([QueryStarted("other", 0.0), *speculative()[1:]], "more than one query"),
        ([*speculative()[:4], *speculative()[3:]], "not open"),
        ([*speculative()[:2], *speculative()[1:]], "while it is open"),
    ],
)
def test_what_is_no_whole_story_is_a_trace_error(story, complaint):
    with pytest.raises(TraceError, match=complaint):
        fold(story)
