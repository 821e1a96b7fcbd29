"""The agent: turns, tools and budgets; a model's faults are observations, only ends are errors."""

from contextlib import asynccontextmanager

import anyio
import pytest

from speceyes.agent import Narrator, Sight, ask, request_for
from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.errors import (
    EngineProtocolError,
    EngineUnavailable,
    NoAnswer,
    PictureTruncated,
    SpecEyesError,
    ToolError,
)
from speceyes.events import ToolFinished, TurnFinished
from speceyes.types import (
    Budget,
    FinalAnswer,
    Image,
    Malformed,
    Message,
    Observation,
    Text,
    ToolCall,
    View,
)
from tests.stand_ins import (
    BAD_JSON,
    CALL,
    Spyglass,
    StandInPixels,
    TagProtocol,
    a_picture,
    a_query,
    an_agent,
    turns,
    whole,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def run(takes, **more):
    """Run an agent on takes; give (its answer or error, the engine, the events)."""
    engine = ReplayEngine(takes)
    events = []
    query = a_query()
    picture = query.pictures[0]
    sight = Sight((View(a_picture("view"), whole(picture)),), StandInPixels(query.pictures))
    try:
        ended = await an_agent(engine, **more).run(
            query, sight, Narrator(query.query_id, 0.0, events.append)
        )
    except SpecEyesError as error:
        ended = error
    return ended, engine, events


def kinds(events):
    return [type(event).__name__ for event in events]


def last_message(engine):
    return engine.calls[-1].request.messages[-1]


async def test_an_answer_at_once_ends_the_loop():
    answer, engine, events = await run(turns("answer a red disc"))
    assert answer == "a red disc"
    assert len(engine.calls) == 1
    assert kinds(events) == ["TurnFinished"]
    assert events[0].reply == FinalAnswer(answer)
    assert (events[0].turn, events[0].forced, events[0].at_s) == (1, False, 5.0)


async def test_a_tool_call_is_run_and_its_picture_shown():
    spyglass = Spyglass()
    answer, engine, events = await run(turns(CALL, "answer ring"), tool=spyglass)
    assert answer == "ring"
    assert kinds(events) == ["TurnFinished", "ToolFinished", "TurnFinished"]
    assert events[1].call == ToolCall("spyglass", {"argument": "3"}, CALL)
    assert [call.raw for call in spyglass.calls] == [CALL]
    shown = [part for part in last_message(engine).parts if isinstance(part, Image)]
    assert [part.picture for part in shown] == list(events[1].observation.pictures)


async def test_requests_carry_the_protocols_stops_and_the_budget():
    _, engine, _ = await run(turns("answer x"))
    request = engine.calls[0].request
    assert (request.stop, request.max_tokens, request.top_logprobs) == (("</turn>",), 50, 0)


async def test_parse_sees_all_views_so_far():
    seen = []

    class Watching(TagProtocol):
        def parse(self, reply, views):
            seen.append(views)
            return super().parse(reply, views)

    await run(turns(CALL, CALL, "answer x"), protocol=Watching())
    assert [len(views) for views in seen] == [1, 2, 3]
    assert seen[2][1].box_px.size == (10, 10)
    assert seen[2][1].picture.size == (10, 10)


async def test_on_its_last_turn_it_is_asked_for_the_answer_without_tools():
    answer, engine, events = await run(turns(CALL, CALL, CALL, "answer late"))
    assert answer == "late"
    assert [event.forced for event in events if isinstance(event, TurnFinished)] == [
        False,
        False,
        False,
        True,
    ]
    assert last_message(engine) == Message("user", (Text("now answer"),))


@pytest.mark.parametrize("last", [CALL, "it is a ring, I think"])
async def test_a_model_that_loops_ends_in_no_answer(last):
    error, engine, events = await run(turns(CALL, CALL, CALL, last))
    assert isinstance(error, NoAnswer)
    assert "turn 4" in str(error)
    assert len(engine.calls) == 4
    assert kinds(events)[-1] == "TurnFinished"  # counted, and no tool run after it


async def test_untagged_words_on_the_forced_turn_are_not_an_answer():
    error, _, events = await run(turns("a ring"), budget=Budget(1, 50))
    assert isinstance(error, NoAnswer)
    assert events[0].forced


async def test_a_budget_without_a_turn_has_no_answer():
    error, engine, _ = await run(turns("answer x"), budget=Budget(0, 50))
    assert isinstance(error, NoAnswer)
    assert engine.calls == []


async def test_malformed_tool_json_is_no_assistant_turn():
    """Reference defect: malformed tool JSON appended the user's prompt as an assistant turn."""
    answer, engine, events = await run(turns(BAD_JSON, "answer ring"))
    assert answer == "ring"
    assert isinstance(events[1].call, Malformed)
    assert events[1].call.reason == "bad_json"
    assert events[1].observation == Observation(error=events[1].call.detail)
    conversation = engine.calls[1].request.messages
    assert [message.role for message in conversation] == ["user", "assistant", "user"]
    assert conversation[1] == Message("assistant", (Text(BAD_JSON),))  # its own words, no others
    assert conversation[2].parts == (Text(f"error: {events[1].call.detail}"),)
    assert not engine.calls[1].request.continue_final_message


async def test_an_unknown_tool_is_an_observation_that_names_the_known_ones():
    answer, _, events = await run(turns("call telescope 3", "answer x"))
    assert answer == "x"
    assert events[0].reply == events[1].call
    assert events[1].call.reason == "unknown_tool"
    assert "'telescope'" in events[1].observation.error
    assert "spyglass" in events[1].observation.error


@pytest.mark.parametrize("said", ["call spyglass", "{", "thinking"])
async def test_a_turn_that_is_cut_off_is_told_so(said):
    cut = Take(scripted(said, separability=None, finish="length"))
    answer, _, events = await run((cut, *turns("answer x")))
    assert answer == "x"
    assert events[1].call.reason == "truncated"
    assert "50 tokens" in events[1].observation.error


async def test_a_whole_answer_at_the_token_limit_is_an_answer():
    answer, _, _ = await run((Take(scripted("answer x", separability=None, finish="length")),))
    assert answer == "x"


@pytest.mark.parametrize(("finish", "turns_taken"), [("stop", 1), ("length", 2)])
async def test_an_answer_that_nothing_ends_counts_only_if_the_model_ended_it(finish, turns_taken):
    class Plain(TagProtocol):
        def parse(self, reply, views):
            return FinalAnswer(reply, is_open=True)

    said = Take(scripted("It is a", separability=None, finish=finish))
    answer, _, events = await run((said, *turns("ring")), protocol=Plain())
    assert answer == ("It is a" if finish == "stop" else "ring")
    assert len([e for e in events if isinstance(e, TurnFinished)]) == turns_taken


async def test_an_observation_with_an_error_goes_on():
    class Strict(Spyglass):
        async def run(self, call, pixels):
            return Observation(error="the box is empty")

    answer, engine, events = await run(turns(CALL, "answer x"), tool=Strict())
    assert answer == "x"
    assert events[1].observation.error == "the box is empty"
    assert last_message(engine).parts == (Text("the box is empty"),)


async def test_pictures_are_bounded():
    spyglass = Spyglass(pictures=3)
    answer, engine, events = await run(turns(CALL, CALL, "answer x"), tool=spyglass, max_pictures=5)
    assert answer == "x"
    assert [len(e.observation.pictures) for e in events if isinstance(e, ToolFinished)] == [3, 1]
    assert [e.forced for e in events if isinstance(e, TurnFinished)] == [False, False, True]
    images = [p for m in engine.calls[-1].request.messages for p in m.parts if isinstance(p, Image)]
    assert len(images) == 5


async def test_a_tool_that_breaks_is_a_tool_error():
    class Broken(Spyglass):
        async def run(self, call, pixels):
            raise OSError("disk full")

    error, _, events = await run(turns(CALL, "answer x"), tool=Broken())
    assert isinstance(error, ToolError)
    assert isinstance(error.__cause__, OSError)
    assert "spyglass raised OSError: disk full" in str(error)
    assert kinds(events) == ["TurnFinished"]


async def test_a_tool_is_opened_at_its_first_call_and_once_for_a_query():
    spyglass = Spyglass()
    await run(turns(CALL, CALL, "answer x"), tool=spyglass)
    assert (spyglass.opened, spyglass.closed, len(spyglass.calls)) == (1, 1, 2)


async def test_a_tool_that_is_not_called_is_not_opened():
    spyglass = Spyglass()
    await run(turns("answer x"), tool=spyglass)
    assert spyglass.opened == 0


async def test_a_tool_is_closed_when_the_query_is_cancelled():
    class Slow(Spyglass):
        async def run(self, call, pixels):
            await anyio.sleep_forever()

    spyglass = Slow()
    with anyio.move_on_after(20):
        await run(turns(CALL), tool=spyglass)
    assert (spyglass.opened, spyglass.closed) == (1, 1)


async def test_a_tool_that_cannot_be_closed_is_a_tool_error():
    class Stuck(Spyglass):
        @asynccontextmanager
        async def open(self, pixels):
            async with super().open(pixels) as opened:
                yield opened
            raise OSError("is stuck")

    error, _, _ = await run(turns(CALL, "answer x"), tool=Stuck())
    assert isinstance(error, ToolError)
    assert "closing a tool raised OSError: is stuck" in str(error)


async def test_a_tool_that_hides_where_a_picture_comes_from_is_a_tool_error():
    class Vague(Spyglass):
        async def run(self, call, pixels):
            return Observation("seen", (a_picture(),), ())

    error, _, _ = await run(turns(CALL), tool=Vague())
    assert isinstance(error, ToolError)


async def test_a_damaged_picture_found_by_a_tool_stays_the_callers_fault():
    class Careful(Spyglass):
        async def run(self, call, pixels):
            raise PictureTruncated("picture", "ends early")

    error, _, _ = await run(turns(CALL), tool=Careful())
    assert isinstance(error, PictureTruncated)


async def test_a_conversation_that_ends_in_the_assistants_words_is_continued():
    class OneBreath(TagProtocol):
        def proceed(self, query, conversation, *, reply, outcome):
            return (*conversation, Message("assistant", (Text(reply + " seen"),)))

    _, engine, _ = await run(turns(CALL, "answer x"), protocol=OneBreath())
    assert [call.request.continue_final_message for call in engine.calls] == [False, True]


async def test_an_engines_own_error_passes():
    error, _, _ = await run((Take(EngineUnavailable("e", "down")),))
    assert isinstance(error, EngineUnavailable)


async def test_any_other_error_of_an_engine_becomes_one_that_names_it():
    engine = ReplayEngine([Take(RuntimeError("boom"))], name="odd")
    with pytest.raises(EngineProtocolError, match=r"odd: raised RuntimeError.*boom") as caught:
        await ask(engine, request_for((Message("user", (Text("?"),)),), 1))
    assert isinstance(caught.value.__cause__, RuntimeError)
