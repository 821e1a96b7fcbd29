"""Thyme, DeepEyes-V2 and PyVision on the wire, and an agent that goes on within its own turn."""

from contextlib import asynccontextmanager

import pytest

from speceyes.agent import Agent, Narrator, Sight
from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.errors import ConfigError
from speceyes.events import ToolFinished
from speceyes.notebook import OUTPUT_FOLDER
from speceyes.protocols.deepeyes_v2 import DeepEyesV2
from speceyes.protocols.pyvision import PyVision
from speceyes.protocols.thyme import Thyme
from speceyes.types import (
    Box,
    Budget,
    FinalAnswer,
    Image,
    Malformed,
    Observation,
    Picture,
    Query,
    Text,
    ToolCall,
    View,
)

SCENE = Picture(b"scene", "image/png", 672, 448)
PHOTO = Picture(b"photo", "image/jpeg", 336, 336)
SEEN, CROP = Picture(b"seen", "image/png", 112, 112), Picture(b"crop", "image/png", 80, 60)
VIEWS = (View(SEEN, Box(0, 0, 672, 448)), View(SEEN, Box(0, 0, 336, 336, 1)))
QUERY = Query("Which shape?", (SCENE, PHOTO), ("star", "ring"), query_id="q")
CODE = "<code>\n```python\nprint(1)\n```\n</code>"
SHOWN = Observation(f"{OUTPUT_FOLDER}/a.png\n", (CROP,), (None,))


def words(*messages):
    return "".join(
        part.text if isinstance(part, Text) else "<image>" for m in messages for part in m.parts
    )


def after(protocol, reply=CODE, outcome=SHOWN):
    return protocol.proceed(QUERY, protocol.opening(QUERY, VIEWS), reply=reply, outcome=outcome)


# --- thyme


def test_thyme_is_told_each_pictures_path_and_size_as_its_release_tells_it():
    _, user = Thyme().opening(QUERY, VIEWS)
    assert '\n### User Image Path:** "/mnt/data/user_images/image_1.png"\n' in words(user)
    assert '\n### User Image Size:** "672x448"\n' in words(user)
    assert '\n### User Image Path:** "/mnt/data/user_images/image_2.jpg"\n' in words(user)


def test_a_release_says_where_paths_belong_or_they_come_last():
    _, user = Thyme(user_prompt="{question}\n{files}\nThink.").opening(QUERY, VIEWS)
    assert words(user).endswith('### User Image Size:** "336x336"\nThink.')
    _, user = Thyme(user_prompt="{question}\nThink.").opening(QUERY, VIEWS)
    assert words(user).endswith("Think.\n" + words(user)[words(user).index("###") :])


def test_a_placeholder_that_is_none_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"\{question\}, \{options\} and \{files\} only"):
        Thyme(user_prompt="{question} {paths}")
    with pytest.raises(ConfigError, match=r"\{question\} and \{options\} only"):
        PyVision(user_prompt="{question} {files}")


def test_what_code_brings_stands_in_thymes_own_turn_right_behind_the_code():
    opening = Thyme().opening(QUERY, VIEWS)
    (*before, said) = after(Thyme(), f"<think>I look.\n{CODE}")
    assert tuple(before) == opening
    assert said.role == "assistant"
    assert words(said) == f"<think>I look.\n{CODE}<sandbox_output><image></sandbox_output>"


def test_thymes_turn_grows_and_its_words_are_never_left_in_pieces():
    conversation = after(Thyme(), f"<think>\n{CODE}")
    for outcome in (Observation("7"), Observation(error="NameError: x"), SHOWN):
        conversation = Thyme().proceed(QUERY, conversation, reply=CODE, outcome=outcome)
    *before, said = conversation
    assert [message.role for message in before] == ["system", "user"]
    assert words(said).count(CODE) == 4
    assert words(said).count("<sandbox_output>") == 4
    kinds = [type(part) for part in said.parts]
    assert kinds == [Text, Image, Text, Image, Text]


def test_a_path_that_thyme_printed_is_not_told_beside_its_picture():
    assert OUTPUT_FOLDER not in words(after(Thyme())[-1])
    told = words(after(Thyme(), outcome=Observation("7 things\n"))[-1])
    assert told.endswith("<sandbox_output>7 things</sandbox_output>")


def test_thymes_last_turn_begins_inside_the_answer():
    *_, said = Thyme().force_answer(QUERY, after(Thyme(), f"<think>\n{CODE}"))
    assert words(said).endswith("</think>\n<answer>")
    assert Thyme().parse("star</answer>", VIEWS) == FinalAnswer("star")
    assert Thyme().parse("star", VIEWS) == Malformed(
        "no_answer_no_call",
        "the reply has neither <code> nor <answer>; give one of them, with its tags",
    )


def test_code_before_an_opened_answers_end_is_still_code():
    assert isinstance(Thyme().parse(f"{CODE}star</answer>", VIEWS), ToolCall)


# --- deepeyes-v2, pyvision


