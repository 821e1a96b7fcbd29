"""Runs become a certified gate here: chosen on their items, checked on others.

It refuses to know files, and runs nothing. Only runs of the same models, prompts and screen may be
put together, for a threshold is valid for those alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from speceyes.bench.comparison import compare
from speceyes.bench.folder import Run
from speceyes.bench.manifest import Manifest, check_first_sight
from speceyes.bench.trials import Trial, observe, trials_of
from speceyes.calibration.bounds import Estimate, estimate
from speceyes.calibration.certificate import (
    RISKS,
    Certificate,
    Certified,
    Risk,
    Source,
)
from speceyes.calibration.isotonic import fit
from speceyes.calibration.thresholds import FOLDS, Choice, Observed, choose, cross_fitted
from speceyes.engine_names import model_of
from speceyes.errors import ConfigError
from speceyes.gate import Aggregation, Definition, GateSpec
from speceyes.specs import gate_id

By: TypeAlias = Literal["label", "agreement"]

BYS: Final[tuple[By, ...]] = ("label", "agreement")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for: how much may be lost, how sure, told by what; None: as the runs' gate.

    `made_at` and `version` are written down as they are.
    """

    max_loss: float
    confidence: float = 0.95
    by: By = "label"
    k: int | None = None
    definition: Definition | None = None
    aggregation: Aggregation | None = None
    made_at: str
    version: str


def calibrate(runs: Sequence[Run], wish: Wish, *, others: Sequence[Run] = ()) -> Certified:
    """Choose a threshold on some runs, and check it on others, or else fold by fold on the same.

    By "label" the risk is what is lost against the agent, or, where it was not run alone, what is
    accepted and wrong; by "agreement" what is accepted and not the agent's answer.
    Raises: ConfigError if runs do not go together or lack a method; RunFolderError if none has a
    record.
    """
    manifest = _same([run.manifest for run in [*runs, *others]])
    check_first_sight([manifest])
    trials = trials_of(compare(runs))
    risk = _risk(trials, wish.by)
    spec = spec_for(manifest, wish)
    observed = observe(trials, spec, risk)
    choice = choose(observed, spec, max_loss=wish.max_loss, confidence=wish.confidence)
    certificate = _certificate(trials, observed, choice, wish=wish, risk=risk, manifest=manifest)
    if not others:
        return Certified(choice.spec, certificate)
    fresh = _fresh(trials_of(compare(others)), trials)
    held_out = observe(fresh, choice.spec, risk).risk(choice.spec, confidence=wish.confidence)
    named = ", ".join(dict.fromkeys(run.name for run in others))
    checked = replace(certificate, held_out=held_out, held_out_on=named)
    return Certified(choice.spec, checked)


def spec_for(manifest: Manifest, wish: Wish) -> GateSpec:
    """Give the gate that is looked for, but for its threshold, with all that makes it valid."""
    own = manifest.gate
    aggregation = wish.aggregation or own.aggregation
    return replace(
        own,
        k=wish.k or own.k,
        definition=wish.definition or own.definition,
        aggregation=aggregation,
        scale="raw" if aggregation == "log" else own.scale,
        threshold=0.0,
        small_model=model_of(manifest.small, role="small") or manifest.small,
        large_model=model_of(manifest.large, role="large") or manifest.large,
        prompt_id=manifest.prompts.get("speculate"),
    )


def _certificate(
    trials: Sequence[Trial],
    observed: Observed,
    choice: Choice,
    *,
    wish: Wish,
    risk: Risk,
    manifest: Manifest,
) -> Certificate:
    screened = sum(trial.is_screened for trial in trials)
    sizes = Counter((trial.suite, trial.checksum) for trial in trials)
    sure = {"max_loss": wish.max_loss, "confidence": wish.confidence}
    legible = observed.may_pass
    return Certificate(
        gate_id=gate_id(choice.spec),
        risk=risk,
        max_loss=wish.max_loss,
        confidence=wish.confidence,
        count=choice.count,
        failures=choice.failures,
        bound=choice.bound,
        needed=choice.needed,
        held_out=cross_fitted(observed, choice.spec, **sure),
        held_out_on=f"{FOLDS} folds of the same items",
        alpha=estimate(choice.accepted, screened),
        beta=estimate(screened, choice.count),
        accepted=estimate(choice.accepted, choice.count),
        beside=_beside(trials, choice.spec, risk),
        reading=fit(observed.scores[legible], observed.failed[legible]),
        sources=tuple(Source(*named, items=size) for named, size in sizes.items()),
        protocol=manifest.protocol,
        prompts=dict(manifest.prompts),
        made_at=wish.made_at,
        version=wish.version,
    )


def _beside(trials: Sequence[Trial], spec: GateSpec, risk: Risk) -> dict[Risk, Estimate]:
    has_agent = all(trial.agent_maybe_right is not None for trial in trials)
    others = [other for other in RISKS if other != risk and (has_agent or other == "wrong")]
    return {other: observe(trials, spec, other).risk(spec) for other in others}


def _risk(trials: Sequence[Trial], by: By) -> Risk:
    if by == "agreement":
        return "differs"
    has_agent = all(trial.agent_maybe_right is not None for trial in trials)
    return "lost" if has_agent else "wrong"


def _fresh(others: Sequence[Trial], trials: Sequence[Trial]) -> list[Trial]:
    seen = {(trial.checksum, trial.item_id) for trial in trials}
    fresh = [trial for trial in others if (trial.checksum, trial.item_id) not in seen]
    if not fresh:
        raise ConfigError("check", "holds no item but those the gate is chosen on; give other runs")
    return fresh


def _same(manifests: Sequence[Manifest]) -> Manifest:
    told = [_decisive(manifest) for manifest in manifests]
    for key, value in told[0].items():
        for other in told[1:]:
            if other[key] != value:
                raise ConfigError(
                    "run",
                    f"runs differ in {key}: {value} and {other[key]}; a threshold is valid for "
                    "one of them, so calibrate each alone",
                )
    return manifests[0]


def _decisive(manifest: Manifest) -> dict[str, Any]:
    return {
        "small": manifest.small,
        "large": manifest.large,
        "protocol": manifest.protocol,
        "prompts": dict(manifest.prompts),
        "screen": manifest.screen,
        "screen_by": manifest.settings.screen_by,
        "max_answer_tokens": manifest.settings.max_answer_tokens,
        "depth": manifest.settings.depth,
    }
