"""Pictures of requests: what data URLs may be, and what is refused by name."""

import base64
import json
import threading

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from PIL import Image

from speceyes.errors import (
    PictureEmpty,
    PictureShapeError,
    PictureTooLarge,
    PictureTruncated,
    PictureUnknown,
    RequestMalformed,
)
from speceyes.gateway.images import dataurls
from speceyes.gateway.images.dataurls import open_data_url
from speceyes.gateway.images.fetching import Fetcher
from speceyes.gateway.images.opening import open_images
from speceyes.gateway.settings import ImageSettings
from speceyes.gateway.wire.turns import ImagePart
from tests.raw_pictures import PNG, picture_bytes, png_header

pytestmark = pytest.mark.anyio

FIELD = "messages[2].content[0].image_url.url"
SETTINGS = ImageSettings()


@pytest.fixture
def anyio_backend():
    return "asyncio"


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
