"""The audit log: a line for each request, whoever moves the file, however slow the disk."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest

from speceyes.errors import ConfigError
from speceyes.gateway.audit import AuditLog, Line, line_of
from speceyes.gateway.measures import tell
from speceyes.gateway.observer import Watcher
from speceyes.gateway.outbox import Outbox
from speceyes.gateway.settings import AuditSettings, GatewaySettings
from tests.gateway_served import Clock, hear
from tests.gateway_stories import MODELS, NOON_S, PRIVATE, Story, draw_many, finished

QUESTION = "What is on the table?"
REQUESTS = draw_many(120)


def lines_in(*paths):
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def logged(path, requests, *, question=None, **settings):
    """Tell a watcher with a log of requests; gives the log's lines."""
    told = GatewaySettings(audit=AuditSettings(file=str(path), **settings))
    watcher = Watcher(told, MODELS, clock=Clock())

    async def tell_all():
        async with watcher.open():
            for one in requests:
                hear(watcher, one, question=question)

    anyio.run(tell_all)
    return lines_in(path)


def within(seconds, is_so):
    end_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end_s, "it did not come to be"
        time.sleep(0.01)


def test_every_request_has_a_line_in_order(tmp_path):
    lines = logged(tmp_path / "audit.jsonl", REQUESTS)
    assert [line["request_id"] for line in lines] == [one.ended.request_id for one in REQUESTS]
    for line, one in zip(lines, REQUESTS, strict=True):
        assert (line["route"], line["reason"]) == (one.ended.route, one.ended.reason)
        assert (line["status"], line["model"]) == (one.ended.status, one.ended.route_name)
        assert len(line.get("steps", ())) >= bool(one.trace)


def test_a_line_tells_when_who_how_much_and_the_way(tmp_path):
    request = finished(
        Story().screened(0.2).speculated(8.0).accepted(), key_name="team", request_id="r-1"
    )
    (line,) = logged(tmp_path / "audit.jsonl", [request])
    assert line["time"] == "2030-03-17T17:46:40.000+00:00"
    assert line["at_s"] == NOON_S
    assert (line["key"], line["bytes_in"], line["bytes_out"]) == ("team", 120_000, 900)
    assert (line["score"], line["threshold"], line["p_tool"]) == (8.0, 5.0, 0.2)
    assert [step["kind"] for step in line["steps"]] == ["screen", "speculate", "gate"]


def test_every_field_is_documented():
    document = Path(__file__).resolve().parents[1] / "deploy" / "OBSERVING.md"
    log = document.read_text(encoding="utf-8").partition("## Audit log")[2].partition("## ")[0]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", log, re.MULTILINE)))
    assert sorted(named) == sorted(Line.__struct_fields__)


def test_no_word_of_a_conversation_unless_asked(tmp_path):
    logged(tmp_path / "audit.jsonl", draw_many(300), question=QUESTION)
    text = (tmp_path / "audit.jsonl").read_text()
    assert "passport" not in text
    assert QUESTION not in text


def test_questions_and_answers_if_asked(tmp_path):
    request = finished(Story().screened(0.2).speculated(8.0).accepted())
    (line,) = logged(tmp_path / "audit.jsonl", [request], question=QUESTION, prompts=True)
    assert (line["question"], line["answer"]) == (QUESTION, PRIVATE)


def test_a_line_without_a_beginning_is_a_line():
    one = REQUESTS[0]
    assert line_of(tell(one), one, None, prompts=True).question is None


def test_the_log_is_for_its_owner_and_is_appended_to(tmp_path):
    path = tmp_path / "audit.jsonl"
    logged(path, REQUESTS[:3])
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(logged(path, REQUESTS[3:5])) == 5


def test_a_folder_that_is_missing_is_named(tmp_path):
    log = AuditLog(AuditSettings(file=str(tmp_path / "no" / "audit.jsonl")))
    with pytest.raises(ConfigError, match="make its folder") as caught:
        log.open()
    assert caught.value.field == "gateway.audit.file"


def put(log, one):
    log.hear(tell(one), one, None)


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path):
    path, old = tmp_path / "audit.jsonl", tmp_path / "old.jsonl"
    log = AuditLog(AuditSettings(file=str(path)))
    log.open()
    put(log, REQUESTS[0])
    within(5, lambda: path.read_text().count("\n") == 1)
    path.rename(old)
    put(log, REQUESTS[1])
    log.close()
    assert [line["request_id"] for line in lines_in(old, path)] == [
        one.ended.request_id for one in REQUESTS[:2]
    ]


