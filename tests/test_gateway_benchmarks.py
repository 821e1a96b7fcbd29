"""What the gateway's benchmarks stand on: an upstream that keeps books, figures, accounts."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from PIL import Image as Pillow

from benchmarks.gateway_soak import Diary, account, counted, memory_of
from benchmarks.proxying.behaviours import KINDS, LEFT, read_reply
from benchmarks.proxying.figures import beside, beyond, cell_of, judge, table
from benchmarks.proxying.load import PATCH_PX, chat_body, http_request, picture_url, quantile_ms
from benchmarks.proxying.upstream import Books, Connection, read_call
from speceyes.engines.http import HttpEngine
from speceyes.gate import PAPER
from speceyes.gate import judge as judge_evidence
from speceyes.screen import ScreenSpec, read_need
from speceyes.types import GenerateRequest, Message, Text

ASKED = GenerateRequest(
    messages=(Message("user", (Text("any"),)),), max_tokens=8, top_logprobs=PAPER.k
)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@asynccontextmanager
async def upstream():
    books = Books()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(books), "127.0.0.1", 0)
    async with server:
        yield books, server.sockets[0].getsockname()[1]


async def ask(port, mark="", *, is_stream=False):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = chat_body("stub", is_stream=is_stream, question=f"What? {mark}")
    writer.write(http_request("/large/v1/chat/completions", body))
    try:
        return await read_reply(reader)
    finally:
        writer.close()


def told(books):
    return {name: books.counts[name] for name in ("begun", "finished", "left", "broken", "active")}


@pytest.mark.anyio
async def test_a_call_is_answered_whole_or_as_a_stream_and_booked():
    async with upstream() as (books, port):
        status, body = await ask(port)
        assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (
            "200",
            "<answer>red</answer>",
        )
        status, body = await ask(port, is_stream=True)
        assert body.endswith(b"data: [DONE]\n\n")
        assert (await ask(port, "[large:500]"))[0] == "500"
        assert (await ask(port, "[small:500]"))[0] == "200"  # not for this model
        assert told(books) == {"begun": 4, "finished": 4, "left": 0, "broken": 0, "active": 0}


@pytest.mark.anyio
@pytest.mark.parametrize("mark", ["[large:reset]", "[large:break]"])
async def test_a_call_that_is_broken_off_is_booked_as_that(mark):
    async with upstream() as (books, port):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ask(port, mark, is_stream=True)
        assert told(books) == {"begun": 1, "finished": 0, "left": 0, "broken": 1, "active": 0}


@pytest.mark.anyio
async def test_a_client_that_leaves_is_booked_as_soon_as_it_has_left():
    async with upstream() as (books, port):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask(port, "[large:hold]")
        async with asyncio.timeout(5):
            while books.counts["active"]:  # noqa: ASYNC110 - a ledger has no event
                await asyncio.sleep(0.01)
        assert told(books) == {"begun": 1, "finished": 0, "left": 1, "broken": 0, "active": 0}


@pytest.mark.anyio
async def test_its_evidence_is_read_as_a_servers_and_accepted():
    async with upstream() as (_, port):
        small = HttpEngine(f"http://127.0.0.1:{port}/small/v1", model="stub")
        large = HttpEngine(f"http://127.0.0.1:{port}/large/v1", model="stub")
        try:
            assert judge_evidence(await small.generate(ASKED), PAPER).accepted
            assert read_need(await large.generate(ASKED), ScreenSpec()) < 0.5
        finally:
            await small.aclose()
            await large.aclose()


@pytest.mark.parametrize(
    ("text", "act", "number"),
    [("", "", 0), ("[large:drip12]", "drip", 12), ("[screen:yes][large:slow]", "slow", 0)],
)
def test_a_mark_is_for_the_one_that_it_names(text, act, number):
    body = chat_body("stub", question=text)
    call = read_call(b"/large/v1/chat/completions", body[:1024], body)
    assert (call.role, call.act, call.number, call.is_stream) == ("large", act, number, False)


# --- the load


@pytest.mark.parametrize("is_odd", [False, True])
def test_a_picture_is_about_as_long_as_was_asked_for(is_odd):
    url = picture_url(100_000, is_odd=is_odd)
    assert len(url) == pytest.approx(100_000, rel=0.15)
    data = base64.b64decode(url.partition(",")[2])
    assert (Pillow.open(io.BytesIO(data)).width % PATCH_PX == 0) is not is_odd


@pytest.mark.parametrize(("share", "ms"), [(0.5, 2000.0), (0.99, 4000.0)])
def test_a_quantile_is_a_value_that_was_measured(share, ms):
    assert quantile_ms([1.0, 2.0, 3.0, 4.0], share) == ms
    assert quantile_ms([], share) is None


# --- figures


def rounds(rps, p50_ms=1.0):
    return [
        {"requests": 10, "rps": one, "p50_ms": p50_ms, "p99_ms": None, "cpu_ms": 1.0, "errors": {}}
        for one in rps
    ]


def test_ratios_are_taken_within_rounds():
    assert beside(rounds([10, 100, 30]), rounds([1, 50, 10]), "rps") == 3.0
    assert beyond(rounds([1], 3.5), rounds([1], 1.0), "p50_ms") == 2.5
    assert beyond(rounds([1]), rounds([1]), "p99_ms") is None


def test_goals_are_judged_where_they_were_measured():
    found = {"direct": rounds([1000], 1.0), "bypass": rounds([50], 2.5), "litellm": rounds([10])}
    (line,) = judge([cell_of("text", 1, found)])
    assert (line["times_litellm"], line["is_met"]) == (5.0, False)
    assert (line["added_p50_ms"], line["is_fast"]) == (1.5, True)
    assert judge([cell_of("image 100 kB", 1, found)]) == []
    assert "| text | 1 | litellm | 10 |" in table([cell_of("text", 1, found)])


# --- the soak's accounts

PAGE = """\
# TYPE speceyes_requests_total counter
speceyes_requests_total{model="bypass",reason="route",route="bypass",status="2xx"} 3.0
speceyes_requests_total{model="bypass",reason="client_left",route="cancelled",status="4xx"} 1.0
"""


def diary_of(*outcomes):
    diary = Diary()
    for kind, outcome in outcomes:
        diary.begun += 1
        diary.saw(next(k for k in KINDS if k.name == kind), outcome)
    return diary


def left(**books):
    known = {"active": 0, "begun": 4, "finished": 3, "left": 1, "broken": 0}
    return {"in_flight": 0.0, "upstream": known | books, "counted": counted(PAGE)}


SEEN = (("text", "200"), ("breaks off", "broken"), ("text", "200"), ("leaves", LEFT))


def test_all_is_accounted_for_where_both_sides_agree():
    found = account(diary_of(*SEEN), left())
    assert (found["is_accounted"], found["has_no_orphans"]) == (True, True)
    assert found["surprises"] == {}


@pytest.mark.parametrize(
    ("seen", "books", "failing"),
    [
        (SEEN[:3], {}, "is_accounted"),
        ((*SEEN[:3], ("500", "500")), {}, "is_accounted"),
        (SEEN, {"active": 1}, "has_no_orphans"),
        (SEEN, {"begun": 5}, "has_no_orphans"),
    ],
)
def test_what_is_missing_on_either_side_is_found(seen, books, failing):
    assert account(diary_of(*seen), left(**books))[failing] is False


def test_an_outcome_that_a_kind_may_not_have_is_a_surprise():
    assert account(diary_of(("text", "503")), left())["surprises"] == Counter({"text: 503": 1})


def test_memory_that_grows_after_the_warm_up_is_not_flat():
    warm = [(float(n), 50.0 if n < 10 else 100.0) for n in range(100)]
    assert memory_of(warm)["is_flat"]
    assert not memory_of([(at_s, mib + at_s) for at_s, mib in warm])["is_flat"]
