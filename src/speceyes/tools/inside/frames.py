"""Messages over one stream: two lengths, a head of JSON, a body of bytes. Never a pickle.

It refuses to know what is said in them; both ends hold the lengths to what they can take.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

LENGTHS: Final = struct.Struct(">II")  # bytes of the head, bytes of the body
MAX_HEAD_BYTES: Final = 65_536


class FrameError(ValueError):
    """What came is no message, or a larger one than was agreed."""


def pack(head: dict[str, Any], body: bytes = b"") -> bytes:
    """Lay out a message.

    >>> unpack_head(pack({"code": 3}, b"x=1")[8:18])
    {'code': 3}
    """
    written = json.dumps(head, separators=(",", ":")).encode("ascii")
    if len(written) > MAX_HEAD_BYTES:
        raise FrameError(f"a head of {len(written)} bytes is too long")
    return LENGTHS.pack(len(written), len(body)) + written + body


def lengths(start: bytes, *, max_body_bytes: int) -> tuple[int, int]:
    """Read how long head and body are. Raises: FrameError if they are longer than agreed."""
    head_bytes, body_bytes = LENGTHS.unpack(start)
    if not 2 <= head_bytes <= MAX_HEAD_BYTES or body_bytes > max_body_bytes:
        raise FrameError(f"a head of {head_bytes} bytes and a body of {body_bytes} are not agreed")
    return head_bytes, body_bytes


def unpack_head(head: bytes) -> dict[str, Any]:
    """Read a head. Raises: FrameError if it is no JSON object."""
    try:
        read = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise FrameError("the head is no JSON") from error
    if not isinstance(read, dict):
        raise FrameError("the head is no JSON object")
    return read
