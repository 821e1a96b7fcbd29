"""The funnel over a real vLLM: the same answers as in this process, and no doubt ever let pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import numpy as np
import pytest

from speceyes import SpecEyes
from speceyes.bench.folder import read_run
from speceyes.bench.items import Item
from speceyes.builtin.pair import BUILTIN, load
from speceyes.builtin.scenes import VIEW_PX
from speceyes.builtin.suite import draw_items
from speceyes.config import Settings
from speceyes.engines.http import HttpEngine, HttpSettings
from speceyes.engines.replay import request_digest
from speceyes.errors import EngineUnavailable
from speceyes.funnel import Outcome
from speceyes.pictures import DecodedPictures
from speceyes.specs import gate_to_toml
from speceyes.types import Box, Engine, GenerateRequest, Generation, Image
from tests.e2e.proxy import FALSEHOODS, Falsehood, proxying
from tests.e2e.vllm_server import Pair, Server, wait_ready
from tests.walls import needs_walls

pytestmark = [pytest.mark.e2e, pytest.mark.local, pytest.mark.timeout(900)]

ITEMS = 60
CODE_ITEMS = 24
SEED = 20260412
TIE_NATS = 1e-3  # two logits this close may come out in either order
SCORE_TOLERANCE = 1e-2
AT_ONCE = 4


@dataclass
class Diary:
    """An engine that keeps what it was asked and what it said."""

    engine: Engine
    said: dict[str, tuple[GenerateRequest, Generation]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.engine.name

    async def generate(self, request: GenerateRequest) -> Generation:
        said = await self.engine.generate(request)
        self.said[request_digest(request)] = (request, said)
        return said

    async def aclose(self) -> None:
        await self.engine.aclose()


@dataclass(frozen=True)
class Side:
    """What one pair of engines made of all items."""

    outcomes: dict[str, Outcome]
    small: Diary
    large: Diary


@dataclass(frozen=True)
class Both:
    """The same items through this process and through vLLM."""

    items: list[Item]
    here: Side
    there: Side
    ties: dict[str, float]  # item: the gap, where a token could have been either

    def scores(self) -> list[tuple[str, float, float]]:
        """Give the separability of every answer that both sides scored: (item, here, there)."""
        return [
            (item, here.verdict.score, there.verdict.score)
            for item in self.here.outcomes
            if (here := self.here.outcomes[item].answer)
            and (there := self.there.outcomes[item].answer)
            and here.verdict and there.verdict
            and here.verdict.score is not None and there.verdict.score is not None
        ]  # fmt: skip


@asynccontextmanager
async def assembled(
    small: Engine, large: Engine, *, protocol: str = "deepeyes", **settings
) -> AsyncIterator[SpecEyes]:
    """Open a funnel with the built-in pair's own settings over any engines that serve it."""
    eyes = SpecEyes(
        small=small,
        large=large,
        protocol=BUILTIN.protocols[protocol],
        gate=BUILTIN.gate,
        screen=BUILTIN.screen,
        settings=Settings(**settings),
    )
    try:
        async with eyes:
            yield eyes
    finally:
        await small.aclose()
        await large.aclose()


async def settle(
    eyes: SpecEyes, items: Iterable[Item], at_once: int = AT_ONCE
) -> dict[str, Outcome]:
    queries = [item.query for item in items]
    outcomes = eyes.answer_many(queries, concurrency=at_once)
    return {outcome.query_id: outcome async for outcome in outcomes}


def over_http(server: Server, url: str | None = None, **settings) -> HttpEngine:
    return HttpEngine(url or server.base_url, model=server.name, settings=HttpSettings(**settings))


async def run_both(pair: Pair, items: list[Item], protocol: str) -> Both:
    here = Diary(load("small")), Diary(load("large"))
    there = Diary(over_http(pair.small)), Diary(over_http(pair.large))
    sides = []
    ties: dict[str, float] = {}
    async with assembled(*there, protocol=protocol) as eyes:
        sides.append(Side(await settle(eyes, items), *there))
    async with assembled(*here, protocol=protocol) as eyes:
        sides.insert(0, Side(await settle(eyes, items), *here))
        for item in items:
            gap = await find_tie(*sides, item)
            if gap is not None:
                ties[item.query.query_id] = gap
    return Both(items, *sides, ties)


