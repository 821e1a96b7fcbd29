"""Which addresses of the internet are everybody's: only from those are pictures fetched.

It refuses to know names, sockets and resolvers. What is not known to be public is not.
"""

from __future__ import annotations

import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

# From IANA's registries of special-purpose addresses, and the two clouds whose services for their
# own machines have addresses that look public.
_NOT_PUBLIC_4: Final = tuple(
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "a provider's own"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's own"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "for protocols"),
        ("192.0.2.0/24", "for documentation"),
        ("192.88.99.0/24", "a relay's"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_NOT_PUBLIC_6: Final = tuple(
    (IPv6Network(network), what)
    for network, what in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
        ("2001::/32", "a tunnel's"),  # Teredo
        ("2001::/23", "for protocols"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "a tunnel's"),  # 6to4
        ("3fff::/20", "for documentation"),
    )
)
_GLOBAL_6: Final = IPv6Network("2000::/3")
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")  # NAT64: the last 32 bits are an IPv4 address
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})  # the words before an IPv4 address in a tunnel
_LAST_LABEL_IS_NUMBER: Final = re.compile(r"(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$", re.IGNORECASE)


def read_address(host: str) -> Address | None:
    """Read a host that is written as an address; None: it is a name, or nothing at all.

    >>> read_address("192.0.2.1"), read_address("[::1]"), read_address("example.org")
    (IPv4Address('192.0.2.1'), IPv6Address('::1'), None)
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return ip_address(bare)
    except ValueError:
        return None


def is_disguised(host: str) -> bool:
    """Say if resolvers take a host for an address though it is not written as four numbers.

    >>> [is_disguised(host) for host in ("2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1")]
    [True, True, True, False]
    """
    named = host.rstrip(".")
    is_number = _LAST_LABEL_IS_NUMBER.search(named) is not None
    return is_number and (named != host or read_address(host) is None)


def why_not_public(address: Address) -> str | None:
    """Say what keeps an address from being everybody's, or None if it is.

    An IPv4 address within an IPv6 one (mapped, or translated by NAT64) counts as itself; tunnels
    (6to4, Teredo, ISATAP) are refused whatever they lead to.
    """
    if isinstance(address, IPv4Address):
        return next((what for network, what in _NOT_PUBLIC_4 if address in network), None)
    inner = _within(address)
    if inner is not None:
        return why_not_public(inner)
    if address.scope_id is not None:
        return "of one link only"
    found = next((what for network, what in _NOT_PUBLIC_6 if address in network), None)
    if found is not None:
        return found
    if address not in _GLOBAL_6:
        return "reserved"
    return "a tunnel's" if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP else None


def _within(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _TRANSLATED else None
