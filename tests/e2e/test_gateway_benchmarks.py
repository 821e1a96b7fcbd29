"""The gateway's benchmarks run, briefly; and what they watch for holds at least so long."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.pinned_env import CLIENTS, ROOT

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


def run(script: str, *flags: str) -> dict:
    words = [sys.executable, str(ROOT / "benchmarks" / script), *flags]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_target_answers_every_request():
    targets = ["direct", "wire", "bypass", "funnel", *(["litellm"] if CLIENTS.is_ready() else [])]
    told = run(
        "gateway.py", "--quick", "--connections", "4", "--workloads", "image 100 kB",
        "--targets", *targets,
    )  # fmt: skip
    (cell,) = told["cells"]
    assert list(cell["targets"]) == targets
    for name, figures in cell["targets"].items():
        assert figures["requests"] > 0, name
        assert figures["errors"] == {}, name
    assert cell["bypass_beside"]["wire"]["added_p50_ms"] is not None


def test_under_faults_all_is_accounted_for_and_nothing_is_orphaned():
    told = run("gateway_soak.py", "--minutes", "0.3", "--clients", "12")
    assert told["begun"] > 50
    assert (told["is_accounted"], told["has_no_orphans"], told["surprises"]) == (True, True, {})


@pytest.mark.parametrize("route", ["bypass", "funnel"])
def test_no_stream_is_lost(route):
    told = run("gateway_soak.py", "--streams", "200", "--stream-s", "3", "--route", route)
    assert told["runs"][-1]["ends"] == {"200": 200}