async def find_tie(here: Side, there: Side, item: Item) -> float | None:
    """Give the gap between the two best logits where the two sides first part, if they do."""
    name = item.query.query_id
    if told(here.outcomes[name]) == told(there.outcomes[name]):
        return None
    view = view_digest(item)
    for mine, theirs in ((here.small, there.small), (here.large, there.large)):
        for digest, (request, said) in mine.said.items():
            if first_picture(request) == view and digest in theirs.said:
                other = theirs.said[digest][1].text
                if other != said.text:
                    return gap_at_parting(await once_more(mine.engine, request), other)
    return None


async def once_more(engine: Engine, request: GenerateRequest) -> Generation:
    return await engine.generate(replace(request, top_logprobs=max(2, request.top_logprobs)))


def gap_at_parting(said: Generation, other: str) -> float:
    """Give the gap, in nats, at the first token that the other side did not say."""
    text = ""
    for row, candidates in zip(said.evidence.logp_topk, said.evidence.candidates, strict=True):
        text += candidates[0]
        if not other.startswith(text):
            return float(row[0] - row[1])
    return float("nan")  # the other one went on: the end token was not chosen there


def first_picture(request: GenerateRequest) -> str | None:
    parts = (part for message in request.messages for part in message.parts)
    return next((part.picture.digest for part in parts if isinstance(part, Image)), None)


def view_digest(item: Item) -> str:
    (scene,) = item.query.pictures
    box = Box(0, 0, *scene.size)
    size = BUILTIN.protocols["deepeyes"].view_size(scene.size)  # as of all others
    return DecodedPictures(item.query.pictures).cut(box, size).digest


def told(outcome: Outcome) -> tuple[str, str, str] | str:
    answer = outcome.answer
    return repr(outcome.error) if answer is None else (answer.text, answer.route, answer.reason)


@pytest.fixture
def anyio_backend() -> str:
    """aiohttp runs on asyncio only."""
    return "asyncio"


@pytest.fixture(scope="module")
def both(vllm_pair: Pair) -> Both:
    return anyio.run(run_both, vllm_pair, list(draw_items(ITEMS, seed=SEED)), "deepeyes")


@pytest.fixture(scope="module")
def coding(vllm_pair: Pair) -> Both:
    return anyio.run(run_both, vllm_pair, list(draw_items(CODE_ITEMS, seed=SEED)), "thyme")


def test_vllm_answers_as_this_process_does(both: Both):
    apart = {
        item: (told(here), told(both.there.outcomes[item]))
        for item, here in both.here.outcomes.items()
        if told(here) != told(both.there.outcomes[item])
    }
    print(f"{ITEMS} items, {len(apart)} apart, ties {both.ties}: {apart}")
    assert set(both.here.outcomes) == set(both.there.outcomes)
    assert [item for item in apart if both.ties.get(item, 1.0) > TIE_NATS] == []


@needs_walls
def test_a_model_that_writes_code_goes_on_in_its_own_turn_as_in_this_process(coding: Both):
    apart = {
        item: (told(here), told(coding.there.outcomes[item]))
        for item, here in coding.here.outcomes.items()
        if told(here) != told(coding.there.outcomes[item])
    }
    print(f"{CODE_ITEMS} items, {len(apart)} apart, ties {coding.ties}: {apart}")
    assert [item for item in apart if coding.ties.get(item, 1.0) > TIE_NATS] == []
    continued = [
        said
        for request, said in coding.there.large.said.values()
        if request.continue_final_message and "</sandbox_output>" in str(request.messages[-1])
    ]
    assert len(continued) >= CODE_ITEMS // 4
    assert all(said.usage.cached_tokens and said.usage.cached_tokens > 16 for said in continued)


