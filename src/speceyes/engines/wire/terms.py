"""Not every server takes every wish; what to ask for, and what to give up when refused, is here.

It refuses to know how a request looks and how it is sent: wishes in, wishes out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from speceyes.engines.wire.refusals import Refusal
from speceyes.engines.wire.settings import HttpSettings, ToolChoice
from speceyes.types import GenerateRequest

_WISHES_REFUSED = frozenset({400, 422})  # what servers answer to a body that they do not take


@dataclass(frozen=True, slots=True)
class Learnt:
    """What a server has shown of itself. `refused_k`: the least K that it refused."""

    refused_k: int | None = None
    gives_evidence: bool = True
    takes_choice: bool = True
    takes_penalty: bool = True
    tool_choice: ToolChoice = "auto"


@dataclass(frozen=True, slots=True)
class Terms:
    """What one request asks for beyond the conversation.

    `choose`: hold the model to the request's choices. `no_penalty`: switch off a repetition
    penalty that a release may have set as its default, for decoding is greedy and no more.
    """

    top_logprobs: int
    choose: bool
    tool_choice: ToolChoice | None
    no_penalty: bool = True


def terms_for(request: GenerateRequest, learnt: Learnt, settings: HttpSettings) -> Terms:
    """Ask for all that the request wants and the server is not known to refuse.

    The choices are imposed only where there is no evidence: they would bend nothing else.
    """
    k = request.top_logprobs
    if learnt.refused_k is not None and k >= learnt.refused_k:
        k = _fewer(learnt.refused_k, settings)
    blind = k == 0 or not learnt.gives_evidence
    return Terms(
        top_logprobs=k,
        choose=bool(request.choices) and blind and learnt.takes_choice,
        tool_choice=learnt.tool_choice if request.tools else None,
        no_penalty=learnt.takes_penalty,
    )


def concede(
    terms: Terms, refusal: Refusal, *, request: GenerateRequest, settings: HttpSettings
) -> Terms | None:
    """Say what to ask for after a refusal, one wish at a time; None if nothing is left to give up.

    Log-probabilities are given up only when the refusal is about them: without them an answer
    counts for nothing. The other wishes are given up on trial.
    """
    if refusal.status not in _WISHES_REFUSED or refusal.is_too_long:
        return None
    if refusal.names_logprobs and terms.top_logprobs:
        fewer = _fewer(terms.top_logprobs, settings)
        return replace(terms, top_logprobs=fewer, choose=bool(request.choices) and fewer == 0)
    if terms.choose:
        return replace(terms, choose=False)
    if terms.tool_choice == "auto":
        return replace(terms, tool_choice="none")
    if terms.no_penalty:
        return replace(terms, no_penalty=False)
    return None


def learn(learnt: Learnt, *, asked: Terms, granted: Terms, has_evidence: bool) -> Learnt:
    """Keep what an answered request has shown: what was given up on the way, and what came."""
    if granted.top_logprobs:
        learnt = replace(learnt, gives_evidence=has_evidence)
    if granted.top_logprobs < asked.top_logprobs:
        least = min(asked.top_logprobs, learnt.refused_k or asked.top_logprobs)
        learnt = replace(learnt, refused_k=least)
    if granted.choose < asked.choose:
        learnt = replace(learnt, takes_choice=False)
    if granted.no_penalty < asked.no_penalty:
        learnt = replace(learnt, takes_penalty=False)
    if granted.tool_choice is not None:
        learnt = replace(learnt, tool_choice=granted.tool_choice)
    return learnt


def _fewer(k: int, settings: HttpSettings) -> int:
    least = settings.least_top_logprobs
    return least if least is not None and least < k else 0
