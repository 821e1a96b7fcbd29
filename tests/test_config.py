"""Settings: every one has a default and a range; a wrong word is told the right ones."""

import math
from dataclasses import FrozenInstanceError, fields
from typing import get_args

import pytest

from speceyes.config import (
    DEFAULT_ENGINE,
    DEFAULT_POLICY,
    DEFAULT_PROTOCOL,
    DEFAULTS,
    PolicyName,
    Settings,
    parse_policy,
    parse_protocol,
)
from speceyes.engine_names import BuiltinEngine, parse_engine
from speceyes.errors import ConfigError
from speceyes.policies.named import FIXED


@pytest.mark.parametrize(
    ("parse", "field", "choices"),
    [
        (parse_policy, "policy", "serial, overlap, race, adaptive, agent_only"),
        (parse_protocol, "protocol", "deepeyes, chain-of-focus, qwen3-vl, qwen3.5, mini-o3, pixel"),
    ],
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
        ("screen_prompt", "other"),
        *[("waste_budget", value) for value in (-0.1, 1.1, math.nan)],
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


def test_a_views_least_area_is_at_most_its_greatest():
    with pytest.raises(ConfigError, match="9 is above max_view_px, 8") as e:
        Settings(min_view_px=9, max_view_px=8)
    assert e.value.field == "min_view_px"


def test_every_policy_has_its_function():
    assert {*FIXED, "adaptive"} == set(get_args(PolicyName))
