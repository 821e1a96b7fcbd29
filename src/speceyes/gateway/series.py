"""Every figure that the gateway counts is declared here: its name, kind, labels, help and buckets.

It refuses to know what is counted when, and who shows it. Metrics, page and documents read this one
table, so none of them can know a series that the others do not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

MILLION: Final = 1_000_000
"""Sums are kept in whole millionths: they add up to the same in any order, as floats do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One thing that is counted. `buckets`: upper bounds, inclusive, of a histogram; last is +inf.

    `name` is what Prometheus shows, without `_total`; seconds, bytes and the like stand in it.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def bucket(self, value: float) -> int:
        """Say in which bucket a value lies; one beyond the last bound lies in one more."""
        return bisect_left(self.buckets, value)


_REQUEST_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_SHORT_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5)
_SHARE: Final = tuple(n / 20 for n in range(1, 21))
# Scores are shares (squashed, `log`) or raw separabilities: one set of bounds serves both. Where
# published thresholds lie, near 1 for shares and between 3 and 10 raw, they are closest.
_SCORE: Final = (
    *(n / 10 for n in range(1, 9)),
    *(0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995, 1.0),
    *(n / 2 for n in range(3, 21)),
    *(float(n) for n in range(11, 17)),
    *(20.0, 24.0, 32.0),
)

