"""Answer visual questions with an agentic model, faster and no worse: speculate, gate, fall back.

Names are loaded when first used (PEP 562), so importing this package loads nothing heavy: it
refuses to know torch, Pillow, servers, files and settings.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from speceyes.assemble import SpecEyes as SpecEyes
    from speceyes.config import Settings as Settings
    from speceyes.errors import InputError as InputError
    from speceyes.errors import SpecEyesError as SpecEyesError
    from speceyes.events import Answer as Answer
    from speceyes.events import Answered as Answered
    from speceyes.events import Event as Event
    from speceyes.events import Failed as Failed
    from speceyes.events import fold as fold
    from speceyes.funnel import Outcome as Outcome
    from speceyes.gate import PAPER as PAPER
    from speceyes.gate import GateSpec as GateSpec
    from speceyes.gate import Verdict as Verdict
    from speceyes.gate import judge as judge
    from speceyes.gate import token_separability as token_separability
    from speceyes.pictures import PictureLimits as PictureLimits
    from speceyes.pictures import open_picture as open_picture
    from speceyes.screen import ScreenSpec as ScreenSpec
    from speceyes.shadow.settings import ShadowSettings as ShadowSettings
    from speceyes.shadow.watch import Watched as Watched
    from speceyes.shadow.work import Shadow as Shadow
    from speceyes.types import Engine as Engine
    from speceyes.types import Evidence as Evidence
    from speceyes.types import GenerateRequest as GenerateRequest
    from speceyes.types import Generation as Generation
    from speceyes.types import Picture as Picture
    from speceyes.types import Query as Query
    from speceyes.types import Tool as Tool
    from speceyes.types import ToolProtocol as ToolProtocol
    from speceyes.types import Usage as Usage

__version__ = "0.1.0"

_HOME = {
    "Answer": "events",
    "Answered": "events",
    "Engine": "types",
    "Event": "events",
    "Evidence": "types",
    "Failed": "events",
    "GateSpec": "gate",
    "GenerateRequest": "types",
    "Generation": "types",
    "InputError": "errors",
    "Outcome": "funnel",
    "PAPER": "gate",
    "Picture": "types",
    "PictureLimits": "pictures",
    "Query": "types",
    "ScreenSpec": "screen",
    "Settings": "config",
    "Shadow": "shadow.work",
    "ShadowSettings": "shadow.settings",
    "SpecEyes": "assemble",
    "SpecEyesError": "errors",
    "Tool": "types",
    "ToolProtocol": "types",
    "Usage": "types",
    "Verdict": "gate",
    "Watched": "shadow.watch",
    "fold": "events",
    "judge": "gate",
    "open_picture": "pictures",
    "token_separability": "gate",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
