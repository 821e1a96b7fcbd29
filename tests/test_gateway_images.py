"""Pictures of requests: what data URLs may be, and which servers are asked for a picture."""

import asyncio
import base64
import io
import json
import socket
import threading
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address

import aiohttp
import anyio
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from PIL import Image

from speceyes.errors import (
    ConfigError,
    PictureEmpty,
    PictureShapeError,
    PictureTooLarge,
    PictureTruncated,
    PictureUnknown,
    PictureUnreadable,
    RequestMalformed,
)
from speceyes.gateway.images import dataurls
from speceyes.gateway.images.addresses import is_disguised, read_address, why_not_public
from speceyes.gateway.images.dataurls import open_data_url
from speceyes.gateway.images.fetching import CheckedResolver, Fetcher, NotPublic
from speceyes.gateway.images.opening import open_images
from speceyes.gateway.images.urls import follow, read_allowed, read_target
from speceyes.gateway.settings import ImageSettings
from speceyes.gateway.wire.turns import ImagePart
from tests.test_pictures import png_header

pytestmark = pytest.mark.anyio

FIELD = "messages[2].content[0].image_url.url"
SETTINGS = ImageSettings()


@pytest.fixture
def anyio_backend():
    return "asyncio"


def picture_bytes(kind="PNG", size=(8, 4), **more):
    buffer = io.BytesIO()
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image.save(buffer, kind, **more)
    return buffer.getvalue()


PNG = picture_bytes()


def data_url(data=PNG, head="data:image/png;base64,"):
    return head + base64.b64encode(data).decode()


def part(url, field=FIELD):
    return ImagePart(Raw(url if isinstance(url, bytes) else json.dumps(url).encode()), field)


async def opened(url, settings=SETTINGS):
    return (await open_images([part(url)], settings, Fetcher(settings))).values()


async def refused(url, error=RequestMalformed, settings=SETTINGS):
    with pytest.raises(error) as found:
        await opened(url, settings)
    assert found.value.field == FIELD
    assert type(found.value) is error
    return found.value


# Data URLs.


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
async def test_a_picture_comes_in_as_the_bytes_it_is(kind):
    data = picture_bytes(kind)
    (picture,) = await opened(data_url(data))
    assert picture.data == data
    assert (picture.media_type, picture.size) == (f"image/{kind.lower()}", (8, 4))


async def test_what_it_is_its_bytes_say_not_its_url():
    (picture,) = await opened(data_url(PNG, "DATA:image/JPG;BASE64,"))
    assert picture.media_type == "image/png"


async def test_slashes_may_be_escaped_as_some_write_them():
    text = json.dumps(data_url()).replace("/", "\\/")
    assert "\\/" in text
    (picture,) = await opened(text.encode())
    assert picture.data == PNG
    (picture,) = await opened(json.dumps(data_url()).replace("A", "\\u0041").encode())
    assert picture.data == PNG


@pytest.mark.parametrize("size", [dataurls._INLINE_BYTES * 2, dataurls._PIECE_BYTES * 5 + 1])
async def test_long_ones_are_decoded_in_a_thread_piece_by_piece_to_the_same_bytes(
    monkeypatch, size
):
    data = PNG + bytes(i % 251 for i in range(size))
    threads = []
    real = dataurls.open_bytes
    monkeypatch.setattr(
        dataurls,
        "open_bytes",
        lambda *given: threads.append(threading.current_thread()) or real(*given),
    )
    (picture,) = await opened(data_url(data))
    assert picture.data == data
    assert threads[0] is not threading.main_thread()


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_come_through_as_they_are(data):
    coded = base64.b64encode(data)
    assert dataurls._decoded(memoryview(coded), FIELD) == data


BASE64 = base64.b64encode(PNG).decode()


HEAD = "data:image/png;base64,"
UNSOUND = {
    "nothing": "data:",
    "a comma": "data:,",
    "a type": "data:image/png",
    "no comma": "data:image/png;base64" + BASE64,
    "not in base64": "data:image/png," + BASE64,
    "no type": "data:;base64," + BASE64,
    "another type": "data:text/html;base64," + BASE64,
    "half a type": "data:image/;base64," + BASE64,
    "a parameter": "data:image/png;charset=utf-8;base64," + BASE64,
    "a space": "data:image/png ;base64," + BASE64,
    "a space after the comma": HEAD + " " + BASE64,
    "a line break at the end": HEAD + BASE64 + "\n",
    "line breaks": HEAD + BASE64[:76] + "\r\n" + BASE64[76:],
    "cut": HEAD + BASE64[:-1],
    "padding in the middle": HEAD + BASE64[:40] + "=" + BASE64[41:],
    "too much padding": HEAD + BASE64.rstrip("=") + "====",
    "twice": HEAD + BASE64 + "=" + BASE64,
    "of the alphabet for URLs": HEAD + "-" + BASE64[1:],
    "percent-encoded": HEAD + "%41" + BASE64[1:],
    "not ASCII": HEAD + "é" + BASE64[1:],
    "a quote": HEAD + BASE64[:8] + '"' + BASE64[9:],
}


