"""What the local engine refuses: requests, limits and checkpoints, each by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from speceyes.engines.checkpoint import load_checkpoint
from speceyes.engines.decode import Batch
from speceyes.engines.local import LocalEngine
from speceyes.engines.stock import StockBatch
from speceyes.engines.stock_checkpoint import load_stock_checkpoint
from speceyes.engines.worker import LocalLimits
from speceyes.errors import ConfigError, EngineUnavailable, InputError
from tests.tiny_checkpoints import ask, checkpoint_folder, opened, write_checkpoint
from tests.tiny_stock_checkpoints import MAKES, stock_folder

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
        ("config.json", {"model_type": "nonesuch"}, "nonesuch"),
        ("config.json", {"model_type": "qwen3"}, "cannot be loaded: Unrecognized configuration"),
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llava"}, "is of kind 'llava'"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized"),
    ],
    ids=["kind", "quantized"],
)
def test_our_own_layers_refuse_what_they_would_run_wrongly(tmp_path: Path, change, words: str):
    folder = shutil.copytree(checkpoint_folder("qwen3_vl"), tmp_path / "odd")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(EngineUnavailable, match=words):
        load_checkpoint(folder, engine="odd")


def test_odd_text_settings_are_left_to_transformers(tmp_path: Path):
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "mrope_section": [2, 3, 3], "factor": 2.0}
    folder = write_checkpoint(tmp_path, "qwen2_5_vl", text_settings={"rope_parameters": rope})
    with pytest.raises(EngineUnavailable, match="dynamic"):
        load_checkpoint(folder, engine="odd")
    assert isinstance(machinery(LocalEngine.load(folder, name="odd")), StockBatch)


def machinery(engine: LocalEngine) -> object:
    return engine._open().machinery.batch


@pytest.mark.parametrize("make", MAKES)
def test_a_model_is_run_by_what_it_is(tmp_path: Path, make: str):
    named_otherwise = shutil.copytree(stock_folder(make), tmp_path / "qwen3_vl")
    assert isinstance(machinery(LocalEngine.load(named_otherwise, name="one")), StockBatch)
    folder = shutil.copytree(checkpoint_folder("qwen3_vl"), tmp_path / make)
    assert isinstance(machinery(LocalEngine.load(folder, name="other")), Batch)


def test_a_tokenizer_that_cannot_be_read_as_bytes_is_refused(tmp_path: Path):
    folder = shutil.copytree(stock_folder("llava"), tmp_path / "odd")
    made = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(made | {"decoder": {"type": "Fuse"}}))
    with pytest.raises(EngineUnavailable, match="no tokenizer whose entries read as bytes"):
        LocalEngine.load(folder, name="odd")


def test_without_a_chat_template_nothing_can_be_asked(tmp_path: Path):
    folder = shutil.copytree(stock_folder("llava"), tmp_path / "odd")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(EngineUnavailable, match="no chat template"):
        load_stock_checkpoint(folder, engine="odd")


def test_a_name_on_the_hub_that_cannot_be_had_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EngineUnavailable, match=r"org/none .*hf auth login.*hf download") as caught:
        LocalEngine.load("org/none", name="far")
    assert caught.value.engine == "far"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field", ["max_batch", "prefill_tokens", "cache_bytes", "picture_bytes", "max_context_tokens"]
)
def test_limits_below_sense_are_refused(field: str):
    with pytest.raises(ConfigError, match=field):
        LocalLimits(**{field: -1})
