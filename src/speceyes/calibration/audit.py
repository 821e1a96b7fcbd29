"""Does the stated risk still hold? A share of what is accepted is checked, and bets are placed.

It refuses to know clocks, engines and who checks: one query at a time is folded into a state of
fixed size. However long it watches, and whenever it is looked at, its alarm is false with at most
the stated probability; and the longest calm does not make it slow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

from speceyes.calibration.bounds import Estimate, check_share, upper_bound
from speceyes.calibration.thresholds import closed
from speceyes.errors import ConfigError
from speceyes.gate import GateSpec

_FACTORS: Final = (1.5, 2.0, 4.0, 8.0, 16.0)  # times the stated risk: what is betted on
_BISECTIONS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSpec:
    """What is watched: the certified risk, the share of accepted queries that is checked.

    `false_alarm`: the probability that an alarm is ever raised while the risk is within `max_loss`.
    `edges`: scores, rising, between which differences are counted, for tightening; `window`: how
    many queries that count looks back on, at least, and at most twice as many.
    Raises: ConfigError naming the field.
    """

    max_loss: float
    share: float
    false_alarm: float = 0.05
    edges: tuple[float, ...] = ()
    window: int = 2000

    def __post_init__(self) -> None:
        check_share("audit.max_loss", self.max_loss)
        check_share("audit.false_alarm", self.false_alarm)
        if not 0.0 < self.share <= 1.0:
            raise ConfigError("audit.share", f"{self.share} is not in 0 < share <= 1")
        if list(self.edges) != sorted(set(self.edges)):
            raise ConfigError("audit.edges", "do not rise; give scores in order")
        if self.window < 1:
            raise ConfigError("audit.window", f"{self.window} is below 1")

    @property
    def hit_rate(self) -> float:
        """P(a query is accepted, checked and differs), if the risk is just what may be."""
        return self.max_loss * self.share

    @property
    def factors(self) -> tuple[float, ...]:
        """What is betted on: so many times the stated risk, as far as that is a probability."""
        fitting = tuple(f for f in _FACTORS if f * self.hit_rate < 1.0)
        return fitting or ((1.0 + 1.0 / self.hit_rate) / 2.0,)


@dataclass(frozen=True, slots=True)
class Seen:
    """One query as the audit sees it: its score if it was accepted; what checking it came to.

    `differs` None: it was not checked, or could not be.
    """

    score: float | None = None
    differs: bool | None = None

    @property
    def is_hit(self) -> bool:
        """Whether it was accepted, checked, and found to differ."""
        return self.score is not None and self.differs is True


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted over a stretch of queries. `hits` and `checks`: by place among the edges."""

    queries: int = 0
    accepted: int = 0
    checks: tuple[int, ...] = ()
    hits: tuple[int, ...] = ()

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.queries + other.queries,
            self.accepted + other.accepted,
            _sum(self.checks, other.checks),
            _sum(self.hits, other.hits),
        )


@dataclass(frozen=True, slots=True)
class Audit:
    """The state of an audit: `bets` are what each stake has come to, and `queries` since it began.

    `alarmed_at`: the query at which the alarm was raised. `counts`: all since it began; `recent`
    and `before`: the current and the last whole window.
    """

    spec: AuditSpec
    queries: int = 0
    bets: tuple[float, ...] = ()
    peak: float = 0.0
    alarmed_at: int | None = None
    counts: Counts = field(default_factory=Counts)
    recent: Counts = field(default_factory=Counts)
    before: Counts = field(default_factory=Counts)

    @property
    def wealth(self) -> float:
        """What one unit staked against the stated risk has come to; an alarm at 1 / false_alarm."""
        return sum(self.bets) / len(self.bets) if self.bets else 0.0

    @property
    def is_alarmed(self) -> bool:
        """Whether the bound was found broken."""
        return self.alarmed_at is not None

    @property
    def checked(self) -> int:
        """How many accepted answers were compared with the agent's."""
        return sum(self.counts.checks)

    @property
    def differing(self) -> int:
        """How many of those differed."""
        return sum(self.counts.hits)

    def disagreement(self) -> Estimate:
        """Bound the share of accepted answers that differ, at any time it is looked at."""
        return anytime_estimate(
            self.differing, self.checked, confidence=1.0 - self.spec.false_alarm
        )


