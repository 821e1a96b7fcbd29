"""What was measured on an engine is read here: what works, what does not, and how to mend it.

It refuses to ask engines anything: samples in, findings out. A failure means that the funnel
cannot do its work with this engine; a warning, that it can, but slower or blinder than it might.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from speceyes.errors import SpecEyesError
from speceyes.gate import GateReason, GateSpec, check_evidence
from speceyes.types import Evidence, Generation

EngineRole: TypeAlias = Literal["small", "large"]
Status: TypeAlias = Literal["ok", "warning", "failure", "unknown"]
Subject: TypeAlias = Literal[
    "reach",
    "model",
    "image",
    "images per prompt",
    "top log-probabilities",
    "raw log-probabilities",
    "stop strings",
    "prefix cache",
    "continue_final_message",
    "context",
    "screen",
    "speculation",
    "turn",
]
Figure: TypeAlias = float | int | str | None

_SUM_TOLERANCE: Final = 1e-3  # servers round to four decimals
_CUT_MASS: Final = 1e-5  # a row of top candidates that adds up to 1 this closely ...
_CUT_LOGP: Final = -9.2  # ... though its last one is as likely as 1e-4 was cut off, then rescaled
_CONTINUED_TOKENS: Final = 2  # one letter more, perhaps with a mark of its own
_CLOSED_TOKENS: Final = 4  # an end of turn, and a new opening
_WRONG: Final[Mapping[GateReason, str]] = {
    "no_evidence": "the reply has no log-probabilities",
    "length_mismatch": "they do not cover the answer token by token",
    "too_few_candidates": "there are fewer candidates than the gate needs",
    "masked": "some are masked (-inf or -9999): they come from after top-k or top-p",
    "non_finite": "some are not numbers",
    "unsorted": "they are not sorted",
    "constant": "all rivals are alike, which no model says",
    "zeroed": "chosen tokens have exactly 0.0 beside likely rivals",
    "not_greedy": "the chosen token is not the most probable one",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What came of one request: a generation, or an error, after so many seconds."""

    seconds: float
    generation: Generation | None = None
    error: SpecEyesError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wants:
    """What the funnel asks of an engine in this role.

    With fewer than `least_logprobs` top log-probabilities, or fewer than `least_pictures` in one
    prompt, it cannot do its work; with fewer than `logprobs` or `pictures` it does less of it.
    """

    role: EngineRole
    logprobs: int
    least_logprobs: int
    pictures: int
    least_pictures: int
    uses_stop: bool = False
    continues: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """What was measured on one engine; None and () stand for what was not.

    `logprobs`: (asked for, sample), most first; the last one is what the engine took.
    `stopped`: (stop string, sample). `pictures`: (how many, sample), most first.
    """

    name: str
    plain: Sample
    facts: Mapping[str, Figure] = field(default_factory=dict)
    picture: Sample | None = None
    other_picture: Sample | None = None
    logprobs: tuple[tuple[int, Sample], ...] = ()
    stopped: tuple[str, Sample] | None = None
    pictures: tuple[tuple[int, Sample], ...] = ()
    continued: Sample | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at on one engine; `mend` says what to do when it is not ok."""

    role: EngineRole
    subject: Subject
    status: Status
    told: str
    mend: str | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)


def read_engine(seen: Measures, wants: Wants) -> tuple[Finding, ...]:
    """Read all that was measured on one engine.

    An engine that cannot be reached has one finding: nothing else is known of it.
    """
    reach = find_reach(seen, wants)
    if reach.status == "failure":
        return (reach,)
    return (reach, *_capabilities(seen, wants))


def _capabilities(seen: Measures, wants: Wants) -> Iterator[Finding]:
    yield find_model(seen, wants)
    yield find_image(seen, wants)
    yield find_logprobs(seen, wants)
    yield find_rawness(seen, wants)
    if wants.pictures > 1:
        yield find_pictures(seen, wants)
    if wants.uses_stop:
        yield find_stop(seen, wants)
    if wants.role == "large":
        yield find_continuing(seen, wants)


def find_reach(seen: Measures, wants: Wants) -> Finding:
    """Does it answer at all?"""
    error = seen.plain.error
    if error is None:
        told = f"{seen.name} answers, {seen.plain.seconds:.2f} s"
        return Finding(wants.role, "reach", "ok", told, None, {"seconds": seen.plain.seconds})
    mend = "see that it runs, and that its address, key and model are right"
    return Finding(wants.role, "reach", "failure", str(error), mend)


def find_model(seen: Measures, wants: Wants) -> Finding:
    """Which model does it say it serves, and with which limits?"""
    if not seen.facts:
        return Finding(wants.role, "model", "unknown", f"{seen.name} does not say what it serves")
    told = ", ".join(f"{name} {value}" for name, value in seen.facts.items() if value is not None)
    return Finding(wants.role, "model", "ok", told, None, seen.facts)


def find_image(seen: Measures, wants: Wants) -> Finding:
    """Does a picture reach the model, rather than being refused or dropped on the way?"""
    sample = seen.picture
    if sample is None or sample.generation is None:
        told = "no picture was sent" if sample is None else f"refused: {sample.error}"
        mend = "serve a vision-language model, with its processor files beside the weights"
        return Finding(wants.role, "image", "failure", told, mend)
    tokens = _picture_tokens(seen)
    differs = _differs(sample, seen.other_picture)
    figures: dict[str, Figure] = {"picture_tokens": tokens}
    if differs is False or (tokens is not None and tokens <= 0):
        told = "accepted, but two unlike pictures are answered exactly alike"
        if tokens is not None and tokens <= 0:
            told = "accepted, but the prompt is no longer with a picture than without one"
        mend = "the picture is dropped before the model: check its chat template"
        return Finding(wants.role, "image", "failure", told, mend, figures)
    told = "accepted" if tokens is None else f"accepted, {tokens} tokens"
    return Finding(wants.role, "image", "ok", told, None, figures)


def find_logprobs(seen: Measures, wants: Wants) -> Finding:
    """How many top log-probabilities a token really arrive?"""
    arrived = _arrived(seen)
    figures: dict[str, Figure] = {"asked": wants.logprobs, "arrived": arrived}
    refused = next((s.error for _, s in seen.logprobs if s.error is not None), None)
    told = f"{arrived} of {wants.logprobs} arrive" + (f" ({refused})" if refused else "")
    subject: Subject = "top log-probabilities"
    if arrived >= wants.logprobs:
        return Finding(wants.role, subject, "ok", told, None, figures)
    mend = f"let the server give {wants.logprobs} (vLLM: --max-logprobs {wants.logprobs})"
    if wants.role == "large":
        mend += ', or screen by the small model (screen_by = "small")'
    if arrived >= wants.least_logprobs:
        return Finding(wants.role, subject, "warning", told, mend, figures)
    if arrived > 2:
        mend += f", or calibrate a gate with K of at most {arrived}"
    else:
        mend += "; without them nothing can be gated"
    return Finding(wants.role, subject, "failure", told, mend, figures)


def find_rawness(seen: Measures, wants: Wants) -> Finding:
    """Are they what the model said, before temperature, top-k and top-p?

    Rows of two answers are looked at, for one alone may be a single token long.
    """
    subject: Subject = "raw log-probabilities"
    answers = [sample.generation for sample in (seen.picture, seen.other_picture) if sample]
    told = [(said, said.evidence) for said in answers if said is not None and said.evidence]
    rows = [evidence.logp_topk for _, evidence in told if evidence.logp_topk.size > 0]
    if not rows:
        return Finding(wants.role, subject, "unknown", "none arrive, so nothing can be said")
    mass = [float(total) for _, evidence in told for total in _masses(evidence)]
    figures: dict[str, Figure] = {
        "rows": len(mass),
        "least_mass": _finite(min(mass)),
        "most_mass": _finite(max(mass)),
    }
    wrong = next((why for said, found in told if (why := _wrong_with(said, found))), None)
    if wrong is None and (any(_are_alike([one]) for one in rows) or _are_alike(rows)):
        wrong = "all rows are the same, which no model says"
    if wrong is not None:
        mend = (
            "let the server return raw ones (vLLM: --logprobs-mode raw_logprobs), "
            "without speculative decoding"
        )
        return Finding(wants.role, subject, "failure", wrong, mend, figures)
    summed = f"{len(mass)} rows, summing to at most {max(mass):.4f}"
    if len(mass) < 2:
        return Finding(wants.role, subject, "unknown", f"{summed}: too few to compare")
    return Finding(wants.role, subject, "ok", f"{summed}, not all alike", None, figures)


def find_pictures(seen: Measures, wants: Wants) -> Finding:
    """How many pictures may stand in one prompt?"""
    most = max((count for count, s in seen.pictures if s.generation is not None), default=0)
    if most == 0 and seen.picture is not None and seen.picture.generation is not None:
        most = 1
    figures: dict[str, Figure] = {"wanted": wants.pictures, "taken": most}
    subject: Subject = "images per prompt"
    told = f"{most} of {wants.pictures}"
    if most >= wants.pictures:
        return Finding(wants.role, subject, "ok", told, None, figures)
    error = next((s.error for _, s in seen.pictures if s.error is not None), None)
    told += f" ({error})" if error is not None else ""
    limit = f'{{"image": {wants.pictures}}}'
    mend = f"allow more (vLLM: --limit-mm-per-prompt '{limit}'), or set max_pictures to {most}"
    status: Status = "warning" if most >= wants.least_pictures else "failure"
    return Finding(wants.role, subject, status, told, mend, figures)


def find_stop(seen: Measures, wants: Wants) -> Finding:
    """Does a stop string end a turn, and stand at its end?"""
    subject: Subject = "stop strings"
    if seen.stopped is None:
        told = "the answers were too short to try"
        return Finding(wants.role, subject, "unknown", told)
    stop, sample = seen.stopped
    said = sample.generation
    if said is None:
        mend = "the agent's turns will not end where they should; use a server that takes stop"
        return Finding(wants.role, subject, "failure", f"refused: {sample.error}", mend)
    if said.stop_string == stop and said.text.endswith(stop):
        return Finding(wants.role, subject, "ok", "end a turn, and stay in its text")
    told = f"asked to stop at {stop!r}, it said {said.text[-40:]!r} ({said.finish})"
    mend = "turns go on past their end, at a cost in time; use a server that honours stop"
    return Finding(wants.role, subject, "warning", told, mend)


def find_continuing(seen: Measures, wants: Wants) -> Finding:
    """Is the assistant's own last message gone on with, not answered?

    A server that ignores the wish closes the message and opens another one: its prompt grows by
    more than the words that were put into the model's mouth.
    """
    subject: Subject = "continue_final_message"
    bad: Status = "failure" if wants.continues else "warning"
    use = "this protocol" if wants.continues else "protocols that write into the model's own turn"
    mend = f"{use} cannot work here; serve the model with vLLM or SGLang"
    said = seen.continued.generation if seen.continued is not None else None
    if said is None:
        error = None if seen.continued is None else seen.continued.error
        return Finding(wants.role, subject, bad, f"refused: {error}", mend)
    grown = _grown(seen.picture, seen.continued)
    if grown is None or _CONTINUED_TOKENS < grown < _CLOSED_TOKENS:
        return Finding(wants.role, subject, "unknown", "accepted; whether it was heeded is unclear")
    if grown >= _CLOSED_TOKENS:
        return Finding(wants.role, subject, bad, "accepted, but ignored", mend)
    return Finding(wants.role, subject, "ok", "the message is gone on with")


def _wrong_with(said: Generation, evidence: Evidence) -> str | None:
    """Say what shows that these are not raw log-probabilities, or None."""
    # Ends that were cut off are meant here, and so is any number of candidates.
    whole = replace(said, finish="stop", text=said.text or "-")
    columns = evidence.logp_topk.shape[1] if evidence.logp_topk.ndim == 2 else 0
    if columns >= 3:
        reason = check_evidence(whole, GateSpec(threshold=0.0, k=columns))
        if reason is not None and reason in _WRONG:
            return _WRONG[reason]
    mass = _masses(evidence)
    if (mass > 1.0 + _SUM_TOLERANCE).any():
        return f"a row's probabilities add up to {mass.max():.3f}: these are not log-probabilities"
    rows = evidence.logp_topk
    is_cut = (np.abs(mass - 1.0) < _CUT_MASS) & (rows[:, -1] > _CUT_LOGP)
    if len(rows) > 0 and columns >= 3 and is_cut.all():
        return "the candidates alone add up to 1: rescaled after the others were cut off"
    return None


def _are_alike(answers: Sequence[npt.NDArray[np.float32]]) -> bool:
    width = min(rows.shape[1] for rows in answers)
    rows = np.concatenate([rows[:, :width] for rows in answers])  # (T, K)
    return len(rows) > 1 and bool((np.ptp(rows, axis=0) == 0.0).all())


def _finite(mass: float) -> Figure:
    return mass if math.isfinite(mass) else None


def _masses(evidence: Evidence) -> npt.NDArray[np.float64]:
    if evidence.logp_topk.ndim != 2:
        return np.empty(0)
    mass: npt.NDArray[np.float64] = np.exp(evidence.logp_topk.astype(np.float64)).sum(axis=1)
    return mass  # (T,)


def _arrived(seen: Measures) -> int:
    rows = [
        s.generation.evidence.logp_topk.shape[1]
        for _, s in seen.logprobs
        if s.generation is not None
        and s.generation.evidence is not None
        and s.generation.evidence.logp_topk.ndim == 2
        and len(s.generation.evidence.logp_topk) > 0
    ]
    return max(rows, default=0)


def _picture_tokens(seen: Measures) -> int | None:
    return _grown(seen.plain, seen.picture)


def _grown(before: Sample | None, after: Sample | None) -> int | None:
    """Say how many prompt tokens one request has more than another; None: not reported."""
    counts = [
        sample.generation.usage.prompt_tokens
        for sample in (before, after)
        if sample is not None and sample.generation is not None
    ]
    return counts[1] - counts[0] if len(counts) == 2 and min(counts) > 0 else None


def _differs(one: Sample, other: Sample | None) -> bool | None:
    """Say if two pictures got unlike answers; None: there is no evidence to tell by."""
    if one.generation is None or other is None or other.generation is None:
        return None
    if one.generation.evidence is None or other.generation.evidence is None:
        return None
    return one.generation.evidence != other.generation.evidence
