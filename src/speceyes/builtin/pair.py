"""The built-in pair: two small trained models in the package, with the settings they were tuned to.

Small is a Qwen3-VL that answers at once; large is a Qwen2.5-VL that zooms by a tool, as DeepEyes
does, or by code of its own, as Thyme does. The gate and the screen come from
`models/calibration.json`, written by `training.calibrate`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from speceyes.builtin.scenes import VIEW_PX
from speceyes.engines.local import LocalEngine
from speceyes.gate import GateSpec
from speceyes.protocols.closer import Closer
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.protocols.thyme import Thyme
from speceyes.screen import ScreenSpec
from speceyes.specs import read_gate
from speceyes.tables import read_table

Role: TypeAlias = Literal["small", "large"]

MODELS: Final = Path(__file__).parent / "models"
CALIBRATION: Final = MODELS / "calibration.json"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the built-in pair is asked and gated; `protocols` by name, the large model's first."""

    gate: GateSpec
    screen: ScreenSpec
    protocols: Mapping[str, DeepEyes | Thyme]
    closer: Closer


def load(role: Role, *, threads: int = 1) -> LocalEngine:
    """Load one of the two models, in about a second; at their size more threads do not pay."""
    return LocalEngine.load(MODELS / role, name=f"builtin:{role}", threads=threads)


def view_protocols() -> tuple[DeepEyes, Thyme]:
    """Speak what the large model has learnt, at the one size that the built-in models see."""
    area_px = VIEW_PX * VIEW_PX
    return DeepEyes(min_px=area_px, max_px=area_px), Thyme(min_px=area_px, max_px=area_px)


def closer() -> Closer:
    """Let the small model look closer, in pixels of the one view that it knows."""
    area_px = VIEW_PX * VIEW_PX
    return Closer(extent=None, min_px=area_px, max_px=area_px, factor=28)


def read_tuning(path: Path = CALIBRATION) -> Tuning:
    """Read the gate and the screen that were chosen on calibration seeds."""
    written = json.loads(path.read_text(encoding="utf-8"))
    screen = read_table("screen", written["screen"], ScreenSpec)
    protocols = {protocol.name: protocol for protocol in view_protocols()}
    return Tuning(read_gate(written), screen, protocols, closer())


BUILTIN: Final = read_tuning()
