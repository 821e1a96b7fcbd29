"""What the local engine refuses: requests, limits and checkpoints, each by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from speceyes.engines.local import LocalEngine
from speceyes.engines.worker import LocalLimits
from speceyes.errors import ConfigError, EngineUnavailable, InputError
from tests.tiny_checkpoints import ask, checkpoint_folder, opened, write_checkpoint

pytestmark = [pytest.mark.local]

REQUEST = ask("What is it?")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("top_logprobs", -1),
        ("stop", ("a", "")),
        ("messages", ()),
        ("messages", ask("a \ufdd0 b").messages),
        ("messages", ask("a \ud800 b").messages),
        ("continue_final_message", True),
    ],
    ids=["tokens", "candidates", "stop", "no_messages", "no_character", "surrogate", "not_its_own"],
)
@pytest.mark.anyio
async def test_requests_that_make_no_sense_are_refused(field: str, value: object):
    async with opened() as engine:
        with pytest.raises(InputError) as caught:
            await engine.generate(replace(REQUEST, **{field: value}))
        assert caught.value.field == field


def test_what_cannot_be_loaded_is_named(tmp_path: Path):
    with pytest.raises(EngineUnavailable, match="cannot be loaded") as caught:
        LocalEngine.load(tmp_path / "nothing", name="lost")
    assert caught.value.engine == "lost"
    with pytest.raises(ConfigError, match="float12"):
        LocalEngine.load(checkpoint_folder("qwen3_vl"), name="odd", dtype="float12")
    with pytest.raises(ConfigError, match="threads"):
        LocalEngine.load(checkpoint_folder("qwen3_vl"), name="odd", threads=0)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", {"model_type": "llava"}, "llava"),
        ("config.json", {"quantization_config": {"quant_method": "fp8"}}, "quantized"),
        ("chat_template.jinja", None, "no chat template"),
        ("model.safetensors", None, "cannot be loaded"),
        ("preprocessor_config.json", None, "cannot be loaded"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path: Path, file: str, change, words: str):
    folder = shutil.copytree(checkpoint_folder("qwen3_vl"), tmp_path / "odd")
    if change is None:
        (folder / file).unlink()
    else:
        settings = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(settings | change))
    with pytest.raises(EngineUnavailable, match=words):
        LocalEngine.load(folder, name="odd")


def test_odd_text_settings_are_refused(tmp_path: Path):
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "mrope_section": [2, 3, 3], "factor": 2.0}
    folder = write_checkpoint(tmp_path, "qwen2_5_vl", text_settings={"rope_parameters": rope})
    with pytest.raises(EngineUnavailable, match="dynamic"):
        LocalEngine.load(folder, name="odd")


@pytest.mark.parametrize(
    "field", ["max_batch", "prefill_tokens", "cache_bytes", "picture_bytes", "max_context_tokens"]
)
def test_limits_below_sense_are_refused(field: str):
    with pytest.raises(ConfigError, match=field):
        LocalLimits(**{field: -1})
