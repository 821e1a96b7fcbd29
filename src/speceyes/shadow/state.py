"""What a watch has come to, written down, and gone on from by whoever watches next.

It refuses to know files. What was seen under another setup never counts. A bound that was found
broken stays broken; where there is doubt, nothing is accepted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from speceyes.calibration import audit as audits
from speceyes.calibration import drift as drifts
from speceyes.calibration.audit import Audit, Seen
from speceyes.calibration.thresholds import closed
from speceyes.errors import ConfigError, InputError
from speceyes.gate import GateSpec
from speceyes.shadow.records import Setup
from speceyes.shadow.watch import ShadowState, Watch, answered, edges_above, held_against
from speceyes.specs import plain_gate
from speceyes.tables import read_table

STATE_VERSION: Final = 1
_TERMS: Final = ("max_loss", "share", "false_alarm", "unread")  # of the audit's bets
_RANKS: Final[Mapping[ShadowState, int]] = {"watching": 0, "broken": 1, "tightened": 2, "off": 3}


@dataclass(frozen=True, slots=True)
class Kept:
    """A watch as it was left, and the setup that it is valid for, as plain values."""

    setup: Mapping[str, Any]
    watch: Watch


def plain_setup(setup: Setup, closer_gate: GateSpec | None) -> dict[str, Any]:
    """Put all that a watch is valid for as JSON has it."""
    closer = None if closer_gate is None else plain_gate(closer_gate)
    told = {**asdict(setup), "gate": plain_gate(setup.gate), "closer_gate": closer}
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain


def setup_id(setup: Mapping[str, Any]) -> str:
    """Name a plain setup by all that it consists of."""
    written = json.dumps(setup, sort_keys=True)
    return hashlib.blake2b(written.encode(), digest_size=8).hexdigest()


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Name the entries in which two plain setups differ."""
    return tuple(key for key in sorted({*one, *other}) if one.get(key) != other.get(key))


def to_text(kept: Kept) -> str:
    """Write it as one line of JSON, the line's end included."""
    document = {
        "state_version": STATE_VERSION,
        "setup": kept.setup,
        "watch": asdict(kept.watch),
    }
    return json.dumps(document, separators=(",", ":")) + "\n"


def from_text(text: str) -> Kept:
    """Read it back. Raises: InputError if it is something else, a part of it, or another version.

    One query and one score are folded in for trial, so that what is taken up can be gone on with.
    """
    try:
        raw = json.loads(text, parse_constant=_finite)
        version = raw["state_version"]
        if version != STATE_VERSION:
            raise InputError("state", f"is of version {version}, not {STATE_VERSION}")
        kept = Kept(dict(raw["setup"]), read_table("watch", raw["watch"], Watch))
        audits.observe(kept.watch.audit, Seen(0.0, differs=True))
        if kept.watch.drift is not None:
            drifts.observe(kept.watch.drift, 0.0)
    except (ValueError, TypeError, LookupError, ArithmeticError, ConfigError) as error:
        raise InputError("state", f"is no state of a shadow ({error})") from error
    return kept


def loosened(kept: Watch, now: Watch) -> tuple[str, ...]:
    """Name the settings that allow more now than when it was kept: what was broken may hold now."""
    then, told = kept.settings, now.settings
    found = []
    if told.max_loss > then.max_loss:
        found.append("max_loss")
    if (then.unread, told.unread) == ("differs", "left_out"):
        found.append("unread")
    return tuple(found)


def changed_terms(kept: Watch, now: Watch) -> tuple[str, ...]:
    """Name what the audit's bets were under that is another now: they cannot be gone on with."""
    changed = [n for n in _TERMS if getattr(kept.settings, n) != getattr(now.settings, n)]
    return (*changed, *(["workers"] if kept.workers != now.workers else []))


def resumed(fresh: Watch, mine: Watch | None, others: Iterable[Watch] = ()) -> Watch:
    """Go on from what was left under the same setup and mode: by one's own place, and by others.

    `fresh` has just begun. Scores go on. Counts go on where the audit's terms are the same, and
    begin anew elsewhere. The worst that any place found is obeyed, as the settings say by now,
    unless they allow more than then.
    Invariants: the gate is never looser than the fresh one, nor than any found here was; but where
    `on_breach` has become "tell", it is the fresh one.
    """
    found = [one for one in (mine, *others) if one is not None and not loosened(one, fresh)]
    watch = fresh if mine is None else _with_scores(fresh, mine)
    if mine is not None and not (loosened(mine, fresh) or changed_terms(mine, fresh)):
        gate = _stricter(fresh.gate, mine)
        watch = replace(watch, gate=gate, audit=mine.audit, state=mine.state)
    worst = max(found, key=_severity, default=watch)
    if _severity(worst) > _severity(watch):
        watch = _obeying(watch, worst)
    return _as_told(watch, fresh)


def doubted(watch: Watch) -> Watch:
    """Accept nothing, where what was found before cannot be read and might have been a breach."""
    if watch.settings.mode != "audit" or watch.settings.on_breach == "tell":
        return watch
    return replace(watch, gate=closed(watch.gate), state="off")


def _severity(watch: Watch) -> tuple[int, float]:
    return (_RANKS[watch.state], watch.gate.threshold)


def _stricter(gate: GateSpec, found: Watch) -> GateSpec:
    return replace(gate, threshold=max(gate.threshold, found.gate.threshold))


def _with_scores(fresh: Watch, mine: Watch) -> Watch:
    if fresh.drift is not None:  # the calibration's scores are known
        is_same = mine.drift is not None and mine.drift.reference == fresh.drift.reference
        return replace(fresh, drift=mine.drift) if is_same else fresh
    if mine.drift is None or mine.drift_from == "calibration":
        return replace(fresh, first=mine.first)
    held = held_against(fresh, mine.drift.reference, "first")
    is_same = held.drift is not None and held.drift.reference == mine.drift.reference
    return replace(held, drift=mine.drift) if is_same else held


def _obeying(watch: Watch, worst: Watch) -> Watch:
    if worst.state == "broken":
        return replace(watch, state="broken")
    if worst.state == "off":
        return replace(watch, gate=closed(watch.gate), state="off")
    gate, spec = _stricter(watch.gate, worst), watch.audit.spec
    false_alarm = min(spec.false_alarm / 2.0, worst.audit.spec.false_alarm)  # as after an alarm
    anew = Audit(replace(spec, false_alarm=false_alarm, edges=edges_above(gate)))
    return replace(watch, gate=gate, audit=anew, state="tightened")


def _as_told(watch: Watch, fresh: Watch) -> Watch:
    settings = watch.settings
    is_told = settings.mode != "audit" or settings.on_breach == "tell"
    if is_told and watch.state in {"tightened", "off"}:
        return replace(watch, gate=fresh.gate, audit=fresh.audit, state="broken")
    return watch if is_told or watch.state != "broken" else answered(watch)


def _finite(constant: str) -> float:
    if constant == "NaN":
        raise ValueError("a number in it is none")
    return float(constant)
