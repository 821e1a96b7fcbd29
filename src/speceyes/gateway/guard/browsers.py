"""A web page from elsewhere may not use the gateway through the browser of somebody it is open to.

It refuses to know keys. A page can send requests to wherever its reader's browser gets, this
machine too, and can have a name of its own lead here; both show in two headers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from speceyes.errors import PageRefused


def check_page(headers: Iterable[tuple[bytes, bytes]], *, is_local: bool) -> None:
    """Refuse what a page from elsewhere asks.

    `is_local`: only this machine is served, so that no name but its own leads here in good faith.
    Raises: PageRefused.
    """
    hosts = [value.lower() for name, value in headers if name == b"host"]
    origins = [value.lower() for name, value in headers if name == b"origin"]
    for origin in origins:
        if [origin.partition(b"://")[2]] != hosts:
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


def _is_local(host: bytes) -> bool:
    text = host.decode("latin-1")
    name, _, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not name:
        name, port = port, ""
    return (not port or port.isdigit()) and is_loopback(name.strip("[]"))