def observe(audit: Audit, seen: Seen) -> Audit:
    """Fold one query into the audit; every query counts, also those sent to the agent.

    Each bet is on the risk being f times the stated one: it grows by f for a hit and shrinks by
    (1 - f q) / (1 - q) for any other query, q = share * max_loss: fair, or worse, while the risk is
    within the bound. A stake of 1 / (n (n + 1)) is added before query n, so that bets placed lately
    are not weighed down by what was lost in calm years; all stakes together are one.
    P(wealth ever reaches 1 / false_alarm) <= false_alarm, by Ville's inequality.
    Invariants: the state's size is fixed; once alarmed, it stays so.
    """
    spec = audit.spec
    queries = audit.queries + 1
    stake, q = 1.0 / (queries * (queries + 1.0)), spec.hit_rate
    bets = audit.bets or (0.0,) * len(spec.factors)
    grown = tuple(
        (bet + stake) * (f if seen.is_hit else (1.0 - f * q) / (1.0 - q))
        for bet, f in zip(bets, spec.factors, strict=True)
    )
    wealth = sum(grown) / len(grown)
    broken = wealth >= 1.0 / spec.false_alarm
    alarmed_at = queries if broken and audit.alarmed_at is None else audit.alarmed_at
    one = _counted(seen, spec)
    recent, before = audit.recent + one, audit.before
    if recent.queries > spec.window:
        recent, before = one, audit.recent
    return replace(
        audit,
        queries=queries,
        bets=grown,
        peak=max(audit.peak, wealth),
        alarmed_at=alarmed_at,
        counts=audit.counts + one,
        recent=recent,
        before=before,
    )


def tightened(audit: Audit, gate: GateSpec, *, confidence: float = 0.95) -> GateSpec:
    """Give the gate the lowest of the audit's edges above which the risk is within the bound.

    As in calibration: from the strictest edge down, each is tested exactly on what was checked
    within the last windows. If not even the highest holds, the gate accepts nothing.
    Invariants: never below the gate's own threshold.
    """
    spec = audit.spec
    found = audit.before + audit.recent
    hits = found.hits or (0,) * (len(spec.edges) + 1)
    failures, chosen = 0, closed(gate)
    for place in range(len(spec.edges) - 1, -1, -1):
        failures += hits[place + 1]
        if not found.queries or spec.edges[place] < gate.threshold:
            break
        bound = upper_bound(failures, found.queries, confidence=confidence) / spec.share
        if bound > spec.max_loss:
            break
        chosen = replace(gate, threshold=spec.edges[place])
    return chosen


def renewed(audit: Audit) -> Audit:
    """Begin anew, after an alarm was answered, with half the probability of a false one.

    Invariants: however often, all audits together stay within twice the first one's `false_alarm`.
    """
    return Audit(replace(audit.spec, false_alarm=audit.spec.false_alarm / 2.0))


def anytime_estimate(count: int, of: int, *, confidence: float) -> Estimate:
    """Bound a share from both sides, so that the range holds at all times together.

    {p: B(k + 1/2, n - k + 1/2) / B(1/2, 1/2) < p^k (1 - p)^(n - k) / (1 - confidence)}
    Source: Robbins 1970, Annals of Mathematical Statistics 41 (mixtures of likelihood ratios).
    """
    if of == 0:
        return Estimate(0, 0, 0.0, 1.0, confidence)
    mixed = _log_beta(count + 0.5, of - count + 0.5) - _log_beta(0.5, 0.5)
    limit = mixed + math.log(1.0 - confidence)  # of the log-likelihood
    middle = count / of
    low = 0.0 if count == 0 else _edge(count, of, limit=limit, outer=0.0, inner=middle)
    high = 1.0 if count == of else _edge(count, of, limit=limit, outer=1.0, inner=middle)
    return Estimate(count, of, low, high, confidence)


def _edge(count: int, of: int, *, limit: float, outer: float, inner: float) -> float:
    for _ in range(_BISECTIONS):
        middle = (outer + inner) / 2.0
        is_outside = middle in {0.0, 1.0} or _log_likelihood(count, of, middle) < limit
        outer, inner = (middle, inner) if is_outside else (outer, middle)
    return outer


def _log_likelihood(count: int, of: int, share: float) -> float:
    failed = count * math.log(share) if count else 0.0
    return failed + ((of - count) * math.log1p(-share) if of > count else 0.0)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _counted(seen: Seen, spec: AuditSpec) -> Counts:
    none = (0,) * (len(spec.edges) + 1)
    if seen.score is None:
        return Counts(1, 0, none, none)
    place = sum(seen.score > edge for edge in spec.edges)
    one = tuple(int(index == place) for index in range(len(none)))
    checked = seen.differs is not None
    return Counts(1, 1, one if checked else none, one if seen.is_hit else none)


def _sum(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    if not one or not other:
        return one or other
    return tuple(a + b for a, b in zip(one, other, strict=True))
