"""A breaker stands before an engine: one that is down is left alone, and callers hear so at once.

It refuses to know servers and requests. What it sees, it sees in one worker.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from speceyes.errors import ContextTooLong, EngineTimeout, EngineUnavailable
from speceyes.events import Answered
from speceyes.gateway.guard.circuit import (
    CLOSED,
    Circuit,
    Closed,
    HalfOpen,
    Outcome,
    enter,
    leave,
    wait_s,
)
from speceyes.gateway.observing import BreakerState
from speceyes.gateway.settings import BreakerSettings, LargeDown
from speceyes.phases import Passage
from speceyes.policies.fixed import Policy, straight_to_agent
from speceyes.types import Engine, GenerateRequest, Generation


def _hear_nothing(state: BreakerState) -> None:
    """Stand in for whoever would hear of a breaker's states."""


class Breaker:
    """Keep one engine's circuit. `tell` hears of each new state.

    `hung_after_s`: a call that is cancelled after so long without a reply counts as failed, if none
    succeeded meanwhile: whoever waits for an engine that hangs gives up before it does.
    """

    def __init__(
        self,
        engine: str,
        settings: BreakerSettings,
        *,
        hung_after_s: float = math.inf,
        tell: Callable[[BreakerState], None] = _hear_nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self._settings = settings
        self._hung_after_s = hung_after_s
        self._tell = tell
        self._clock = clock
        self._circuit: Circuit = CLOSED
        self._succeeded_at_s = -math.inf

    @property
    def state(self) -> BreakerState:
        """Say whether calls pass, or a trial is under way, or none pass."""
        if isinstance(self._circuit, Closed):
            return "closed"
        return "half_open" if isinstance(self._circuit, HalfOpen) else "open"

    @property
    def wait_s(self) -> float:
        """How long until a call may be made; 0: now."""
        return wait_s(self._circuit, now_s=self._clock())

    def check(self) -> None:
        """Say at once that no call can be made. Raises: EngineUnavailable, with when to try."""
        if self.wait_s:
            raise self.refusal()

    def refusal(self) -> EngineUnavailable:
        """Make the error that says that the engine is down, and when it is tried again."""
        waiting_s = self.wait_s
        return EngineUnavailable(
            self.engine,
            f"failed too often and is left alone for {max(1, math.ceil(waiting_s))} s; its log "
            "tells why",
            retry_after_s=waiting_s,
        )

    def call(self) -> Call:
        """Guard one call, made within `with`. Raises, on entering: EngineUnavailable."""
        return Call(self)

    def begin(self) -> bool:
        """Begin a call, and tell if it is a trial. Raises: EngineUnavailable."""
        self.check()
        circuit, is_trial = enter(self._circuit, self._settings, now_s=self._clock())
        self._move(circuit)
        return is_trial

    def end(self, outcome: Outcome, *, is_trial: bool) -> None:
        """End a call that was begun."""
        now_s = self._clock()
        if outcome == "succeeded":
            self._succeeded_at_s = now_s
        self._move(leave(self._circuit, self._settings, outcome, now_s=now_s, is_trial=is_trial))

    def is_hung(self, since_s: float) -> bool:
        """Say if a call that began then, and is given up on now, speaks against the engine."""
        is_late = self._clock() - since_s >= self._hung_after_s
        return is_late and self._succeeded_at_s < since_s

    @property
    def now_s(self) -> float:
        """The time, by its clock."""
        return self._clock()

    def _move(self, circuit: Circuit) -> None:
        before = self.state
        self._circuit = circuit
        if self.state != before:
            self._tell(self.state)


class Call:
    """One call of an engine, within `with`: how it ends tells of the engine.

    Failed: EngineUnavailable, EngineTimeout, a cancellation after `hung_after_s`, or `fail()`.
    Succeeded: an end without an error, ContextTooLong, which an engine that is there says, or a
    cancellation after `hear()`. All else is no evidence, for a caller can bring it about.
    """

    __slots__ = ("_breaker", "_has_failed", "_is_heard", "_is_trial", "_since_s")

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._is_trial = False
        self._has_failed = False
        self._is_heard = False
        self._since_s = 0.0

    def fail(self) -> None:
        """Count it as failed, though no error shows it."""
        self._has_failed = True

    def hear(self) -> None:
        """Note that a reply has begun: who leaves from now on says nothing against the engine."""
        self._is_heard = True

    def __enter__(self) -> Call:
        self._is_trial = self._breaker.begin()
        self._since_s = self._breaker.now_s
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._breaker.end(self._outcome(error), is_trial=self._is_trial)

    def _outcome(self, error: BaseException | None) -> Outcome:
        if self._has_failed or isinstance(error, (EngineUnavailable, EngineTimeout)):
            return "failed"
        if error is None or isinstance(error, ContextTooLong):
            return "succeeded"
        if isinstance(error, Exception):
            return "abandoned"
        if self._is_heard:
            return "succeeded"
        return "failed" if self._breaker.is_hung(self._since_s) else "abandoned"


class GuardedEngine:
    """Ask an engine while its breaker lets calls pass. Implements `types.Engine`.

    The engine stays its owner's: closing this closes nothing.
    """

    def __init__(self, engine: Engine, breaker: Breaker) -> None:
        self._engine = engine
        self._breaker = breaker

    @property
    def name(self) -> str:
        """The engine's own name."""
        return self._engine.name

    @property
    def stands_before(self) -> Engine:
        """The engine that is asked while calls pass."""
        return self._engine

    async def generate(self, request: GenerateRequest) -> Generation:
        """Go on with the conversation. Raises: EngineError."""
        with self._breaker.call():
            return await self._engine.generate(request)

    async def aclose(self) -> None:
        """Close nothing."""


def guarded(
    policy: Policy, *, small: Breaker, large: Breaker, large_down: LargeDown = "refuse"
) -> Policy:
    """Put the phases in an order that spares engines which are down.

    Small down: all goes to the agent (reason small_failed). Large down: EngineUnavailable at once;
    or, if "gated", the small model's answer if the gate accepts it (reason screen_failed, unless
    the small model screens), and EngineUnavailable if not.
    """

    async def spare(passage: Passage) -> Answered:
        if large.wait_s:
            if large_down == "refuse" or small.wait_s:
                raise large.refusal()
            return await _gated_only(passage, large)
        if small.wait_s:
            return await straight_to_agent(passage, "small_failed")
        return await policy(passage)

    return spare


async def _gated_only(passage: Passage, large: Breaker) -> Answered:
    is_screened = passage.parts.screener is passage.parts.small
    if is_screened and await passage.screen() is not None:
        raise large.refusal()
    attempt = await passage.speculate()
    if attempt.reason != "accepted" or attempt.text is None:
        raise large.refusal()
    accepted = passage.accept(attempt)
    return accepted if is_screened else replace(accepted, reason="screen_failed")
