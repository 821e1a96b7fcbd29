"""Suite strings: which suite, and where its files are, here or on the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from speceyes.bench.suites.opening import open_suite
from speceyes.bench.suites.sources import find_folder, parse_source
from speceyes.errors import ConfigError, SuiteError
from tests.suite_folders import make_hrbench, make_pope, make_vstar

SRC = Path(__file__).resolve().parents[1] / "src"


@pytest.mark.parametrize(
    ("text", "name", "place"),
    [
        ("builtin", "builtin", ""),
        ("builtin:12", "builtin", "12"),
        ("vstar", "vstar", "craigwu/vstar_bench"),
        ("vstar:", "vstar", "craigwu/vstar_bench"),
        ("hrbench", "hrbench", "DreamMr/HR-Bench"),
        ("pope", "pope", "lmms-lab/POPE"),
        ("pope:my/copy", "pope", "my/copy"),
        ("vstar:C:/data", "vstar", "C:/data"),
        ("jsonl:mine.jsonl", "jsonl", "mine.jsonl"),
    ],
)
def test_a_suite_string_says_which_suite_and_where(text, name, place):
    source = parse_source(text)
    assert (source.text, source.name, source.place) == (text, name, place)


@pytest.mark.parametrize(
    "text", ["", "v*", "VSTAR", "builtin:x", "builtin:0", "builtin:-1", "jsonl", "jsonl:", ":x"]
)
def test_a_string_that_names_no_suite_is_refused(text):
    with pytest.raises(ConfigError) as caught:
        open_suite(text)
    assert caught.value.field == "suite"


@pytest.mark.parametrize(
    ("more", "field"), [({"seed": -1}, "seed"), ({"per_split": 0}, "per_split")]
)
def test_a_number_out_of_range_is_refused_by_name(more, field):
    with pytest.raises(ConfigError) as caught:
        open_suite("builtin", **more)
    assert caught.value.field == field


@pytest.mark.parametrize("place", ["./lost", "lost", "/lost/folder", "a/b/c", "../up", "a b/c"])
def test_what_is_neither_folder_nor_hub_name_asks_no_hub(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SuiteError, match="is no folder here; give one that exists"):
        find_folder(parse_source(f"vstar:{place}"), ["*"])


def test_a_folder_goes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_vstar(tmp_path / "my" / "copy")
    assert find_folder(parse_source("vstar:my/copy"), ["*"]) == Path("my/copy")


def test_without_the_hub_s_library_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SuiteError, match=r"pip install 'speceyes\[lab\]'"):
        open_suite("vstar")


def hub_failure(kind):
    from huggingface_hub import errors

    response = SimpleNamespace(headers={}, request=None)  # what carries it differs by version
    return {
        "gated": errors.GatedRepoError("no", response=response),
        "unknown": errors.RepositoryNotFoundError("no", response=response),
        "offline": errors.OfflineModeIsEnabled("no"),
        "uncached": errors.LocalEntryNotFoundError("no"),
        "server": errors.HfHubHTTPError("500 Server Error", response=response),
        "disk": OSError(28, "No space left on device"),
        "name": errors.HFValidationError("a bad name"),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("gated", "ask for access on its page, then log in"),
        ("unknown", "no such dataset, or a private one"),
        ("offline", "HF_HUB_CACHE"),
        ("uncached", "HF_HUB_CACHE"),
        ("server", "500 Server Error; try again"),
        ("disk", "No space left on device"),
        ("name", "a bad name"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(monkeypatch, kind, told):
    def refuse(*_, **__):
        raise hub_failure(kind)

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(SuiteError, match=told) as caught:
        open_suite("vstar:some/where")
    assert caught.value.field == "vstar:some/where"
    assert "some/where, which is no folder here" in caught.value.message


@pytest.mark.parametrize(
    ("text", "split", "wanted"),
    [
        ("vstar", "relative_position", ["relative_position/*"]),
        ("hrbench", "8k", ["*8[kK]*.tsv"]),
        ("pope", "popular", ["Full/popular-00000-of-00001.parquet"]),
    ],
)
def test_only_what_the_wanted_splits_need_is_downloaded(tmp_path, monkeypatch, text, split, wanted):
    asked = {}

    def download(repo_id, **more):
        asked.update(more, repo_id=repo_id)
        for make in (make_vstar, make_hrbench, make_pope):
            make(tmp_path)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    suite = open_suite(text, splits=(split,))
    assert asked["allow_patterns"] == wanted
    assert asked["repo_type"] == "dataset"
    assert list(suite.facts.counts) == [split]


OPEN_IT = """
import json, sys
from speceyes.bench.suites.opening import open_suite
suite = open_suite(sys.argv[1])
print(json.dumps([entry.item_id for entry in suite.entries()] + [suite.facts.total]))
"""


def test_a_suite_in_the_hub_s_cache_is_read_offline(tmp_path):
    """The cache as the hub's library lays it out, by hand; a fresh process, as it reads the
    environment once."""
    cache, commit = tmp_path / "hub", "0123456789abcdef0123456789abcdef01234567"
    repo = cache / "datasets--craigwu--vstar_bench"
    make_vstar(repo / "snapshots" / commit, count=1)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    offline = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(SRC)}

    def read(text):
        words = [sys.executable, "-c", OPEN_IT, text]
        return subprocess.run(
            words, env=os.environ | offline, capture_output=True, text=True, check=False
        )

    done = read("vstar")
    assert done.returncode == 0, done.stderr
    items = ["vstar-direct_attributes-sa_0", "vstar-relative_position-sa_0"]
    assert json.loads(done.stdout) == [*items, 2]
    missing = read("pope")
    assert missing.returncode == 1
    assert "the hub was asked for lmms-lab/POPE" in missing.stderr.splitlines()[-1]
    assert "HF_HUB_CACHE" in missing.stderr.splitlines()[-1]
