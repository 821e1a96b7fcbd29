"""Gates and scores are shown on a terminal here: what is certain of them, and what was only seen.

It refuses to know how they were made.
"""

from __future__ import annotations

from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from speceyes.bench.ranking import REFERENCE, Ranking
from speceyes.bench.stats import Interval
from speceyes.calibration.bounds import Estimate, least_count
from speceyes.calibration.certificate import RISKS, Certificate, Certified

_MISSING: Final = "–"


def show_certified(console: Console, made: Certified) -> None:
    """Show a gate with its certificate."""
    told, gate = made.certificate, made.gate
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(2):
        table.add_column(overflow="fold")
    threshold = "accepts nothing" if told.accepts_nothing else f"threshold {gate.threshold:.6g}"
    table.add_row(
        "gate",
        f"{gate.aggregation} over {gate.definition}, K = {gate.k}, {gate.scale}; {threshold}",
    )
    if made.closer_gate is not None:
        table.add_row("closer gate", _closer(made))
    table.add_row("a failure", f"{RISKS[told.risk]}; a share of all queries")
    table.add_row("certain", _certain(told))
    table.add_row("held out", f"{shown(told.held_out)} on {told.held_out_on}")
    for risk, found in told.beside.items():
        table.add_row("seen besides", f"{shown(found)} {RISKS[risk]}")
    table.add_row("accepted", f"{shown(told.accepted)} of all queries")
    if told.closer_accepted is not None:
        table.add_row("after a look", f"{shown(told.closer_accepted)} of all queries")
    at = "" if told.closer_accepted is None else ", at first sight"
    table.add_row("alpha", f"{shown(told.alpha)} of the screened{at}")
    table.add_row("beta", f"{shown(told.beta)} screened")
    for source in told.sources:
        table.add_row(
            "chosen on", f"{source.items} items of {source.suite}, {source.checksum[:16]}"
        )
    console.print(table, highlight=False, markup=False)
    if told.accepts_nothing:
        console.print(why_nothing(told), style="bold", highlight=False, markup=False)


def _closer(made: Certified) -> str:
    gate, told = made.closer_gate, made.certificate.closer_accepted
    if gate is None or told is None or not told.count:
        return "accepts nothing"
    return (
        f"{gate.aggregation} over {gate.definition}, K = {gate.k}, {gate.scale}; threshold "
        f"{gate.threshold:.6g}; up to {gate.depth} closer look{'' if gate.depth == 1 else 's'}"
    )


def why_nothing(told: Certificate) -> str:
    """Say why a gate accepts nothing, and what would do."""
    if told.needed is None:
        return (
            "The best scored answers fail too often for the stated risk: another score, K or pair "
            "of models may do, or a larger --max-loss."
        )
    least = least_count(told.max_loss, confidence=told.confidence)
    return (
        f"Too little data: {told.count} items. For {told.max_loss:g} at {told.confidence:g} it "
        f"takes at least {least}, of which none fails, or about {told.needed}, of which half of "
        "what may fail does. Until then this gate accepts nothing."
    )


def _certain(told: Certificate) -> str:
    bound = "nothing" if told.accepts_nothing else f"at most {_percent(told.bound)}"
    return (
        f"{bound} fails, with {_percent(told.confidence)} confidence (asked: "
        f"{_percent(told.max_loss)}); seen: {told.failures} of {told.count}"
    )


def shown(found: Estimate | None) -> str:
    """Write a share with its interval."""
    if found is None or found.value is None:
        return _MISSING
    low, high = 100 * found.low, 100 * found.high
    return f"{_percent(found.value)} ({low:.1f}-{high:.1f}; {found.count} of {found.of})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def show_ranking(console: Console, ranking: Ranking) -> None:
    """Show what each score is worth on each slice."""
    for part in ranking.slices:
        title = f"{part.name}: {part.count} answers, {part.wrong} wrong"
        table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
        for name in ("score", "AUROC", "AURC, points", f"gain on {REFERENCE}"):
            table.add_column(name, justify="left" if name == "score" else "right")
        for name, quality in part.qualities.items():
            gain = quality.gain_interval
            told = "" if name == REFERENCE else f"{100 * quality.gain:+.2f}"
            table.add_row(
                f"{name} *" if name in part.better else name,
                _with_range(quality.auroc, quality.auroc_interval, digits=3),
                _with_range(100 * quality.aurc, _times(quality.aurc_interval, 100), digits=2),
                told and f"{told} ({100 * gain.low:+.2f} to {100 * gain.high:+.2f})",
            )
        console.print(table, highlight=False, markup=False)
    better = ranking.slices[0].better
    told = f"better beyond chance over all answers: {', '.join(better)}" if better else ""
    console.print(
        told or f"no score is better than {REFERENCE} beyond chance over all answers",
        highlight=False,
        markup=False,
    )


def _with_range(value: float | None, interval: Interval | None, *, digits: int) -> str:
    if value is None or interval is None:
        return _MISSING
    return f"{value:.{digits}f} ({interval.low:.{digits}f}-{interval.high:.{digits}f})"


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(factor * interval.low, factor * interval.high)
