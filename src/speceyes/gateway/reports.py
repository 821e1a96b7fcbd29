"""Each worker's report, and what all of them together come to, is said here.

It refuses to know how reports travel from worker to worker, and what they are shown as.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from speceyes.errors import InputError
from speceyes.gateway import series
from speceyes.gateway.calibrated import Calibrated
from speceyes.gateway.figures import Figures, Model, View, figures_of
from speceyes.gateway.observing import BreakerState, EngineRole
from speceyes.gateway.shadowing import Shadowed
from speceyes.gateway.shadowing import put_together as put_shadows_together
from speceyes.gateway.stats import Stats, Told, merge
from speceyes.shadow.watch import Watched

FRESH_S: Final = 10.0
"""How old a report may be before its worker counts as gone. What it counted stays counted."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker did so far, and what it is at. Times in seconds since 1970."""

    worker: str
    since_s: float
    at_s: float
    in_flight: int
    queued: int
    breakers: dict[str, dict[EngineRole, BreakerState]]  # by model
    stats: Stats
    shadows: dict[str, Watched] = {}  # by model


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """What is so at this moment in all workers together.

    `breakers`: by model and engine, how many workers' breakers are in which state.
    """

    workers: int
    in_flight: int
    queued: int
    breakers: dict[str, dict[EngineRole, dict[BreakerState, int]]]
    shadows: dict[str, Shadowed] = {}


class Whole(msgspec.Struct, frozen=True, kw_only=True):
    """All workers' reports as one."""

    since_s: float
    at_s: float
    now: Now
    stats: Stats


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What `/v1/stats` shows. Times in seconds since 1970; `last` has the newest request first."""

    version: str
    since_s: float
    at_s: float
    now: Now
    total: Figures
    models: dict[str, Figures]
    calibrated: dict[str, Calibrated]
    dropped: dict[str, int]
    last: tuple[Told, ...]


def put_together(reports: Iterable[Report], *, at_s: float) -> Whole:
    """Make one of all workers' reports; what old ones say of the moment is past."""
    told = list(reports)
    fresh = [report for report in told if at_s - report.at_s <= FRESH_S]
    return Whole(
        since_s=min((report.since_s for report in told), default=at_s),
        at_s=at_s,
        now=Now(
            workers=len(fresh),
            in_flight=sum(report.in_flight for report in fresh),
            queued=sum(report.queued for report in fresh),
            breakers=_breakers(fresh),
            shadows=_shadows(fresh),
        ),
        stats=merge(report.stats for report in told),
    )


def overview(whole: Whole, models: Sequence[Model], *, version: str) -> Overview:
    """Work out all that is shown."""
    return Overview(
        version=version,
        since_s=whole.since_s,
        at_s=whole.at_s,
        now=whole.now,
        total=figures_of(whole.stats, models),
        models={model.name: figures_of(whole.stats, models, model) for model in models},
        calibrated={m.name: m.calibrated for m in models if m.calibrated is not None},
        dropped=View(whole.stats).counts(series.DROPPED, "what"),
        last=whole.stats.last[::-1],
    )


def to_bytes(report: Report) -> bytes:
    """Write a report so that another process can read it."""
    return msgspec.msgpack.encode(report)


def from_bytes(data: bytes) -> Report:
    """Read what `to_bytes` wrote. Raises: InputError if it is something else, or a part of it."""
    try:
        return msgspec.msgpack.decode(data, type=Report)
    except msgspec.MsgspecError as error:
        raise InputError("report", f"is no worker's report ({error})") from error


def _breakers(
    reports: Iterable[Report],
) -> dict[str, dict[EngineRole, dict[BreakerState, int]]]:
    found: dict[str, dict[EngineRole, dict[BreakerState, int]]] = {}
    for report in reports:
        model: str
        states: Mapping[EngineRole, BreakerState]
        for model, states in report.breakers.items():
            for role, state in states.items():
                counts = found.setdefault(model, {}).setdefault(role, {})
                counts[state] = counts.get(state, 0) + 1
    return found


def _shadows(reports: Sequence[Report]) -> dict[str, Shadowed]:
    found: dict[str, list[Watched]] = {}
    for report in reports:
        for model, one in report.shadows.items():
            found.setdefault(model, []).append(one)
    return {model: put_shadows_together(parts) for model, parts in found.items()}