REQUESTS: Final = Series(
    name="speceyes_requests",
    kind="counter",
    help="Requests that ended, by the route they took, why, and the class of their HTTP status.",
    labels=("model", "route", "reason", "status"),
)
FUNNEL: Final = Series(
    name="speceyes_funnel",
    kind="counter",
    help="Queries that reached a stage: decided (accepted or fallen back), passed (no tool needed, "
    "so speculated on), accepted. beta = passed / decided, alpha = accepted / passed.",
    labels=("model", "stage"),
)
ERRORS: Final = Series(
    name="speceyes_upstream_errors",
    kind="counter",
    help="Calls to an engine, or to a tool, that ended in an error, by the error's name.",
    labels=("model", "engine", "kind"),
)
TOKENS: Final = Series(
    name="speceyes_tokens",
    kind="counter",
    help="Tokens of all work done, rejected and cancelled work too: prompt (all that were read), "
    "cached (those of them that the engine had already), completion.",
    labels=("model", "engine", "kind"),
)
TURNS: Final = Series(
    name="speceyes_agent_turns",
    kind="counter",
    help="Replies of the agent.",
    labels=("model",),
)
TOOLS: Final = Series(
    name="speceyes_tool_calls",
    kind="counter",
    help="Tool calls of the agent, and what came of them; malformed calls reached no tool.",
    labels=("model", "tool", "outcome"),
)
RECEIVED: Final = Series(
    name="speceyes_received_bytes",
    kind="counter",
    help="Bytes of request bodies.",
    labels=("model",),
)
SENT: Final = Series(
    name="speceyes_sent_bytes",
    kind="counter",
    help="Bytes of reply bodies.",
    labels=("model",),
)
DROPPED: Final = Series(
    name="speceyes_dropped",
    kind="counter",
    help="Audit lines and traces thrown away because their writer could not keep up, or failed.",
    labels=("what",),
)
SHADOW: Final = Series(
    name="speceyes_shadow",
    kind="counter",
    help="Queries that shadow work was due for: small and large model agreed, differed, could not "
    "be compared (unread), or one failed; dropped: there was no room.",
    labels=("model", "outcome"),
)
SHADOW_TOKENS: Final = Series(
    name="speceyes_shadow_tokens",
    kind="counter",
    help="Tokens of shadow work, of which nothing is served; no other series has them.",
    labels=("model", "kind"),
)
REQUEST_S: Final = Series(
    name="speceyes_request_seconds",
    kind="histogram",
    help="From a request's arrival to the last byte of its reply.",
    labels=("model", "route"),
    buckets=_REQUEST_S,
)
FIRST_BYTE_S: Final = Series(
    name="speceyes_first_byte_seconds",
    kind="histogram",
    help="From a request's arrival to the first byte of its answer.",
    labels=("model", "route"),
    buckets=_REQUEST_S,
)
ANSWER_S: Final = Series(
    name="speceyes_answer_seconds",
    kind="histogram",
    help="From taking up a query to its answer: no reading, no waiting in line, no sending.",
    labels=("model", "route"),
    buckets=_REQUEST_S,
)
PHASE_S: Final = Series(
    name="speceyes_phase_seconds",
    kind="histogram",
    help="How long a phase took (screen, speculate, gate, fall_back), by how it ended.",
    labels=("model", "phase", "outcome"),
    buckets=(0.0005, 0.001, 0.0025, *_REQUEST_S),
)
OVERHEAD_S: Final = Series(
    name="speceyes_overhead_seconds",
    kind="histogram",
    help="The gateway's own share: a request's time without that in engines and tools, and without "
    "waiting in line. Streams are left out: their clients' reading would count.",
    labels=("model", "route"),
    buckets=_SHORT_S,
)
QUEUE_S: Final = Series(
    name="speceyes_queue_seconds",
    kind="histogram",
    help="How long a request waited in line.",
    labels=("model",),
    buckets=(*_SHORT_S, 10, 30, 60),
)
SCORE: Final = Series(
    name="speceyes_gate_score",
    kind="histogram",
    help="The gate's scores, in the scale of the model's gate, by its verdict.",
    labels=("model", "verdict"),
    buckets=_SCORE,
)
P_TOOL: Final = Series(
    name="speceyes_screen_p_tool",
    kind="histogram",
    help="The screen's probability that a query needs a tool, by what came of it.",
    labels=("model", "verdict"),
    buckets=_SHARE,
)
IN_FLIGHT: Final = Series(
    name="speceyes_in_flight", kind="gauge", help="Requests under way, those in line included."
)
QUEUED: Final = Series(
    name="speceyes_queued", kind="gauge", help="Requests that wait in line for admission."
)
BREAKER: Final = Series(
    name="speceyes_breaker_workers",
    kind="gauge",
    help="Workers in which a model's engine counts as up (closed), down (open), or is being tried "
    "again (half_open).",
    labels=("model", "engine", "state"),
)
WORKERS: Final = Series(
    name="speceyes_workers", kind="gauge", help="Worker processes that have reported lately."
)
STARTED: Final = Series(
    name="speceyes_start_time_seconds",
    kind="gauge",
    help="When the first of the workers began, in seconds since 1970.",
)
THRESHOLD: Final = Series(
    name="speceyes_gate_threshold",
    kind="gauge",
    help="The threshold of a model's gate, in the gate's scale.",
    labels=("model",),
)
ALPHA: Final = Series(
    name="speceyes_alpha",
    kind="gauge",
    help="Accepted share of the queries that were speculated on, since the start.",
    labels=("model",),
)
BETA: Final = Series(
    name="speceyes_beta",
    kind="gauge",
    help="Share of the queries that needed no tool, so were speculated on, since the start.",
    labels=("model",),
)
SPEEDUP: Final = Series(
    name="speceyes_speedup_estimate",
    kind="gauge",
    help="Mean time of the agent where it was asked, over the mean time of all answers.",
    labels=("model",),
)
LIMIT: Final = Series(
    name="speceyes_speedup_limit",
    kind="gauge",
    help="The speedup if screening and speculating were free: 1 / (1 - beta * alpha).",
    labels=("model",),
)
SHADOW_STATE: Final = Series(
    name="speceyes_shadow_workers",
    kind="gauge",
    help="Workers in which a model's shadow is watching, found the bound broken, tightened the "
    "threshold, or turned speculation off.",
    labels=("model", "state"),
)
SHADOW_THRESHOLD: Final = Series(
    name="speceyes_shadow_threshold",
    kind="gauge",
    help="The threshold in force, after what the shadow found; the strictest of any worker.",
    labels=("model",),
)
DISAGREEMENT: Final = Series(
    name="speceyes_shadow_disagreement",
    kind="gauge",
    help="Share of the accepted answers that differ from the agent's, since the threshold last "
    "changed, and the range (low, high) that holds at all times together.",
    labels=("model", "bound"),
)
SHADOW_RISK: Final = Series(
    name="speceyes_shadow_risk",
    kind="gauge",
    help="Share of all queries that are accepted and differ: estimated, and the most that may.",
    labels=("model", "bound"),
)
DRIFT: Final = Series(
    name="speceyes_score_drift",
    kind="gauge",
    help="How far the last scores lie from the calibration's, or else from the first: the "
    "population stability index, below 0.1 for stable ones.",
    labels=("model",),
)
DRIFTED: Final = Series(
    name="speceyes_score_drifted_workers",
    kind="gauge",
    help="Workers in which scores lie farther from those than chance explains.",
    labels=("model",),
)

COUNTERS: Final = (
    REQUESTS,
    FUNNEL,
    ERRORS,
    TOKENS,
    TURNS,
    TOOLS,
    RECEIVED,
    SENT,
    DROPPED,
    SHADOW,
    SHADOW_TOKENS,
)
HISTOGRAMS: Final = (
    REQUEST_S,
    FIRST_BYTE_S,
    ANSWER_S,
    PHASE_S,
    OVERHEAD_S,
    QUEUE_S,
    SCORE,
    P_TOOL,
)
GAUGES: Final = (
    IN_FLIGHT,
    QUEUED,
    BREAKER,
    WORKERS,
    STARTED,
    THRESHOLD,
    ALPHA,
    BETA,
    SPEEDUP,
    LIMIT,
    SHADOW_STATE,
    SHADOW_THRESHOLD,
    DISAGREEMENT,
    SHADOW_RISK,
    DRIFT,
    DRIFTED,
)
SERIES: Final[Mapping[str, Series]] = {s.name: s for s in (*COUNTERS, *HISTOGRAMS, *GAUGES)}
"""All of them by name, in the order in which they are shown."""