def test_a_log_that_has_grown_is_moved_and_the_oldest_goes(tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(AuditSettings(file=str(path), max_bytes=2_000, keep=2))
    log.open()
    for one in REQUESTS:
        put(log, one)
        within(5, log._outbox._waiting.empty)
    log.close()
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert set(kept) <= {"audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"}
    assert {"audit.jsonl.1", "audit.jsonl.2"} <= set(kept)
    files = [tmp_path / f"audit.jsonl.{n}" for n in (2, 1)] + [path] * path.exists()
    told = [line["request_id"] for line in lines_in(*files)]
    everyone = [one.ended.request_id for one in REQUESTS]
    assert told == everyone[-len(told) :]
    assert all(file.stat().st_size < 12_000 for file in files)


WORKER = """
import sys
from speceyes.gateway.audit import AuditLog
from speceyes.gateway.measures import tell
from speceyes.gateway.settings import AuditSettings
from tests.gateway_stories import draw_many
log = AuditLog(AuditSettings(file=sys.argv[1], max_bytes=60_000, keep=50))
log.open()
for one in draw_many(400, seed=int(sys.argv[2])):
    log.hear(tell(one), one, None)
log.close()
assert log.dropped == 0
"""


def test_workers_share_a_file_and_move_it_once(tmp_path):
    root = Path(__file__).resolve().parents[1]
    words = [sys.executable, "-c", WORKER, str(tmp_path / "audit.jsonl")]
    here = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    running = [subprocess.Popen([*words, str(seed)], env=here, cwd=root) for seed in (1, 2, 3)]
    assert [worker.wait(60) for worker in running] == [0, 0, 0]
    told = {line["request_id"] for line in lines_in(*tmp_path.iterdir())}
    assert len(told) == 1200
    assert len(list(tmp_path.iterdir())) > 3


def test_lines_beyond_what_may_wait_are_counted_and_nobody_waits():
    gate, taken = threading.Event(), []

    def write(items):
        gate.wait(10)
        taken.extend(items)

    outbox = Outbox("slow", write, capacity=10)
    outbox.start()
    outbox.put(0)
    within(5, outbox._waiting.empty)
    began_s = time.monotonic()
    for item in range(1, 1001):
        outbox.put(item)
    assert time.monotonic() - began_s < 1.0
    assert outbox.dropped == 990
    gate.set()
    outbox.close()
    assert taken == list(range(11))


def test_what_could_not_be_written_is_counted_told_once_and_does_not_end_the_writing(caplog):
    taken = []

    def write(items):
        if not isinstance(items[0], int):
            raise OSError(28, "No space left on device")
        taken.extend(items)

    outbox = Outbox("full", write)
    outbox.start()
    for item in (1, "bad", "bad", 2):
        outbox.put(item)
        within(5, outbox._waiting.empty)
        time.sleep(0.02)
    outbox.close()
    assert taken == [1, 2]
    assert outbox.dropped == 2
    assert len([r for r in caplog.records if "No space left" in r.message]) == 1


def test_a_line_that_went_out_in_part_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(AuditSettings(file=str(path)))
    log.open()

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 30

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if not self.left:
                raise OSError(28, "No space left on device")
            done = self.file.write(data[: self.left])
            self.left -= done
            return done

    log._file = Full(log._file)
    put(log, REQUESTS[0])
    within(5, lambda: log.dropped == 1)
    log._file = log._file.file
    put(log, REQUESTS[1])
    log.close()
    torn, whole = path.read_text().splitlines()
    assert len(torn) == 30
    assert json.loads(whole)["request_id"] == REQUESTS[1].ended.request_id


def test_dropped_lines_are_in_the_stats(tmp_path):
    told = GatewaySettings(audit=AuditSettings(file=str(tmp_path / "audit.jsonl")))
    watcher = Watcher(told, MODELS, clock=Clock())
    for _ in range(10_003):  # nobody writes: it was not opened
        watcher._audit._outbox.put(None)
    for _ in range(2):  # told twice, counted once
        whole = anyio.run(watcher.whole)
    assert whole.stats.counts["speceyes_dropped", "audit"] == 3
