"""Settings: every one has a default and a range; a wrong word is told the right ones."""

import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import get_args

import pytest

from speceyes import assemble
from speceyes.config import (
    DEFAULT_ENGINE,
    DEFAULT_POLICY,
    DEFAULT_PROTOCOL,
    DEFAULTS,
    BuiltinEngine,
    LocalEngineAt,
    PolicyName,
    Settings,
    parse_engine,
    parse_policy,
    parse_protocol,
)
from speceyes.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "role", "source"),
    [
        ("builtin", "small", BuiltinEngine("small")),
        ("builtin", "large", BuiltinEngine("large")),
        ("builtin:small", "large", BuiltinEngine("small")),
        ("builtin:large", "small", BuiltinEngine("large")),
        ("local:/models/a:b", "small", LocalEngineAt(Path("/models/a:b"))),
        ("local:models", "large", LocalEngineAt(Path("models"))),
    ],
)
def test_engine_strings(text, role, source):
    assert parse_engine(text, role=role) == source


@pytest.mark.parametrize(
    "text",
    ["", "builtin:", "builtin:medium", "Builtin", "local", "local:", "http://x", "replay:x", " "],
)
@pytest.mark.parametrize("role", ["small", "large"])
def test_an_unknown_engine_is_told_the_choices(text, role):
    with pytest.raises(ConfigError, match="builtin, builtin:small, builtin:large, local:DIR") as e:
        parse_engine(text, role=role)
    assert e.value.field == role


@pytest.mark.parametrize(
    ("parse", "field", "choices"),
    [(parse_policy, "policy", "serial, agent_only"), (parse_protocol, "protocol", "deepeyes")],
)
def test_an_unknown_name_is_told_the_choices(parse, field, choices):
    with pytest.raises(ConfigError, match=f"'nonsense' is unknown; choose from {choices}") as e:
        parse("nonsense")
    assert e.value.field == field
    assert parse(choices.split(", ", maxsplit=1)[0]) == choices.split(", ", maxsplit=1)[0]


def test_the_defaults_are_sound():
    assert Settings() == DEFAULTS
    assert parse_engine(DEFAULT_ENGINE, role="small") == BuiltinEngine("small")
    assert parse_policy(DEFAULT_POLICY) == "serial"
    assert parse_protocol(DEFAULT_PROTOCOL) == "deepeyes"
    assert (DEFAULTS.screen_by, DEFAULTS.degrade, DEFAULTS.max_answer_tokens) == (
        "large",
        False,
        20,
    )


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        DEFAULTS.degrade = True


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("screen_by", "medium"),
        *[
            (field.name, value)
            for field in fields(Settings)
            if field.name.startswith("max_")
            for value in (0, -1)
        ],
        *[
            (field.name, value)
            for field in fields(Settings)
            if field.name.endswith("_s")
            for value in (0.0, -1.0, math.inf, math.nan)
        ],
    ],
)
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(ConfigError) as e:
        Settings(**{field: value})
    assert e.value.field == field


def test_every_policy_has_its_function():
    assert set(assemble.POLICIES) == set(get_args(PolicyName))
