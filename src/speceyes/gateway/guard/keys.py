"""Who may come in: a caller shows a bearer key, of which the settings hold only the SHA-256.

It refuses to know what a caller may do once inside, and it tells no key to anybody.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from typing import Final

from speceyes.errors import KeyRefused
from speceyes.gateway.guard.browsers import check_page
from speceyes.gateway.settings import Key

_FIELD: Final = "authorization"
_HOW: Final = "send the header `Authorization: Bearer KEY`"
_PREFIX: Final = "sk-speceyes-"
_RANDOM_BYTES: Final = 32
_MAX_KEY_BYTES: Final = 1024


def hash_key(key: str) -> str:
    """Give what the settings hold of a key.

    A fast hash is enough for keys that are long and random, as those of `new_key` are; it would not
    be for words that somebody thought of.

    >>> hash_key("sk-example")[:16]
    'f2d4b279b82ad928'
    """
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    """Make a key that nobody guesses: 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


class KeyRing:
    """Know the keys' owners. Without keys, whoever reaches the gateway may come in, but no page.

    `is_local`: it listens to this machine only.
    """

    def __init__(self, keys: Iterable[Key], *, is_local: bool = False) -> None:
        self._is_local = is_local
        self._known = tuple((bytes.fromhex(key.sha256), key) for key in keys)

    def find(self, headers: Sequence[tuple[bytes, bytes]]) -> Key | None:
        """Find whose key a request's headers show; None: there are no keys at all.

        Names of headers are in lower case, as ASGI has them. Invariants: the time it takes does not
        depend on which key is shown, or on how much of one is right.
        Raises: KeyRefused if it is missing, cannot be read, or is not known; PageRefused if there
        are no keys, and a web page from elsewhere asks.
        """
        if not self._known:
            check_page(headers, is_local=self._is_local)
            return None
        shown = [value for name, value in headers if name == b"authorization"]
        digest = hashlib.sha256(_bearer(shown)).digest()
        found = None
        for known, key in self._known:
            if hmac.compare_digest(known, digest):
                found = key  # and no early end
        if found is None:
            raise KeyRefused(_FIELD, "the key is not known here; ask for one of this gateway's")
        return found


def _bearer(shown: list[bytes]) -> bytes:
    if not shown:
        raise KeyRefused(_FIELD, f"is missing; {_HOW}")
    if len(shown) > 1:
        raise KeyRefused(_FIELD, f"is there {len(shown)} times; {_HOW} once")
    scheme, _, key = shown[0].partition(b" ")
    key = key.strip(b" ")
    if scheme.lower() != b"bearer" or not key:
        raise KeyRefused(_FIELD, f"holds no bearer key; {_HOW}")
    if len(key) > _MAX_KEY_BYTES:
        raise KeyRefused(_FIELD, f"is longer than any key, {_MAX_KEY_BYTES} bytes; {_HOW}")
    return key
