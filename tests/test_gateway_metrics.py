"""What Prometheus is shown: every series by name, type, labels and help, and nothing undeclared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from speceyes.gateway import series
from speceyes.gateway.measures import fold
from speceyes.gateway.metrics import expose
from speceyes.gateway.reports import Report, put_together
from speceyes.gateway.series import COUNTERS, GAUGES, HISTOGRAMS, SERIES
from speceyes.gateway.settings import DEFAULT_PORT
from speceyes.gateway.stats import Stats, Tally, merge
from speceyes.shadow.watch import Watched
from tests.gateway_stories import MODELS, NOON_S, draw_many

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "deploy" / "OBSERVING.md"
DASHBOARD = ROOT / "deploy" / "grafana" / "speceyes.json"
ROW = re.compile(r"^\| `(speceyes_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", re.MULTILINE)
USED = re.compile(r"\bspeceyes_\w+")
SUFFIXES = ("_total", "_bucket", "_sum", "_count")

SHADOW = Watched(
    mode="audit",
    state="watching",
    threshold=4.0,
    max_loss=0.01,
    confidence=0.95,
    queries=100,
    accepted=50,
    checked=10,
    differing=1,
    psi=0.02,
)


def whole_of(stats, **now):
    report = Report(
        worker="a",
        since_s=NOON_S - 60,
        at_s=NOON_S,
        in_flight=now.get("in_flight", 0),
        queued=now.get("queued", 0),
        breakers={"speceyes": {"small": "open", "large": "closed"}},
        stats=stats,
        shadows={"speceyes": SHADOW},
    )
    return put_together([report], at_s=NOON_S)


def shown(stats, *, accept="", **now):
    text, content_type = expose(whole_of(stats, **now), MODELS, accept=accept)
    return text.decode(), content_type


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def everything():
    """Count something in every cell there could be a name for."""
    tally = Tally(fold(draw_many(900)))
    tally.add(series.DROPPED, ("audit",), 3)
    tally.add(series.SHADOW, ("speceyes", "agreed"))
    tally.add(series.SHADOW_TOKENS, ("speceyes", "prompt"), 300)
    return tally.stats()


def test_every_series_is_documented_by_name_type_labels_and_help():
    rows = ROW.findall(DOCUMENT.read_text(encoding="utf-8"))
    told = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), words)
        for name, kind, labels, words in rows
    }
    declared = {
        what.name + ("_total" if what.kind == "counter" else ""): (
            what.kind,
            what.labels,
            what.help,
        )
        for what in SERIES.values()
    }
    assert told == declared
    assert [name for name, *_ in rows] == list(declared)


def test_what_is_shown_is_what_is_declared():
    text, _ = shown(everything(), in_flight=3, queued=1)
    families = {family.name: family for family in parse(text)}
    assert set(families) == set(SERIES)
    for name, what in SERIES.items():
        family = families[name]
        assert (family.type, family.documentation) == (what.kind, what.help)
        assert family.samples, f"{name} counted nothing in 900 requests of all kinds"
        for sample in family.samples:
            assert tuple(sorted(set(sample.labels) - {"le"})) == tuple(sorted(what.labels))


def test_series_that_counted_nothing_are_shown_too():
    text, _ = shown(Stats())
    for what in SERIES.values():
        suffix = "_total" if what.kind == "counter" else ""
        assert f"# TYPE {what.name}{suffix} {what.kind}" in text


def test_the_newer_format_is_given_to_those_who_accept_it():
    text, content_type = shown(everything(), accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert {family.name for family in parse_open(text)} == set(SERIES)
    assert shown(Stats())[1].startswith("text/plain")


def test_counters_hold_what_was_counted():
    requests = draw_many(300)
    found = samples(shown(fold(requests))[0])
    total = sum(value for key, value in found.items() if key[0] == "speceyes_requests_total")
    assert total == len(requests)
    accepted = sum(one.ended.route == "speculative" for one in requests)
    stages = [
        value
        for key, value in found.items()
        if key[0] == "speceyes_funnel_total" and ("stage", "accepted") in key
    ]
    assert sum(stages) == accepted


def test_buckets_hold_all_below_them_and_end_in_the_count():
    text, _ = shown(everything())
    for family in parse(text):
        if family.type != "histogram":
            continue
        what = SERIES[family.name]
        cells = {}
        for sample in family.samples:
            labels = tuple(v for k, v in sorted(sample.labels.items()) if k != "le")
            cells.setdefault(labels, {}).setdefault(sample.name, []).append(sample)
        for cell in cells.values():
            buckets = cell[f"{family.name}_bucket"]
            values = [sample.value for sample in buckets]
            assert values == sorted(values)
            assert [float(s.labels["le"]) for s in buckets] == [*what.buckets, float("inf")]
            assert values[-1] == cell[f"{family.name}_count"][0].value > 0
            assert cell[f"{family.name}_sum"][0].value >= 0


def test_gauges_tell_of_the_moment():
    found = samples(shown(fold(draw_many(200)), in_flight=5, queued=2)[0])
    assert found["speceyes_in_flight",] == 5
    assert found["speceyes_queued",] == 2
    assert found["speceyes_workers",] == 1
    assert found["speceyes_start_time_seconds",] == NOON_S - 60
    labels = (("engine", "small"), ("model", "speceyes"), ("state", "open"))
    assert found["speceyes_breaker_workers", *labels] == 1
    assert found["speceyes_gate_threshold", ("model", "paper")] == 0.98
    assert 0 < found["speceyes_alpha", ("model", "speceyes")] <= 1
    assert ("speceyes_alpha", ("model", "plain")) not in found


def test_two_workers_are_shown_as_one():
    one, two = draw_many(80), draw_many(60, seed=8)
    apart = shown(merge([fold(one), fold(two)]))[0]
    assert apart == shown(fold([*one, *two]))[0]


def test_names_follow_prometheus():
    for what in SERIES.values():
        assert re.fullmatch(r"speceyes_[a-z]+(_[a-z]+)*", what.name)
        assert not what.name.endswith(SUFFIXES)
        assert what.help.endswith(".")
        assert bool(what.buckets) == (what.kind == "histogram")
    assert len(SERIES) == len(COUNTERS) + len(HISTOGRAMS) + len(GAUGES)


def known(name):
    bare = name
    for suffix in SUFFIXES:
        bare = bare.removesuffix(suffix)
    what = SERIES.get(name) or SERIES.get(bare)
    if what is None:
        return False
    suffix = name.removeprefix(what.name)
    allowed = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return suffix in allowed[what.kind]


def test_the_dashboard_shows_series_that_there_are():
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    queries += [v["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    used = {name for query in queries for name in USED.findall(query)}
    assert len(queries) > 15
    assert sorted(name for name in used if not known(name)) == []


def test_the_dashboard_hangs_together():
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel.get("targets", []):
            assert target["expr"].count("(") == target["expr"].count(")")
            assert target["expr"].count("{") == target["expr"].count("}")
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert board["uid"] == "speceyes"


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        ("speceyes_requests_total", True),
        ("speceyes_requests", False),
        ("speceyes_alpha", True),
        ("speceyes_alpha_total", False),
        ("speceyes_phase_seconds_bucket", True),
        ("speceyes_phase_seconds_total", False),
        ("speceyes_wishes_total", False),
    ],
)
def test_the_reading_of_names_itself(name, is_known):
    assert known(name) == is_known


def test_prometheus_is_sent_to_the_gateways_own_port_and_path():
    told = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = told["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"] == [{"targets": [f"gateway:{DEFAULT_PORT}"]}]
