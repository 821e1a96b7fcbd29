"""The system's Chromium, in which pages are looked at, and what goes wrong in its windows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Texts that stand out of their drawing by more than a unit; given where drawings are.
STRAYING = """(drawings) => [...document.querySelectorAll(drawings)].flatMap((svg) => {
  const { width, height } = svg.viewBox.baseVal;
  return [...svg.querySelectorAll("text")].filter((text) => {
    const box = text.getBBox();
    const [right, bottom] = [box.x + box.width, box.y + box.height];
    return box.x < -1 || box.y < -1 || right > width + 1 || bottom > height + 1;
  }).map((text) => {
    const name = svg.getAttribute("aria-label") ?? svg.parentElement.id;
    return `${name}: ${text.textContent}`;
  });
})"""
# Elements that reach beyond the window and are not in a box that scrolls.
WIDE = """() => [...document.querySelectorAll("main *")].filter((element) =>
  !element.closest(".scroll") && element.getBoundingClientRect().right > innerWidth + 1
).map((element) => element.outerHTML.slice(0, 80))"""


@contextmanager
def launched() -> Iterator[object]:
    """Launch it; whatever is to be looked at must be there: its event loop occupies this thread."""
    if not CHROMIUM.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{CHROMIUM} is missing, and here it must not be: see .ci/run")
        pytest.skip(f"{CHROMIUM} is missing: install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(QUIET))
        yield browser
        browser.close()


class Window:
    """One page in one window, and all that went wrong in it."""

    def __init__(self, browser, url: str, *, width_px=1280, scheme="light", **more) -> None:
        self.context = browser.new_context(
            viewport={"width": width_px, "height": 900}, color_scheme=scheme, **more
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def _hear(self, message) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)
