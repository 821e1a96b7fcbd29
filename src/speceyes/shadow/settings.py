"""These settings say what runs beside queries, how much of it, and what it is for.

It refuses to know who is asked, and whether that is a gateway's route or a library's caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from speceyes.errors import ConfigError

ShadowMode: TypeAlias = Literal["off", "audit", "observe"]
Unread: TypeAlias = Literal["differs", "left_out"]
OnBreach: TypeAlias = Literal["tighten", "off", "tell"]

_CHOICES: Final = {
    "mode": get_args(ShadowMode),
    "unread": get_args(Unread),
    "on_breach": get_args(OnBreach),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSettings:
    """Say what runs beside queries, of which nothing is ever served.

    `mode` "audit": the agent also answers a `share` of what was accepted, and the two are compared;
    "observe": the agent answers all, and the funnel's small side runs beside it. `max_loss`: the
    share of all queries that may be accepted and differ; `on_breach`: what is done once more do.
    `unread`: what two answers count as whose agreement rules cannot read (calibration by agreement
    takes them for different). `max_in_flight`, in one process: what finds no room is not run, but
    counted. `drift_after`: how many scores make a window of the test for drift; where no
    calibration's scores are known, the first window is what all later ones are held against.
    `file`: where "observe" keeps at most `max_records` records; None: nowhere. `answers`: both
    answers stand in them in words, not only whether they agree. `state_folder`: what was seen and
    found is kept there, for the next process to go on from; None: it ends with this one.
    Raises: ConfigError naming the field.
    """

    mode: ShadowMode = "off"
    share: float = 0.05
    max_loss: float = 0.01
    false_alarm: float = 0.05
    on_breach: OnBreach = "tell"
    unread: Unread = "differs"
    max_in_flight: int = 1
    drift_after: int = 500
    file: str | None = None
    max_records: int = 100_000
    answers: bool = False
    state_folder: str | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                told = f"{getattr(self, name)!r} is unknown; choose from {', '.join(choices)}"
                raise ConfigError(name, told)
        for name in ("max_in_flight", "drift_after", "max_records"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"{getattr(self, name)} is below 1")
        for name in ("max_loss", "false_alarm"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(name, f"{getattr(self, name)} is not between 0 and 1")
        if not 0.0 < self.share <= 1.0:
            raise ConfigError("share", f"{self.share} is not above 0 and at most 1")
        if self.file is not None and self.mode != "observe":
            raise ConfigError("file", f"is for the mode observe, not {self.mode}; leave it out")


NO_SHADOW: Final = ShadowSettings()