def test_no_query_failed_and_all_routes_were_taken(both: Both):
    for side in (both.here, both.there):
        assert [told(o) for o in side.outcomes.values() if o.answer is None] == []
        routes = Counter(o.answer.route for o in side.outcomes.values() if o.answer)
        assert set(routes) == {"speculative", "agentic"}, routes


def test_separability_comes_out_alike(both: Both):
    scores = both.scores()
    gaps = [abs(here - there) for _, here, there in scores]
    print(f"{len(gaps)} scores, furthest apart {max(gaps):.2e}")
    assert len(gaps) >= ITEMS // 4
    assert max(gaps) <= SCORE_TOLERANCE


def test_p_needs_tool_comes_out_alike(both: Both):
    apart = [
        abs(here.answer.p_tool - both.there.outcomes[item].answer.p_tool)
        for item, here in both.here.outcomes.items()
        if here.answer and here.answer.p_tool is not None
    ]
    assert len(apart) >= ITEMS - 2
    assert max(apart) <= SCORE_TOLERANCE


def test_token_counts_and_cached_tokens_are_told(both: Both):
    for mine, theirs in (
        (both.here.small, both.there.small),
        (both.here.large, both.there.large),
    ):
        shared = [
            (mine.said[digest][1], theirs.said[digest][1])
            for digest in mine.said
            if digest in theirs.said and mine.said[digest][1].text == theirs.said[digest][1].text
        ]
        assert len(shared) >= ITEMS // 4
        assert [one for one in shared if one[0].token_count != one[1].token_count] == []
        assert [one for one in shared if one[0].usage.images != one[1].usage.images] == []
        prompts = [(a.usage.prompt_tokens, b.usage.prompt_tokens) for a, b in shared]
        assert [pair for pair in prompts if pair[0] != pair[1]] == []


def test_defect_turns_find_in_the_cache_what_earlier_ones_left(both: Both):
    later = [
        said.usage
        for request, said in both.there.large.said.values()
        if any(message.role == "assistant" for message in request.messages)
    ]
    assert later
    assert all(usage.cached_tokens and usage.cached_tokens > 16 for usage in later)


def accepted_items(both: Both, count: int) -> list[Item]:
    routes = {item: o.answer.route for item, o in both.there.outcomes.items() if o.answer}
    return [i for i in both.items if routes.get(i.query.query_id) == "speculative"][:count]


@pytest.mark.anyio
@pytest.mark.parametrize("falsehood", FALSEHOODS, ids=lambda falsehood: falsehood.name)
async def test_falsified_evidence_is_never_accepted(vllm: Pair, both: Both, falsehood: Falsehood):
    items = accepted_items(both, 3)
    assert len(items) == 3  # all of them pass when nothing is falsified
    async with proxying(vllm.small.base_url, falsify=falsehood.falsify) as proxy:
        small = over_http(vllm.small, proxy.url, stream=False, max_attempts=1)
        async with assembled(small, over_http(vllm.large), screen_by="none") as eyes:
            outcomes = await settle(eyes, items)
    answers = [outcome.answer for outcome in outcomes.values()]
    assert Counter(told(outcome)[1:] for outcome in outcomes.values()) == {
        ("agentic", falsehood.reason): len(items)
    }
    assert all(answer.verdict is None or not answer.verdict.accepted for answer in answers)
    assert proxy.replies == len(items)


@pytest.mark.anyio
async def test_servers_die_and_come_back(vllm: Pair, both: Both):
    easy = accepted_items(both, 12)
    items, more = easy[:9], easy[9:]
    small, large = over_http(vllm.small), over_http(vllm.large)
    async with assembled(small, large) as eyes:
        seen: list[Outcome] = []
        async for outcome in eyes.answer_many([i.query for i in items], concurrency=2):
            seen.append(outcome)
            if len(seen) == 3:
                vllm.small.kill()
        assert [told(o) for o in seen if o.answer is None] == []
        late = seen[5:]  # two were under way
        assert {told(o)[1:] for o in late} == {("agentic", "small_failed")}
        assert all(o.answer.is_degraded for o in late)
        assert {told(o)[1] for o in seen[:3]} == {"speculative"}

        vllm.large.kill()
        began_s = time.monotonic()
        failed = (await settle(eyes, more)).values()
        assert {type(o.error) for o in failed} == {EngineUnavailable}
        assert all(large.name in str(o.error) for o in failed)
        assert time.monotonic() - began_s < 60

        await anyio.to_thread.run_sync(restart, vllm)
        again = (await settle(eyes, more)).values()
        assert [told(o)[1] for o in again] == ["speculative"] * len(more)


