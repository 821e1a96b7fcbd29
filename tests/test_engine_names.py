"""Engine strings: one grammar, read and written back, and no secret in any of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.engine_names import (
    ENGINE_CHOICES,
    BuiltinEngine,
    HttpEngineAt,
    LocalEngineAt,
    parse_engine,
)
from speceyes.errors import ConfigError

SECRET = "sk-very-secret"  # noqa: S105 - what must never be shown


@pytest.mark.parametrize(
    ("text", "role", "source"),
    [
        ("builtin", "small", BuiltinEngine("small")),
        ("builtin", "large", BuiltinEngine("large")),
        ("builtin:small", "large", BuiltinEngine("small")),
        ("builtin:large", "small", BuiltinEngine("large")),
        ("builtin:closer", "small", BuiltinEngine("closer")),
        ("local:/models/a:b", "small", LocalEngineAt("/models/a:b")),
        ("local:models", "large", LocalEngineAt("models")),
        ("local:Qwen/Qwen3-VL-2B-Instruct", "small", LocalEngineAt("Qwen/Qwen3-VL-2B-Instruct")),
        ("http://h:8000/v1", "small", HttpEngineAt("http://h:8000/v1")),
        ("http://h:8000/v1/", "small", HttpEngineAt("http://h:8000/v1")),
        ("HTTPS://h/v1#org/name", "small", HttpEngineAt("https://h/v1", "org/name")),
        ("http://[::1]:8000/v1#m", "small", HttpEngineAt("http://[::1]:8000/v1", "m")),
        ("http://h/a/v1?key_env=KEY", "large", HttpEngineAt("http://h/a/v1", key_env="KEY")),
        ("https://h/v1?key_env=A_1#m#n", "large", HttpEngineAt("https://h/v1", "m#n", "A_1")),
        ("http://h/v1#a b@c", "large", HttpEngineAt("http://h/v1", "a b@c")),
    ],
)
def test_engine_strings(text, role, source):
    assert parse_engine(text, role=role) == source
    assert parse_engine(str(source), role=role) == source


@pytest.mark.parametrize(
    "text",
    ["", "builtin:", "builtin:medium", "Builtin", "local", "local:", "local: ", "replay:x", " "],
)
@pytest.mark.parametrize("role", ["small", "large"])
def test_an_unknown_engine_is_told_the_choices(text, role):
    with pytest.raises(ConfigError) as caught:
        parse_engine(text, role=role)
    assert caught.value.field == role
    assert caught.value.message.endswith(f"is no engine; choose from {ENGINE_CHOICES}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http:", "is no engine"),
        ("http:/", "has no host"),
        ("http:///v1", "has no host"),
        ("http://:8000/v1", "has no host"),
        ("http://h:port/v1", "a port that is none"),
        ("http://h:0/v1", "a port that is none"),
        ("http://h:70000/v1", "a port that is none"),
        ("http://[::1/v1", "has no host"),
        ("http://h", "has no path"),
        ("http://h:8000/#m", "has no path"),
        ("http://h/v 1#m", "a space or a control"),
        ("http://h/v1\n#m", "a space or a control"),
        ("http://h/v1#m\n", "a space or a control"),
        ("http://h/v1#", "a model's name"),
        ("http://h/v1# ", "a model's name"),
        ("http://h/v1#m?key_env=KEY", "write \\?key_env=NAME before"),
        ("http://h/v1?#m", "key_env=NAME and nothing else"),
        ("http://h/v1?key_env=#m", "not the name of an environment variable"),
        ("http://h/v1?key_env=A&key_env=B#m", "key_env=NAME and nothing else"),
        ("http://h/v1?model=x", "key_env=NAME and nothing else"),
    ],
)
def test_an_address_that_is_none_says_what_is_wrong(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_engine(text, role="small")
    assert caught.value.field == "small"


@pytest.mark.parametrize(
    "text",
    [
        f"http://user:{SECRET}@h/v1#m",
        f"http://{SECRET}@h/v1#m",
        f"http://user:{SECRET}@h:port/v1#m",
        f"http://h/v1?api_key={SECRET}#m",
        f"http://h/v1?key={SECRET}",
        f"http://h/v1?key_env=KEY&api_key={SECRET}#m",
        f"http://h/v1?key_env={SECRET}#m",
        f"http://h/v1#m?api_key={SECRET}",
        f"openai:{SECRET}",
        f"ws://user:{SECRET}@h/v1",
    ],
)
def test_a_key_in_the_string_is_refused_and_never_shown(text):
    with pytest.raises(ConfigError) as caught:
        parse_engine(text, role="large")
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1)
sources = st.one_of(
    st.builds(BuiltinEngine, st.sampled_from(["small", "large", "closer"])),
    st.builds(LocalEngineAt, names),
    st.builds(
        HttpEngineAt,
        st.builds(
            "{}://{}{}/{}".format,
            st.sampled_from(["http", "https"]),
            st.from_regex(r"[a-z0-9][a-z0-9.-]{0,20}", fullmatch=True),
            st.sampled_from(["", ":1", ":8000", ":65535"]),
            st.from_regex(r"[a-z0-9._~-]{1,9}(/v[0-9])?", fullmatch=True),
        ),
        st.none() | names.filter(lambda name: "?" not in name),
        st.none() | st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True),
    ),
)


@given(sources, st.sampled_from(["small", "large"]))
def test_the_string_of_a_source_reads_as_the_source(source, role):
    assert parse_engine(str(source), role=role) == source


@given(st.text() | st.builds("http://{}".format, st.text()), st.sampled_from(["small", "large"]))
def test_any_string_is_an_engine_or_a_named_error(text, role):
    try:
        source = parse_engine(text, role=role)
    except ConfigError:
        return
    assert parse_engine(str(source), role=role) == source
