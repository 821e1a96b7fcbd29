"""A web page from elsewhere may not use the gateway through the browser of somebody it is open to.

It refuses to know keys. A page can send requests to wherever its reader's browser gets, this
machine too, and can have a name of its own lead here; both show in two headers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from speceyes.errors import PageRefused


def check_page(headers: Iterable[tuple[bytes, bytes]], *, is_local: bool) -> None:
    """Refuse what a page from elsewhere asks.

    `is_local`: only this machine is served, so that no name but its own leads here in good faith.
    Raises: PageRefused.
    """
    hosts, origins = [], []
    for name, value in headers:
        if name == b"host":
            hosts.append(value.lower())
        elif name == b"origin":
            origins.append(value.lower())
    if any([origin.partition(b"://")[2]] != hosts for origin in origins):
        raise PageRefused(
            "origin", "a page from elsewhere may not ask; give it a server of its own that does"
        )
    if is_local and not all(map(_is_local, hosts)):
        raise PageRefused(
            "host",
            "is not localhost, all that is served without keys; write [[gateway.keys]], or have "
            "your proxy send `Host: localhost`",
        )


def is_loopback(host: str) -> bool:
    """Say if an address or a name leads to this machine and no other."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=64)
def _is_local(host: bytes) -> bool:
    text = host.decode("latin-1")
    head, colon, port = text.rpartition(":")
    name = head if colon and (not port or port.isdigit()) else text
    return is_loopback(name.removeprefix("[").removesuffix("]"))
