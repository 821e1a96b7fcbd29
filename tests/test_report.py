"""The report: one page that stands alone, whose figures are those of the run."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speceyes.bench.charts import Axis, draw_curves, draw_densities, draw_depths, draw_phases
from speceyes.bench.document import Run
from speceyes.bench.gallery import cards, choose, passages
from speceyes.bench.report import headline, render
from speceyes.bench.rescore import cases_of, sweep
from speceyes.bench.summary import summarise
from tests.scripted_pair import drawn_run, setup, tiny_items, tiny_run

MOST_BYTES = 8_000_000
ITEMS = 6
VOID = {"meta", "link", "img", "input", "br"}


class Nesting(HTMLParser):
    """Complain of tags that are not closed in order, and collect what is asked for."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.attributes = []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open, tag
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page():
    run, items = drawn_run(ITEMS)
    return render(run, summarise(run.records, run.times, concurrency=1), items)


def read(page):
    reader = Nesting()
    reader.feed(page)
    reader.close()
    return reader


def test_the_page_is_well_formed(page):
    assert read(page).open == []


def test_the_page_stands_alone(page):
    links = [v for _, name, v in read(page).attributes if name in {"src", "href", "srcset"}]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "http" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_the_page_is_small(page):
    run, _ = drawn_run(ITEMS)
    per_card = len(page) / len(choose(run.records))
    assert len(page) + 24 * per_card < MOST_BYTES


def test_the_page_follows_the_readers_theme(page):
    assert "prefers-color-scheme: dark" in page
    assert "color-scheme: light dark" in page


def test_every_figure_is_sound_svg(page):
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    for figure in figures:
        ElementTree.fromstring(re.sub(r" hidden(?=/>)", "", figure))  # noqa: S314 - our own
    assert sum("viewBox" in figure for figure in figures) == len(figures) >= 4 + ITEMS
    assert "nan" not in re.sub('"data:[^"]*"', "", "".join(figures)).lower()


def test_the_page_says_what_the_run_came_to(page):
    run, _ = drawn_run(ITEMS)
    whole = summarise(run.records, run.times, concurrency=1).overall
    for figure in (f"{whole.speedup:.2f}×", f"{100 * whole.speceyes.accuracy.value:.1f} %"):
        assert figure in page
    for split in ("attribute", "position", "existence", "all"):
        assert f"<td>{split}</td>" in page
    assert "Re-scored from the records, not run again" in page
    assert "Abacus 9000" in page


def test_the_gallery_shows_phases_words_and_crops(page):
    assert page.count("<article") == ITEMS
    for words in (
        "I screen",
        "II speculate",
        "III gate",
        "agent, turn 1",
        "I zoom in to see it well.",
    ):
        assert words in page
    assert page.count('class="crops"') >= ITEMS
    for name in ("data-route", "data-grade"):
        assert page.count(f"{name}=") == ITEMS


def test_words_of_a_model_are_text_not_markup():
    items = tiny_items(1)
    run = replace(tiny_run(), records=[r for r in tiny_run().records if r.item_id == "tiny-0"])
    said = "<script>alert(1)</script>"
    records = [replace(record, text=said) for record in run.records]
    made = render(
        replace(run, records=records), summarise(records, run.times, concurrency=1), items
    )
    assert said not in made
    assert "&lt;script&gt;alert(1)" in made


def test_a_partial_run_says_so():
    run = replace(
        tiny_run(), records=tiny_run().records[:30], times=tiny_run().times[:1], is_partial=True
    )
    made = render(run, summarise(run.records, run.times, concurrency=1), tiny_items(60))
    assert "cut short: 10 of 60 items" in made
    assert "cut short" not in render_whole()


def test_a_run_with_nothing_in_it_still_has_a_page():
    run = Run(setup=setup(tiny_items(2)), records=[], times=[], is_partial=True)
    made = render(run, summarise([], [], concurrency=1), tiny_items(2))
    assert read(made).open == []
    assert "ended before both ways had answered anything" in made


def test_the_headline_has_the_figures():
    run = tiny_run()
    summary = summarise(run.records, run.times, concurrency=1)
    assert headline(summary).startswith(
        f"60 questions answered {summary.overall.speedup:.2f} times"
    )


def test_mistakes_are_shown_first_but_not_alone():
    records = tiny_run().records
    wrong = {r.item_id for r in records if r.method != "small" and not r.is_right}
    shown = choose(records, 12)
    assert len(shown) == len(set(shown)) == 12
    assert 0 < len(wrong) < 60
    first = shown[: min(4, len(wrong))]
    assert set(first) <= wrong
    splits = {r.split for r in records if r.item_id in shown}
    routes = {r.route for r in records if r.item_id in shown and r.method == "speceyes"}
    assert splits == {"attribute", "position", "existence"}
    assert routes == {"speculative", "agentic"}


def test_an_item_without_its_picture_is_left_out():
    records = tiny_run().records
    assert [card.ours.item_id for card in cards(tiny_items(1), records, 60)] == ["tiny-0"]


def test_words_outside_tags_are_kept():
    parts = passages("Well. <think>hm <b>x</b></think> and <answer>star")
    assert [(p.tag, p.text) for p in parts] == [
        (None, "Well."),
        ("think", "hm <b>x</b>"),
        (None, "and <answer>star"),
    ]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_round_inside_and_in_order(low, span, count):
    axis = Axis(low, low + span, 0.0, 100.0)
    ticks = axis.ticks(count)
    assert 1 <= len(ticks) <= 2.6 * count + 2
    assert [t.at for t in ticks] == sorted(t.at for t in ticks)
    assert all(0.0 <= t.at <= 100.0 for t in ticks)


def test_values_beyond_an_axis_stay_at_its_ends():
    axis = Axis(0.0, 10.0, 46.0, 506.0)
    assert (axis.at(-5.0), axis.at(5.0), axis.at(99.0)) == (46.0, 276.0, 506.0)


def test_the_threshold_is_drawn_even_beyond_all_scores():
    chart = draw_densities([4.0, 5.0, 6.0], [], threshold=9.0)
    assert chart.x.low < 4.0
    assert chart.x.high > 9.0
    assert chart.wrong == ""
    assert draw_densities([], [], 3.0) is None


def test_curves_start_at_the_left_and_end_at_the_right():
    made = sweep(cases_of(tiny_run().records))
    chart = draw_curves(made, 5.0)
    for panel, values in ((chart.accuracy, made.accuracy), (chart.speedup, made.speedup)):
        assert panel.path.startswith(f"M{chart.x.start} {panel.y.at(values[0])}")
        assert panel.path.endswith(f"V{panel.y.at(values[-1])} H{chart.x.end}")
    assert np.isfinite(chart.threshold)


def test_bars_add_up_to_what_a_query_took():
    whole = summarise(tiny_run().records, tiny_run().times, concurrency=1).overall
    methods = {"baseline": whole.baseline, "speceyes": whole.speceyes}
    for name, bars in draw_phases(methods).rows.items():
        assert sum(bar.value for bar in bars) == pytest.approx(methods[name].latency_mean_s)
        ends = [bar.start + bar.length for bar in bars]
        assert [bar.start for bar in bars[1:]] == pytest.approx(ends[:-1])
    for bars in draw_depths(methods).rows.values():
        assert sum(bar.value for bar in bars) == pytest.approx(1.0)


def render_whole():
    run = tiny_run()
    return render(run, summarise(run.records, run.times, concurrency=1), [])
