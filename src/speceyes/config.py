"""These are the settings, with all their defaults.

It refuses to open anything: a name is checked against those there are, and no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast, get_args

from speceyes.errors import ConfigError
from speceyes.protocols import PROTOCOLS
from speceyes.screen import ScreenPrompt

PolicyName: TypeAlias = Literal["serial", "overlap", "race", "adaptive", "agent_only", "small_only"]
SmallBoxes: TypeAlias = Literal["thousandths", "pixels"]
ScreenBy: TypeAlias = Literal["large", "small", "none", "agent"]

DEFAULT_ENGINE: Final = "builtin"
DEFAULT_PROTOCOL: Final = "deepeyes"
DEFAULT_POLICY: Final[PolicyName] = "serial"
GATED: Final[frozenset[PolicyName]] = frozenset({"serial", "overlap", "race", "adaptive"})
"""The policies that speculate, and so need a gate."""

DEFAULT_CONCURRENCY: Final = 6  # the reference code's batch
_LEAST_ONE: Final = (
    "max_answer_tokens",
    "max_pictures",
    "max_turns",
    "max_tokens_per_turn",
    "min_view_px",
    "max_view_px",
)
_TIMEOUTS: Final = ("screen_timeout_s", "speculate_timeout_s", "fall_back_timeout_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Say how queries are answered, apart from who answers them.

    `screen_by`: which engine does Phase I; "none" speculates on everything. So does "agent", for
    policies that start the agent at once, but there a tool call in the agent's first turn says that
    a tool is needed. `screen_prompt`: how it is asked; None is what the screen says. `max_turns`
    and `max_tokens_per_turn` None: the protocol's own. `min_view_px` and `max_view_px`: the area of
    what the model sees, for a server set to other bounds than the protocol's release.
    `evidence_k`: candidates a token to ask the small model for, if more than the gate reads.
    `depth`: how often the small model may look closer before the agent is asked; `small_boxes`:
    in what it says where, of the picture's side or of the pixels that it sees.
    `degrade`: when the agent fails, give the small model's rejected answer, marked as `degraded`,
    instead of an error. `unsafe_python`: code that a model writes runs without a sandbox, with all
    the rights of whoever runs this. `waste_budget`: the share of the agent's tokens that the policy
    `adaptive` may let go to waste.
    Raises: ConfigError naming the field.
    """

    screen_by: ScreenBy = "large"
    screen_prompt: ScreenPrompt | None = None
    degrade: bool = False
    depth: int = 0
    small_boxes: SmallBoxes = "thousandths"  # as Qwen3-VL does; Qwen2.5-VL speaks of pixels
    max_answer_tokens: int = 20  # of the small model; as in the reference code
    evidence_k: int = 0
    max_turns: int | None = None
    max_tokens_per_turn: int | None = None
    min_view_px: int | None = None
    max_view_px: int | None = None
    unsafe_python: bool = False
    waste_budget: float = 0.5
    max_pictures: int = 32  # that the agent is shown for one query, first views included
    screen_timeout_s: float = 30.0
    speculate_timeout_s: float = 30.0
    fall_back_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        _check_choice("screen_by", self.screen_by, get_args(ScreenBy))
        if self.screen_prompt is not None:
            _check_choice("screen_prompt", self.screen_prompt, get_args(ScreenPrompt))
        for name in _LEAST_ONE:
            bound: int | None = getattr(self, name)
            if bound is not None and bound < 1:
                raise ConfigError(name, f"{bound} is below 1")
        for name in ("evidence_k", "depth"):
            if getattr(self, name) < 0:
                raise ConfigError(name, f"{getattr(self, name)} is below 0")
        _check_choice("small_boxes", self.small_boxes, get_args(SmallBoxes))
        if not 0.0 <= self.waste_budget <= 1.0:
            raise ConfigError("waste_budget", f"{self.waste_budget} is not in 0..1")
        least, most = self.min_view_px, self.max_view_px
        if least is not None and most is not None and least > most:
            raise ConfigError("min_view_px", f"{least} is above max_view_px, {most}")
        for name in _TIMEOUTS:
            timeout_s: float = getattr(self, name)
            if not 0.0 < timeout_s < math.inf:
                raise ConfigError(name, f"{timeout_s} is not a number of seconds above 0")


def parse_policy(text: str) -> PolicyName:
    """Read a policy's name. Raises: ConfigError naming the choices."""
    _check_choice("policy", text, get_args(PolicyName))
    return cast(PolicyName, text)


def check_screen_by(screen_by: ScreenBy, policy: PolicyName) -> None:
    """See that a policy can be screened so. Raises: ConfigError."""
    if screen_by == "agent" and policy not in {"race", "adaptive"}:
        raise ConfigError(
            "screen_by",
            f"agent is for the policies race and adaptive, which start the agent at once, not for "
            f"{policy}; take one of those, or another screen_by",
        )


def check_watched(policy: PolicyName) -> None:
    """See that a policy has a gate for a shadow to watch. Raises: ConfigError."""
    if policy not in GATED:
        told = f"needs a policy with a gate, not {policy}; choose from {', '.join(sorted(GATED))}"
        raise ConfigError("shadow.mode", told)


def parse_protocol(text: str) -> str:
    """Read a protocol's name. Raises: ConfigError naming the choices."""
    _check_choice("protocol", text, tuple(PROTOCOLS))
    return text


def parse_screen_by(text: str) -> ScreenBy:
    """Read who does Phase I. Raises: ConfigError naming the choices."""
    _check_choice("screen", text, get_args(ScreenBy))
    return cast(ScreenBy, text)


def parse_screen_prompt(text: str) -> ScreenPrompt:
    """Read how Phase I is asked. Raises: ConfigError naming the choices."""
    _check_choice("screen_prompt", text, get_args(ScreenPrompt))
    return cast(ScreenPrompt, text)


def _check_choice(field: str, text: str, choices: tuple[str, ...]) -> None:
    if text not in choices:
        raise ConfigError(field, f"{text!r} is unknown; choose from {', '.join(choices)}")


DEFAULTS: Final = Settings()