@pytest.mark.parametrize("url", UNSOUND.values(), ids=UNSOUND)
async def test_a_data_url_is_one_or_it_is_none(url):
    assert (await refused(url)).http_status == 400


async def test_padding_between_the_pieces_of_a_long_one_is_unsound():
    piece = base64.b64encode(bytes(dataurls._PIECE_BYTES // 4 * 3 - 1)).decode()
    assert (len(piece), piece[-1]) == (dataurls._PIECE_BYTES, "=")
    assert "base64 is unsound" in str(await refused("data:image/png;base64," + piece + BASE64))


@pytest.mark.parametrize("raw", [b"5", b"{}", b"[]", b"true", b'"\\ud800"', b'"data:\\ud800"'])
async def test_what_is_no_string_is_no_url(raw):
    await refused(raw)


@pytest.mark.parametrize(
    "url", ["", "file-abc123", "file:///etc/passwd", "ftp://x/a.png", "//x/a.png", "DATA", "\x00"]
)
async def test_what_is_neither_is_said_to_be_neither(url):
    assert "neither a data: URL nor https" in str(await refused(url))


async def test_too_many_bytes_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(dataurls, "_decoded", None)
    error = await refused(data_url(bytes(5000)), PictureTooLarge, ImageSettings(max_bytes=4000))
    assert error.http_status == 413


async def test_a_byte_too_many_is_too_many():
    await opened(data_url(), ImageSettings(max_bytes=len(PNG)))
    await refused(data_url(), PictureTooLarge, ImageSettings(max_bytes=len(PNG) - 1))


async def test_too_many_pixels_are_refused_by_the_header(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", None)
    settings = ImageSettings(max_pixels=1_000_000)
    await refused(data_url(png_header(1001, 1000)), PictureTooLarge, settings)
    (picture,) = await opened(data_url(png_header(1000, 1000)), settings)
    assert picture.size == (1000, 1000)
    await refused(data_url(png_header(65535, 65535)), PictureTooLarge)


NO_PICTURES = {
    "empty": (b"", PictureEmpty),
    "text": (b"hello", PictureUnknown),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", PictureUnknown),
    "pdf": (b"%PDF-1.7", PictureUnknown),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", PictureUnknown),
    "tiff": (picture_bytes("TIFF"), PictureUnknown),
    "bmp": (picture_bytes("BMP"), PictureUnknown),
    "ppm": (picture_bytes("PPM"), PictureUnknown),
    "jpeg 2000": (picture_bytes("JPEG2000"), PictureUnknown),
    "ico": (picture_bytes("ICO", (16, 16)), PictureUnknown),
    "cut": (PNG[:20], PictureTruncated),
    "a thread": (picture_bytes(size=(401, 2)), PictureShapeError),
    "padding": (picture_bytes("JPEG")[:2] + b"\xff" * 2_000_000, PictureTruncated),
}


@pytest.mark.parametrize(("data", "error"), NO_PICTURES.values(), ids=NO_PICTURES)
async def test_what_is_no_picture_of_a_format_that_is_taken_has_a_name_and_the_field(data, error):
    await refused(data_url(data), error)


async def test_formats_are_those_of_the_settings():
    tiff = data_url(picture_bytes("TIFF"))
    (picture,) = await opened(tiff, ImageSettings(formats=("tiff",)))
    assert picture.media_type == "image/tiff"
    assert "image/png; send one of tiff" in str(
        await refused(data_url(), PictureUnknown, ImageSettings(formats=("tiff",)))
    )


async def test_one_picture_too_many_is_named():
    parts = [part(data_url(), f"m[{n}]") for n in range(4)]
    settings = ImageSettings(max_count=3)
    assert len(await open_images(parts[:3], settings, Fetcher(settings))) == 3
    with pytest.raises(PictureTooLarge, match=r"^m\[3\]: is picture 4 of 4; at most 3"):
        await open_images(parts, settings, Fetcher(settings))
    assert await open_images([], settings, Fetcher(settings)) == {}


async def test_each_picture_is_given_by_its_field_and_a_bad_one_ends_all():
    datas = {f"m[{n}]": picture_bytes(size=(8 + n, 4)) for n in range(8)}
    parts = [part(data_url(data), field) for field, data in datas.items()]
    found = await open_images(parts, SETTINGS, Fetcher(SETTINGS))
    assert {field: picture.data for field, picture in found.items()} == datas
    parts[5] = part("data:image/png;base64,????", "m[5]")
    with pytest.raises(RequestMalformed, match=r"^m\[5\]: "):
        await open_images(parts, SETTINGS, Fetcher(SETTINGS))


async def test_the_loop_goes_on_while_a_long_one_is_decoded():
    data, gaps = PNG + bytes(12_000_000), []
    raw = json.dumps(data_url(data)).encode()

    async def tick():
        while True:
            before_s = anyio.current_time()
            await anyio.sleep(0.001)
            gaps.append(anyio.current_time() - before_s)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await open_data_url(raw, FIELD, SETTINGS)
        tasks.cancel_scope.cancel()
    assert len(gaps) >= 2


# Addresses.


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


# Fetching, from servers on loopback. One address of it stands for the internet, the others do not.

PUBLIC, INSIDE = "127.0.0.1", "127.0.0.2"


def judge(address):
    return None if str(address) == PUBLIC else "inside"


class Names(AbstractResolver):
    """Knows a few names; one that was asked often enough answers otherwise."""

    def __init__(self, **names):
        self.names = names
        self.asked = []

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        self.asked.append(host)
        found = self.names.get(host.partition(".")[0])
        if found is None:
            raise OSError("no such name")
        at_times = found if isinstance(found[0], list) else [found]
        answers = at_times[min(len(self.asked), len(at_times)) - 1]
        return [
            {
                "hostname": host,
                "host": one,
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
            for one in answers
        ]

    async def close(self):
        pass


class Site:
    """A server that does as it is told, on an address."""

    def __init__(self):
        self.asked = []
        self.replies = {}
        self.port = 0

    async def reply(self, request):
        self.asked.append((request.host, request.path_qs, dict(request.headers)))
        return await self.replies[request.path](request)


@asynccontextmanager
async def site(address=PUBLIC, port=0):
    made = Site()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.reply)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


def says(data=PNG, status=200, kind="image/png", **headers):
    async def reply(request):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=data, status=status, headers={"content-type": kind} | named)

    return reply


def leads_to(location):
    return says(b"", 302, location=location)


@asynccontextmanager
async def fetching(names=None, *, allow=None, port=0, resolver=None, **more):
    names = names or {"pictures": [PUBLIC], "other": [PUBLIC]}
    allow = allow or tuple(f"{name}.test:{port}" for name in names)
    settings = ImageSettings(fetch=True, allow=allow, **more)
    resolver = resolver or Names(**names)
    fetcher = Fetcher(settings, resolver=resolver, judge=judge)
    try:
        yield partial(open_images, settings=settings, fetcher=fetcher)
    finally:
        await fetcher.aclose()


async def fetched(fetch, url):
    return (await fetch([part(url)])).values()


async def not_fetched(fetch, url, error):
    with pytest.raises(error) as found:
        await fetched(fetch, url)
    assert type(found.value) is error
    assert found.value.field == FIELD
    return found.value


async def test_nothing_is_fetched_unless_it_is_allowed():
    error = await refused("https://example.org/a.png")
    assert "gateway.images.fetch" in str(error)


async def test_a_picture_is_fetched_without_telling_who_asks(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.3:1")
    async with site() as server, fetching(port=server.port) as fetch:
        server.replies = {"/a.png": says(set_cookie="id=1")}
        url = f"http://pictures.test:{server.port}/a.png?x=1"
        for _ in range(2):
            (picture,) = await fetched(fetch, url)
            assert picture.data == PNG
        for host, path, headers in server.asked:
            assert (host, path) == (f"pictures.test:{server.port}", "/a.png?x=1")
            assert {name.lower() for name in headers} == {
                *("host", "accept", "accept-encoding", "user-agent", "connection")
            }
            assert headers["User-Agent"] == "speceyes"


async def test_a_name_that_leads_inside_is_refused_without_a_connection():
    async with site(INSIDE) as server:
        names = {"pictures": [INSIDE]}
        async with fetching(names, port=server.port) as fetch:
            url = f"http://pictures.test:{server.port}/a.png"
            error = await not_fetched(fetch, url, RequestMalformed)
            assert "not public (inside)" in str(error)
        assert server.asked == []


async def test_unless_told_otherwise_this_machine_is_not_public():
    async with site() as server:
        settings = ImageSettings(fetch=True, allow=(f"pictures.test:{server.port}",))
        fetcher = Fetcher(settings, resolver=Names(pictures=[PUBLIC]))
        with pytest.raises(RequestMalformed, match=r"not public \(loopback\)"):
            await fetcher.fetch(f"http://pictures.test:{server.port}/a.png", FIELD)
        await fetcher.aclose()
        assert server.asked == []


async def test_a_name_is_refused_if_any_of_its_addresses_is_inside():
    async with site() as server:
        names = {"pictures": [PUBLIC, INSIDE]}
        async with fetching(names, port=server.port) as fetch:
            await not_fetched(fetch, f"http://pictures.test:{server.port}/a.png", RequestMalformed)
        assert server.asked == []


async def test_a_name_that_changes_between_check_and_connection_gains_nothing():
    async with site() as server, site(INSIDE, server.port) as inner:
        server.replies = inner.replies = {"/a.png": says()}
        names = Names(pictures=[[PUBLIC], [INSIDE]])
        async with fetching(port=server.port, resolver=names) as fetch:
            url = f"http://pictures.test:{server.port}/a.png"
            await fetched(fetch, url)
            assert len(names.asked) == 1  # checked and connected to by one answer
            await not_fetched(fetch, url, RequestMalformed)  # and asked anew each time
        assert len(server.asked) == 1
        assert inner.asked == []


async def test_an_address_in_numbers_passes_no_resolver_and_is_checked_all_the_same():
    async with site(INSIDE) as server:
        settings = ImageSettings(fetch=True, allow=(f"{INSIDE}:{server.port}",))
        fetcher = Fetcher(settings, judge=judge)
        session = fetcher._open()
        with pytest.raises(aiohttp.ClientConnectorError) as found:
            await session.get(f"http://{INSIDE}:{server.port}/a.png")
        assert isinstance(found.value.os_error, NotPublic)
        await fetcher.aclose()
        assert server.asked == []


@pytest.mark.parametrize(
    "location",
    [
        "http://inside.test:{port}/a.png",
        "http://127.0.0.2:{port}/a.png",
        "http://2130706434:{port}/a.png",
        "http://[::ffff:127.0.0.2]:{port}/a.png",
        "//0x7f.0.0.2:{port}/a.png",
        "file:///etc/passwd",
    ],
)
async def test_a_redirect_that_leads_inside_is_not_followed(location):
    async with site() as server, site(INSIDE, server.port) as inner:
        server.replies = {"/a.png": leads_to(location.format(port=server.port))}
        names = {"pictures": [PUBLIC], "inside": [INSIDE]}
        allow = (*(f"{name}.test:{server.port}" for name in names), f"127.0.0.2:{server.port}")
        async with fetching(names, port=server.port, allow=allow) as fetch:
            await not_fetched(fetch, f"http://pictures.test:{server.port}/a.png", RequestMalformed)
        assert len(server.asked) == 1
        assert inner.asked == []


async def test_a_redirect_to_a_host_that_is_not_listed_is_not_followed():
    async with site() as server:
        server.replies = {"/a.png": leads_to(f"http://other.test:{server.port}/a.png")}
        allow = (f"pictures.test:{server.port}",)
        async with fetching(port=server.port, allow=allow) as fetch:
            url = f"http://pictures.test:{server.port}/a.png"
            error = await not_fetched(fetch, url, RequestMalformed)
            assert "not fetched from other.test" in str(error)
        assert len(server.asked) == 1


async def test_a_redirect_within_the_rules_is_followed_but_not_for_ever():
    async with site() as server, fetching(port=server.port) as fetch:
        base = f"http://pictures.test:{server.port}"
        server.replies = {
            "/1": leads_to("/2"),
            "/2": leads_to(f"http://other.test:{server.port}/3"),
            "/3": leads_to("a.png"),
            "/a.png": says(),
            "/round": leads_to("/round"),
        }
        (picture,) = await fetched(fetch, f"{base}/1")
        assert picture.data == PNG
        assert [host.partition(".")[0] for host, _, _ in server.asked] == [
            *("pictures", "pictures", "other", "other")
        ]
        error = await not_fetched(fetch, f"{base}/round", PictureUnreadable)
        assert "more than 3 times" in str(error)


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (says(b"no", 404), PictureUnreadable, "answered 404"),
        (says(b"no", 500), PictureUnreadable, "answered 500"),
        (says(b"", 302), PictureUnreadable, "answered 302"),
        (says(b"<html>", kind="text/html"), PictureUnknown, "no picture but text/html"),
        (says(b"GIF89a", kind="image/gif"), PictureUnknown, "header is cut"),
        (says(content_encoding="gzip"), PictureUnreadable, "came compressed"),
        (says(bytes(3000)), PictureTooLarge, "above 2000 bytes"),
        (says(png_header(65000, 65000)), PictureTooLarge, "pixels"),
    ],
)
async def test_what_is_no_picture_within_the_limits_is_refused_by_name(reply, error, words):
    async with site() as server, fetching(port=server.port, max_bytes=2000) as fetch:
        server.replies = {"/a.png": reply}
        url = f"http://pictures.test:{server.port}/a.png"
        assert words in str(await not_fetched(fetch, url, error))


async def test_a_picture_without_a_length_is_read_no_further_than_the_limit():
    sent = []

    async def endless(request):
        response = web.StreamResponse(headers={"content-type": "image/png"})
        await response.prepare(request)
        while len(sent) < 2000:
            sent.append(1)
            await response.write(bytes(100_000))
        return response

    async with site() as server, fetching(port=server.port, max_bytes=200_000) as fetch:
        server.replies = {"/a.png": endless}
        url = f"http://pictures.test:{server.port}/a.png"
        await not_fetched(fetch, url, PictureTooLarge)
        assert len(sent) < 1000


@pytest.mark.parametrize("where", ["head", "body", "redirects"])
async def test_a_server_that_is_slow_is_not_waited_for(where):
    async def slow(request):
        if where == "head":
            await asyncio.sleep(30)
        if where == "redirects":
            await asyncio.sleep(0.2)
            return await leads_to(request.path)(request)
        response = web.StreamResponse(headers={"content-type": "image/png"})
        await response.prepare(request)
        while True:
            await response.write(b"a")
            await asyncio.sleep(0.05)

    async with site() as server, fetching(port=server.port, timeout_s=0.5) as fetch:
        server.replies = {"/a.png": slow}
        url = f"http://pictures.test:{server.port}/a.png"
        before_s = anyio.current_time()
        error = await not_fetched(fetch, url, PictureUnreadable)
        assert "within 0.5 s" in str(error)
        assert anyio.current_time() - before_s < 2.0


async def test_a_server_that_is_not_there_or_talks_nonsense_is_said_to_be_so():
    async with fetching(port=1) as fetch:
        error = await not_fetched(fetch, "http://pictures.test:1/a.png", PictureUnreadable)
        assert "could not be fetched from pictures.test" in str(error)
        allow = ("nowhere.test:1",)
    async with fetching(port=1, allow=allow) as fetch:
        await not_fetched(fetch, "http://nowhere.test:1/a.png", PictureUnreadable)

    async def nonsense(reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")
        writer.close()

    async with await asyncio.start_server(nonsense, PUBLIC, 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with fetching(port=port) as fetch:
            error = await not_fetched(
                fetch, f"http://pictures.test:{port}/a.png", PictureUnreadable
            )
            assert "SSH" not in str(error)  # what is there is told to nobody


async def test_several_pictures_are_fetched_at_once():
    together = asyncio.Event()

    async def wait_for_both(request):
        if len(server.asked) == 2:
            together.set()
        await together.wait()
        return await says()(request)

    async with site() as server, fetching(port=server.port, timeout_s=3.0) as fetch:
        server.replies = {"/a.png": wait_for_both}
        url = f"http://pictures.test:{server.port}/a.png"
        assert len(await fetch([part(url, "a"), part(url, "b")])) == 2


async def test_leaving_ends_the_fetching():
    gone = asyncio.Event()

    async def slow(request):
        try:
            await asyncio.sleep(30)
        finally:
            gone.set()

    async with site() as server, fetching(port=server.port) as fetch:
        server.replies = {"/a.png": slow}
        with anyio.move_on_after(0.2):
            await fetched(fetch, f"http://pictures.test:{server.port}/a.png")
        async with asyncio.timeout(2):
            await gone.wait()


async def test_the_resolver_closes_the_one_it_asks():
    closed = []
    names = Names(a=[PUBLIC])
    names.close = lambda: anyio.lowlevel.checkpoint() if not closed.append(1) else None
    await CheckedResolver(names, judge).close()
    assert closed == [1]
