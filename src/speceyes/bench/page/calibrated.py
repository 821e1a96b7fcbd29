"""A certified gate is laid out here: what is certain, how it holds on a run, how scores are read.

It refuses to know markup. A gate that speaks of other models than the run's is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from speceyes.bench.comparison import Comparison
from speceyes.bench.looks import look_trials_of, observe_looks
from speceyes.bench.page.axes import Axis, score_axis, steps_along
from speceyes.bench.page.curves import ENDS, Chart, Line, Panel
from speceyes.bench.trials import observe, trials_of
from speceyes.calibration.bounds import Estimate, estimate
from speceyes.calibration.certificate import RISKS, Certified
from speceyes.calibration.isotonic import Reading
from speceyes.calibration.thresholds import Floats, Observed
from speceyes.calibration.two_gates import Gates
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec

_HEIGHT: Final = (236.0, 26.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A certified gate beside a run: the risk and the shares that it has, or would have, there.

    `is_fresh`: the run had no part in choosing the gate. `is_own`: the run was gated by it.
    """

    certified: Certified
    failure: str
    is_fresh: bool
    is_own: bool
    risk: Estimate
    alpha: Estimate
    accepted: Estimate
    reading: Chart | None

    @property
    def holds(self) -> bool:
        """Whether what was seen does not contradict the bound."""
        return self.risk.low <= self.certified.certificate.max_loss


def holding_of(comparison: Comparison, gates: Sequence[Certified]) -> tuple[Holding, ...]:
    """Lay out how each gate holds on a suite's runs; without what it takes to say so, not."""
    found = []
    for certified in gates:
        if _speaks_of(comparison, certified):
            try:
                found.append(_holding(comparison, certified))
            except ConfigError:  # the runs lack a method that it takes
                continue
    return tuple(found)


def _speaks_of(comparison: Comparison, certified: Certified) -> bool:
    # Where the small model looked closer, only what the run's own two gates came to is known.
    manifests = [run.manifest for run in comparison.runs]
    prompts = [manifest.prompts.get("speculate") for manifest in manifests]
    depths = {manifest.settings.depth for manifest in manifests}
    if depths != {certified.gate.depth}:
        return False
    own = {(_bare(manifest.gate), _bare(manifest.closer_gate)) for manifest in manifests}
    is_own = own == {(_bare(certified.gate), _bare(certified.closer_gate))}
    return certified.gate.prompt_id in {None, *prompts} and (depths == {0} or is_own)


def _bare(gate: GateSpec | None) -> GateSpec | None:
    return None if gate is None else replace(gate, engine=None)


def _holding(comparison: Comparison, certified: Certified) -> Holding:
    if certified.closer_gate is not None:
        return _holding_of_two(comparison, certified, certified.closer_gate)
    gate, told = certified.gate, certified.certificate
    trials = trials_of([comparison])
    observed = observe(trials, gate, told.risk)
    accepted = int(observed.accepted(gate).sum())
    screened = sum(trial.is_screened for trial in trials)
    own = [replace(run.manifest.gate, engine=gate.engine) for run in comparison.runs]
    return Holding(
        certified=certified,
        failure=RISKS[told.risk],
        is_fresh=comparison.suite.checksum not in {s.checksum for s in told.sources},
        is_own=gate in own,
        risk=observed.risk(gate),
        alpha=estimate(accepted, screened),
        accepted=estimate(accepted, len(trials)),
        reading=_draw(told.reading, observed, gate.threshold),
    )


def _holding_of_two(comparison: Comparison, certified: Certified, closer: GateSpec) -> Holding:
    gate, told = certified.gate, certified.certificate
    gates, trials = Gates(gate, closer), look_trials_of([comparison], depth=gate.depth)
    observed = observe_looks(trials, gates, told.risk, depth=gate.depth)
    found = observed.outcome(gates)
    at_first, screened = int(found.at_first.sum()), sum(t.item.is_screened for t in trials)
    return Holding(
        certified=certified,
        failure=RISKS[told.risk],
        is_fresh=comparison.suite.checksum not in {s.checksum for s in told.sources},
        is_own=True,
        risk=observed.risk(gates),
        alpha=estimate(at_first, screened),
        accepted=estimate(at_first + int(found.closer.sum()), len(trials)),
        reading=_draw(told.reading, observed.first, gate.threshold),
    )


def _draw(reading: Reading, observed: Observed, threshold: float) -> Chart | None:
    scores: Floats = observed.scores[observed.may_pass]
    if not reading.scores or scores.size == 0:
        return None
    shown = threshold if scores.min() - 1.0 <= threshold <= scores.max() else None
    x = score_axis(scores.tolist(), ENDS, keep=shown, is_share=False)
    y = Axis(0.0, max(0.05, min(1.0, 1.1 * max(reading.p_wrong))), *_HEIGHT)
    thresholds, values = np.array(reading.scores), np.array(reading.p_wrong)
    line = Line("small", steps_along((x, y), thresholds, values))
    rule = None if shown is None else x.at(shown)
    return Chart(x=x, panels=(Panel(name="accuracy", y=y, lines=(line,)),), rule=rule)
