"""Is a gate the one for these models and this prompt? What was recorded with it has to agree.

It refuses to open anything; what was not recorded, or cannot be known beforehand, is let pass.
"""

from __future__ import annotations

import hashlib

from speceyes.config import DEFAULT_ENGINE
from speceyes.engine_names import model_of, small_engine
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec
from speceyes.prompts import SCREEN_ID, SCREEN_WITHIN_ID, SPECULATE_ID
from speceyes.screen import ScreenSpec
from speceyes.settings_file import Choices


def check_choices(choices: Choices) -> None:
    """See that a gate that was chosen is one for the engines that were. Raises: ConfigError."""
    depth = choices.settings.depth
    small = small_engine(choices.small or DEFAULT_ENGINE, depth=depth)
    for gate in (choices.gate, choices.closer_gate if depth else None):
        if gate is not None:
            check_gate(
                gate,
                small=small,
                large=choices.large or DEFAULT_ENGINE,
                prompt_id=SPECULATE_ID,
                depth=depth,
            )


def check_depth(gate: GateSpec, depth: int) -> None:
    """See that a gate that was calibrated was so for this depth. Raises: ConfigError naming it."""
    is_calibrated = gate.depth > 0 or gate.small_model is not None
    if is_calibrated and gate.depth != depth:
        raise ConfigError(
            "gate.depth",
            f"it was calibrated with depth {gate.depth}, and this is depth {depth}, where other "
            f"answers are accepted; give --depth {gate.depth}, or calibrate on a run with "
            f"--depth {depth}",
        )


def check_gate(
    gate: GateSpec, *, small: str, large: str, prompt_id: str, depth: int | None = None
) -> None:
    """See that a gate was calibrated for these engines, given as strings, and this prompt.

    `depth` None: not to be looked at.
    Raises: ConfigError naming the field of the gate that does not agree.
    """
    if depth is not None:  # first, for a depth may bring another small model with it
        check_depth(gate, depth)
    for field, recorded, named, engine in (
        ("small_model", gate.small_model, model_of(small, role="small"), small),
        ("large_model", gate.large_model, model_of(large, role="large"), large),
    ):
        if recorded is not None and named is not None and recorded not in {named, engine}:
            _refuse(field, recorded, named)
    if gate.prompt_id is not None and gate.prompt_id != prompt_id:
        _refuse("prompt_id", gate.prompt_id, prompt_id)


def prompt_ids(screen: ScreenSpec, *, system: str | None, user: str | None) -> dict[str, str]:
    """Identify the wording of every prompt; `system` and `user` are a release's own, if any."""
    own = {"system": system, "user": user}
    named = {
        name: hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        for name, text in own.items()
        if text is not None
    }
    screen_id = SCREEN_WITHIN_ID if screen.prompt == "shared" else SCREEN_ID
    return {"screen": screen_id, "speculate": SPECULATE_ID, **named}


def _refuse(field: str, recorded: str, found: str) -> None:
    raise ConfigError(
        f"gate.{field}",
        f"the threshold was calibrated with {recorded}, and this is {found}; calibrate on it, or, "
        "if both are the same in fact, take the key out of the gate",
    )
