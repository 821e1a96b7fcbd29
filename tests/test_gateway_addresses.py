"""Addresses of pictures: which of them are everybody's, and which servers may be asked."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.errors import ConfigError, RequestMalformed
from speceyes.gateway.images.addresses import is_disguised, read_address, why_not_public
from speceyes.gateway.images.urls import follow, read_allowed, read_target
from tests.test_gateway_images import FIELD


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("0.0.0.0", "unspecified"),  # noqa: S104 - a destination here
        ("0.1.2.3", "unspecified"),
        ("10.1.2.3", "private"),
        ("100.64.0.1", "a provider's own"),
        ("100.100.100.200", "a provider's own"),  # metadata, Alibaba
        ("127.0.0.1", "loopback"),
        ("127.255.255.255", "loopback"),
        ("168.63.129.16", "a cloud's own"),  # Azure
        ("169.254.169.254", "link-local"),  # metadata, nearly everywhere
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.192", "for protocols"),  # metadata, Oracle
        ("192.0.2.1", "for documentation"),
        ("192.168.1.1", "private"),
        ("198.19.0.1", "for benchmarks"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::127.0.0.1", "reserved"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:a9fe:a9fe", "link-local"),
        ("::ffff:0:127.0.0.1", "reserved"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("64:ff9b:1::1", "reserved"),
        ("100::1", "reserved"),
        ("2001::1", "a tunnel's"),
        ("2001:2::1", "for protocols"),
        ("2001:db8::1", "for documentation"),
        ("2002:7f00:1::", "a tunnel's"),
        ("2002:808:808::", "a tunnel's"),
        ("2a00:1450:4001::5efe:a9fe:a9fe", "a tunnel's"),
        ("2a00:1450:4001:0:200:5efe:7f00:1", "a tunnel's"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),  # metadata, AWS
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "of one link only"),
        ("2606:4700::1%1", "of one link only"),
        ("fec0::1", "private"),
        ("ff02::1", "multicast"),
        ("5f00::1", "reserved"),
    ],
)
def test_what_is_not_everybodys_is_known(address, what):
    assert why_not_public(ip_address(address)) == what


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
        *("126.255.255.255", "128.0.0.1", "172.15.255.255", "172.32.0.0", "192.167.0.1"),
        *("223.255.255.255", "::ffff:8.8.8.8", "64:ff9b::808:808", "2001:4860:4860::8888"),
        *("2606:4700:4700::1111", "2a00:1450:4001::5eff:a00:1"),
    ],
)
def test_what_is_everybodys_is_let_through(address):
    assert why_not_public(ip_address(address)) is None


@given(st.ip_addresses(v=4))
def test_no_stricter_rule_of_the_standard_library_is_missed_for_four(address):
    if why_not_public(address) is None:
        assert address.is_global or address in _ANYCAST
        assert not address.is_multicast
    assert why_not_public(IPv6Address(f"::ffff:{address}")) == why_not_public(address)
    assert why_not_public(IPv6Address((0x64FF9B << 96) | int(address))) == why_not_public(address)


_ANYCAST = frozenset({IPv4Address("192.0.0.9"), IPv4Address("192.0.0.10")})


@given(st.ip_addresses(v=6))
def test_no_stricter_rule_of_the_standard_library_is_missed_for_six(address):
    if why_not_public(address) is None:
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=4))
def test_an_address_in_any_disguise_of_resolvers_is_seen_to_be_one(address):
    number = int(address)
    octets = address.packed
    disguises = [
        str(number),
        hex(number),
        f"0{number:o}",
        f"{octets[0]}.{number & 0xFFFFFF}",
        f"{octets[0]}.{octets[1]}.{number & 0xFFFF}",
        ".".join(hex(octet) for octet in octets),
        ".".join(f"0{octet:o}" for octet in octets),
    ]
    for host in disguises:
        assert socket.inet_aton(host) == address.packed  # what a resolver would make of it
        assert is_disguised(host)
        assert is_disguised(host + ".")
        assert read_address(host) is None
    assert read_address(str(address)) == address
    assert not is_disguised(str(address))


@given(st.text("0123456789abcdefx.", min_size=1, max_size=20))
def test_whatever_resolves_as_numbers_is_an_address_or_disguised(host):
    try:
        socket.inet_aton(host)
    except OSError:
        return
    assert read_address(host) is not None or is_disguised(host)


# Web addresses.

ANY = read_allowed(("*",))


def target(url, allowed=ANY):
    return read_target(url, FIELD, allowed)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/a.png",
        "http://2130706433/a.png",
        "http://0x7f000001/",
        "http://017700000001/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://0x7f.0.0.1/",
        "http://127.0.0.1./",
        "http://0/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[0:0:0:0:0:ffff:169.254.169.254]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1%25lo]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://①②⑦.⓪.⓪.①/",
        "http://１２７.0.0.1/",
        "http://127。0。0。1/",
        "http://127%2e0.0.1/",
        "http://127.0.0.1%00.example.org/",
        "http://example.org@127.0.0.1/",
        "http://user:secret@example.org/",
        "http://example.org\\@127.0.0.1/",
        "http://127.0.0.1\\.example.org/",
        "http://example.org /",
        "http://example.org\t/",
        "http://exa\nmple.org/",
        "http:///a.png",
        "http://:80/",
        "http://example.org:0/",
        "http://example.org:65536/",
        "http://example.org:8o/",
        "http://[::1/",
        "http://a..b/",
        "http://.example.org/",
        "http://-x.example.org/",
        "https:example.org/a.png",
        "https://" + "a" * 64 + ".org/",
        "https://example.org/" + "a" * 5000,
        "https://example.org/a b",
        'https://example.org/"',
        "https://example.org/é",
    ],
)
def test_an_address_that_leads_inside_or_could_be_read_in_two_ways_is_refused(url):
    with pytest.raises(RequestMalformed) as found:
        target(url)
    assert found.value.field == FIELD


def test_an_address_is_asked_as_it_was_checked():
    found = target("https://EXAMPLE.org./a/b.png?x=%2F&y=1#part")
    assert (found.host, found.port) == ("example.org", 443)
    assert found.url == "https://example.org:443/a/b.png?x=%2F&y=1"
    assert target("http://[2606:4700::1]:80").url == "http://[2606:4700::1]:80/"


@pytest.mark.parametrize(
    ("entry", "fits", "does_not"),
    [
        ("example.org", ["http://example.org", "https://example.org:443"],
         ["http://www.example.org", "https://example.org:8443", "http://example.org:443",
          "https://example.org.evil.net", "https://evilexample.org"]),
        ("*.example.org", ["https://a.example.org", "https://a.b.example.org"],
         ["https://example.org", "https://aexample.org", "https://a.example.org.evil.net"]),
        ("example.org:8443", ["https://example.org:8443"], ["https://example.org"]),
        ("*", ["https://example.org", "http://example.net"], ["https://example.org:22"]),
        ("8.8.8.8", ["http://8.8.8.8/"], ["http://8.8.4.4/"]),
        ("[2606:4700::1]", ["http://[2606:4700::1]/"], ["http://[2606:4700::2]/"]),
        ("Example.ORG", ["https://example.org"], []),
    ],
)  # fmt: skip
def test_only_hosts_on_the_list_are_asked(entry, fits, does_not):
    allowed = read_allowed((entry,))
    for url in fits:
        target(url, allowed)
    for url in does_not:
        with pytest.raises(RequestMalformed, match="not fetched from"):
            target(url, allowed)


@pytest.mark.parametrize("entry", ["", "http://example.org", "a b", "*.*", "exa*mple.org", "a:x"])
def test_a_list_of_what_are_no_hosts_is_refused(entry):
    with pytest.raises(ConfigError, match=r"^gateway.images.allow: "):
        read_allowed(("example.org", entry))


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("c.png", "https://example.org:443/a/c.png"),
        ("/c.png", "https://example.org:443/c.png"),
        ("https://example.net/", "https://example.net:443/"),
        ("//example.net/", "https://example.net:443/"),
        ("http://example.org/", None),
        ("http://127.0.0.1/", None),
        ("//127.0.0.1/", None),
        ("//0x7f.1/", None),
        ("//[::ffff:127.0.0.1]/", None),
        ("file:///etc/passwd", None),
        ("gopher://example.org/", None),
        ("data:image/png;base64,", None),
        ("https://user@example.org/", None),
        ("//example.org:22/", None),
        ("https://[/", None),
    ],
)
def test_a_redirect_is_held_to_the_same_rules(location, leads_to):
    start = target("https://example.org/a/b.png")
    if leads_to is not None:
        assert follow(start, location, field=FIELD, allowed=ANY).url == leads_to
        return
    with pytest.raises(RequestMalformed):
        follow(start, location, field=FIELD, allowed=ANY)
