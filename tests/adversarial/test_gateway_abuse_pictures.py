"""Abuse of the gateway by pictures: bombs, and addresses where nobody is to be sent."""

import asyncio
import struct
import zlib
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest

from speceyes import assemble_gateway
from speceyes.gateway.images.fetching import Fetcher
from tests.adversarial.abused_gateway import (
    IMAGES,
    SETTINGS,
    URL,
    attacked,
    data_url,
    png,
    question,
)
from tests.adversarial.abused_gateway import anyio_backend as anyio_backend  # noqa: PLC0414 - a fixture
from tests.adversarial.abused_gateway import attack as attack  # noqa: PLC0414 - a fixture
from tests.adversarial.abused_gateway import gateway as gateway  # noqa: PLC0414 - a fixture
from tests.picture_sites import Names, leads_to, says, site
from tests.raw_pictures import png_header

pytestmark = pytest.mark.anyio


# Pictures that are bombs, or none.


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def stuffed(*chunks):
    """Give a PNG of one pixel with chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(4)))
    return b"".join([b"\x89PNG\r\n\x1a\n", head, *chunks, pixels, chunk(b"IEND", b"")])


GIF = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
FRAME = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02"
BOMBS = {
    "a flood of pixels": (png_header(65_000, 65_000), 413),
    "more pixels than a number holds": (png_header(2**31 - 1, 2**31 - 1), 413),
    "pixels beyond the limit by one row": (png_header(10_000, 10_001), 413),
    "a thread of pixels": (png_header(100_000, 10), 400),
    "text that unfolds": (
        stuffed(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(990_000)))] * 80),
        400,
    ),
    "a profile that unfolds": (
        stuffed(chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
        400,
    ),
    "a hundred thousand empty parts": (stuffed(*[chunk(b"tEXt", b"a\0")] * 100_000), 400),
    "a jpeg of padding": (b"\xff\xd8" + b"\xff" * 1_400_000, 400),
    "a gif of one-byte blocks": (GIF + FRAME + b"\x01\x00" * 700_000, 400),
    "a drawing that runs": (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run", 415),
    "a drawing that refers": (b"<svg xmlns:x='http://www.w3.org/1999/xlink'/>", 415),
    "a page": (b"<!doctype html><script>", 415),
    "nothing": (b"", 400),
}


@pytest.mark.parametrize(("data", "status"), BOMBS.values(), ids=BOMBS)
async def test_a_picture_that_is_a_bomb_or_none(attack, data, status):
    await attack.refused(question(data_url(data)), status, URL)


async def test_more_pictures_than_may_be(attack):
    body = question()
    content = body["messages"][0]["content"]
    body["messages"][0]["content"] = [content[0], *[content[1]] * 5]
    await attack.refused(body, 413, "messages[0].content[5].image_url.url")


async def test_a_picture_whose_pixels_lie(attack):
    got = await attack.post(question(data_url(png_header(640, 480))))
    assert (got.status, got.error["code"]) == (400, "picture_truncated")


# Pictures that lie where nobody is to be sent.


@asynccontextmanager
async def canary():
    """Listen on loopback, and tell who came."""
    came = []

    async def hear(reader, writer):
        came.append(writer.get_extra_info("peername"))
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], came


INSIDE = {
    "an address": "http://127.0.0.1:{port}/",
    "a name": "http://localhost:{port}/",
    "a decimal": "http://2130706433:{port}/",
    "a hexadecimal": "http://0x7f000001:{port}/",
    "an octal": "http://017700000001:{port}/",
    "a short one": "http://127.1:{port}/",
    "a mixed one": "http://0x7f.0.0.01:{port}/",
    "nothing but zero": "http://0:{port}/",
    "the unspecified": "http://0.0.0.0:{port}/",
    "six, loopback": "http://[::1]:{port}/",
    "six, mapped": "http://[::ffff:127.0.0.1]:{port}/",
    "six, mapped in hexadecimal": "http://[::ffff:7f00:1]:{port}/",
    "six, compatible": "http://[::127.0.0.1]:{port}/",
    "six, translated": "http://[64:ff9b::7f00:1]:{port}/",
    "six, tunnelled": "http://[2002:7f00:1::]:{port}/",
    "six, with a zone": "http://[fe80::1%25lo]:{port}/",
    "wide digits": "http://１２７.0.0.1:{port}/",
    "circled digits": "http://①②⑦.⓪.⓪.①:{port}/",
    "wide dots": "http://127。0。0。1:{port}/",
    "a dot at the end": "http://127.0.0.1.:{port}/",
    "percent-encoded": "http://127%2e0%2e0%2e1:{port}/",
    "behind a user": "http://example.org@127.0.0.1:{port}/",
    "behind a backslash": "http://127.0.0.1:{port}\\@example.org/",
    "behind a mark": "http://127.0.0.1:{port}#@example.org/",
    "a cloud's metadata": "http://169.254.169.254/latest/meta-data/",
    "a cloud's metadata in six": "http://[fd00:ec2::254]/latest/meta-data/",
    "a private net": "http://10.0.0.1/",
    "a file": "file:///etc/passwd",
    "another scheme": "gopher://127.0.0.1:{port}/_GET",
    "no scheme": "//127.0.0.1:{port}/",
}


@pytest.mark.parametrize("url", INSIDE.values(), ids=INSIDE)
async def test_a_picture_that_lies_inside(url):
    async with canary() as (port, came):
        images = replace(IMAGES, allow=("*", f"localhost:{port}", f"127.0.0.1:{port}"))
        async with attacked(replace(SETTINGS, images=images)) as attack:
            await attack.refused(question(url.format(port=port)), 400, URL)
            await attack.still_answers()
        assert came == []


def a_net(monkeypatch, names, port):
    """Let one address of loopback be public, and a few names lead where they should not."""
    judge = {"127.0.0.1": None}
    fetcher = partial(
        Fetcher, resolver=names, judge=lambda address: judge.get(str(address), "inside")
    )
    monkeypatch.setattr(assemble_gateway, "Fetcher", fetcher)
    allow = (f"*.test:{port}", f"127.0.0.2:{port}")
    return replace(SETTINGS, images=replace(IMAGES, allow=allow))


async def test_a_name_that_leads_elsewhere_the_second_time(monkeypatch):
    async with site() as outer, site("127.0.0.2", outer.port) as inner:
        outer.replies = inner.replies = {"/a.png": says(png())}
        names = Names(rebinds=[["127.0.0.1"], ["127.0.0.2"]])
        async with attacked(a_net(monkeypatch, names, outer.port)) as attack:
            url = f"http://rebinds.test:{outer.port}/a.png"
            assert (await attack.post(question(url))).status == 200
            asked = len(attack.small.bodies)
            got = await attack.post(question(url))
            assert (got.status, got.error["param"]) == (400, URL)
            assert len(attack.small.bodies) == asked
            await attack.still_answers()
        assert (len(outer.asked), len(inner.asked)) == (1, 0)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/a.png",
        "http://2130706434:{port}/a.png",
        "http://[::ffff:127.0.0.2]:{port}/a.png",
        "http://inside.test:{port}/a.png",
        "//inside.test:{port}/a.png",
        "http://127.0.0.1:1/a.png",
        "file:///etc/passwd",
        "/round",
    ],
)
async def test_a_redirect_that_leads_inside_or_round_and_round(monkeypatch, location):
    async with site() as outer, site("127.0.0.2", outer.port) as inner:
        target = leads_to(location.format(port=outer.port))
        outer.replies = {"/a.png": target, "/round": target}
        names = Names(outside=["127.0.0.1"], inside=["127.0.0.2"])
        async with attacked(a_net(monkeypatch, names, outer.port)) as attack:
            await attack.refused(question(f"http://outside.test:{outer.port}/a.png"), 400, URL)
            await attack.still_answers()
        assert inner.asked == []
        assert len(outer.asked) <= 4
