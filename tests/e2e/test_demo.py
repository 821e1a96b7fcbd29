"""The whole program as a user runs it: a subprocess, the built-in pair, files on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.timeout(600)]

PROGRAM = [sys.executable, "-c", "import sys; from speceyes.cli import main; sys.exit(main())"]
ITEMS = 24
FIELDS = {
    "": {"items", "seed", "concurrency", "baseline", "speceyes", "speedup", "limit"}
    | {"share_of_limit", "small"},
    "baseline": {"accuracy", "wall_s", "per_split"},
    "speceyes": {"accuracy", "wall_s", "alpha", "beta", "per_split", "routes", "reject_reasons"},
    "small": {"accuracy_easy", "accuracy_hard"},
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], Path]:
    out = tmp_path_factory.mktemp("demo")
    words = ["demo", "--items", str(ITEMS), "--seed", "20260101", "--out", str(out), "--json"]
    done = subprocess.run(
        [*PROGRAM, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :]), out


def test_the_document_has_its_fields(demo: tuple[dict[str, object], Path]):
    document, _ = demo
    for part, fields in FIELDS.items():
        body = document[part] if part else document
        assert isinstance(body, dict)
        assert fields <= set(body)
    assert document["items"] == ITEMS


def test_speceyes_keeps_up(demo: tuple[dict[str, object], Path]):
    baseline, speceyes = demo[0]["baseline"], demo[0]["speceyes"]
    assert isinstance(baseline, dict)
    assert isinstance(speceyes, dict)
    assert baseline["accuracy"] >= 0.8  # far below the built-in pair's, far above chance
    assert speceyes["accuracy"] >= baseline["accuracy"] - 0.1
    assert sum(speceyes["routes"].values()) == ITEMS


def test_the_report_stands_alone(demo: tuple[dict[str, object], Path]):
    page = (demo[1] / "report.html").read_text(encoding="utf-8")
    assert "<img" in page or "<svg" in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert len(page) < 8_000_000


def test_records_and_figures_are_left_beside_it(demo: tuple[dict[str, object], Path]):
    lines = (demo[1] / "records.jsonl").read_text(encoding="utf-8").splitlines()
    methods = [json.loads(line)["method"] for line in lines]
    assert {m: methods.count(m) for m in set(methods)} == dict.fromkeys(
        ("baseline", "speceyes", "small"), ITEMS
    )
    assert json.loads((demo[1] / "result.json").read_text(encoding="utf-8")) == demo[0]
