"""Pictures are fetched, from servers on loopback: one address stands for the internet."""

import asyncio
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import anyio
import pytest
from aiohttp import web

from speceyes.errors import PictureTooLarge, PictureUnknown, PictureUnreadable, RequestMalformed
from speceyes.gateway.images.fetching import CheckedResolver, Fetcher, NotPublic
from speceyes.gateway.images.opening import open_images
from speceyes.gateway.settings import ImageSettings
from tests.picture_sites import INSIDE, PUBLIC, Names, leads_to, says, site
from tests.raw_pictures import PNG, png_header
from tests.test_gateway_images import FIELD, part, refused

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


def judge(address):
    return None if str(address) == PUBLIC else "inside"


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
