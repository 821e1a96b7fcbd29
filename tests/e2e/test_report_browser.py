"""The report in a real browser: quiet, whole, within its width, by day and by night."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from speceyes.bench.page.report import render
from tests.e2e.chromium import STRAYING, WIDE, Window, launched
from tests.pages import crowded

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

VIEWS = [(1280, "light"), (1280, "dark"), (420, "light"), (420, "dark")]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    page = render(*crowded(24), absent={"vstar": "data/vstar is no folder here"})
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(file: Path) -> Iterator[object]:
    with launched() as browser:
        yield browser


@pytest.fixture
def window(browser, file):
    opened = Window(browser, file.as_uri())
    yield opened
    opened.context.close()


@pytest.fixture(params=VIEWS, ids=lambda view: "-".join(map(str, view)))
def view(request, browser, file):
    width_px, scheme = request.param
    opened = Window(
        browser, file.as_uri(), width_px=width_px, scheme=scheme, reduced_motion="reduce"
    )
    yield opened
    opened.context.close()


def test_nothing_is_complained_of_and_nothing_else_is_asked_for(view, file):
    assert view.complaints == []
    assert [url for url in view.requests if not url.startswith("data:")] == [file.as_uri()]


def test_nothing_reaches_beyond_the_window(view):
    assert view.page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    assert view.page.evaluate(WIDE) == []


def test_the_words_of_a_figure_stay_inside_it(view):
    assert view.page.locator("figure svg").count() >= 15
    assert view.page.evaluate(STRAYING, "figure svg") == []


def test_the_page_can_be_looked_at(view, tmp_path):
    shot = tmp_path / "page.png"
    view.page.screenshot(path=str(shot), full_page=True)
    assert shot.stat().st_size > 100_000
    dark = view.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    paper = view.page.evaluate("getComputedStyle(document.body).backgroundColor")
    shades = [int(shade) for shade in re.findall(r"\d+", paper)]
    assert (max(shades) < 80) == dark
    assert (min(shades) > 200) != dark


def test_every_picture_is_shown(window):
    broken = "() => [...document.images].filter((image) => !image.naturalWidth).length"
    assert window.page.locator("article img").count() > 20
    assert window.page.evaluate(broken) == 0


def test_a_wide_table_scrolls_in_its_box_and_keeps_its_names_in_sight(browser, file):
    narrow = Window(browser, file.as_uri(), width_px=420)
    box = narrow.page.locator(".scroll").nth(1)
    assert box.evaluate("box => box.scrollWidth - box.clientWidth") > 200
    box.evaluate("box => { box.scrollLeft = 400 }")
    assert box.evaluate("box => box.scrollLeft") == 400
    name = box.locator("tbody th[scope=row]").first
    left_px = name.evaluate("cell => cell.getBoundingClientRect().left")
    assert 0 <= left_px < 60
    narrow.context.close()


def test_the_slider_reads_the_curves(window):
    figure = window.page.locator("figure.sweep").first
    before = figure.locator("output").text_content()
    assert re.fullmatch(
        r"At 5.00: accuracy [\d.]+ %, speedup [\d.]+×, \d+ % of all items accepted.", before
    )
    slider = figure.locator("input")
    slider.evaluate(
        "slider => { slider.value = slider.max; slider.dispatchEvent(new Event('input')) }"
    )
    after = figure.locator("output").text_content()
    assert after != before
    assert ", 0 % of all items accepted." in after
    probe, end = figure.locator(".probe"), figure.locator("svg").get_attribute("data-end")
    assert probe.get_attribute("hidden") is None
    assert float(probe.get_attribute("x1")) == pytest.approx(float(end), abs=1.0)


def test_filters_hide_cards_of_their_own_album_and_count_the_rest(window):
    album, other = (window.page.locator(".album").nth(n) for n in (0, 1))
    everything = album.locator("article").count()
    album.get_by_role("button", name="speculative").click()
    left = album.locator("article:visible")
    assert 0 < left.count() < everything
    assert {card.get_attribute("data-route") for card in left.all()} == {"speculative"}
    album.get_by_role("button", name="position").click()
    assert {card.get_attribute("data-split") for card in left.all()} <= {"position"}
    assert album.locator(".shown").text_content() == f"{left.count()} of {everything}"
    assert other.locator("article:visible").count() == other.locator("article").count()
    album.get_by_role("button", name="all routes").click()
    album.get_by_role("button", name="all splits").click()
    assert left.count() == everything
