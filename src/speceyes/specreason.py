"""SpecReason: a small model proposes each turn of the agent, the large one scores it, 0 to 9.

A method to compare with, adapted to the tool loop as in the paper. It refuses to know protocols and
tools: the loop around it is the agent's own. Doubt goes to the large model, which then speaks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from speceyes.agent import Narrator, ask, request_for
from speceyes.errors import EngineError
from speceyes.events import Proposed
from speceyes.types import Conversation, Engine, GenerateRequest, Generation, Message, Text

LEAST_SCORE: Final = 7
MAX_STEPS: Final = 6
_SCORE_TOKENS: Final = 10
_SCORE: Final = (
    "Do not go on yet: how good is the last step above? 9 is sound and brings the answer nearer, "
    "5 neither helps nor harms, 0 is wrong or beside the point. Say one digit from 0 to 9 and "
    "nothing else."
)
_DIGIT: Final = re.compile(r"[0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecReason:
    """Speak for the agent: the small model's turn if it scores high enough, else the large one's.

    Implements `agent.Speaker`. An engine that fails to propose, or to score, costs the proposal
    and no more.
    Source: arXiv 2603.23483, the comparison method; reference eval_code_deepeyes/SpecReason.py.
    """

    small: Engine
    large: Engine
    least_score: int = LEAST_SCORE

    async def speak(self, request: GenerateRequest, turn: int, narrator: Narrator) -> Generation:
        """Propose, score, and perhaps do it over. Raises: EngineError, the large engine's."""
        proposal = await _ask_or_none(self.small, request)
        scoring = None
        if proposal is not None:
            asked = scoring_of(request.messages, proposal.text)
            scoring = await _ask_or_none(self.large, request_for(asked, _SCORE_TOKENS))
        score = None if scoring is None else read_score(scoring.text)
        accepted = score is not None and score >= self.least_score
        narrator.tell(Proposed(*narrator.stamp(), turn, proposal, scoring, score, accepted))
        if proposal is not None and accepted:
            return proposal
        return await ask(self.large, request)


def scoring_of(conversation: Conversation, proposal: str) -> Conversation:
    """Put the question of how good a proposed turn is, after the turn itself."""
    *before, last = conversation
    said: tuple[Text, ...] = (Text(proposal),)
    if last.role == "assistant":  # a turn that goes on where its observation ended
        turn = Message("assistant", (*last.parts, *said))
    else:
        before, turn = [*before, last], Message("assistant", said)
    return (*before, turn, Message("user", (Text(_SCORE),)))


def read_score(text: str) -> int | None:
    """Read the first digit of what the large model said; None if there is none.

    >>> read_score("Score: 8/9"), read_score("good")
    (8, None)
    """
    found = _DIGIT.search(text)
    return None if found is None else int(found[0])


async def _ask_or_none(engine: Engine, request: GenerateRequest) -> Generation | None:
    try:
        return await ask(engine, request)
    except EngineError:
        return None
