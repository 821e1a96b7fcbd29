"""SpecReason: proposals of the small model, scored by the large one, turn by turn."""

from dataclasses import replace

import anyio
import pytest

from speceyes.agent import Narrator
from speceyes.engines.replay import ReplayEngine, Take, scripted
from speceyes.errors import EngineTimeout, EngineUnavailable
from speceyes.events import Proposed, TurnFinished, usage_by_phase
from speceyes.funnel import Funnel
from speceyes.policies.fixed import agent_only
from speceyes.specreason import MAX_STEPS, SpecReason, read_score, scoring_of
from speceyes.types import GenerateRequest, Image, Message, Picture, Text, Usage
from tests.scripted_pair import ScriptedPair, funnel, tiny_items

pytestmark = pytest.mark.anyio

USER = Message("user", (Image(Picture(b"p", "image/png", 1, 1)), Text("What is it?")))
REQUEST = GenerateRequest((USER,), 512, stop=("</answer>",), tools=("{}",))


def saying(*texts, name="engine"):
    """An engine that gives these in turn: texts, or errors."""
    left = list(texts)

    def script(_):
        said = left.pop(0)
        made = said if isinstance(said, Exception) else scripted(said, separability=None)
        return Take(made)

    return ReplayEngine(script, name=name)


async def speak(small, large, **more):
    told = []
    speaker = SpecReason(small=small, large=large, **more)
    narrator = Narrator("q", anyio.current_time(), told.append)
    return await speaker.speak(REQUEST, 1, narrator), told


@pytest.mark.parametrize("score", [7, 8, 9])
async def test_a_proposal_that_scores_enough_is_the_turn(score):
    said, (told,) = await speak(saying("ring"), saying(f"{score}"))
    assert said.text == "ring"
    assert (told.score, told.accepted) == (score, True)


@pytest.mark.parametrize("score", [0, 6])
async def test_a_proposal_that_scores_less_is_done_over_by_the_large_model(score):
    said, (told,) = await speak(saying("ring"), saying(f"Score: {score}", "star"))
    assert said.text == "star"
    assert (told.score, told.accepted, told.proposal.text) == (score, False, "ring")


async def test_without_a_readable_score_the_large_model_speaks():
    said, (told,) = await speak(saying("ring"), saying("quite good", "star"))
    assert (said.text, told.score, told.accepted) == ("star", None, False)


async def test_the_bar_can_be_set():
    said, _ = await speak(saying("ring"), saying("5"), least_score=5)
    assert said.text == "ring"


@pytest.mark.parametrize("error", [EngineUnavailable("s", "down"), EngineTimeout("s", "late")])
async def test_a_small_model_that_fails_costs_nothing_but_its_proposal(error):
    said, (told,) = await speak(saying(error), saying("star"))
    assert said.text == "star"
    assert (told.proposal, told.scoring, told.accepted) == (None, None, False)


async def test_a_scoring_that_fails_lets_the_large_model_speak():
    large = saying(EngineTimeout("l", "late"), "star")
    said, (told,) = await speak(saying("ring"), large)
    assert (said.text, told.scoring, told.accepted) == ("star", None, False)


async def test_a_large_model_that_is_down_is_an_error():
    down = saying(EngineUnavailable("l", "down"), EngineUnavailable("l", "down"))
    with pytest.raises(EngineUnavailable):
        await speak(saying("ring"), down)


async def test_both_models_are_asked_to_go_on_with_the_same_conversation():
    small, large = saying("ring"), saying("3", "star")
    await speak(small, large)
    assert small.calls[0].request == large.calls[1].request == REQUEST


async def test_only_the_last_step_is_asked_about_in_a_short_reply():
    large = saying("8")
    await speak(saying("ring"), large)
    asked = large.calls[0].request
    assert asked.messages[:2] == (USER, Message("assistant", (Text("ring"),)))
    assert asked.messages[2].role == "user"
    assert (asked.max_tokens, asked.stop, asked.continue_final_message) == (10, (), False)


def test_a_turn_that_goes_on_is_scored_as_one():
    begun = Message("assistant", (Text("I look."), Image(USER.parts[0].picture)))
    made = scoring_of((USER, begun), " It is a ring.")
    assert made[1] == Message("assistant", (*begun.parts, Text(" It is a ring.")))
    assert [message.role for message in made] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("text", "score"),
    [("7", 7), (" 9.", 9), ("Score: 8/9", 8), ("10", 1), ("", None), ("seven", None)],
)
def test_the_first_digit_is_the_score(text, score):
    assert read_score(text) == score


def test_what_a_proposal_cost_is_counted_once():
    small, large = (
        replace(scripted("a", separability=None), usage=Usage(10, 0, n, 1)) for n in (5, 1)
    )
    turn = replace(scripted("b", separability=None), usage=Usage(10, 0, 7, 1))

    def spent(*, accepted):
        events = [
            Proposed("q", 0.0, 1, small, large, 8 if accepted else 3, accepted),
            TurnFinished("q", 0.0, 1, small if accepted else turn, None),
        ]
        return usage_by_phase(events)["fall_back"].completion_tokens

    assert spent(accepted=True) == 5 + 1
    assert spent(accepted=False) == 5 + 1 + 7


async def test_the_loop_around_it_is_the_agents_own_with_its_budget():
    (item,) = tiny_items(1)
    made = funnel(ScriptedPair([item]))
    agent = made.parts.agent
    call = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 50, 50]}}'
    small = ReplayEngine(lambda _: Take(scripted(f"{call}</tool_call>", separability=None)))
    large = ReplayEngine(lambda _: Take(scripted("9", separability=None)))
    looping = replace(
        agent,
        speaker=SpecReason(small=small, large=large),
        budget=replace(agent.budget, max_turns=MAX_STEPS),
    )
    async with Funnel(replace(made.parts, agent=looping), made.rules, agent_only) as eyes:
        outcome = await eyes.settle(item.query)
    turns = [event for event in outcome.trace if isinstance(event, TurnFinished)]
    assert len(turns) == MAX_STEPS
    assert turns[-1].forced
    assert type(outcome.error).__name__ == "NoAnswer"
