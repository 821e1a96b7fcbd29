"""The folders of runs become a plan's inputs here: fates, one draw a threshold, and servers fitted.

It refuses to know the command line, and simulates nothing but what a fit takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from speceyes.bench.comparison import Comparison, compare
from speceyes.bench.folder import Run, read_run
from speceyes.bench.looks import check_whole_looks
from speceyes.calibration.two_gates import Gates
from speceyes.errors import ConfigError
from speceyes.plan.drive import Scenario
from speceyes.plan.fates import Draw, Recorded
from speceyes.plan.fitting import Fit, Seen, fit_servers, seen_in
from speceyes.plan.formulas import Costs, costs_of
from speceyes.plan.recorded import check_known, fates_of, fates_with_looks, gate_at

Draws = list[tuple[float | None, Recorded, Costs]]


def draws_of(folder: Path, thresholds: Sequence[float] = ()) -> tuple[str, Draws]:
    """Read a run of one query after the other: its suite, and fates under each threshold.

    Where its small model looked closer, thresholds are the first gate's, and none is stricter than
    the run's; the closer gate stays.
    Raises: ConfigError if no plan can be made of it; RunFolderError if it is none.
    """
    return _draws(read_run(folder), thresholds)


def _draws(run: Run, thresholds: Sequence[float] = ()) -> tuple[str, Draws]:
    if run.manifest.concurrency > 1:
        raise ConfigError(
            "run",
            f"its queries overlapped ({run.manifest.concurrency} at once), so its times include "
            "waiting; give a run made with --concurrency 1",
        )
    check_whole_looks([run.manifest])
    comparison = _compared(run)
    own, depth = run.manifest.gate, run.manifest.settings.depth
    draws: Draws = []
    for threshold in thresholds or (own.threshold,):
        gate = gate_at(own, threshold)
        if depth:
            check_known(gate, own)
            closer = run.manifest.closer_gate or own
            fates = fates_with_looks(comparison, Gates(gate, closer))
        else:
            fates = fates_of(comparison, gate)
        draws.append((threshold, Recorded(fates, depth), costs_of(fates, depth=depth)))
    return comparison.suite.source, draws


def depth_of(draw: Draw) -> int:
    """Say how often the small model of a draw's fates may look closer."""
    return draw.depth if isinstance(draw, Recorded) else 0


def fitted(folder: Path, loaded: Sequence[Path], scenario: Scenario) -> Fit:
    """Fit servers to runs of the same items, engines and gate, with several queries at once.

    Raises: ConfigError if they are not alike, or tell nothing; RunFolderError if one is no run.
    """
    return fit_servers(replace(scenario, is_real=False), seen_under_load([folder], loaded))


def seen_under_load(alone: Sequence[Path], loaded: Sequence[Path]) -> list[Seen]:
    """Read what runs with several queries at once took of what runs without company tell.

    Raises: ConfigError if they are not alike; RunFolderError if one is no run.
    """
    runs = [read_run(folder) for folder in alone]
    fates = [draw.fates for run in runs for _, draw, _ in _draws(run)[1]]
    seen: list[Seen] = []
    for place in loaded:
        run = read_run(place)
        for lone in runs:
            _check_alike(lone, run)
        seen.extend(seen_in(_compared(run), run.manifest.policy, fates))
    return seen


def _compared(run: Run) -> Comparison:
    (comparison,) = compare([run])
    return comparison


def _check_alike(alone: Run, run: Run) -> None:
    one, other = alone.manifest, run.manifest
    for name, has, wants in (
        ("items", other.suite.checksum, one.suite.checksum),
        ("small model", other.small, one.small),
        ("large model", other.large, one.large),
        ("threshold", other.gate.threshold, one.gate.threshold),
        ("depth", other.settings.depth, one.settings.depth),
        ("closer gate", other.closer_gate, one.closer_gate),
    ):
        if has != wants:
            raise ConfigError("fit", f"its {name} is {has}, not {wants} as in the run planned from")
