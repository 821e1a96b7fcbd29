"""Does the stated risk hold? Simulated calibrations with a known truth, beside the naive rule.

    python benchmarks/calibration.py [--sets 2000] [--max-loss 0.02 0.04] [--confidence 0.95]

Scores are uniform on 0..1, a share beta of queries is screened, and an answer with score s fails
with probability ceiling * (1 - s)^2, so the true risk of a threshold t is
beta * ceiling * (1 - t)^3 / 3. The naive rule takes the lowest threshold at which no more than the
stated share failed in the calibration itself. Prints one JSON document, last.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

BETA, CEILING = 0.6, 0.5
COUNTS = (100, 500, 2000)


def true_risk(threshold: float) -> float:
    """Give the share of all queries that is accepted at a threshold, and fails."""
    return float(BETA * CEILING * (1.0 - min(max(threshold, 0.0), 1.0)) ** 3 / 3.0)


def simulate(count: int, sets: int, *, max_loss: float, confidence: float) -> dict[str, Any]:
    """Calibrate on many sets of so many queries, both ways."""
    from speceyes.calibration.thresholds import Observed, choose, lowest
    from speceyes.gate import GateSpec

    spec = GateSpec(threshold=0.0, k=12)
    rng = np.random.default_rng([count, int(1e6 * max_loss)])
    risks: dict[str, list[float]] = {"certified": [], "naive": []}
    shares: dict[str, list[float]] = {"certified": [], "naive": []}
    closed = 0
    for _ in range(sets):
        scores = rng.random(count)
        observed = Observed(
            scores, rng.random(count) < BETA, rng.random(count) < CEILING * (1.0 - scores) ** 2
        )
        made = choose(observed, spec, max_loss=max_loss, confidence=confidence)
        closed += made.accepts_nothing
        found = {
            "certified": made.spec.threshold,
            "naive": lowest(observed, spec, allowed=int(max_loss * count)).threshold,
        }
        for name, threshold in found.items():
            risks[name].append(true_risk(threshold))
            shares[name].append(1.0 - min(max(threshold, 0.0), 1.0))
    return {
        "items": count,
        "max_loss": max_loss,
        "sets": sets,
        "accepts_nothing": closed / sets,
        **{
            name: {
                "exceeded": float(np.mean([risk > max_loss for risk in risks[name]])),
                "mean_risk": float(np.mean(risks[name])),
                "alpha": float(np.mean(shares[name])),
            }
            for name in risks
        },
    }


def main() -> None:
    """Simulate each number of items at each stated risk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--max-loss", type=float, nargs="+", default=[0.02, 0.04])
    parser.add_argument("--confidence", type=float, default=0.95)
    a = parser.parse_args()
    found = []
    for max_loss in a.max_loss:
        for count in COUNTS:
            found.append(simulate(count, a.sets, max_loss=max_loss, confidence=a.confidence))
            print(found[-1])
    print(json.dumps({"confidence": a.confidence, "simulated": found}))


if __name__ == "__main__":
    main()
