"""The choices that several commands offer alike: engines, protocol, gate, a settings file, prompts.

It refuses to know the commands. A flag goes before the settings file, and that before the defaults.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from speceyes.config import parse_policy, parse_protocol
from speceyes.engine_names import parse_engine
from speceyes.settings_file import (
    Choices,
    load_certificate,
    load_closer_gate,
    load_gate,
    load_settings,
    read_text,
)


def chosen(
    *,
    config: Path | None = None,
    small: str | None = None,
    large: str | None = None,
    protocol: str | None = None,
    policy: str | None = None,
    depth: int | None = None,
    gate: str | None = None,
    system_prompt: Path | None = None,
    user_prompt: Path | None = None,
    unsafe_python: bool = False,
) -> Choices:
    """Put flags and settings file together. Raises: ConfigError naming the field."""
    choices = Choices() if config is None else load_settings(config)
    if small is not None:
        parse_engine(small, role="small")  # refused at once, before anything is done
        choices = replace(choices, small=small)
    if large is not None:
        parse_engine(large, role="large")
        choices = replace(choices, large=large)
    if protocol is not None:
        choices = replace(choices, protocol=parse_protocol(protocol))
    if policy is not None:
        choices = replace(choices, policy=parse_policy(policy))
    if depth is not None:
        choices = replace(choices, settings=replace(choices.settings, depth=depth))
    if gate is not None:
        choices = _gated_by(gate, choices)
    if system_prompt is not None:
        choices = replace(choices, system_prompt=read_text("system_prompt", system_prompt))
    if user_prompt is not None:
        choices = replace(choices, user_prompt=read_text("user_prompt", user_prompt))
    if unsafe_python:
        choices = replace(choices, settings=replace(choices.settings, unsafe_python=True))
    return choices


def _gated_by(gate: str, choices: Choices) -> Choices:
    # Two gates that were calibrated together are replaced together.
    is_one_of_two = choices.gate is not None and choices.gate.depth > 0
    kept = None if is_one_of_two else choices.closer_gate
    return replace(
        choices,
        gate=load_gate(gate),
        certificate=load_certificate(gate),
        closer_gate=load_closer_gate(gate) or kept,
    )
