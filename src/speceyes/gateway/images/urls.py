"""A picture's web address is taken apart here, and held against the hosts that may be asked.

It refuses to know resolvers and sockets. What two programs could read in two ways is refused, so
that what is checked is what is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from speceyes.errors import ConfigError, RequestMalformed
from speceyes.gateway.images.addresses import is_disguised, read_address, why_not_public

_PORTS: Final = {"http": 80, "https": 443}
_MAX_CHARS: Final = 4096
_PLAIN: Final = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # ASCII, without space, quotes, \\ ^ ` { | }
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_ENTRY: Final = re.compile(r"(\*\.)?([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_ALLOW: Final = "gateway.images.allow"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a picture lies. `host` is in lower case, an IPv6 address without its brackets."""

    scheme: str
    host: str
    port: int
    url: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """Hosts that may be asked. `host` None: all; `port` None: the scheme's own."""

    host: str | None
    port: int | None
    with_subdomains: bool = False

    def fits(self, target: Target) -> bool:
        """Say if it lets this one through."""
        if target.port != (_PORTS[target.scheme] if self.port is None else self.port):
            return False
        if self.host is None or target.host == self.host:
            return self.host is None or not self.with_subdomains
        return self.with_subdomains and target.host.endswith(f".{self.host}")


def read_allowed(entries: tuple[str, ...]) -> tuple[Allowed, ...]:
    """Read the settings' list: HOST, *.HOST for what is below it, either with :PORT, or * for all.

    Raises: ConfigError.
    """
    return tuple(map(_read_entry, entries))


def read_target(url: str, field: str, allowed: tuple[Allowed, ...]) -> Target:
    """Take an address apart. Raises: RequestMalformed if it may not be asked, or not for sure."""
    if len(url) > _MAX_CHARS:
        raise RequestMalformed(field, f"is longer than {_MAX_CHARS} characters; send the picture")
    if not _PLAIN.fullmatch(url):
        raise RequestMalformed(
            field, "has characters that no address has; percent-encode them, and names as xn--"
        )
    target = _taken_apart(url, field)
    if not any(entry.fits(target) for entry in allowed):
        raise RequestMalformed(
            field,
            f"pictures are not fetched from {target.host} at port {target.port}; send it as a "
            f"data: URL, or have the host added to {_ALLOW}",
        )
    return target


def follow(target: Target, location: str, *, field: str, allowed: tuple[Allowed, ...]) -> Target:
    """Take apart where a redirect leads to, by the same rules. Raises: RequestMalformed."""
    try:
        url = urljoin(target.url, location)
    except ValueError:
        url = location
    found = read_target(url, field, allowed)
    if target.scheme == "https" and found.scheme != "https":
        raise RequestMalformed(field, "leads from https to http; give an address that does not")
    return found


def _taken_apart(url: str, field: str) -> Target:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise RequestMalformed(field, "is no web address; write https://HOST/PATH") from None
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        raise RequestMalformed(
            field, "is neither a data: URL nor https://HOST/PATH; file ids are not known here"
        )
    if "@" in parts.netloc:
        raise RequestMalformed(field, "holds a user's name; no credentials are sent, leave it out")
    host = parts.hostname.removesuffix(".")
    _check_host(host, field)
    port = port or _PORTS[parts.scheme]
    return Target(parts.scheme, host, port, _written(parts, host, port))


def _check_host(host: str, field: str) -> None:
    address = read_address(host)
    if address is None and (is_disguised(host) or not _NAME.fullmatch(host)):
        raise RequestMalformed(
            field, "its host is neither a name nor an address of four numbers; write it plainly"
        )
    what = None if address is None else why_not_public(address)
    if what is not None:
        raise RequestMalformed(field, f"leads to an address that is not public ({what})")


def _written(parts: SplitResult, host: str, port: int) -> str:
    # Anew, from what was checked, and without what no server is told.
    shown = f"[{host}]" if ":" in host else host
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{shown}:{port}{parts.path or '/'}{query}"


def _read_entry(entry: str) -> Allowed:
    if entry == "*":
        return Allowed(None, None)
    found = _ENTRY.fullmatch(entry.lower())
    if found is None:
        raise ConfigError(
            _ALLOW, f"{entry[:80]!r} is no host; write HOST, *.HOST, HOST:PORT, or * for all"
        )
    below, host, port = found.groups()
    return Allowed(host.strip("[]"), None if port is None else int(port), below is not None)
