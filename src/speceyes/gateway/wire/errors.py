"""An error becomes what clients of the API expect of one: a status, headers and a JSON object.

It refuses to know what raised it. What is a defect here is told as one, without its innards.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

import msgspec

from speceyes.errors import EngineUnavailable, InputError, SpecEyesError, TooManyRequests

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_CODES: Final = {"RouteUnknown": "model_not_found", "KeyRefused": "invalid_api_key"}
_HUMP: Final = re.compile(r"(?<!^)(?=[A-Z])")
_DEFECT: Final = "this is a defect of the gateway; report it with the x-request-id of this reply"


def error_object(error: SpecEyesError) -> dict[str, Any]:
    """Lay out an error as the API has it: message, type, param, code."""
    kind = type(error).__name__
    is_defect = type(error) is SpecEyesError
    return {
        "message": _DEFECT if is_defect else str(error),
        "type": type_of(error.http_status),
        "param": error.field if isinstance(error, InputError) else None,
        "code": "defect" if is_defect else _CODES.get(kind, _HUMP.sub("_", kind).lower()),
    }


def error_body(error: SpecEyesError) -> bytes:
    """Write an error as a reply's body."""
    return msgspec.json.encode({"error": error_object(error)})


def error_headers(error: SpecEyesError) -> list[tuple[bytes, bytes]]:
    """Give the headers that go with an error, but for the body's own."""
    headers = []
    if error.http_status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.http_status in {408, 413}:  # the rest of the body is not read
        headers.append((b"connection", b"close"))
    waiting_s = _waiting_s(error)
    if waiting_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(waiting_s))).encode()))
    return headers


def type_of(status: int) -> str:
    """Give the API's word for errors of a status."""
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def _waiting_s(error: SpecEyesError) -> float | None:
    if isinstance(error, (TooManyRequests, EngineUnavailable)):
        return error.retry_after_s
    return None
