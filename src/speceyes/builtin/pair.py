"""The built-in pair: two small trained models in the package, with the settings they were tuned to.

Small is a Qwen3-VL that answers at once; large is a Qwen2.5-VL that zooms as DeepEyes does. The
gate and the screen come from `models/calibration.json`, written by `training.calibrate`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from speceyes.builtin.scenes import VIEW_PX
from speceyes.engines.local import LocalEngine
from speceyes.gate import GateSpec
from speceyes.protocols.deepeyes import DeepEyes
from speceyes.screen import ScreenSpec
from speceyes.specs import read_gate
from speceyes.tables import read_table

Role: TypeAlias = Literal["small", "large"]

MODELS: Final = Path(__file__).parent / "models"
CALIBRATION: Final = MODELS / "calibration.json"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the built-in pair is asked and gated."""

    gate: GateSpec
    screen: ScreenSpec
    protocol: DeepEyes


def load(role: Role, *, threads: int = 1) -> LocalEngine:
    """Load one of the two models, in about a second; at their size more threads do not pay."""
    return LocalEngine.load(MODELS / role, name=f"builtin:{role}", threads=threads)


def view_protocol() -> DeepEyes:
    """Speak the deepeyes protocol at the one size that the built-in models see."""
    return DeepEyes(min_px=VIEW_PX * VIEW_PX, max_px=VIEW_PX * VIEW_PX)


def read_tuning(path: Path = CALIBRATION) -> Tuning:
    """Read the gate and the screen that were chosen on calibration seeds."""
    written = json.loads(path.read_text(encoding="utf-8"))
    screen = read_table("screen", written["screen"], ScreenSpec)
    return Tuning(read_gate(written), screen, view_protocol())


BUILTIN: Final = read_tuning()
