"""The gate reads how far each answer token stands above its rivals, and decides if that will do.

It refuses to know models, prompts and time: arrays in, a verdict out. It never raises on evidence
that came from an engine; whatever cannot be scored soundly is rejected with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, assert_never, overload

import numpy as np
import numpy.typing as npt

from speceyes.errors import ConfigError, GateInputError
from speceyes.types import Evidence, FloatArray, Generation

Definition: TypeAlias = Literal["rivals", "all"]
Aggregation: TypeAlias = Literal["min", "mean", "bottom", "log"]
Scale: TypeAlias = Literal["raw", "squashed"]
GateReason: TypeAlias = Literal[
    "accepted",
    "below_threshold",
    "truncated",  # cut off by the token limit: not fully scored
    "empty_answer",
    "no_evidence",  # missing or empty
    "length_mismatch",  # evidence does not cover the answer token by token
    "too_few_candidates",  # fewer than the spec's K
    "masked",  # -inf or -9999: processed, not raw, log-probabilities
    "non_finite",
    "unsorted",
    "constant",  # rivals without spread: no model says that
    "zeroed",  # exactly 0.0 where that cannot be: corrupted by the engine
    "not_greedy",  # the chosen token is not the top one
]

SQUASH_SLOPE: Final = 0.6
EPS: Final = 1e-6
_LEAST_K: Final[Mapping[Definition, int]] = {"rivals": 3, "all": 2}
_MASKED_LOGP: Final = -9000.0  # engines write -9999 for what they masked
_CONSTANT_SPREAD: Final = 1e-4  # nats; below it, eps and rounding decide the score
_GREEDY_TOLERANCE: Final = 1e-3  # nats; ties, and servers that round
_ZERO_RIVAL_LOGP: Final = -9.0  # nats; see _is_zeroed
_SURE_RIVAL_LOGP: Final = -15.0


@dataclass(frozen=True, slots=True)
class GateSpec:
    """Carry a threshold together with all that makes it valid; it never travels without this.

    `definition`: mean and std over the K-1 "rivals" (reference code) or "all" K (paper's text).
    `scale`: the aggregate as it is, or sigmoid(0.6 * s) of it. `strict`: compare with >, else >=.
    The next four say where it was calibrated; None means not recorded. `depth`: how often the small
    model might look closer there; a risk that was stated is that of all its answers together.
    Raises: ConfigError naming the field.
    """

    threshold: float
    k: int
    definition: Definition = "rivals"
    aggregation: Aggregation = "min"
    scale: Scale = "raw"
    strict: bool = True
    bottom_share: float = 0.2
    small_model: str | None = None
    large_model: str | None = None
    prompt_id: str | None = None
    engine: str | None = None
    depth: int = 0

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ConfigError("gate.depth", f"{self.depth} is below 0; nobody looks so often")
        least = _LEAST_K[self.definition]
        if self.k < least:
            raise ConfigError("gate.k", f"{self.k} is below {least}; no spread can be measured")
        if math.isnan(self.threshold):
            raise ConfigError("gate.threshold", "is not a number; calibrate again")
        if not 0.0 < self.bottom_share <= 1.0:
            raise ConfigError("gate.bottom_share", f"{self.bottom_share} is not in 0 < share <= 1")
        if self.aggregation == "log" and self.scale == "squashed":
            raise ConfigError("gate.scale", "log is a probability already; set scale to raw")

    @overload
    def passes(self, score: float) -> bool: ...

    @overload
    def passes(self, score: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]: ...

    def passes(self, score: Any) -> Any:
        """Say if a score is above the threshold, or reaches it where `strict` is not set.

        >>> GateSpec(threshold=4.0, k=16).passes(4.0)
        False
        """
        return score > self.threshold if self.strict else score >= self.threshold


PAPER: Final = GateSpec(threshold=0.98, k=64, scale="squashed")
"""The published setting: reference definition, K = 64, min, squashed, strictly above .98."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Say if the gate let an answer pass, and why. `score` None: the evidence was not scored."""

    accepted: bool
    score: float | None
    reason: GateReason
    spec: GateSpec

    @property
    def threshold(self) -> float:
        """The spec's threshold, in the spec's scale."""
        return self.spec.threshold


def token_separability(
    logp_topk: FloatArray, *, definition: Definition = "rivals", eps: float = EPS
) -> npt.NDArray[np.float64]:
    """Measure how far each chosen token stands above its rivals.

    s_t = (z_1 - mean(Z)) / (std(Z) + eps), population std; Z is z_2..z_K ("rivals", the reference
    code) or z_1..z_K ("all", the paper's text).
    Shapes: logp_topk (T, K), rows descending; returns (T,). Units: nats in, dimensionless out.
    Invariants: adding a constant to a row, or scaling it, changes nothing (up to eps), so
    log-probabilities serve as logits. s depends strongly on K.
    Source: arXiv 2603.23483 section 3.3; reference eval_code_deepeyes/utils.py::token_separability.
    Raises: GateInputError if the array is not (T, K) with K >= 3 ("all": 2), or not finite.

    >>> token_separability(np.array([[3.0, 1.0, 0.0, -1.0]])).round(4).tolist()
    [3.6742]
    """
    rows = np.asarray(logp_topk, dtype=np.float64)  # (T, K) float64, descending
    least = _LEAST_K[definition]
    if rows.ndim != 2 or rows.shape[1] < least:
        raise GateInputError(f"shape {rows.shape} is not (T, K) with K >= {least} ({definition})")
    if not np.isfinite(rows).all():
        raise GateInputError("a log-probability is not finite; the row has no separability")
    field = _measured(rows, definition)
    separability: npt.NDArray[np.float64] = (rows[:, 0] - field.mean(axis=1)) / (
        field.std(axis=1) + eps
    )
    return separability


def squash(score: float) -> float:
    """Press a separability into 0..1: sigmoid(0.6 * s).

    Source: reference eval_code_deepeyes/utils.py::answer_separability.
    """
    return float(np.exp(-np.logaddexp(0.0, -SQUASH_SLOPE * score)))


def aggregate(
    separability: FloatArray,
    aggregation: Literal["min", "mean", "bottom"],
    *,
    bottom_share: float = 0.2,
) -> float:
    """Make one score of an answer's tokens: the worst, the mean, or the mean of the worst few.

    Shapes: separability (T,). Invariants: min <= bottom <= mean; bottom takes at least one token.
    Raises: GateInputError if there is no token.
    """
    if separability.size == 0:
        raise GateInputError("no token, so no score; reject the answer instead")
    match aggregation:
        case "min":
            return float(separability.min())
        case "mean":
            return float(separability.mean())
        case "bottom":
            count = max(1, int(bottom_share * separability.size))
            return float(np.sort(separability)[:count].mean())
        case _:
            assert_never(aggregation)


def score(evidence: Evidence, spec: GateSpec) -> float:
    """Score sound evidence in the spec's scale; `log` is exp(mean log p) of the chosen tokens.

    Raises: GateInputError on evidence that has no score; `judge` rejects it instead.
    """
    if spec.aggregation == "log":
        if evidence.logp_chosen.size == 0:
            raise GateInputError("no token, so no score; reject the answer instead")
        return float(np.exp(evidence.logp_chosen.astype(np.float64).mean()))
    separability = token_separability(evidence.logp_topk[:, : spec.k], definition=spec.definition)
    raw = aggregate(separability, spec.aggregation, bottom_share=spec.bottom_share)
    return squash(raw) if spec.scale == "squashed" else raw


def scores_all(
    generation: Generation,
    *,
    k: int,
    definition: Definition = "rivals",
    bottom_share: float = 0.2,
) -> dict[Aggregation, float] | None:
    """Score one answer by all four aggregations, raw, for sweeps; None if it cannot be scored."""
    spec = GateSpec(threshold=0.0, k=k, definition=definition, bottom_share=bottom_share)
    evidence = generation.evidence
    if evidence is None or check_evidence(generation, spec) is not None:
        return None
    separability = token_separability(evidence.logp_topk[:, :k], definition=definition)
    return {
        "min": aggregate(separability, "min"),
        "mean": aggregate(separability, "mean"),
        "bottom": aggregate(separability, "bottom", bottom_share=bottom_share),
        "log": float(np.exp(evidence.logp_chosen.astype(np.float64).mean())),
    }


def check_evidence(generation: Generation, spec: GateSpec) -> GateReason | None:
    """Say why a generation cannot be scored soundly, or None if it can. Never raises.

    Of evidence with more than the spec's K candidates the first K are looked at.
    """
    if generation.finish == "length":
        return "truncated"
    if generation.token_count == 0 or not generation.text.strip():
        return "empty_answer"
    if generation.evidence is None:
        return "no_evidence"
    if not _covers(generation.evidence, generation.token_count):
        return "length_mismatch"
    if generation.evidence.logp_topk.shape[1] < spec.k:
        return "too_few_candidates"
    return _check_rows(generation.evidence, spec)


def judge(generation: Generation, spec: GateSpec) -> Verdict:
    """Accept an answer that scores above the spec's threshold; reject all else, with the reason.

    Invariants: never raises on what an engine sent; unsound evidence is never accepted.
    """
    unsound = check_evidence(generation, spec)
    if unsound is not None or generation.evidence is None:
        return Verdict(accepted=False, score=None, reason=unsound or "no_evidence", spec=spec)
    value = score(generation.evidence, spec)
    accepted = spec.passes(value)
    reason: GateReason = "accepted" if accepted else "below_threshold"
    return Verdict(accepted=accepted, score=value, reason=reason, spec=spec)


def _measured(rows: npt.NDArray[np.float64], definition: Definition) -> npt.NDArray[np.float64]:
    return rows[:, 1:] if definition == "rivals" else rows


def _covers(evidence: Evidence, token_count: int) -> bool:
    topk, chosen = evidence.logp_topk, evidence.logp_chosen
    return topk.ndim == 2 and chosen.ndim == 1 and len(topk) == len(chosen) == token_count


def _check_rows(evidence: Evidence, spec: GateSpec) -> GateReason | None:
    rows = evidence.logp_topk[:, : spec.k].astype(np.float64)  # (T, K) float64
    chosen = evidence.logp_chosen.astype(np.float64)  # (T,)
    return _check_values(np.concatenate([rows.ravel(), chosen])) or _check_order(rows, chosen, spec)


def _check_values(values: npt.NDArray[np.float64]) -> GateReason | None:
    if np.isnan(values).any() or np.isposinf(values).any():
        return "non_finite"
    return "masked" if (values <= _MASKED_LOGP).any() else None


def _check_order(
    rows: npt.NDArray[np.float64], chosen: npt.NDArray[np.float64], spec: GateSpec
) -> GateReason | None:
    if (np.diff(rows, axis=1) > 0).any():
        return "unsorted"
    if _is_zeroed(rows, chosen):
        return "zeroed"
    if (np.abs(chosen - rows[:, 0]) > _GREEDY_TOLERANCE).any():
        return "not_greedy"
    field = _measured(rows, spec.definition)
    spread = field.max(axis=1) - field.min(axis=1)  # (T,)
    return "constant" if (spread < _CONSTANT_SPREAD).any() else None


def _is_zeroed(rows: npt.NDArray[np.float64], chosen: npt.NDArray[np.float64]) -> bool:
    # Speculative decoding inside an engine can report 0.0 for every token (llama.cpp #27972). Yet
    # a sure token's log-probability truly rounds to 0.0: in float32 when its rivals together hold
    # less than 6e-8 (log: -16.6), on a server that rounds to 4 decimals below 5e-5 (-9.9). A
    # likelier rival than that beside a certainty contradicts it, and so does a top candidate that
    # is not 0.0 itself. Where *every* token is 0.0, as that defect has it, rounding to a few
    # decimals is no excuse either: each must be as sure as float32 asks.
    zero, rival = chosen == 0.0, rows[:, 1]
    contradicted = (zero & ((rival > _ZERO_RIVAL_LOGP) | (rows[:, 0] != 0.0))).any()
    return bool(contradicted or (zero.all() and (rival > _SURE_RIVAL_LOGP).any()))