@pytest.mark.parametrize("protocol", [DeepEyesV2(), PyVision()], ids=lambda p: p.name)
def test_code_that_is_only_thought_of_is_not_run(protocol):
    wrong = protocol.parse(f"<think>I could write {CODE}.</think> So it is.", VIEWS)
    assert isinstance(wrong, Malformed)
    made = protocol.parse(f"<think>I could write {CODE}.</think><code>print(2)</code>", VIEWS)
    assert made == ToolCall("python", {"code": "print(2)"}, raw="print(2)")


def test_deepeyes_v2_is_told_stdout_stderr_and_images_as_a_user():
    failed = Observation("7\n", (CROP, CROP), (None, None), error="NameError: x")
    *_, said, told = after(DeepEyesV2(), outcome=failed)
    assert (said.role, told.role) == ("assistant", "user")
    assert words(told) == (
        "Code execution result:\nstdout:\n```\n7\n```\n\nstderr:\n```\nNameError: x\n```\n\n"
        "Images:\n<image><image>"
    )


def test_pyvision_announces_images_from_zero_and_counts_on():
    (user,) = PyVision().opening(QUERY, VIEWS)
    assert words(user).startswith(
        "<image_clue_0><image></image_clue_0><image_clue_1><image></image_clue_1>"
    )
    assert "width of image_clue_1: 336, height of image_clue_1: 336" in words(user)
    conversation = after(PyVision(), outcome=Observation("", (CROP, CROP), (None, None)))
    conversation = PyVision().proceed(QUERY, conversation, reply=CODE, outcome=SHOWN)
    assert "<image_clue_2><image></image_clue_2><image_clue_3>" in words(conversation[-3])
    assert words(conversation[-1]).startswith("<interpreter>\nText Result:\n")
    assert "<image_clue_4><image></image_clue_4></interpreter>" in words(conversation[-1])


def test_pyvision_may_box_its_answer_without_tags():
    assert PyVision().parse("So \\boxed{star}", VIEWS) == FinalAnswer("star")
    assert PyVision().parse("<answer>\n\\boxed{star}\n</answer>", VIEWS) == FinalAnswer("star")


def test_pyvisions_own_words_are_one_user_turn_unless_a_system_prompt_is_given():
    (user,) = PyVision().opening(QUERY, VIEWS)
    assert "image_clue_i" in words(user)
    system, user = PyVision(system_prompt="Rules.", user_prompt="Q: {question}").opening(
        QUERY, VIEWS
    )
    assert words(system) == "Rules."
    assert "image_clue_i" not in words(user)
    assert "width of image_clue_0: 672" in words(user)


# --- an agent that writes code


class Interpreter:
    """Gives one outcome per block of code, in order."""

    name = "python"

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.ran = []

    @asynccontextmanager
    async def open(self, pixels):
        yield self

    async def run(self, call):
        self.ran.append(call.arguments["code"])
        return self.outcomes.pop(0)


async def run(replies, outcomes, max_turns=5):
    takes = iter([Take(scripted(reply, separability=None), 0.1) for reply in replies])
    engine = ReplayEngine(lambda _: next(takes), name="large")
    events, python = [], Interpreter(*outcomes)
    agent = Agent(
        engine=engine,
        protocol=Thyme(),
        tools={"python": python},
        budget=Budget(max_turns=max_turns, max_tokens_per_turn=99),
        max_pictures=8,
    )
    text = await agent.run(QUERY, Sight(VIEWS, None), Narrator("q", 0.0, events.append))
    return text, engine, python, events


@pytest.mark.anyio
async def test_the_agent_goes_on_within_the_models_own_turn():
    text, engine, python, _ = await run(
        [f"<think>I look.\n{CODE}", "\nA star.</think>\n<answer>star</answer>"], [SHOWN]
    )
    assert text == "star"
    assert python.ran == ["\n```python\nprint(1)\n```\n"]
    first, second = (call.request for call in engine.calls)
    assert (first.continue_final_message, second.continue_final_message) == (False, True)
    assert second.messages[-1].role == "assistant"
    assert Image(CROP) in second.messages[-1].parts


@pytest.mark.anyio
async def test_failed_code_is_shown_to_the_model_which_may_try_again():
    failed = Observation(error="NameError: name 'x' is not defined")
    text, engine, python, events = await run(
        [f"<think>\n{CODE}", f"\nAgain.\n{CODE}", "</think><answer>star</answer>"],
        [failed, SHOWN],
    )
    assert text == "star"
    assert len(python.ran) == 2
    assert failed.error in words(engine.calls[1].request.messages[-1])
    errors = [e.observation.error for e in events if isinstance(e, ToolFinished)]
    assert errors == [failed.error, None]


@pytest.mark.anyio
async def test_a_model_that_only_writes_code_is_made_to_answer_at_last():
    text, engine, python, _ = await run(
        [f"<think>\n{CODE}", CODE, "star</answer>"], [SHOWN, SHOWN], max_turns=3
    )
    assert text == "star"
    assert len(python.ran) == 2
    assert words(engine.calls[-1].request.messages[-1]).endswith("<answer>")
