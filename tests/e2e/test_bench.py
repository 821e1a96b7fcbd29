"""A laboratory's day on the built-in pair: run, killed, gone on with, swept and reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from speceyes.bench.folder import RECORDS, read_run

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.timeout(600)]

PROGRAM = [sys.executable, "-c", "import sys; from speceyes.cli import main; sys.exit(main())"]
ITEMS = 15
METHODS = ("baseline", "speceyes", "specreason", "small")
ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


def bench(out: Path) -> list[str]:
    return [*PROGRAM, "bench", f"builtin:{ITEMS}", "--seed", "20260102", "--out", str(out)]


def call(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*PROGRAM, *words], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def answers(out: Path) -> dict[tuple[str, str], str | None]:
    return {(r.method, r.item_id): r.text for r in read_run(out).records}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "unbroken"
    call(*bench(out)[len(PROGRAM) :])
    return out


def test_every_item_is_answered_by_every_method(unbroken: Path):
    run = read_run(unbroken)
    assert (run.missing, len(run.records)) == (0, ITEMS * len(METHODS))
    assert {record.mishap for record in run.records} == {None}


def test_killed_in_the_middle_the_same_command_gives_the_same_answers(
    unbroken: Path, tmp_path: Path
):
    out = tmp_path / "killed"
    for wanted in (5, 22, 41):
        with subprocess.Popen(
            bench(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
        ) as process:
            records = out / RECORDS
            while process.poll() is None:
                if records.exists() and records.read_bytes().count(b"\n") >= wanted:
                    break
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -9
        assert not (out / "report.html").exists()
    call(*bench(out)[len(PROGRAM) :])
    assert answers(out) == answers(unbroken)


def test_a_report_of_several_runs_is_one_page(unbroken: Path, tmp_path: Path):
    page = tmp_path / "report.html"
    done = call("report", str(unbroken), "--html", str(page), "--json")
    (suite,) = json.loads(done.stdout)["suites"]
    assert set(suite["methods"]) == {"agent alone", "SpecEyes", "SpecReason", "small alone"}
    text = page.read_text(encoding="utf-8")
    assert "<svg" in text
    assert 'src="http' not in text
    assert 'href="http' not in text


def test_a_sweep_runs_nothing_again(unbroken: Path):
    began_s = time.monotonic()
    done = call("sweep", str(unbroken), "--preset", "paper", "--json")
    print(f"a sweep of {ITEMS} items: {time.monotonic() - began_s:.1f} s")
    points = json.loads(done.stdout)["suites"][0]["points"]
    assert {point["gate"]["k"] for point in points} == {32, 48, 64, 80, 96}
