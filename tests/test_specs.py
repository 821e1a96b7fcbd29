"""Gates as text, and the tables that texts are: what was written comes back, or is named."""

from dataclasses import asdict, dataclass, fields
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.errors import ConfigError
from speceyes.gate import PAPER, GateSpec
from speceyes.specs import gate_from_json, gate_from_toml, gate_to_json, gate_to_toml, read_gate
from speceyes.tables import check_keys, read_table

words = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
gates = st.builds(
    GateSpec,
    threshold=st.floats(allow_nan=False),
    k=st.integers(3, 100),
    definition=st.sampled_from(["rivals", "all"]),
    aggregation=st.sampled_from(["min", "mean", "bottom"]),
    scale=st.sampled_from(["raw", "squashed"]),
    strict=st.booleans(),
    bottom_share=st.floats(0.01, 1.0),
    small_model=words,
    large_model=words,
    prompt_id=words,
    engine=words,
)


@given(gates)
def test_a_gate_comes_back_from_json_and_toml(spec):
    assert gate_from_json(gate_to_json(spec)) == spec
    assert gate_from_toml(gate_to_toml(spec)) == spec


def test_a_gate_is_read_from_a_table_of_its_own_and_from_a_calibration():
    assert read_gate(asdict(PAPER)) == PAPER
    assert read_gate({"gate": asdict(PAPER), "figures": {"alpha": 0.9}}) == PAPER


READERS = {
    "json": (
        gate_from_json,
        '{{"gate": {{"threshold": {threshold}, "k": {k}{more}}}}}',
        ', "{}": {}',
    ),
    "toml": (gate_from_toml, "[gate]\nthreshold = {threshold}\nk = {k}\n{more}", "{} = {}\n"),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("threshold", "k", "more", "field", "words"),
    [
        ("4", "16", ("agregation", '"min"'), "gate.agregation", "is unknown; known are threshold"),
        ('"high"', "16", None, "gate.threshold", "is to be a number, not 'high'"),
        ("4", "16.5", None, "gate.k", "is to be a whole number, not 16.5"),
        ("4", "true", None, "gate.k", "is to be a whole number, not True"),
        ("true", "16", None, "gate.threshold", "is to be a number"),
        ("4", "2", None, "gate.k", "no spread"),
        ("4", "16", ("aggregation", '"median"'), "gate.aggregation", "choose from min, mean"),
        ("4", "16", ("aggregation", "[]"), "gate.aggregation", "choose from min, mean"),
        ("4", "16", ("strict", "1"), "gate.strict", "true or false"),
        ("4", "16", ("engine", "7"), "gate.engine", "is to be a string, not 7"),
    ],
)
def test_what_is_wrong_in_a_gate_is_named(kind, threshold, k, more, field, words):
    read, form, entry = READERS[kind]
    with pytest.raises(ConfigError, match=words) as caught:
        read(form.format(threshold=threshold, k=k, more=entry.format(*more) if more else ""))
    assert caught.value.field == field


@pytest.mark.parametrize("missing", ["threshold", "k"])
def test_no_threshold_without_its_k_and_the_other_way_round(missing):
    table = {"threshold": 4.0, "k": 16}
    del table[missing]
    with pytest.raises(ConfigError, match="is missing") as caught:
        read_gate(table)
    assert caught.value.field == f"gate.{missing}"


@pytest.mark.parametrize(
    ("read", "text"),
    [(gate_from_json, "{"), (gate_from_toml, "threshold ="), (gate_from_json, "[1]")],
    ids=["json", "toml", "list"],
)
def test_what_is_no_document_is_refused(read, text):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.field == "gate"


@dataclass(frozen=True)
class Odd:
    """One field of each kind."""

    name: str
    share: float = 0.5
    count: int | None = None
    way: Literal["up", "down"] = "up"

    def __post_init__(self):
        if self.share > 1:
            raise ConfigError("share", "is above 1")


@dataclass(frozen=True)
class Two:
    """Tables within a table."""

    one: Odd
    other: Odd | None = None


def test_a_table_fills_a_dataclass():
    assert read_table("odd", {"name": "a", "share": 1, "count": None}, Odd) == Odd("a", 1.0)
    assert read_table("odd", {"name": "a", "way": "down", "count": 3}, Odd) == Odd(
        "a", 0.5, 3, "down"
    )


def test_a_table_within_a_table_fills_a_dataclass_within_one():
    odd = Odd("a", 0.5)
    assert read_table("two", {"one": {"name": "a", "share": 0.5}}, Two) == Two(odd)
    both = {"one": {"name": "a", "share": 0.5}, "other": {"name": "b"}}
    assert read_table("two", both, Two) == Two(odd, Odd("b"))
    assert read_table("two", {"one": {"name": "a"}, "other": None}, Two).other is None
    with pytest.raises(ConfigError, match=r"^two\.other\.share: is to be a number, not 'x'$"):
        read_table("two", {**both, "other": {"name": "b", "share": "x"}}, Two)
    with pytest.raises(ConfigError, match=r"^two\.one: is to be a table with keys, not 3$"):
        read_table("two", {"one": 3}, Two)


def test_an_error_of_the_value_gets_the_tables_name():
    with pytest.raises(ConfigError, match=r"^odd\.share: is above 1$"):
        read_table("odd", {"name": "a", "share": 2.0}, Odd)


def test_what_is_no_table_is_refused():
    with pytest.raises(ConfigError, match=r"^odd: is to be a table with keys, not 3$"):
        read_table("odd", 3, Odd)


def test_a_long_value_is_shown_in_part():
    with pytest.raises(ConfigError) as caught:
        read_table("odd", {"name": ["x" * 500]}, Odd)
    assert len(caught.value.message) < 120


def test_keys_of_no_table_are_named_alone():
    with pytest.raises(ConfigError, match=r"^smal: is unknown; known are small, large$"):
        check_keys("", {"smal": 1}, ("small", "large"))


def test_every_field_of_a_gate_is_written():
    written = gate_to_toml(
        GateSpec(4.0, 16, small_model="a", large_model="b", prompt_id="c", engine="d")
    )
    assert [line.split(" = ")[0] for line in written.splitlines()[1:]] == [
        entry.name for entry in fields(GateSpec)
    ]
