"""One screen, one speculation and one turn of the agent are read here: how long, and what came.

It refuses to ask engines anything. What a model makes of one small picture proves little, so an
odd answer is a warning at most; a request that fails, or a screen that cannot be read, is not.
"""

from __future__ import annotations

from collections.abc import Mapping

from speceyes.doctor.findings import EngineRole, Figure, Finding, Measures, Sample, Status, Subject
from speceyes.gate import GateSpec, judge
from speceyes.screen import ScreenSpec, needs_tool, p_needs_tool
from speceyes.types import Budget, Malformed, Reply


def find_screen(sample: Sample, spec: ScreenSpec, role: EngineRole) -> Finding:
    """Phase I: is p(needs a tool) to be had, and how fast?"""
    said = sample.generation
    if said is None:
        mend = "a request for one token must go through; every query goes to the agent"
        return _failed(role, "screen", sample, mend=mend)
    p_tool = p_needs_tool(said.evidence, min_mass=spec.min_mass, text=said.text)
    figures: dict[str, Figure] = {"seconds": sample.seconds, "p_tool": p_tool}
    if said.evidence is None:
        told = f"{sample.seconds:.2f} s; no log-probabilities, and it said {_brief(said.text)}"
        mend = "let the server give top log-probabilities: a bare yes or no has no threshold"
        status: Status = "warning"
        if p_tool is None:
            status = "failure"
            mend = "every query goes to the agent: let the server give top log-probabilities"
        return Finding(role, "screen", status, told, mend, figures)
    if p_tool is None:
        told = f"{sample.seconds:.2f} s; neither yes nor no among its first tokens: in doubt"
        mend = "queries in doubt go to the agent; if all do, this model cannot screen"
        return Finding(role, "screen", "warning", told, mend, figures)
    way = "to the agent" if needs_tool(p_tool, spec) else "to the small model"
    told = f"{sample.seconds:.2f} s; p(needs a tool) {p_tool:.3f}, so {way}"
    return Finding(role, "screen", "ok", told, None, figures)


def find_speculation(sample: Sample, spec: GateSpec) -> Finding:
    """Phases II and III: does the small model answer, and can its answer be gated?"""
    said = sample.generation
    if said is None:
        return _failed("small", "speculation", sample, mend="every query falls back to the agent")
    verdict = judge(said, spec)
    score = "not scored" if verdict.score is None else f"score {verdict.score:.3f}"
    told = f"{sample.seconds:.2f} s; {_brief(said.text)}, {verdict.reason}, {score}"
    figures: dict[str, Figure] = {
        "seconds": sample.seconds,
        "score": verdict.score,
        "reason": verdict.reason,
    }
    if verdict.score is not None:
        return Finding("small", "speculation", "ok", told, None, figures)
    mend = "an answer that cannot be scored is never accepted; see the log-probabilities above"
    if verdict.reason in {"truncated", "empty_answer"}:
        mend = "if all answers end so, raise max_answer_tokens or take a model that answers briefly"
    return Finding("small", "speculation", "warning", told, mend, figures)


def find_turn(sample: Sample, reply: Reply | None, protocol: str) -> Finding:
    """Phase IV: does the large model speak the protocol, and how long is a turn?"""
    said = sample.generation
    if said is None or reply is None:
        return _failed("large", "turn", sample, mend="nothing can be answered without the agent")
    figures: dict[str, Figure] = {
        "seconds": sample.seconds,
        "prompt_tokens": said.usage.prompt_tokens,
        "completion_tokens": said.usage.completion_tokens,
        "reply": type(reply).__name__,
    }
    told = f"{sample.seconds:.2f} s, {said.usage.completion_tokens} tokens"
    if isinstance(reply, Malformed):
        told += f"; {protocol} cannot read it: {reply.reason} ({_brief(said.text)})"
        mend = "see that the protocol is the one this model was trained on"
        return Finding("large", "turn", "warning", told, mend, figures)
    kind = "an answer" if figures["reply"] == "FinalAnswer" else "a tool call"
    return Finding("large", "turn", "ok", f"{told}; {kind}, in {protocol}", None, figures)


def find_prefix_cache(again: Sample) -> Finding:
    """Does the agent's opening, sent again, come from the cache, as each next turn should?"""
    said = again.generation
    if said is None or said.usage.cached_tokens is None:
        told = "the server does not report cached tokens"
        mend = "vLLM reports them with --enable-prompt-tokens-details"
        return Finding("large", "prefix cache", "unknown", told, mend)
    hits, total = said.usage.cached_tokens, said.usage.prompt_tokens
    told = f"{hits} of {total} prompt tokens come from it the second time"
    figures: dict[str, Figure] = {"cached_tokens": hits, "prompt_tokens": total}
    if hits > 0:
        return Finding("large", "prefix cache", "ok", told, None, figures)
    mend = "every turn reads its whole conversation anew (vLLM: --enable-prefix-caching)"
    return Finding("large", "prefix cache", "warning", told, mend, figures)


def find_context(seen: Measures, turn: Sample, budget: Budget) -> Finding:
    """Does the agent's whole loop fit the context, when every turn uses all it may?"""
    limit, said = _context_tokens(seen.facts), turn.generation
    if limit is None or said is None or said.usage.prompt_tokens == 0:
        told = "the limit is not known" if limit is None else "the prompt's length is not known"
        return Finding("large", "context", "unknown", told)
    first = said.usage.prompt_tokens + budget.max_tokens_per_turn
    whole = first + (budget.max_turns - 1) * budget.max_tokens_per_turn
    figures: dict[str, Figure] = {"limit": limit, "first_turn": first, "all_turns": whole}
    told = f"{limit} tokens; the first turn takes up to {first}, all of them at least {whole}"
    mend = "serve a longer context, or set max_turns or max_tokens_per_turn lower"
    if first > limit:
        return Finding("large", "context", "failure", told, mend, figures)
    if whole > limit:
        return Finding("large", "context", "warning", told, mend, figures)
    return Finding("large", "context", "ok", told, None, figures)


def _context_tokens(facts: Mapping[str, Figure]) -> int | None:
    limit = facts.get("context_tokens")
    return limit if isinstance(limit, int) else None


def _failed(role: EngineRole, subject: Subject, sample: Sample, *, mend: str) -> Finding:
    return Finding(role, subject, "failure", f"failed: {sample.error}", mend)


def _brief(text: str, chars: int = 40) -> str:
    return repr(text if len(text) <= chars else f"{text[:chars]}...")
