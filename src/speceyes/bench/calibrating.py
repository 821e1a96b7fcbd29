"""Runs, and what shadows kept, become a certified gate here: chosen on them, checked on others.

It refuses to know files, and runs nothing. Only what was made with the same models, prompts and
screen may be put together, for a threshold is valid for those alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, TypeAlias

from speceyes.bench.comparison import compare
from speceyes.bench.folder import Run
from speceyes.bench.looks import LookTrial, look_trials_of, observe_looks
from speceyes.bench.shadows import Shadows, setup_of_run, trials_seen
from speceyes.bench.trials import Trial, observe, trials_of
from speceyes.calibration.bounds import Estimate, estimate
from speceyes.calibration.certificate import (
    RISKS,
    Certificate,
    Certified,
    Risk,
    Source,
)
from speceyes.calibration.drift import reference_of
from speceyes.calibration.isotonic import fit
from speceyes.calibration.thresholds import FOLDS, Choice, Observed, choose, cross_fitted
from speceyes.calibration.two_gates import (
    METHOD_OF_TWO,
    ChoiceOfTwo,
    Gates,
    Looked,
    choose_two,
    cross_fitted_two,
)
from speceyes.engine_names import model_of
from speceyes.errors import ConfigError
from speceyes.gate import Aggregation, Definition, GateSpec
from speceyes.shadow.records import Setup
from speceyes.specs import gate_id

Kept: TypeAlias = Run | Shadows
"""What a gate can be calibrated on: a run of a suite, or traffic that a shadow observed."""
By: TypeAlias = Literal["label", "agreement"]

BYS: Final[tuple[By, ...]] = ("label", "agreement")
_FOLDED: Final = f"{FOLDS} folds of the same items"


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


def calibrate(kept: Sequence[Kept], wish: Wish, *, others: Sequence[Kept] = ()) -> Certified:
    """Choose a threshold on what was kept, and check it on others, or else fold by fold on it.

    By "label" the risk is what is lost against the agent, or, where it was not run alone, what is
    accepted and wrong; by "agreement" what is accepted and not the agent's answer, which is all
    that a shadow knows of. Where the small model could look closer, a threshold for each of its two
    gates is chosen, and the risk is that of both together.
    Raises: ConfigError if they do not go together, or lack a method or labels; RunFolderError if no
    run has a record.
    """
    setup = _same([setup for one in [*kept, *others] for setup in _setups(one)])
    if setup.depth:
        return _calibrate_two(kept, wish, setup, others=others)
    trials = _trials(kept)
    risk = _risk(trials, wish.by)
    spec = spec_for(setup, wish)
    observed = observe(trials, spec, risk)
    choice = choose(observed, spec, max_loss=wish.max_loss, confidence=wish.confidence)
    certificate = _certificate(trials, observed, choice, wish=wish, risk=risk, setup=setup)
    if not others:
        return Certified(choice.spec, certificate)
    fresh = _fresh(_trials(others), trials)
    held_out = observe(fresh, choice.spec, risk).risk(choice.spec, confidence=wish.confidence)
    named = ", ".join(dict.fromkeys(other.name for other in others))
    checked = replace(certificate, held_out=held_out, held_out_on=named)
    return Certified(choice.spec, checked)


def _trials(kept: Sequence[Kept]) -> list[Trial]:
    runs = [one for one in kept if isinstance(one, Run)]
    found = trials_of(compare(runs)) if runs else []
    for one in kept:
        if isinstance(one, Shadows):
            found += _fresh_of(trials_seen(one), found)
    return found


def _setups(one: Kept) -> list[Setup]:
    if isinstance(one, Run):
        return [setup_of_run(one.manifest)]
    return [record.setup for record in one.records.values()]


def spec_for(setup: Setup, wish: Wish) -> GateSpec:
    """Give the gate that is looked for, but for its threshold, with all that makes it valid."""
    own = setup.gate
    aggregation = wish.aggregation or own.aggregation
    return replace(
        own,
        k=wish.k or own.k,
        definition=wish.definition or own.definition,
        aggregation=aggregation,
        scale="raw" if aggregation == "log" else own.scale,
        threshold=0.0,
        small_model=model_of(setup.small, role="small") or setup.small,
        large_model=model_of(setup.large, role="large") or setup.large,
        prompt_id=setup.prompts.get("speculate"),
        depth=setup.depth,
    )


def _calibrate_two(
    kept: Sequence[Kept], wish: Wish, setup: Setup, *, others: Sequence[Kept]
) -> Certified:
    _check_terms(wish)
    spec = replace(spec_for(setup, wish), threshold=setup.gate.threshold)
    own = Gates(spec, _closer_gate(kept, spec))
    trials = _look_trials(kept, setup.depth)
    risk = _risk([trial.item for trial in trials], wish.by)
    observed = observe_looks(trials, own, risk, depth=setup.depth)
    sure = {"max_loss": wish.max_loss, "confidence": wish.confidence}
    choice = choose_two(observed, own, **sure)
    held_out, held_out_on = cross_fitted_two(observed, own, **sure), _FOLDED
    if others:
        more = _look_trials(others, setup.depth)
        fresh = {one.identity for one in _fresh([t.item for t in more], [t.item for t in trials])}
        more = [trial for trial in more if trial.item.identity in fresh]
        checked = observe_looks(more, own, risk, depth=setup.depth)
        held_out = checked.risk(choice.gates, confidence=wish.confidence)
        held_out_on = ", ".join(dict.fromkeys(other.name for other in others))
    seen = _Two(trials, observed, choice, risk)
    certificate = _certificate_of_two(seen, wish=wish, setup=setup)
    certificate = replace(certificate, held_out=held_out, held_out_on=held_out_on)
    return Certified(choice.gates.first, certificate, choice.gates.closer)


@dataclass(frozen=True, slots=True)
class _Two:
    """What two gates were chosen on, and what came of it."""

    trials: Sequence[LookTrial]
    observed: Looked
    choice: ChoiceOfTwo
    risk: Risk


def _certificate_of_two(seen: _Two, *, wish: Wish, setup: Setup) -> Certificate:
    choice, first = seen.choice, seen.observed.first
    items = [trial.item for trial in seen.trials]
    at_first = Choice(
        spec=choice.gates.first,
        failures=choice.failures,
        accepted=choice.at_first,
        count=choice.count,
        bound=choice.bound,
        needed=choice.needed,
    )
    made = _certificate(items, first, at_first, wish=wish, risk=seen.risk, setup=setup)
    beside = {
        other: observe_looks(seen.trials, choice.gates, other, depth=setup.depth).risk(choice.gates)
        for other in _measured(items, seen.risk)
    }
    return replace(
        made,
        gate_id=gate_id(choice.gates.first, choice.gates.closer),
        accepted=estimate(choice.accepted, choice.count),
        closer_accepted=estimate(choice.closer, choice.count),
        beside=beside,
        reference=None,  # scores of two gates are no one distribution
        method=METHOD_OF_TWO,
    )


def _check_terms(wish: Wish) -> None:
    for name in ("k", "definition", "aggregation"):
        if getattr(wish, name) is not None:
            raise ConfigError(
                name,
                "is for runs of depth 0: which looks a run has depends on its gates; leave it out",
            )


def _closer_gate(kept: Sequence[Kept], spec: GateSpec) -> GateSpec:
    manifests = [run.manifest for run in _runs(kept)]
    found = [(manifest.gate, manifest.closer_gate or manifest.gate) for manifest in manifests]
    if any(gates != found[0] for gates in found[1:]):
        raise ConfigError(
            "run",
            "runs differ in their gates, on which looks depend; give alike ones, or each alone",
        )
    return replace(
        found[0][1],
        small_model=spec.small_model,
        large_model=spec.large_model,
        prompt_id=spec.prompt_id,
        depth=spec.depth,
    )


def _look_trials(kept: Sequence[Kept], depth: int) -> list[LookTrial]:
    return look_trials_of(compare(_runs(kept)), depth=depth)


def _runs(kept: Sequence[Kept]) -> list[Run]:
    for one in kept:
        if not isinstance(one, Run):
            raise ConfigError("run", f"{one.name} is a shadow's, which keeps no looks; give runs")
    return [one for one in kept if isinstance(one, Run)]


def _certificate(
    trials: Sequence[Trial],
    observed: Observed,
    choice: Choice,
    *,
    wish: Wish,
    risk: Risk,
    setup: Setup,
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
        held_out_on=_FOLDED,
        alpha=estimate(choice.accepted, screened),
        beta=estimate(screened, choice.count),
        accepted=estimate(choice.accepted, choice.count),
        beside=_beside(trials, choice.spec, risk),
        reading=fit(observed.scores[legible], observed.failed[legible]),
        sources=tuple(Source(*named, items=size) for named, size in sizes.items()),
        protocol=setup.protocol,
        prompts=dict(setup.prompts),
        made_at=wish.made_at,
        version=wish.version,
        reference=reference_of(observed.scores[legible].tolist()) if legible.any() else None,
    )


def _beside(trials: Sequence[Trial], spec: GateSpec, risk: Risk) -> dict[Risk, Estimate]:
    return {other: observe(trials, spec, other).risk(spec) for other in _measured(trials, risk)}


def _measured(trials: Sequence[Trial], risk: Risk) -> list[Risk]:
    measured: dict[Risk, bool] = {
        "lost": all(None not in {t.agent_maybe_right, t.small_right} for t in trials),
        "wrong": all(t.small_right is not None for t in trials),
        "differs": all(t.agrees is not None for t in trials),
    }
    return [other for other in RISKS if other != risk and measured[other]]


def _risk(trials: Sequence[Trial], by: By) -> Risk:
    if by == "agreement":
        return "differs"
    has_agent = all(trial.agent_maybe_right is not None for trial in trials)
    return "lost" if has_agent else "wrong"


def _fresh(others: Sequence[Trial], trials: Sequence[Trial]) -> list[Trial]:
    fresh = _fresh_of(others, trials)
    if not fresh:
        raise ConfigError("check", "holds no item but those the gate is chosen on; give others")
    return fresh


def _fresh_of(others: Sequence[Trial], trials: Sequence[Trial]) -> list[Trial]:
    seen = {trial.identity for trial in trials}
    return [trial for trial in others if trial.identity not in seen]


def _same(setups: Sequence[Setup]) -> Setup:
    told = [_decisive(setup) for setup in setups]
    for key, value in told[0].items():
        for other in told[1:]:
            if other[key] != value:
                raise ConfigError(
                    "run",
                    f"runs differ in {key}: {value} and {other[key]}; a threshold is valid for "
                    "one of them, so calibrate each alone",
                )
    return setups[0]


def _decisive(setup: Setup) -> dict[str, Any]:
    return {
        field.name: getattr(setup, field.name) for field in fields(Setup) if field.name != "gate"
    }
