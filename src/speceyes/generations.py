"""What an engine said, as plain values that JSON can hold, and back.

It refuses to know files. Log-probabilities are kept as their bytes: they are scored again, and each
bit counts.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from speceyes.types import Evidence, Generation, Usage


def to_plain(generation: Generation) -> dict[str, Any]:
    """Lay a generation out in dicts, numbers and strings."""
    plain = asdict(replace(generation, evidence=None))
    if generation.evidence is not None:
        topk, chosen = generation.evidence.logp_topk, generation.evidence.logp_chosen
        plain["evidence"] = {
            "shape": list(topk.shape),
            "logp_topk": base64.b64encode(topk.astype("<f4").tobytes()).decode("ascii"),
            "logp_chosen": base64.b64encode(chosen.astype("<f4").tobytes()).decode("ascii"),
        }
    return plain


def from_plain(raw: Mapping[str, Any]) -> Generation:
    """Read a generation back. Raises: KeyError, TypeError, ValueError for what is none."""
    kept = raw["evidence"]
    evidence = None
    if kept is not None:
        topk, chosen = (
            np.frombuffer(base64.b64decode(kept[name]), dtype="<f4")
            for name in ("logp_topk", "logp_chosen")
        )
        evidence = Evidence(topk.reshape(kept["shape"]), chosen)
    return Generation(**{**raw, "usage": Usage(**raw["usage"]), "evidence": evidence})
