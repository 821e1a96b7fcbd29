"""The gateway's page in a real browser: live, whole, by day and by night, and never fooled."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
from starlette.responses import PlainTextResponse

from speceyes.gateway.calibrated import Calibrated
from speceyes.shadow.watch import Watched
from tests.e2e.chromium import STRAYING, WIDE, Window, launched
from tests.gateway_served import app_of, filled, hear, served
from tests.gateway_stories import MODELS, PRIVATE, Story, finished

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

VIEWS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
# Pairs of texts within one drawing that lie on each other.
CROWDED = """() => [...document.querySelectorAll(".plot svg")].flatMap((svg) => {
  const boxes = [...svg.querySelectorAll("text")].map((text) => [text.textContent, text.getBBox()]);
  const apart = (a, b) => a.x + a.width <= b.x + 1 || a.y + a.height <= b.y + 3;
  return boxes.flatMap(([one, a], i) => boxes.slice(i + 1).filter(
    ([, b]) => !apart(a, b) && !apart(b, a)
  ).map(([other]) => `${svg.parentElement.id}: ${one} | ${other}`));
})"""
# The contrast of every text with the paper or card that it stands on.
PALE = """() => {
  const shade = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("main *")].filter((element) =>
    element.children.length === 0 && element.textContent.trim() && element.getClientRects().length
  ).flatMap((element) => {
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [shade(ink), shade(ground(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    const isPale = contrast < 4.5 && !element.closest("title");
    return isPale ? [`${contrast.toFixed(2)} ${element.textContent}`] : [];
  });
}"""


class Page(Window):
    """The gateway's page in one window, once it shows figures."""

    def __init__(self, browser, url: str, **more) -> None:
        super().__init__(browser, url, **more)
        self.page.wait_for_selector("#cards .stat")

    def text(self, place: str) -> str:
        return self.page.locator(place).text_content()

    def until(self, script: str) -> None:
        """Wait until a script finds it so; the page's policy keeps playwright from doing that."""
        for _ in range(150):
            if self.page.evaluate(script):
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"never so: {script}")


@pytest.fixture(scope="module")
def full() -> Iterator[tuple[object, str]]:
    watcher = filled(900, under_way=3)
    watcher.breaker("paper", "small", "open")
    watcher.breaker("speceyes", "large", "half_open")
    with served(app_of(watcher)) as url:
        yield watcher, url


@pytest.fixture(scope="module")
def browser(full) -> Iterator[object]:
    with launched() as browser:
        yield browser


@pytest.fixture
def opened(browser):
    windows = []

    def open_window(url, **more):
        windows.append(Page(browser, url, **more))
        return windows[-1]

    yield open_window
    for window in windows:
        window.context.close()


@pytest.fixture(params=VIEWS, ids=lambda view: "-".join(map(str, view)))
def view(request, opened, full):
    width_px, scheme = request.param
    return opened(full[1], width_px=width_px, scheme=scheme, reduced_motion="reduce")


@pytest.fixture(params=VIEWS, ids=lambda view: "-".join(map(str, view)))
def empty(request, opened):
    width_px, scheme = request.param
    with served(app_of(filled(0))) as url:
        yield opened(url, width_px=width_px, scheme=scheme)


def expand(window, count=4):
    window.page.click("#pause")
    for summary in window.page.locator("summary").all()[:count]:
        summary.click()
    window.until(f"document.querySelectorAll('.more').length === {count}")


def check_layout(window):
    page = window.page
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0
    assert page.evaluate(WIDE) == []
    assert page.evaluate(STRAYING, ".plot svg") == []
    assert page.evaluate(CROWDED) == []
    assert page.evaluate(PALE) == []


def test_nothing_is_complained_of_and_nobody_else_is_asked(view, full):
    view.page.wait_for_timeout(1500)
    assert view.complaints == []
    assert all(url.startswith(full[1]) for url in view.requests)
    assert len([url for url in view.requests if url.endswith("/v1/stats")]) >= 2


def test_the_full_page_keeps_its_layout(view):
    expand(view)
    assert view.page.locator(".plot svg").count() >= 5
    check_layout(view)


def test_the_empty_page_keeps_its_layout_and_says_what_to_do(empty):
    assert empty.complaints == []
    assert "/v1/chat/completions" in empty.text("#headline")
    check_layout(empty)


def test_each_model_keeps_its_layout(opened, full):
    for name in ("speceyes", "paper", "plain"):
        window = opened(full[1], width_px=390)
        window.page.get_by_role("button", name=name, exact=True).click()
        check_layout(window)
        shown = {item.text_content() for item in window.page.locator("summary .model").all()}
        assert shown == {name}


def test_day_and_night(view, tmp_path):
    shot = tmp_path / "page.png"
    view.page.screenshot(path=str(shot), full_page=True)
    assert shot.stat().st_size > 60_000
    dark = view.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    paper = view.page.evaluate("getComputedStyle(document.body).backgroundColor")
    shades = [int(shade) for shade in re.findall(r"\d+", paper)]
    assert (max(shades) < 80) == dark
    assert (min(shades) > 200) != dark


def test_the_figures_are_the_gateways(opened, full):
    window = opened(full[1])
    told = window.page.evaluate("fetch('/v1/stats').then((reply) => reply.json())")["total"]
    assert window.text("#headline").startswith(f"{told['speed']['estimate']:.2f}×")
    assert f"{told['speed']['limit']:.2f}×" in window.text("#headline")
    cards = window.text("#cards")
    assert f"{told['passed']} of {told['decided']}" in cards
    assert f"{told['accepted']} of {told['passed']}" in cards
    label = window.page.locator("#funnel svg").get_attribute("aria-label")
    assert f"Of {told['decided']} queries {told['passed']} needed no tool" in label
    assert f"of these {told['accepted']} were accepted" in label
    assert {"up", "down", "being tried"} <= set(
        window.page.locator("#engines .state").all_text_contents()
    )


def test_the_threshold_stands_between_accepted_and_rejected(opened, full):
    window = opened(full[1])
    for name in ("speceyes", "paper"):
        window.page.get_by_role("button", name=name, exact=True).click()
        at = float(window.page.locator("#scores .threshold").get_attribute("x1"))
        rights = [
            float(bar.get_attribute("x")) for bar in window.page.locator("#scores rect.right").all()
        ]
        wrongs = [
            float(bar.get_attribute("x")) + float(bar.get_attribute("width"))
            for bar in window.page.locator("#scores rect.wrong").all()
        ]
        assert max(wrongs) <= at + 1 <= min(rights) + 2, name


CALIBRATED = Calibrated(
    made_at="2026-11-24T16:00:00+00:00",
    sources=("600 of builtin:600", "1200 of shadow:seen.jsonl"),
    failure="accepted, and not the agent's answer",
    max_loss=0.01,
    confidence=0.95,
    bound=0.0093,
    accepted=0.561,
    accepts_nothing=False,
)
SEEN = Watched(
    mode="audit",
    state="watching",
    threshold=5.0,
    max_loss=0.01,
    confidence=0.95,
    queries=12_000,
    accepted=6_500,
    checked=310,
    differing=2,
    wealth=0.4,
    limit=20.0,
    drift_from="calibration",
    psi=0.03,
)


def holding(models, shadows):
    watcher = filled(120, models=models)
    for name, seen in shadows.items():
        watcher.watch(SimpleNamespace(name=name, tell=None, watched=lambda seen=seen: seen))
    return app_of(watcher)


@pytest.mark.parametrize(("width_px", "scheme"), VIEWS)
def test_it_says_what_was_calibrated_and_how_that_holds(opened, width_px, scheme):
    models = [replace(MODELS[0], calibrated=CALIBRATED), *MODELS[1:]]
    broken = replace(SEEN, mode="observe", state="broken", has_drifted=True, psi=0.4)
    with served(holding(models, {"speceyes": SEEN, "paper": broken})) as url:
        window = opened(url, width_px=width_px, scheme=scheme)
        lines = window.page.locator("#holding p").all_text_contents()
        assert window.page.locator("#holding-section").is_visible()
        told, held, other = lines
        assert "speceyes, calibrated 2026-11-24 on 600 of builtin:600, 1200 of shadow:" in told
        assert "at most 0.93 % accepted, and not the agent's answer, with 95 % confidence" in told
        assert "accepted then 56.1 % of all, here" in told
        assert "speceyes, audit: holds · 0.65 % of 310 checked differ" in held
        assert "scores as the calibration's, PSI 0.03" in held
        assert "paper, observe: bound broken" in other
        assert "drifted" in other
        assert window.page.locator("#holding p.bad").count() == 1
        check_layout(window)
        if width_px == 1280:
            window.page.get_by_role("button", name="paper", exact=True).click()
            assert window.page.locator("#holding p").all_text_contents() == [other]
            window.page.get_by_role("button", name="plain", exact=True).click()
            assert not window.page.locator("#holding-section").is_visible()
        assert window.complaints == []


def test_it_is_live_and_can_be_held(opened):
    watcher = filled(40, models=MODELS[:1])
    with served(app_of(watcher)) as url:
        window = opened(url)
        before = int(window.text("#cards .stat:first-child b"))
        one = finished(Story().screened(0.1).speculated(9.0).accepted(), request_id="news")
        watcher._clock.at_s += 1
        hear(watcher, one)
        window.until(f"document.querySelector('#cards b').textContent === '{before + 1}'")
        first = window.page.locator("#last li").first
        assert "accepted" in first.text_content()
        window.page.click("#pause")
        hear(watcher, replace(one, ended=replace(one.ended, request_id="later")))
        window.page.wait_for_timeout(2500)
        assert int(window.text("#cards .stat:first-child b")) == before + 1
        window.page.click("#pause")
        window.until(f"document.querySelector('#cards b').textContent === '{before + 2}'")


def test_a_request_shows_its_way_and_stays_open_while_others_come(opened):
    watcher = filled(3, models=MODELS[:1])
    story = Story().screened(0.9).fell_back("needs_tool", 2).answered("needs_tool")
    watcher._clock.at_s += 1
    hear(watcher, finished(story, request_id="mine"))
    with served(app_of(watcher)) as url:
        window = opened(url)
        window.page.locator("summary").first.click()
        window.until("document.querySelector('.more svg')")
        path = window.page.locator("details[open] .plot svg")
        labels = path.locator("text.label").all_text_contents()
        assert labels == ["screen", "fall back", "turn 1", "zoom", "turn 2", "zoom", "turn 3"]
        assert "needs tool" in path.text_content()
        count = window.page.locator("#last li").count()
        watcher._clock.at_s += 1
        hear(watcher, finished(story, request_id="news"))
        window.until(f"document.querySelectorAll('#last li').length > {count}")
        still = window.page.locator("details[open]")
        assert still.count() == 1
        assert "mine" in still.text_content()


def test_only_some_requests_are_shown_until_all_are_asked_for(opened, full):
    window = opened(full[1])
    assert window.page.locator("#last li").count() == 12
    window.page.click("#all")
    assert window.page.locator("#last li").count() == 50
    assert window.page.locator("#all").get_attribute("aria-expanded") == "true"


def test_names_from_outside_are_text_and_nothing_more(opened):
    trick = "<img src=x onerror=alert(1)>"
    watcher = filled(0, models=[replace(MODELS[0], name=trick)])
    story = Story().screened(0.1).speculated(9.0).accepted()
    hear(watcher, finished(story, request_id=trick, model=trick))
    with served(app_of(watcher)) as url:
        window = opened(url)
        window.page.locator("summary").first.click()
        assert trick in window.text("#last")
        assert window.page.locator("img").count() == 0
        assert window.complaints == []
        assert PRIVATE not in window.page.content()


def test_an_inline_script_would_not_run(opened, full):
    window = opened(full[1])
    window.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.caught = true";
          document.body.append(script);
        }"""
    )
    assert window.page.evaluate("window.caught") is None
    assert "Content Security Policy" in window.complaints[0]


def test_a_gateway_that_is_gone_is_told_and_found_again(opened):
    state = {"up": True}
    watcher = filled(40)
    inner = app_of(watcher)

    async def gate(scope, receive, send):
        if state["up"] or scope["path"] != "/v1/stats":
            await inner(scope, receive, send)
        else:
            await PlainTextResponse("no", 503)(scope, receive, send)

    with served(gate) as url:
        window = opened(url)
        state["up"] = False
        window.until("!document.getElementById('trouble').hidden")
        assert "status 503" in window.text("#trouble")
        assert "Shown is what it told at" in window.text("#trouble")
        state["up"] = True
        window.until("document.getElementById('trouble').hidden")


def test_it_can_be_used_by_keyboard(opened, full):
    window = opened(full[1])
    page = window.page
    page.click("#pause")
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    window.until("document.querySelector('details[open] .more')")
    for svg in page.locator("svg:not([aria-hidden])").all():
        assert svg.get_attribute("aria-label")
    assert page.locator("h1").count() == 1