def restart(pair: Pair) -> None:
    for server in pair.servers:
        server.start()
    wait_ready(pair.servers)


def test_the_doctor_finds_both_servers_well(vllm: Pair):
    program = "import sys; from speceyes.cli import main; sys.exit(main())"
    small, large = (f"{server.base_url}#{server.name}" for server in (vllm.small, vllm.large))
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor", "--small", small, "--large", large, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    document = json.loads(done.stdout)
    found = {(f["role"], f["subject"]): f for f in document["findings"]}
    assert document["can_run"]
    assert document["gate_k"] == 64
    for role in ("small", "large"):
        for subject in (
            "reach",
            "model",
            "image",
            "top log-probabilities",
            "raw log-probabilities",
        ):
            assert found[role, subject]["status"] == "ok", found[role, subject]
    for subject in ("images per prompt", "stop strings", "prefix cache", "continue_final_message"):
        assert found["large", subject]["status"] == "ok", found["large", subject]
    assert found["small", "model"]["figures"] == {"served": "small", "context_tokens": 4096}
    assert found["small", "top log-probabilities"]["figures"]["arrived"] == 64


def test_a_bench_of_all_methods_runs_on_both_servers(vllm: Pair, tmp_path: Path):
    program = "import sys; from speceyes.cli import main; sys.exit(main())"
    small, large = (f"{server.base_url}#{server.name}" for server in (vllm.small, vllm.large))
    settings = tmp_path / "speceyes.toml"
    settings.write_text(
        f"[settings]\nmin_view_px = {VIEW_PX**2}\nmax_view_px = {VIEW_PX**2}\n"
        + gate_to_toml(replace(BUILTIN.gate, small_model="small", large_model="large")),
        encoding="utf-8",
    )
    words = ["bench", "builtin:9", "--small", small, "--large", large, "--config", str(settings)]
    words += ["--concurrency", "3", "--out", str(tmp_path / "run"), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    (suite,) = json.loads(done.stdout)["suites"]
    assert suite["compared"] == 9
    assert {name: made["all"]["failed"] for name, made in suite["methods"].items()} == {
        "agent alone": 0, "SpecEyes": 0, "SpecReason": 0, "small alone": 0,
    }  # fmt: skip
    kept = [r.speculation for r in read_run(tmp_path / "run").records if r.speculation]
    # The server caps K at 64: what the lab would keep is refused, what the gate reads is not.
    assert {said.generation.evidence.logp_topk.shape[1] for said in kept} == {BUILTIN.gate.k}


def test_the_doctor_names_a_server_that_is_not_there(vllm: Pair):
    program = "import sys; from speceyes.cli import main; sys.exit(main())"
    small, large = f"{vllm.small.base_url}#absent", f"{vllm.large.base_url}#large"
    done = subprocess.run(
        [sys.executable, "-c", program, "doctor", "--small", small, "--large", large, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    reach = json.loads(done.stdout)["findings"][0]
    assert (reach["role"], reach["subject"], reach["status"]) == ("small", "reach", "failure")
    assert "absent" in reach["told"]
    assert "small" in reach["told"]  # what it serves instead


def test_rows_are_float32_and_as_wide_as_asked(both: Both):
    rows = [
        said.evidence.logp_topk
        for request, said in both.there.small.said.values()
        if request.top_logprobs and said.evidence is not None
    ]
    assert {row.dtype for row in rows} == {np.dtype(np.float32)}
    assert {row.shape[1] for row in rows} == {BUILTIN.gate.k}
