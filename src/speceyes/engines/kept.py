"""Pictures that a server has kept are named, not sent again: which it has, and under which names.

It refuses to know requests and servers: it is told what was kept and what was not.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from speceyes.types import Picture

_SECRET: Final = secrets.token_bytes(32)  # of this process: nobody else can say the same names
_MOST_KEPT: Final = 4096  # names, of some 100 bytes; a server keeps no more pictures than that
_LEAST_TRIED: Final = 16  # pictures, before a server is found to keep too few
_REST: Final = 256  # requests that a server is then spared


class KeptPictures:
    """Remember which pictures a server has answered about, and so most likely keeps.

    `form` tells apart what is sent for the same picture. Where more are named in vain than are
    found (too few are kept, or several servers share an address, or it was started anew), all are
    sent for a while.
    """

    def __init__(self, form: str) -> None:
        self._form = form.encode()
        self._kept: OrderedDict[str, None] = OrderedDict()
        self._found = 0
        self._missed = 0
        self._rest = 0

    def name(self, picture: Picture) -> str:
        """Name a picture, by what it shows and a secret of this process."""
        known = hashlib.blake2b(self._form, key=_SECRET, digest_size=24)
        known.update(picture.digest.encode())
        return known.hexdigest()

    def among(self, pictures: Iterable[Picture]) -> frozenset[str]:
        """Give the digests of those pictures that need not be sent."""
        if self._rest:
            self._rest -= 1
            return frozenset()
        return frozenset(one.digest for one in pictures if one.digest in self._kept)

    def keep(self, pictures: Iterable[Picture], *, found: frozenset[str]) -> None:
        """Take in that the server has answered about these, of which it had found some."""
        self._found += len(found)
        for picture in pictures:
            self._kept[picture.digest] = None
            self._kept.move_to_end(picture.digest)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)

    def miss(self, digests: Iterable[str]) -> None:
        """Take in that the server has not all of these any more."""
        for digest in digests:
            self._kept.pop(digest, None)
            self._missed += 1
        tried = self._found + self._missed
        if tried >= _LEAST_TRIED and self._missed > self._found:
            self._rest = _REST
            self._found = self._missed = 0

    def forget(self) -> None:
        """Take the server to have none of them."""
        self._kept.clear()
