"""A certified gate is shown on a terminal here: what is certain of it, and what was only seen.

It refuses to know how it was chosen.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from speceyes.calibration.bounds import Estimate, least_count
from speceyes.calibration.certificate import RISKS, Certificate, Certified

_MISSING = "–"


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
    table.add_row("a failure", f"{RISKS[told.risk]}; a share of all queries")
    table.add_row("certain", _certain(told))
    table.add_row("held out", f"{shown(told.held_out)} on {told.held_out_on}")
    for risk, found in told.beside.items():
        table.add_row("seen besides", f"{shown(found)} {RISKS[risk]}")
    table.add_row("accepted", f"{shown(told.accepted)} of all queries")
    table.add_row("alpha", f"{shown(told.alpha)} of the screened")
    table.add_row("beta", f"{shown(told.beta)} screened")
    for source in told.sources:
        table.add_row(
            "chosen on", f"{source.items} items of {source.suite}, {source.checksum[:16]}"
        )
    console.print(table, highlight=False, markup=False)
    if told.accepts_nothing:
        console.print(why_nothing(told), style="bold", highlight=False, markup=False)


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
