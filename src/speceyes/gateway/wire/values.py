"""One value of a request is read here, or the field that it stands in is named.

It refuses to know which fields there are.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec
from msgspec import Raw

from speceyes.errors import RequestMalformed

NULL: Final = b"null"
_EMPTY: Final = frozenset({NULL, b"[]", b'""', b"{}"})
_BODY: Final = "body"
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])


def read_fields(body: bytes) -> dict[str, Raw]:
    """Read a body into its fields, whose values are passed over. Raises: RequestMalformed."""
    try:
        if not body.isascii():
            body.decode("utf-8")
        return _FIELDS.decode(body)
    except UnicodeDecodeError as error:
        raise RequestMalformed(_BODY, f"is no UTF-8 at byte {error.start}") from error
    except msgspec.ValidationError as error:
        raise RequestMalformed(_BODY, "is no JSON object; send {...}") from error
    except msgspec.DecodeError as error:
        raise RequestMalformed(_BODY, f"is no JSON ({error})") from error
    except RecursionError as error:
        raise RequestMalformed(_BODY, "is nested too deeply") from error


def read_value(name: str, raw: Raw, kind: Any) -> Any:
    """Read one value as a type. Raises: RequestMalformed naming the field, or the one within it."""
    try:
        return _decoder(kind).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # "Expected `int`, got `str` - at `$[0].role`": the path continues the field's name.
        why, _, place = str(error).partition(" - at `$")
        raise RequestMalformed(
            f"{name}{place.rstrip('`')}", f"is not as agreed: {why[:1].lower()}{why[1:]}"
        ) from error
    except RecursionError as error:
        raise RequestMalformed(name, "is nested too deeply") from error


def is_null(raw: Raw) -> bool:
    """Say if a value is null, which is as good as none."""
    return _is_small(raw) and bytes(raw) == NULL


def is_empty(raw: Raw) -> bool:
    """Say if a value is null, or nothing of its kind."""
    return _is_small(raw) and bytes(raw) in _EMPTY


def _is_small(raw: Raw) -> bool:
    # Megabytes are not copied to be looked at; JSON's values come without white space around them.
    return memoryview(raw).nbytes <= len(NULL)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)
