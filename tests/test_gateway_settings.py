"""The gateway's part of a settings file: what it says, what it may not, and where a mistake is."""

import hashlib
import math
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from speceyes.errors import ConfigError
from speceyes.gateway.settings import BreakerSettings, GatewaySettings, ImageSettings, Key, Limits
from speceyes.gateway.settings_file import load_plan, plan_of
from speceyes.settings_file import load_settings

SHA = hashlib.sha256(b"sk-1").hexdigest()
FULL = f"""
protocol = "thyme"
policy = "serial"

[small]
engine = "http://127.0.0.1:8001/v1"

[gate]
threshold = 4.5
k = 16

[settings]
max_turns = 3
max_pictures = 9

[engines.big]
engine = "http://127.0.0.1:8002/v1#big"

[routes.fast]
large = "big"

[routes.plain]
large = "http://127.0.0.1:8003/v1#other"
mode = "bypass"

[routes.greedy]
large = "big"
protocol = "deepeyes"
on_sampling = "greedy"
large_down = "gated"
settings = {{ max_turns = 5 }}

[gateway]
host = "192.0.2.1"
port = 9000
workers = 2

[gateway.limits]
max_in_flight = 7

[gateway.images]
fetch = true
allow = ["example.org", "*.example.net"]

[gateway.streaming]
progress = "comments"

[gateway.audit]
file = "audit.jsonl"

[[gateway.keys]]
name = "me"
sha256 = "{SHA}"
requests_per_minute = 60
"""


def plan(text, folder=Path("/somewhere"), **flags):
    return plan_of(tomllib.loads(text), folder, flags=flags)


def routes_of(text, **flags):
    return {route.settings.name: route for route in plan(text, **flags).routes}


def complaint(text, **flags):
    with pytest.raises(ConfigError) as caught:
        plan(text, **flags)
    return caught.value.field


def test_nothing_at_all_is_the_built_in_pair_at_home():
    (route,) = load_plan(None, flags={}).routes
    settings = load_plan(None, flags={}).settings
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8400, 1)
    assert (route.settings.name, route.settings.mode) == ("speceyes", "funnel")
    assert (route.choices.small, route.choices.large) == (None, None)


def test_single_settings_by_flags_go_before_the_files_and_leave_the_others():
    text = "[settings]\ndepth = 1\nmax_turns = 3\n[routes.own.settings]\nmax_turns = 5\n"
    settings = routes_of(text, settings={"depth": 2})["own"].choices.settings
    assert (settings.depth, settings.max_turns) == (2, 5)


def test_the_tables_of_the_gateway_are_read():
    settings = plan(FULL).settings
    assert (settings.host, settings.port, settings.workers) == ("192.0.2.1", 9000, 2)
    assert settings.limits == Limits(max_in_flight=7)
    assert settings.images.allow == ("example.org", "*.example.net")
    assert settings.streaming.progress == "comments"
    assert settings.keys == (Key(name="me", sha256=SHA, requests_per_minute=60),)
    assert settings.audit.file == "/somewhere/audit.jsonl"


def test_what_stands_at_the_top_is_every_routes_default():
    routes = routes_of(FULL)
    assert [*routes] == ["fast", "plain", "greedy"]
    fast, greedy = routes["fast"].choices, routes["greedy"].choices
    assert (fast.small, fast.large) == ("http://127.0.0.1:8001/v1", "http://127.0.0.1:8002/v1#big")
    assert (fast.protocol, greedy.protocol) == ("thyme", "deepeyes")
    assert fast.gate == greedy.gate
    assert (fast.settings.max_turns, greedy.settings.max_turns) == (3, 5)
    assert greedy.settings.max_pictures == 9
    assert routes["greedy"].settings.large_down == "gated"
    assert routes["plain"].settings.mode == "bypass"


def test_a_flag_goes_before_the_top_of_the_file_and_after_a_routes_own():
    routes = routes_of(FULL, protocol="qwen3-vl", small={"engine": "builtin"})
    assert routes["fast"].choices.protocol == "qwen3-vl"
    assert routes["fast"].choices.small == "builtin"
    assert routes["greedy"].choices.protocol == "deepeyes"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("gateway.prot", "[gateway]\nprot = 1"),
        ("gateway.port", "[gateway]\nport = 70000"),
        ("gateway.port", '[gateway]\nport = "8400"'),
        ("gateway.workers", "[gateway]\nworkers = 0"),
        ("gateway.limits.max_queue", "[gateway.limits]\nmax_queue = -1"),
        ("gateway.limits.drain_s", "[gateway.limits]\ndrain_s = inf"),
        ("gateway.images.allow", "[gateway.images]\nfetch = true"),
        ("gateway.images.allow[0]", "[gateway.images]\nallow = [5]"),
        ("gateway.images.formats", '[gateway.images]\nformats = ["svg"]'),
        ("gateway.streaming.progress", '[gateway.streaming]\nprogress = "loud"'),
        ("gateway.keys", 'gateway.keys = "sk-1"'),
        ("gateway.keys[0].sha256", '[[gateway.keys]]\nname = "me"\nsha256 = "sk-1"'),
        ("gateway.keys[0].name", f'[[gateway.keys]]\nname = "a b"\nsha256 = "{SHA}"'),
        ("gateway.keys", f'[[gateway.keys]]\nname = "a"\nsha256 = "{SHA}"\n' * 2),
        ("engines.big.engine", "[engines.big]"),
        ("engines.big.engine", '[engines.big]\nengine = "elsewhere"'),
        ("engines.big.model", '[engines.big]\nmodel = "a"'),
        ("routes", "[routes]"),
        ("routes.fast.mode", '[routes.fast]\nmode = "slow"'),
        ("routes.fast.protocol", '[routes.fast]\nprotocol = "morse"'),
        ("routes.fast.speed", "[routes.fast]\nspeed = 1"),
        ("routes.fast.large", '[routes.fast]\nlarge = "none-such"'),
        ("routes.a b.name", '[routes."a b"]'),
        ("protocol", 'protocol = "morse"\n[routes.fast]'),
        ("gatway", "[gatway]"),
    ],
)
def test_a_mistake_is_named_by_its_key(field, text):
    assert complaint(text) == field


def test_other_commands_read_the_same_file(tmp_path):
    file = tmp_path / "speceyes.toml"
    file.write_text(FULL)
    assert load_settings(file).protocol == "thyme"
    assert load_plan(file, flags={}).settings.audit.file == str(tmp_path / "audit.jsonl")


@pytest.mark.parametrize("kind", [Limits, BreakerSettings])
def test_every_bound_is_checked(kind):
    for entry in fields(kind):
        with pytest.raises(ConfigError) as caught:
            kind(**{entry.name: -1})
        assert caught.value.field == entry.name
        if entry.name.endswith("_s"):
            with pytest.raises(ConfigError):
                kind(**{entry.name: math.nan})


def test_a_key_shows_nothing_of_itself():
    assert SHA not in repr(GatewaySettings(keys=(Key(name="me", sha256=SHA),)))


def test_pictures_are_not_fetched_unless_somebody_says_from_where():
    assert not ImageSettings().fetch
