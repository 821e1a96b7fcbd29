"""The one who hears of all requests: never in the way, and one gateway whatever its workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import anyio
import pytest
from starlette.testclient import TestClient

from speceyes.errors import EngineUnavailable
from speceyes.events import Speculated
from speceyes.gateway.observer import Watcher
from speceyes.gateway.observing import Observer, Seen
from speceyes.gateway.settings import GatewaySettings
from speceyes.gateway.snapshots import Folder
from tests.gateway_served import Clock, app_of, filled, hear
from tests.gateway_stories import MODELS, NOON_S, Story, draw_many, finished, unanswered

REQUESTS = draw_many(60)


def watcher_of(**more):
    return Watcher(GatewaySettings(), MODELS, **({"clock": Clock()} | more))


def whole_of(watcher):
    return anyio.run(watcher.whole)


def test_it_is_an_observer():
    watcher: Observer = watcher_of()
    assert set(watcher.views) >= {"/", "/metrics", "/v1/stats", "/page/page.js"}


def test_requests_are_under_way_from_beginning_to_end_and_in_line_until_admitted():
    watcher = watcher_of()
    for name in "abc":
        watcher.began(Seen(request_id=name, route_name="speceyes"))
    watcher.admitted("a")
    now = whole_of(watcher).now
    assert (now.in_flight, now.queued) == (3, 2)
    refused = unanswered(None, route="refused", reason="busy", status=429, request_id="b")
    watcher.ended(refused.ended)
    now = whole_of(watcher).now
    assert (now.in_flight, now.queued) == (2, 1)


def test_a_cancelled_requests_steps_come_from_what_was_heard():
    watcher = watcher_of()
    story = Story().screened(0.9)
    hear(watcher, unanswered(story, route="cancelled", reason="client_left", status=499))
    (told,) = whole_of(watcher).stats.last
    assert [step.kind for step in told.steps] == ["screen"]
    assert told.p_tool == 0.9


def test_an_answer_alone_tells_its_story_too():
    watcher = watcher_of()
    watcher.ended(finished(Story().screened().speculated(8.0).accepted()).ended)
    (told,) = whole_of(watcher).stats.last
    assert [step.kind for step in told.steps] == ["screen", "speculate", "gate"]


def test_what_it_does_not_know_is_let_pass():
    watcher = watcher_of()
    watcher.admitted("nobody")
    watcher.event("nobody", Story().events[0])
    assert whole_of(watcher).stats.last == ()


def test_a_request_whose_story_is_unsound_still_counts(caplog):
    watcher = watcher_of()
    watcher.began(Seen(request_id="r", route_name="speceyes"))
    watcher.event("r", Speculated("r", 0.1, generation=None))
    watcher.ended(finished(Story().screened().speculated(8.0).accepted()).ended)
    assert "its story is unsound" in caplog.text
    whole = whole_of(watcher)
    assert whole.now.in_flight == 0
    assert [(told.route, told.steps) for told in whole.stats.last] == [("speculative", ())]


def test_breakers_are_up_until_told_otherwise():
    watcher = watcher_of()
    assert whole_of(watcher).now.breakers["plain"] == {"large": {"closed": 1}}
    watcher.breaker("speceyes", "small", "open")
    told = whole_of(watcher).now.breakers["speceyes"]
    assert told == {"small": {"open": 1}, "large": {"closed": 1}}


def test_workers_show_what_all_of_them_did(tmp_path):
    clock = Clock()
    one, two = (watcher_of(folder=tmp_path / "reports", clock=clock) for _ in range(2))

    async def work():
        async with one.open(), two.open():
            for request in REQUESTS[:40]:
                hear(one, request)
            for request in REQUESTS[40:]:
                hear(two, request)
            two.began(Seen(request_id="open", route_name="speceyes"))
            await anyio.sleep(1.5)
            return await one.whole()

    whole = anyio.run(work)
    counted = sum(n for cell, n in whole.stats.counts.items() if cell[0] == "speceyes_requests")
    assert counted == len(REQUESTS)
    assert (whole.now.workers, whole.now.in_flight) == (2, 1)
    assert len(whole.stats.last) == 50
    assert (tmp_path / "reports").stat().st_mode & 0o777 == 0o700
    # What a worker that is gone did stays counted, as it said with its last breath.
    clock.at_s += 60
    later = whole_of(watcher_of(folder=tmp_path / "reports", clock=clock))
    assert later.stats == whole.stats
    assert (later.now.workers, later.now.in_flight) == (1, 0)


def test_a_report_that_cannot_be_read_is_told_and_left_out(tmp_path, caplog):
    (tmp_path / "broken.report").write_bytes(b"half of it")
    whole = whole_of(watcher_of(folder=tmp_path))
    assert whole.now.workers == 1
    assert "no worker's report" in caplog.text


def test_a_folder_that_cannot_be_written_harms_nobody(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    watcher = watcher_of(folder=tmp_path / "file" / "reports")

    async def work():
        async with watcher.open():
            hear(watcher, REQUESTS[0])
            await anyio.sleep(0.1)

    anyio.run(work)
    assert "cannot leave its report" in caplog.text


def test_what_gone_workers_left_becomes_one_report(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    clock, parts = Clock(), [REQUESTS[start::4] for start in range(4)]
    for index, part in enumerate(parts):
        worker = watcher_of(clock=clock)
        for request in part:
            hear(worker, request)
        process = os.getpid() if index == 3 else gone.pid
        Folder(tmp_path, f"{process}-{index}").write(worker._report())
    before = whole_of(watcher_of(folder=tmp_path, clock=clock)).stats
    for _ in range(2):
        Folder(tmp_path, f"{os.getpid()}-new").open()
        kept = sorted(path.name for path in tmp_path.iterdir())
        assert kept == ["0-past.report", f"{os.getpid()}-3.report"]
        later = whole_of(watcher_of(folder=tmp_path, clock=clock))
        assert later.stats == before
        assert later.now.workers == 2


def test_a_report_replaces_the_one_before(tmp_path):
    watcher, folder = watcher_of(), Folder(tmp_path, "me")
    for _ in range(2):
        folder.write(watcher._report())
    assert [path.name for path in tmp_path.iterdir()] == ["me.report"]
    assert folder.others() == []
    assert len(Folder(tmp_path, "other").others()) == 1


@pytest.fixture(scope="module")
def client():
    return TestClient(app_of(filled(200, under_way=2)))


def test_the_figures_as_json(client):
    reply = client.get("/v1/stats")
    told = reply.json()
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert told["total"]["requests"] == 200
    assert list(told["models"]) == ["speceyes", "paper", "plain"]
    assert sum(one["requests"] for one in told["models"].values()) <= 200
    assert told["now"]["in_flight"] == 2
    assert len(told["last"]) == 50
    ends = [one["at_s"] for one in told["last"]]
    assert ends == sorted(ends, reverse=True)
    assert told["at_s"] == NOON_S + 200
    assert "passport" not in reply.text


def test_metrics_and_figures_are_of_one_value(client):
    told = client.get("/v1/stats").json()["total"]
    text = client.get("/metrics").text
    accepted = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("speceyes_funnel_total") and 'stage="accepted"' in line
    ]
    assert sum(accepted) == told["accepted"]
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")


def test_every_view_forbids_what_the_page_does_not_need(client):
    for path in watcher_of().views:
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy


def test_the_page_asks_nobody_else_and_has_no_script_of_its_own(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script>" not in page.text
    assert " style=" not in page.text
    for path in watcher_of().views:
        text = client.get(path).text
        if path != "/page/eye.svg":
            assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
        assert "innerHTML" not in text
        assert "onclick" not in text


def test_views_are_for_reading(client):
    for path in ("/", "/metrics", "/v1/stats"):
        assert client.head(path).status_code == 200
        assert client.head(path).content == b""


def test_views_refuse_to_be_written_to():
    async def ask(method):
        sent = []
        scope = {"type": "http", "method": method, "path": "/", "headers": [], "query_string": b""}

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        await watcher_of().views["/v1/stats"](scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]).get(b"allow")

    assert anyio.run(ask, "POST") == (405, b"GET, HEAD")
    assert anyio.run(ask, "GET")[0] == 200


def test_hearing_of_a_request_costs_little():
    watcher = watcher_of()
    for one in REQUESTS:  # caches and series
        hear(watcher, one)
    costs = []
    for _ in range(5):
        began_s = time.process_time()
        for one in REQUESTS:
            hear(watcher, one)
        costs.append((time.process_time() - began_s) / len(REQUESTS))
    print(f"hearing of a request: {1e6 * min(costs):.0f} us")
    assert min(costs) < 1e-3


def test_the_cost_does_not_grow_with_what_was_counted():
    def cost(watcher):
        began_s = time.process_time()
        for one in REQUESTS:
            hear(watcher, one)
        return time.process_time() - began_s

    young, old = watcher_of(), filled(3_000)
    cost(young)
    ratio = min(cost(old) for _ in range(5)) / min(cost(young) for _ in range(5))
    assert ratio < 3.0


def test_errors_keep_their_words_to_themselves():
    watcher = watcher_of()
    error = EngineUnavailable("small", "said: passport")
    story = Story().screened().speculated(error=error).fell_back("small_failed")
    hear(watcher, finished(story.answered("small_failed")))
    assert "passport" not in json.dumps(TestClient(app_of(watcher)).get("/v1/stats").json())
