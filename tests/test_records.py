"""A record is a fold of one item's story: what it keeps, and that its line reads back the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.bench.items import Spoiled
from speceyes.bench.lines import from_line, read_records, to_line
from speceyes.bench.records import (
    PAPER_K,
    RECORD_VERSION,
    Place,
    record_of,
    record_of_spoiled,
)
from speceyes.engines.replay import scripted, scripted_screen
from speceyes.errors import EngineTimeout, InputError, SuiteError, TraceError
from speceyes.events import (
    Answered,
    Failed,
    FellBack,
    Gated,
    PhaseEnded,
    PhaseStarted,
    Proposed,
    QueryStarted,
    Screened,
    Speculated,
    ToolFinished,
    TurnFinished,
)
from speceyes.gate import GateSpec, judge, scores_all
from speceyes.types import Box, FinalAnswer, Malformed, Observation, ToolCall, Usage
from tests.scripted_pair import GATE, sure, tiny_items

(ITEM,) = tiny_items(1)
SPEC = GateSpec(threshold=5.0, k=16)
BOX = Box(3, 4, 50, 60)
SAID = sure("star", 9.0)


def story(*steps, end):
    """Put steps (each a function of its stamp) into a story, one a second apart."""
    stamps = [(ITEM.item_id, float(at)) for at in range(len(steps) + 2)]
    made = [step(*stamp) for step, stamp in zip(steps, stamps[1:-1], strict=True)]
    return (QueryStarted(*stamps[0]), *made, end(*stamps[-1]))


def accepted(said=SAID):
    verdict = judge(said, SPEC)
    return story(
        lambda *at: PhaseStarted(*at, "screen"),
        lambda *at: Screened(*at, 0.1, False, scripted_screen(0.1)),
        lambda *at: PhaseEnded(*at, "screen"),
        lambda *at: PhaseStarted(*at, "speculate"),
        lambda *at: Speculated(*at, said),
        lambda *at: PhaseEnded(*at, "speculate"),
        lambda *at: Gated(*at, verdict),
        end=lambda *at: Answered(*at, "star", "speculative", "accepted"),
    )


def agentic():
    call = ToolCall("image_zoom_in_tool", {"box": BOX}, "{}")
    seen = Observation(pictures=(ITEM.query.pictures[0],), boxes_px=(BOX,), repairs=("fence",))
    wrong = Malformed("bad_json", "write it properly")
    return story(
        lambda *at: FellBack(*at, "needs_tool"),
        lambda *at: PhaseStarted(*at, "fall_back"),
        lambda *at: TurnFinished(*at, 1, scripted("{oops", separability=None), wrong),
        lambda *at: ToolFinished(*at, 1, wrong, Observation(error="write it properly")),
        lambda *at: TurnFinished(*at, 2, scripted("zoom", separability=None), call),
        lambda *at: ToolFinished(*at, 2, call, seen),
        lambda *at: TurnFinished(
            *at, 3, scripted("ring", separability=None), FinalAnswer("ring"), True
        ),
        lambda *at: PhaseEnded(*at, "fall_back"),
        end=lambda *at: Answered(*at, "ring", "agentic", "needs_tool"),
    )


def proposed():
    small, large = (scripted(text, separability=None) for text in ("<answer>ring", "Score: 3"))
    said = scripted("star", separability=None)
    return story(
        lambda *at: PhaseStarted(*at, "fall_back"),
        lambda *at: Proposed(*at, 1, small, large, 3, False),
        lambda *at: TurnFinished(*at, 1, said, FinalAnswer("star")),
        lambda *at: PhaseEnded(*at, "fall_back"),
        end=lambda *at: Answered(*at, "star", "agentic", "agent_only"),
    )


def failed():
    late = EngineTimeout("large", "no answer within 3 s")
    return story(
        lambda *at: PhaseStarted(*at, "fall_back"),
        lambda *at: PhaseEnded(*at, "fall_back", "failed", None, late),
        end=lambda *at: Failed(*at, late),
    )


def test_an_accepted_answer_keeps_its_scores():
    record = record_of(ITEM, accepted(), SPEC, place=Place("speceyes", 3))
    assert (record.text, record.route, record.reason) == ("star", "speculative", "accepted")
    assert (record.is_right, record.block, record.p_tool, record.needs_tool) == (
        True,
        3,
        0.1,
        False,
    )
    said = record.speculation
    assert (said.accepted, said.score) == (True, pytest.approx(9.0, abs=1e-3))
    assert set(said.scores) == {16, PAPER_K}
    assert said.scores[16] == scores_all(SAID, k=16)
    assert said.scores[PAPER_K] == scores_all(SAID, k=PAPER_K)
    assert record.phase_s == {"screen": 2.0, "speculate": 2.0}
    assert record.elapsed_s == 8.0


def test_a_k_beyond_the_evidence_has_no_scores():
    record = record_of(ITEM, accepted(scripted("star", k=20)), SPEC, place=Place("speceyes"))
    assert set(record.speculation.scores) <= {16}


def test_unsound_evidence_is_kept_with_its_reason():
    said = replace(SAID, evidence=None)
    trace = accepted(said)
    record = record_of(ITEM, trace, SPEC, place=Place("speceyes"))
    assert record.speculation.reason == "no_evidence"
    assert record.speculation.scores == {}


def test_turns_tell_how_they_were_read_and_what_was_shown():
    record = record_of(ITEM, agentic(), SPEC, place=Place("baseline"))
    assert [(turn.reply, turn.detail) for turn in record.turns] == [
        ("malformed", "bad_json"),
        ("call", "image_zoom_in_tool"),
        ("answer", "ring"),
    ]
    assert [turn.boxes_px for turn in record.turns] == [(), (BOX,), ()]
    assert [turn.error for turn in record.turns] == ["write it properly", None, None]
    assert [turn.forced for turn in record.turns] == [False, False, True]
    assert [turn.repairs for turn in record.turns] == [(), ("fence",), ()]
    assert record.depth == 1
    assert record.usage.completion_tokens == 3
    assert not record.is_right


def test_a_failure_is_a_record_and_wrong():
    record = record_of(ITEM, failed(), SPEC, place=Place("baseline"))
    assert record.text is None
    assert (record.mishap.name, record.mishap.message) == (
        "EngineTimeout",
        "large: no answer within 3 s",
    )
    assert not record.is_right
    assert record.usage_by_phase == {"fall_back": Usage(0, None, 0, 0)}


def test_turns_tell_who_spoke_when_and_at_what_cost():
    first, second, _ = record_of(ITEM, agentic(), SPEC, place=Place("baseline")).turns
    assert (first.at_s, second.at_s) == (3.0, 5.0)
    assert first.engine == "scripted"
    assert first.usage.completion_tokens == 1


def test_a_proposal_is_kept_with_its_score_and_its_cost():
    record = record_of(ITEM, proposed(), SPEC, place=Place("specreason"))
    (turn,) = record.turns
    made = turn.proposal
    assert (made.text, made.score, made.accepted) == ("<answer>ring", 3, False)
    assert made.usage.completion_tokens == 1 + 2
    assert record.usage.completion_tokens == 1 + 2 + 1


def test_a_spoiled_row_is_a_failed_record_that_names_it():
    error = SuiteError("a.tsv, row 17", "its picture is damaged")
    record = record_of_spoiled(Spoiled("a-17", "4k", error), place=Place("small", 2, 1, 3.5))
    assert (record.method, record.block, record.part, record.ended_s) == ("small", 2, 1, 3.5)
    assert (record.text, record.is_right) == (None, False)
    assert record.mishap.message == "a.tsv, row 17: its picture is damaged"
    assert from_line(to_line(record)) == record


def test_the_evidence_is_kept_so_that_any_gate_can_be_tried_on_it():
    record = from_line(to_line(record_of(ITEM, accepted(), SPEC, place=Place("speceyes"))))
    for spec in (SPEC, GateSpec(threshold=0.5, k=48, definition="all", scale="squashed")):
        assert judge(record.speculation.generation, spec) == judge(SAID, spec)


def test_half_a_story_is_no_record():
    with pytest.raises(TraceError):
        record_of(ITEM, accepted()[:-1], SPEC, place=Place("speceyes"))


@pytest.mark.parametrize(
    "trace",
    [accepted(), agentic(), proposed(), failed()],
    ids=["accepted", "agentic", "proposed", "failed"],
)
def test_a_line_reads_back_the_same(trace):
    record = record_of(ITEM, trace, SPEC, place=Place("speceyes", 0))
    line = to_line(record)
    assert "\n" not in line
    assert from_line(line) == record


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 9))
def test_any_words_and_times_survive_the_line(text, at_s, block):
    trace = (
        QueryStarted(ITEM.item_id, 0.0),
        Answered(ITEM.item_id, at_s, text, "agentic", "agent_only"),
    )
    record = record_of(ITEM, trace, SPEC, place=Place("baseline", block))
    assert from_line(to_line(record)) == record


def test_scores_survive_to_the_last_bit():
    said = sure("star", float(np.nextafter(7.1, 8.0)))
    record = record_of(ITEM, accepted(said), GATE, place=Place("speceyes"))
    assert from_line(to_line(record)).speculation == record.speculation


def test_another_version_is_refused_by_name():
    raw = json.loads(to_line(record_of(ITEM, failed(), SPEC, place=Place("baseline"))))
    raw["record_version"] = RECORD_VERSION + 1
    with pytest.raises(InputError, match=f"version {RECORD_VERSION + 1}, not {RECORD_VERSION}"):
        from_line(json.dumps(raw))


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"record_version": 1}', "null"])
def test_what_is_no_record_is_refused_with_its_line(line):
    good = to_line(record_of(ITEM, failed(), SPEC, place=Place("baseline")))
    reading = read_records([good, line])
    assert next(reading).item_id == ITEM.item_id
    with pytest.raises(InputError, match="line 2"):
        next(reading)
