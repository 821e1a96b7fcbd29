"""Earlier turns go before whatever is asked, of every model and in every phase."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.earlier import splice
from speceyes.engines.replay import ReplayEngine
from speceyes.types import Image, Message, Text
from tests.stand_ins import CALL, REJECTED, Plan, a_funnel, a_picture, a_query, turns


def said(role, *words):
    return Message(role, tuple(map(Text, words)))


EARLIER = (
    said("system", "Be brief."),
    Message("user", (Image(a_picture("old")), Text("What is this?"))),
    said("assistant", "A scene."),
)

MESSAGES = st.builds(said, st.sampled_from(["user", "assistant", "tool"]), st.text(max_size=5))
TURNS = st.lists(MESSAGES, max_size=4).map(tuple)
SYSTEM = st.one_of(st.just(()), st.text(max_size=5).map(lambda text: (said("system", text),)))
CONVERSATIONS = st.tuples(SYSTEM, TURNS).map(lambda halves: (*halves[0], *halves[1]))


def turns_of(conversation):
    return tuple(message for message in conversation if message.role != "system")


def system_words(conversation):
    return "".join(
        part.text for message in conversation if message.role == "system" for part in message.parts
    )


@given(CONVERSATIONS)
def test_nothing_earlier_changes_nothing(conversation):
    assert splice((), conversation) is conversation


@given(CONVERSATIONS, CONVERSATIONS)
def test_every_turn_is_kept_in_its_order(earlier, conversation):
    spliced = splice(earlier, conversation)
    assert turns_of(spliced) == (*turns_of(earlier), *turns_of(conversation))


@given(CONVERSATIONS, CONVERSATIONS)
def test_one_system_message_says_first_what_the_protocol_says(earlier, conversation):
    spliced = splice(earlier, conversation)
    assert all(message.role != "system" for message in spliced[1:])
    words = system_words(spliced)
    assert words.startswith(system_words(conversation))
    assert words.endswith(system_words(earlier))


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_earlier_turns_go_before_every_request_to_either_model():
    plan = Plan(small=REJECTED.small, turns=turns(CALL, "answer large"))

    def script(request):
        assert request.messages[: len(EARLIER)] == EARLIER
        kind, _, _ = request.messages[len(EARLIER)].parts[-1].text.partition("|")
        if kind == "agent":
            return plan.turns[sum(m.role == "assistant" for m in request.messages) - 1]
        return plan.screen if kind == "screen" else plan.small

    small, large = ReplayEngine(script, name="small"), ReplayEngine(script, name="large")
    got = await a_funnel(small, large).answer(replace(a_query(), earlier=EARLIER))
    assert (got.text, got.route, got.depth) == ("large", "agentic", 1)
    assert (len(small.calls), len(large.calls)) == (1, 3)
