"""The settings file: all of it is read, flags go before it, and every mistake is named."""

import re
from pathlib import Path

import pytest

import speceyes
from speceyes.commands.choosing import chosen
from speceyes.config import DEFAULTS, Settings
from speceyes.engines.wire.settings import HttpSettings
from speceyes.errors import ConfigError
from speceyes.gate import PAPER, GateSpec
from speceyes.screen import ScreenSpec
from speceyes.settings_file import Choices, load_gate, load_settings
from speceyes.specs import gate_to_json, gate_to_toml
from speceyes.tools.limits import SandboxLimits

WHOLE = """
protocol = "qwen3-vl"
policy = "serial"
system_prompt = "prompts/system.txt"
user_prompt = "user.txt"

[small]
engine = "http://127.0.0.1:8001/v1#small"

[large]
engine = "https://example.org/v1?key_env=LARGE_KEY#org/large"

[gate]
threshold = 4
k = 16
engine = "http"

[screen]
threshold = 0.25

[settings]
max_turns = 3
screen_by = "small"
screen_timeout_s = 5

[http]
max_attempts = 2
stream = false

[sandbox]
block_s = 5
warm = 1
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "speceyes.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_whole_file(tmp_path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "system.txt").write_bytes(b"Sieh hin.\r\n ")
    (tmp_path / "user.txt").write_text("{question}", encoding="utf-8")
    assert load_settings(written(tmp_path, WHOLE)) == Choices(
        small="http://127.0.0.1:8001/v1#small",
        large="https://example.org/v1?key_env=LARGE_KEY#org/large",
        protocol="qwen3-vl",
        policy="serial",
        gate=GateSpec(threshold=4.0, k=16, engine="http"),
        screen=ScreenSpec(threshold=0.25),
        settings=Settings(max_turns=3, screen_by="small", screen_timeout_s=5.0),
        http=HttpSettings(max_attempts=2, stream=False),
        sandbox=SandboxLimits(block_s=5.0, warm=1),
        system_prompt="Sieh hin.\r\n ",  # a release's own wording, to the letter
        user_prompt="{question}",
    )


def test_the_file_that_the_readme_shows_can_be_loaded(tmp_path):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    choices = load_settings(written(tmp_path, shown))
    assert choices.small == "http://127.0.0.1:8001/v1"
    assert choices.gate.small_model == "Qwen/Qwen3-VL-2B-Instruct"


def test_an_empty_file_chooses_nothing(tmp_path):
    assert load_settings(written(tmp_path, "")) == Choices()
    assert load_settings(written(tmp_path, "[small]\n")).small is None
    assert Choices().settings == DEFAULTS


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("smal = 1", "smal", "is unknown; known are small, large, protocol"),
        ("[small]\nmodel = 'x'", "small.model", "is unknown; known are engine"),
        ("small = 'builtin'", "small", "a table with keys, not 'builtin'"),
        ("[large]\nengine = 3", "large.engine", "is to be a string, not 3"),
        ("[large]\nengine = 'gpt'", "large", "'gpt' is no engine; choose from builtin"),
        ("protocol = 'thyme2'", "protocol", "'thyme2' is unknown; choose from deepeyes"),
        ("protocol = 3", "protocol", "is to be a string"),
        ("policy = 'fastest'", "policy", "choose from serial"),
        ("system_prompt = 'nowhere.txt'", "system_prompt", "nowhere.txt cannot be read"),
        ("user_prompt = true", "user_prompt", "is to be a string, not True"),
        ("[gate]\nthreshold = 4", "gate.k", "is missing"),
        ("[gate]\nthreshold = 4\nk = 16\ntau = 1", "gate.tau", "is unknown"),
        ("gate = 'mine'", "gate", "'mine' is no gate; choose from paper, FILE.json, FILE.toml"),
        ("gate = 3", "gate", "a table with keys"),
        ("[screen]\nthreshold = 2", "screen.threshold", "is not in 0..1"),
        ("[settings]\nmax_turn = 3", "settings.max_turn", "is unknown; known are screen_by"),
        ("[settings]\nmax_turns = '3'", "settings.max_turns", "is to be a whole number, not '3'"),
        ("[settings]\nmax_turns = 0", "settings.max_turns", "is below 1"),
        (
            "[settings]\nscreen_by = 'me'",
            "settings.screen_by",
            "choose from large, small, none, agent",
        ),
        ("[settings]\nscreen_prompt = 1", "settings.screen_prompt", "choose from paper, shared$"),
        ("[http]\nretries = 3", "http.retries", "is unknown; known are connect_timeout_s"),
        ("[http]\nmax_attempts = 0", "http.max_attempts", "is below 1"),
        ("[http]\nimage_format = 'gif'", "http.image_format", "choose from png, jpeg"),
        ("[sandbox]\nblocks = 3", "sandbox.blocks", "is unknown; known are block_s"),
        ("[sandbox]\nwarm = 0", "sandbox.warm", "is not a number above 0"),
        ("[settings]\nunsafe_python = 1", "settings.unsafe_python", "is to be true or false"),
        ("= 3", "config", "speceyes.toml is no TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, field, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load_settings(written(tmp_path, text))
    assert caught.value.field == field


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^config: .*nowhere\.toml cannot be read: No such file"):
        load_settings(tmp_path / "nowhere.toml")
    (tmp_path / "odd.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is no UTF-8 text"):
        load_settings(tmp_path / "odd.toml")


@pytest.mark.parametrize(("name", "write"), [("a.json", gate_to_json), ("a.toml", gate_to_toml)])
def test_a_gate_lies_in_a_file(tmp_path, name, write):
    spec = GateSpec(threshold=4.0, k=16, aggregation="mean")
    (tmp_path / name).write_text(write(spec), encoding="utf-8")
    assert load_gate(str(tmp_path / name)) == spec
    assert load_settings(written(tmp_path, f"gate = '{name}'")).gate == spec
    assert load_gate("paper") == PAPER


def test_the_built_in_calibration_is_a_gate_file():
    file = Path(speceyes.__file__).parent / "builtin" / "models" / "calibration.json"
    assert load_gate(str(file)).small_model == "builtin:small"


def test_flags_go_before_the_file_and_that_before_the_defaults(tmp_path):
    text = "protocol = 'qwen3-vl'\n[small]\nengine = 'builtin:large'\n[settings]\nmax_turns = 3\n"
    (tmp_path / "system.txt").write_text("Look.", encoding="utf-8")
    (tmp_path / "user.txt").write_text("{question}!", encoding="utf-8")
    assert chosen() == Choices()
    made = chosen(
        config=written(tmp_path, text),
        large="builtin:small",
        protocol="deepeyes",
        gate="paper",
        system_prompt=tmp_path / "system.txt",
        user_prompt=tmp_path / "user.txt",
        unsafe_python=True,
    )
    assert made == Choices(
        small="builtin:large",
        large="builtin:small",
        protocol="deepeyes",
        gate=PAPER,
        settings=Settings(max_turns=3, unsafe_python=True),
        system_prompt="Look.",
        user_prompt="{question}!",
    )


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ({"small": "gpt"}, "small"),
        ({"large": "gpt"}, "large"),
        ({"protocol": "thyme2"}, "protocol"),
        ({"gate": "best"}, "gate"),
        ({"gate": "nowhere.json"}, "gate"),
        ({"config": Path("nowhere.toml")}, "config"),
        ({"system_prompt": Path("nowhere")}, "system_prompt"),
        ({"user_prompt": Path("nowhere")}, "user_prompt"),
    ],
)
def test_a_flag_that_is_wrong_is_named(flag, field):
    with pytest.raises(ConfigError) as caught:
        chosen(**flag)
    assert caught.value.field == field
