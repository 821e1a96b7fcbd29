"""The built-in pair: small trained models in the package, with the settings they were tuned to.

Small is a Qwen3-VL that answers at once; large is a Qwen2.5-VL that zooms by a tool, as DeepEyes
does, or by code of its own, as Thyme does. Closer takes the small one's place where it may look
closer before it gives way: it has the large one's eyes, and half its layers. Gates and screens come
from `models/calibration.json`, written by `training.calibrate`.
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

Role: TypeAlias = Literal["small", "large", "closer"]

MODELS: Final = Path(__file__).parent / "models"
CALIBRATION: Final = MODELS / "calibration.json"


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the built-in pair is asked and gated; `protocols` by name, the large model's first.

    `gate` is for the small model. Where the closer one takes its place, `first_gate` is for what it
    answers at first sight and `closer_gate` for what it answers after a look. `shared_screen` asks
    at the end of the agent's own opening.
    """

    gate: GateSpec
    first_gate: GateSpec
    closer_gate: GateSpec
    screen: ScreenSpec
    shared_screen: ScreenSpec
    protocols: Mapping[str, DeepEyes | Thyme]
    closer: Closer


def load(role: Role, *, threads: int = 1) -> LocalEngine:
    """Load one of the models, in about a second; at their size more threads do not pay."""
    return LocalEngine.load(MODELS / role, name=f"builtin:{role}", threads=threads)


def view_protocols() -> tuple[DeepEyes, Thyme]:
    """Speak what the large model has learnt, at the one size that the built-in models see."""
    area_px = VIEW_PX * VIEW_PX
    return DeepEyes(min_px=area_px, max_px=area_px), Thyme(min_px=area_px, max_px=area_px)


def closer() -> Closer:
    """Let a small model look closer, in pixels of the one view that it knows."""
    area_px = VIEW_PX * VIEW_PX
    return Closer(extent=None, min_px=area_px, max_px=area_px, factor=28)


def read_tuning(path: Path = CALIBRATION) -> Tuning:
    """Read the gates and screens that were chosen on calibration seeds."""
    written = json.loads(path.read_text(encoding="utf-8"))
    return Tuning(
        gate=read_gate(written),
        first_gate=read_table("first_gate", written["first_gate"], GateSpec),
        closer_gate=read_table("closer_gate", written["closer_gate"], GateSpec),
        screen=read_table("screen", written["screen"], ScreenSpec),
        shared_screen=read_table("shared_screen", written["shared_screen"], ScreenSpec),
        protocols={protocol.name: protocol for protocol in view_protocols()},
        closer=closer(),
    )


BUILTIN: Final = read_tuning()
