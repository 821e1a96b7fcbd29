"""How soon is a broken bound noticed, and how often is the alarm false? Traffic with a known truth.

    python benchmarks/watching.py [--runs 200]

Half of the queries are accepted. Calm: a quarter of the stated risk (.02); then the small model's
answers are made wrong for a slice of the accepted ones. Prints one JSON document, last.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

MAX_LOSS, ACCEPTED, CALM, MOST = 0.02, 0.5, 2000, 20_000


def audits(share: float, slice_: float, runs: int) -> dict[str, Any]:
    """Say how many queries it takes to notice that a slice of the accepted answers is wrong."""
    from speceyes.calibration.audit import Audit, AuditSpec, Seen, observe

    rng = np.random.default_rng([int(100 * share), int(100 * slice_)])
    spec = AuditSpec(max_loss=MAX_LOSS, share=share)
    delays, early = [], 0
    for _ in range(runs):
        audit = Audit(spec)
        while not audit.is_alarmed and audit.queries < CALM + MOST:
            wrong = slice_ if audit.queries >= CALM else MAX_LOSS / ACCEPTED / 4
            seen = Seen()
            if rng.random() < ACCEPTED:
                differs = bool(rng.random() < wrong)
                seen = Seen(5.0, differs if rng.random() < share else None)
            audit = observe(audit, seen)
        if audit.alarmed_at is None:
            continue
        early += audit.alarmed_at <= CALM
        if audit.alarmed_at > CALM:
            delays.append(audit.alarmed_at - CALM)
    return {
        "share": share,
        "slice_wrong": slice_,
        "risk": slice_ * ACCEPTED,
        "runs": runs,
        "false_alarms": early,
        "caught": len(delays),
        "queries_p50": float(np.median(delays)) if delays else None,
        "queries_p95": float(np.quantile(delays, 0.95)) if delays else None,
    }


def at_the_bound(runs: int, queries: int) -> dict[str, Any]:
    """Count alarms where the risk is just what was stated, all along: all of them false."""
    from speceyes.calibration.audit import Audit, AuditSpec, Seen, observe

    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(runs):
        audit = Audit(AuditSpec(max_loss=MAX_LOSS, share=0.1))
        for _ in range(queries):
            differs = bool(rng.random() < MAX_LOSS / ACCEPTED)
            checked = Seen(5.0, differs if rng.random() < 0.1 else None)
            audit = observe(audit, checked if rng.random() < ACCEPTED else Seen())
        alarms += audit.is_alarmed
    return {"runs": runs, "queries": queries, "stated": 0.05, "alarms": alarms}


def drifts(shift: float, runs: int) -> dict[str, Any]:
    """Say how many scores it takes to notice that they have moved by so many deviations."""
    from speceyes.calibration.drift import Drift, observe, reference_of

    rng = np.random.default_rng(int(100 * shift))
    delays, early = [], 0
    for _ in range(runs):
        found = Drift(reference_of(rng.normal(size=300).tolist()))
        found = reduce(observe, rng.normal(size=CALM).tolist(), found)
        early += found.is_alarmed
        taken = 0
        while not found.is_alarmed and taken < MOST // 4:
            found = observe(found, float(rng.normal() - shift))
            taken += 1
        if found.is_alarmed and taken:
            delays.append(taken)
    return {
        "shift": shift,
        "runs": runs,
        "false_alarms": early,
        "caught": len(delays),
        "scores_p50": float(np.median(delays)) if delays else None,
        "scores_p95": float(np.quantile(delays, 0.95)) if delays else None,
    }


def main() -> None:
    """Watch calm and broken traffic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    a = parser.parse_args()
    found: dict[str, Any] = {"at_the_bound": at_the_bound(a.runs, 5000), "audits": [], "drifts": []}
    print(found["at_the_bound"])
    for share in (0.05, 0.1, 0.25):
        for slice_ in (0.1, 0.2, 0.5):
            found["audits"].append(audits(share, slice_, max(10, a.runs // 5)))
            print(found["audits"][-1])
    for shift in (0.5, 1.0, 2.0):
        found["drifts"].append(drifts(shift, max(10, a.runs // 10)))
        print(found["drifts"][-1])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
