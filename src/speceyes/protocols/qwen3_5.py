"""Qwen3.5 speaks here: as Qwen3-VL does, but that it writes its calls in XML.

It refuses to know engines and pixels: conversations and replies in, conversations and boxes out.
Source: the chat template of Qwen3.5 and 3.6; vLLM's tool parser `qwen3_coder`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from speceyes.protocols.calls import CALL_END, ZOOM, Unreadable, read_json
from speceyes.protocols.qwen3_vl import Qwen3VL
from speceyes.types import Budget, MalformedReason

_BUDGET: Final = Budget(max_turns=12, max_tokens_per_turn=4096)  # it thinks before it acts
_FORM: Final = (
    f"<function={ZOOM}><parameter=bbox_2d>[x1, y1, x2, y2]</parameter>"
    "<parameter=label>what it is</parameter><parameter=img_idx>0</parameter></function>"
)
_FUNCTION: Final = re.compile(r"<function=([^<>\n]*)>(.*?)(?:</function>|\Z)", re.DOTALL)
# A value ends where the next begins, too: models forget to close one.
_PARAMETER: Final = re.compile(
    r"<parameter=([^<>\n]*)>(.*?)(?=</parameter>|<parameter=|\Z)", re.DOTALL
)
_WORDS: Final = frozenset({"label"})  # all other arguments are JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen35(Qwen3VL):
    """Speak with Qwen3.5 and 3.6, vision included. Implements `types.ToolProtocol`.

    A call in JSON is read as well: a server with a tool parser gives calls back in its own form,
    and an engine over HTTP turns that into JSON between tags.
    """

    name: ClassVar[str] = "qwen3.5"

    budget: Budget = _BUDGET

    @property
    def form(self) -> str:
        """How a right call looks, for a model that wrote a wrong one."""
        return _FORM

    def read_call(self, text: str) -> Mapping[str, Any]:
        """Read a call, as far as its closing tag, into name and arguments. Raises: Unreadable."""
        body, is_closed, _ = text.partition(CALL_END)
        if body.lstrip().startswith("{"):
            return read_json(text, end=CALL_END, form=self.form)
        function = _FUNCTION.search(body)
        if function is None or not (is_closed or function[0].endswith("</function>")):
            reason: MalformedReason = "bad_json" if is_closed else "truncated"
            detail = "holds no function" if is_closed else "breaks off"
            raise Unreadable(reason, f"the call {detail}; write {self.form}")
        values = {found[1].strip(): found[2] for found in _PARAMETER.finditer(function[2])}
        arguments = {name: _value(name, text) for name, text in values.items()}
        return {"name": function[1].strip(), "arguments": arguments}


def _value(name: str, text: str) -> Any:
    text = text.strip()
    if name in _WORDS:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # no number: whoever reads it says so
