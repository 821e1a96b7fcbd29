"""A circuit says whether an engine may be called: it opens after failures, and tries again later.

It refuses to know engines and clocks: outcomes come in with their times, in seconds of any clock
that only goes forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from speceyes.gateway.settings import BreakerSettings

Outcome: TypeAlias = Literal["succeeded", "failed", "abandoned"]
"""`abandoned`: the call ended for reasons that say nothing of the engine."""

_SLICES: Final = 10  # of the window, so that it is counted in a bounded number of values


@dataclass(frozen=True, slots=True)
class Slice:
    """Calls that ended within one slice of the window."""

    number: int
    calls: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Closed:
    """All may call. `in_a_row` counts the failures since the last success."""

    in_a_row: int = 0
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True)
class Open:
    """None may call before `until_s`."""

    until_s: float


@dataclass(frozen=True, slots=True)
class HalfOpen:
    """One call is under way, as a trial; it is given up on after `until_s`, for another."""

    until_s: float


Circuit: TypeAlias = Closed | Open | HalfOpen
CLOSED: Final = Closed()


def wait_s(circuit: Circuit, *, now_s: float) -> float:
    """Say how long until a call may be made; 0: now. A trial under way is waited for."""
    return 0.0 if isinstance(circuit, Closed) else max(0.0, circuit.until_s - now_s)


def enter(circuit: Circuit, settings: BreakerSettings, *, now_s: float) -> tuple[Circuit, bool]:
    """Begin a call that may be made, as `wait_s` says, and tell if it is a trial."""
    if isinstance(circuit, Closed):
        return circuit, False
    return HalfOpen(now_s + settings.open_s), True


def leave(
    circuit: Circuit,
    settings: BreakerSettings,
    outcome: Outcome,
    *,
    now_s: float,
    is_trial: bool,
) -> Circuit:
    """End a call. It opens the circuit if too many failed; a trial opens or closes it.

    Invariants: an abandoned call is no evidence, and an abandoned trial leaves room for the next
    one; once it is open, failures of calls begun before change nothing, while any success closes
    it, for the engine is there.
    """
    if isinstance(circuit, Closed):
        return (
            circuit if outcome == "abandoned" else _watched(circuit, settings, outcome, now_s=now_s)
        )
    if outcome == "succeeded":
        return CLOSED
    if not is_trial:
        return circuit
    return Open(now_s + settings.open_s if outcome == "failed" else now_s)


def _watched(
    circuit: Closed, settings: BreakerSettings, outcome: Outcome, *, now_s: float
) -> Closed | Open:
    has_failed = outcome == "failed"
    in_a_row = circuit.in_a_row + 1 if has_failed else 0
    slices = _counted(circuit.slices, settings, has_failed=has_failed, now_s=now_s)
    told = Closed(in_a_row, slices)
    return Open(now_s + settings.open_s) if has_failed and _is_bad(told, settings) else told


def _counted(
    slices: tuple[Slice, ...], settings: BreakerSettings, *, has_failed: bool, now_s: float
) -> tuple[Slice, ...]:
    number = int(now_s * _SLICES // settings.window_s)
    if slices and slices[-1].number >= number:
        last = slices[-1]
        return (*slices[:-1], Slice(last.number, last.calls + 1, last.failures + has_failed))
    recent = tuple(part for part in slices if part.number > number - _SLICES)
    return (*recent, Slice(number, 1, int(has_failed)))


def _is_bad(circuit: Closed, settings: BreakerSettings) -> bool:
    if circuit.in_a_row >= settings.failures:
        return True
    calls = sum(part.calls for part in circuit.slices)
    failures = sum(part.failures for part in circuit.slices)
    return calls >= settings.least_calls and failures >= settings.share * calls
