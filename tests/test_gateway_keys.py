"""The gateway's keys and rates: whose key it is, and how often its owner may ask."""

import subprocess
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from speceyes import cli
from speceyes.errors import KeyRefused
from speceyes.gateway.guard.buckets import full_bucket, take, whole_seconds
from speceyes.gateway.guard.keys import KeyRing, hash_key, new_key
from speceyes.gateway.settings import Key


def a_key(name="anna", secret="sk-anna", **more):  # noqa: S107 - made up
    return Key(name=name, sha256=hash_key(secret), **more)


def bearing(*values):
    return [(b"host", b"x"), *((b"authorization", value) for value in values)]


RING = KeyRing([a_key(), a_key("ben", "sk-ben")])


def test_a_known_key_finds_its_owner():
    assert RING.find(bearing(b"Bearer sk-ben")).name == "ben"
    assert RING.find(bearing(b"bearer  sk-anna ")).name == "anna"


def test_without_keys_whoever_comes_may_come_in():
    assert KeyRing([]).find(bearing()) is None
    assert KeyRing([]).find(bearing(b"Bearer anything")) is None


@pytest.mark.parametrize(
    "values",
    [
        (),
        (b"",),
        (b"Bearer",),
        (b"Bearer ",),
        (b"Basic sk-anna",),
        (b"sk-anna",),
        (b"Bearer sk-ann",),
        (b"Bearer sk-annab",),
        (b"Bearer SK-ANNA",),
        (b"Bearer sk-anna, Bearer sk-anna",),
        (b"Bearer sk-anna", b"Bearer sk-anna"),
        (b"Bearer wrong", b"Bearer sk-anna"),
        (b"Bearer \xff\xfe",),
        (b"Bearer " + b"x" * 5000,),
        (b"Bearer " + a_key().sha256.encode(),),  # who reads the settings has no key yet
    ],
    ids=lambda values: repr(values)[:30],
)
def test_any_other_key_is_refused_with_the_header_named(values):
    with pytest.raises(KeyRefused, match=r"^authorization: ") as refused:
        RING.find(bearing(*values))
    assert refused.value.http_status == 401
    assert "sk-anna" not in str(refused.value)


def test_every_known_key_is_compared_whichever_is_shown(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "speceyes.gateway.guard.keys.hmac.compare_digest",
        lambda known, digest: seen.append(known) or known == digest,
    )
    RING.find(bearing(b"Bearer sk-anna"))
    assert len(seen) == 2


def test_settings_hold_the_hash_that_a_shell_prints():
    printed = subprocess.run(
        ["sha256sum"], input=b"sk-anna", capture_output=True, check=True
    ).stdout.decode()
    assert hash_key("sk-anna") == printed.split()[0]


def test_a_new_key_is_random_and_opens_what_its_hash_is_in():
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    key = made.pop()
    assert KeyRing([a_key("new", key)]).find(bearing(b"Bearer " + key.encode())).name == "new"


def test_the_command_line_makes_a_key_and_the_entry_that_knows_it():
    made = CliRunner().invoke(cli.build_app(), ["key", "team-a"])
    assert made.exit_code == 0
    (entry,) = tomllib.loads(made.stdout)["gateway"]["keys"]
    found = KeyRing([Key(**entry)]).find(bearing(b"Bearer " + made.stderr.strip().encode()))
    assert found.name == "team-a"
    assert made.stderr.strip() not in made.stdout
    refused = CliRunner().invoke(cli.build_app(), ["key", 'a"b'])
    assert refused.exit_code != 0
    assert "name" in refused.stderr


# Rates.


@given(
    per_minute=st.integers(1, 6000),
    waits=st.lists(st.floats(-1.0, 5.0, allow_nan=False), min_size=1, max_size=200),
)
def test_no_more_tokens_are_taken_than_there_were_and_came_back(per_minute, waits):
    bucket, now_s, taken = full_bucket(per_minute, now_s=0.0), 0.0, 0
    latest_s = 0.0
    for waited_s in waits:
        now_s += waited_s
        latest_s = max(latest_s, now_s)
        bucket, wait = take(bucket, now_s=now_s)
        taken += wait == 0.0
        assert 0.0 <= bucket.tokens <= bucket.capacity
        assert taken <= bucket.capacity + latest_s * bucket.per_s + 1e-6


@given(per_minute=st.integers(1, 6000))
def test_who_waits_as_long_as_told_gets_a_token(per_minute):
    bucket, now_s = full_bucket(per_minute, now_s=1e6), 1e6
    while True:
        bucket, wait = take(bucket, now_s=now_s)
        if wait:
            break
    bucket, again = take(bucket, now_s=now_s + wait)
    assert again == 0.0


@pytest.mark.parametrize(("wait", "told"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.01, 2), (59.5, 60)])
def test_retry_after_is_whole_seconds_and_never_too_soon(wait, told):
    assert whole_seconds(wait) == told
