"""This engine says what was recorded or scripted for it, after as long as that took.

It refuses to know models and prompts. It waits by anyio alone, so on a virtual clock hours cost
nothing; it keeps what was asked of it and how each call ended, so tests can look.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import anyio
import numpy as np
import numpy.typing as npt

from speceyes.errors import ConfigError, EngineError, EngineUnavailable, InputError
from speceyes.load import Load
from speceyes.meter import note_lost
from speceyes.types import Engine, Evidence, GenerateRequest, Generation, Text, Usage

_EPS: Final = 1e-6  # the gate's own, so that a scripted separability is met exactly
_RIVAL_DROP: Final = 8.0  # nats from the rivals down to the last one, which gives them spread
_OTHER_MASS: Final = 1e-3  # what a scripted screen leaves to tokens other than yes and no


@dataclass(frozen=True, slots=True)
class Take:
    """One reply of a replay engine: a generation, or an error to raise, after `latency_s`."""

    result: Generation | Exception
    latency_s: float = 0.0


@dataclass(slots=True)
class Call:
    """What became of one call; `ended_s` None while it runs. Seconds on the event loop's clock.

    `lost` is what a call had cost that was cancelled while it was served.
    """

    request: GenerateRequest
    started_s: float
    ended_s: float | None = None
    outcome: Literal["running", "finished", "failed", "cancelled"] = "running"
    lost: Usage | None = None


Recordings: TypeAlias = Mapping[str, Sequence[Take]]
Script: TypeAlias = Callable[[GenerateRequest], Take] | Sequence[Take] | Recordings


class ReplayEngine:
    """Replay takes: chosen by a callable, in the order of a list, or by the request's digest.

    Takes of one digest follow each other, and the last one stays. With `max_batch` at most that
    many calls are served at once; the others wait in order.
    Raises: EngineUnavailable after `aclose`, and when nothing is left or known to say.
    """

    def __init__(
        self, script: Script, *, name: str = "replay", max_batch: int | None = None
    ) -> None:
        if max_batch is not None and max_batch < 1:
            raise ConfigError("max_batch", f"{max_batch} is below 1; nothing would be served")
        self.name = name
        self.calls: list[Call] = []
        self.in_flight = 0
        self.max_in_flight = 0
        self.is_closed = False
        self._script = script
        self._max_batch = max_batch
        self._slots: anyio.Semaphore | None = None
        self._used: dict[str, int] = {}  # by digest; "" counts along a list

    @property
    def present_load(self) -> Load:
        """How many calls are served, and how many wait."""
        served = self.in_flight
        if self._max_batch is not None:
            served = min(served, self._max_batch)
        return Load(running=served, waiting=self.in_flight - served)

    @property
    def cancelled(self) -> int:
        """Count the calls that were cancelled before their reply."""
        return sum(call.outcome == "cancelled" for call in self.calls)

    async def generate(self, request: GenerateRequest) -> Generation:
        """Say what is next for this request."""
        with self._recorded(Call(request, anyio.current_time())) as call:
            if self.is_closed:
                raise EngineUnavailable(self.name, "is closed")
            take = self._take(request)
            async with self._slot(call):
                await self._speak(call, take)
            if isinstance(take.result, Exception):
                raise take.result
            return take.result

    async def aclose(self) -> None:
        """Refuse further calls."""
        self.is_closed = True

    async def _speak(self, call: Call, take: Take) -> None:
        began_s = anyio.current_time()
        try:
            await anyio.sleep(take.latency_s)
        except BaseException:  # the prompt was read, and the answer said as far as time allowed
            if isinstance(take.result, Generation):
                share = (anyio.current_time() - began_s) / max(take.latency_s, _EPS)
                spent = take.result.usage
                said = math.floor(spent.completion_tokens * min(1.0, share))
                call.lost = replace(spent, completion_tokens=said)
                note_lost(call.lost)
            raise

    @contextmanager
    def _recorded(self, call: Call) -> Iterator[Call]:
        self.calls.append(call)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            yield call
        except Exception:
            call.outcome = "failed"
            raise
        except BaseException:
            call.outcome = "cancelled"
            raise
        else:
            call.outcome = "finished"
        finally:
            call.ended_s = anyio.current_time()
            self.in_flight -= 1

    def _take(self, request: GenerateRequest) -> Take:
        if not isinstance(self._script, (Mapping, Sequence)):
            return self._script(request)
        if isinstance(self._script, Mapping):
            key = request_digest(request)
            takes = self._script.get(key, ())
            index = min(self._used.get(key, 0), len(takes) - 1)
        else:
            key, takes = "", self._script
            index = self._used.get(key, 0)
        if not 0 <= index < len(takes):
            known = "the script has ended" if key == "" else f"request {key} was not recorded"
            raise EngineUnavailable(self.name, f"has nothing to say: {known}")
        self._used[key] = index + 1
        return takes[index]

    @asynccontextmanager
    async def _slot(self, call: Call) -> AsyncIterator[None]:
        if self._max_batch is None:
            yield
            return
        if self._slots is None:
            self._slots = anyio.Semaphore(self._max_batch)
        try:
            await self._slots.acquire()
        except BaseException:  # a call that waited has cost nothing
            call.lost = Usage.zero
            note_lost(call.lost)
            raise
        try:
            yield
        finally:
            self._slots.release()


class Recorder:
    """Stand in front of an engine and append each generation and its latency to a JSONL file.

    Closing it closes the engine. Calls that fail or are cancelled pass through unrecorded.
    """

    def __init__(self, engine: Engine, path: str | PathLike[str]) -> None:
        self._engine = engine
        self._path = Path(path)

    @property
    def name(self) -> str:
        """The name of the engine behind it."""
        return self._engine.name

    async def generate(self, request: GenerateRequest) -> Generation:
        """Pass the request on and keep the reply."""
        started_s = anyio.current_time()
        generation = await self._engine.generate(request)
        self._append(request_digest(request), Take(generation, anyio.current_time() - started_s))
        return generation

    async def aclose(self) -> None:
        """Close the engine behind it."""
        await self._engine.aclose()

    def _append(self, digest: str, take: Take) -> None:
        # Opened anew each time: a crash loses at most the line being written.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_to_json(digest, take)) + "\n")


def load_recordings(path: str | PathLike[str]) -> dict[str, list[Take]]:
    """Read what a Recorder wrote, as a script for a ReplayEngine.

    Raises: InputError naming the line that is not a recording.
    """
    recordings: dict[str, list[Take]] = {}
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                recordings.setdefault(str(row["digest"]), []).append(_from_json(row))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    "recordings", f"line {number} of {path} is not a recording ({error!r})"
                ) from error
    return recordings


def request_digest(request: GenerateRequest) -> str:
    """Name a request by its content; a picture counts as its bytes."""
    messages = [
        [
            message.role,
            [
                ["text", part.text] if isinstance(part, Text) else ["image", part.picture.digest]
                for part in message.parts
            ],
        ]
        for message in request.messages
    ]
    settings = [
        request.max_tokens,
        request.stop,
        request.top_logprobs,
        request.continue_final_message,
    ]
    canonical = json.dumps([messages, settings]).encode()
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def scripted(
    text: str,
    *,
    separability: float | None = 8.0,
    k: int = 64,
    token_count: int | None = None,
    finish: Literal["stop", "length"] = "stop",
    usage: Usage | None = None,
) -> Generation:
    """Make a generation whose every token has the given separability ("rivals", at this k).

    `separability` None gives no evidence. `token_count` defaults to one per word.
    Raises: ConfigError if no descending row of k has so low a separability.

    >>> generation = scripted("a red disc", separability=9.0, k=8)
    >>> generation.token_count, generation.evidence.logp_topk.shape
    (3, (3, 8))
    """
    count = len(text.split()) if token_count is None else token_count
    spent = Usage(100, 0, count, 1) if usage is None else usage
    evidence = None
    if separability is not None:
        row = _row(separability, k)  # (K,)
        evidence = Evidence(np.tile(row, (count, 1)), np.full(count, row[0]))
    return Generation(text, finish, None, count, evidence, spent, "scripted")


def scripted_screen(p_tool: float | None, *, k: int = 20) -> Generation:
    """Make Phase I's one-token reply with this p(needs a tool); None gives neither yes nor no.

    >>> scripted_screen(0.9, k=4).evidence.candidates[0][:2]
    ('yes', 'no')
    """
    others = {f"word{index}": _OTHER_MASS / (k - 2) for index in range(k - 2)}
    if p_tool is None:
        rest = (1.0 - _OTHER_MASS) / 2
        mass = {"perhaps": rest, "maybe": rest} | others
    else:
        sure = 1.0 - _OTHER_MASS
        mass = {"yes": sure * p_tool, "no": sure * (1.0 - p_tool)} | others
    ranked = sorted(mass.items(), key=lambda entry: -entry[1])
    row = np.log(np.maximum([p for _, p in ranked], 1e-30))[None, :]  # (1, K)
    evidence = Evidence(row, row[:, 0], (tuple(word for word, _ in ranked),))
    return Generation(ranked[0][0], "stop", None, 1, evidence, Usage(100, 0, 1, 1), "scripted")


def _row(separability: float, k: int) -> npt.NDArray[np.float64]:
    # All rivals at 0 but the last: the flattest field under a top token, so the least separability
    # that can be scripted is the lowest there is, 1 / sqrt(k - 2).
    if k < 3 or separability < 1.0 / math.sqrt(k - 2):
        raise ConfigError("separability", f"{separability} cannot be had of {k} candidates")
    logits = np.zeros(k)
    logits[-1] = -_RIVAL_DROP
    rivals = logits[1:]
    logits[0] = rivals.mean() + separability * (rivals.std() + _EPS)
    log_probabilities: npt.NDArray[np.float64] = logits - np.log(np.exp(logits).sum())
    return log_probabilities


def _to_json(digest: str, take: Take) -> dict[str, Any]:
    if isinstance(take.result, Exception):
        raise EngineError("replay", "only generations are recorded")
    evidence = take.result.evidence
    return {
        "digest": digest,
        "latency_s": take.latency_s,
        "text": take.result.text,
        "finish": take.result.finish,
        "stop_string": take.result.stop_string,
        "token_count": take.result.token_count,
        "usage": asdict(take.result.usage),
        "engine": take.result.engine,
        "evidence": None
        if evidence is None
        else {
            "logp_topk": _pack(evidence.logp_topk),
            "logp_chosen": _pack(evidence.logp_chosen),
            "candidates": evidence.candidates,
        },
    }


def _from_json(row: dict[str, Any]) -> Take:
    kept = row["evidence"]
    evidence = None
    if kept is not None:
        candidates = tuple(tuple(words) for words in kept["candidates"])
        evidence = Evidence(_unpack(kept["logp_topk"]), _unpack(kept["logp_chosen"]), candidates)
    generation = Generation(
        text=row["text"],
        finish=row["finish"],
        stop_string=row["stop_string"],
        token_count=row["token_count"],
        evidence=evidence,
        usage=Usage(**row["usage"]),
        engine=row["engine"],
    )
    return Take(generation, float(row["latency_s"]))


def _pack(array: npt.NDArray[np.float32]) -> dict[str, Any]:
    # Bytes, not digits: JSON knows neither nan nor inf, and the score must come out the same.
    data = base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode("ascii")
    return {"shape": array.shape, "f4": data}


def _unpack(packed: dict[str, Any]) -> npt.NDArray[np.float32]:
    flat = np.frombuffer(base64.b64decode(packed["f4"], validate=True), dtype="<f4")
    return flat.astype(np.float32).reshape(packed["shape"])
