"""An answer becomes a chat completion here, with all that there is to tell of its way.

It refuses to know sockets and streams, and it reads no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from speceyes.events import Answer, Looked, Phase, ToolFinished, Trace
from speceyes.gateway.observing import EngineRole
from speceyes.types import Box, Usage

Json: TypeAlias = dict[str, Any]

_PREFIX: Final = "chatcmpl-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a reply says beside the answer, known before there is one.

    `small_model` and `large_model` are what the two engines are called; `screened_by` is the one
    that does Phase I. `not_applied` names fields of the request that were not followed, `bounds`
    those that are followed only if the small model answers.
    """

    request_id: str
    created_s: int
    small_model: str
    large_model: str
    screened_by: EngineRole = "large"
    not_applied: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()
    wants_boxes: bool = False

    @property
    def completion_id(self) -> str:
        """The completion's name, in the API's manner."""
        return f"{_PREFIX}{self.request_id}"


def completion(answer: Answer, told: Told) -> bytes:
    """Write a whole chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": answer.text, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    return msgspec.json.encode(
        {
            "id": told.completion_id,
            "object": "chat.completion",
            "created": told.created_s,
            "model": model_of(answer, told),
            "choices": [choice],
            "usage": usage_object(answer.usage),
            "speceyes": way_of(answer, told),
        }
    )


def model_of(answer: Answer, told: Told) -> str:
    """Name the model that really answered."""
    return told.large_model if answer.route == "agentic" else told.small_model


def usage_object(usage: Usage) -> Json:
    """Lay out what was read and said, as the API counts it."""
    counted: Json = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if usage.cached_tokens is not None:
        counted["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    return counted


def way_of(answer: Answer, told: Told) -> Json:
    """Lay out which way an answer took, and what that cost."""
    verdict = answer.verdict
    way: Json = {
        "route": answer.route,
        "reason": answer.reason,
        "score": None if verdict is None else verdict.score,
        "threshold": None if verdict is None else verdict.threshold,
        "p_tool": answer.p_tool,
        "phase_s": {phase: round(spent_s, 6) for phase, spent_s in answer.phase_s.items()},
        "elapsed_s": round(answer.elapsed_s, 6),
        "depth": answer.depth,
        "turns": answer.turns,
        "usage": {
            role: usage_object(usage) for role, usage in usage_by_engine(answer, told).items()
        },
        "is_degraded": answer.is_degraded,
        "not_applied": [*told.not_applied, *(told.bounds if answer.route == "agentic" else ())],
    }
    if told.wants_boxes:
        way["boxes"] = [{"turn": turn, **box_object(box)} for turn, box in boxes_of(answer.trace)]
    return way


def boxes_of(trace: Trace) -> list[tuple[int | None, Box]]:
    """Give the boxes that were looked at, in order, with the agent's turn; None: the small model's.

    What a tool made of no part of an original has no box.
    """
    found: list[tuple[int | None, Box]] = []
    for event in trace:
        match event:
            case Looked(box_px=Box() as box):
                found.append((None, box))
            case ToolFinished(turn=turn, observation=observation):
                found.extend((turn, box) for box in observation.boxes_px if box is not None)
            case _:
                continue
    return found


def usage_by_engine(answer: Answer, told: Told) -> dict[EngineRole, Usage]:
    """Add up the work of each engine."""
    roles: dict[Phase, EngineRole] = {
        "screen": told.screened_by,
        "speculate": "small",
        "gate": "small",
        "fall_back": "large",
    }
    usage: dict[EngineRole, Usage] = {"small": Usage.zero, "large": Usage.zero}
    for phase, spent in answer.usage_by_phase.items():
        usage[roles[phase]] += spent
    return usage


def box_object(box: Box) -> Json:
    """Lay out a box: which picture, and its corners in pixels of the original."""
    return {
        "picture": box.picture_index,
        "box_px": [box.left_px, box.top_px, box.right_px, box.bottom_px],
    }


def answer_headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    """Give the headers that tell an answer's way."""
    told: dict[str, str] = {
        "route": answer.route,
        "reason": answer.reason,
        "depth": str(answer.depth),
    }
    if answer.verdict is not None:
        told["threshold"] = f"{answer.verdict.threshold:.6g}"
        if answer.verdict.score is not None:
            told["score"] = f"{answer.verdict.score:.6g}"
    return way_headers(told)


def way_headers(told: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Give headers of the gateway's own."""
    return [(f"x-speceyes-{name}".encode(), value.encode()) for name, value in told.items()]
