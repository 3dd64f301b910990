"""Reports in a real browser: Debian's chromium, headless, driven through the DevTools protocol by playwright.

    python tests/helpers/browser.py demo/report.html

opens a report as a person would (light, dark, on a phone), uses its controls, keeps screenshots in
build/screenshots, and exits 1 with a line for every error said, request made or chart not drawn.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZES = {"desktop": (1400, 900), "phone": (390, 844)}
LOOKS = [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")]
DRAW_MS = 60_000


class Missing(RuntimeError):
    """There is no browser on this machine."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The installed chromium, headless."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise Missing("no chromium on this machine: run `apt-get install chromium`")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """An open report, what its console said and what it asked the network for."""

    page: Page
    path: Path
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """Everything said, and every request but the one for the file itself."""
        return self.said + [
            f"asked for {url}" for url in self.asked if url.partition("#")[0] != self.path.as_uri()
        ]

    def undrawn(self) -> list[str]:
        """Figures without a single mark."""
        names = self.page.locator(".figure").evaluate_all("all => all.map((one) => one.id)")
        marks = "path, line, text"
        return [
            name for name in names if not self.page.locator(f"#{name} svg .role-mark").locator(marks).count()
        ]

    def keep(self, name: str) -> None:
        """Save a screenshot of the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def signal(self, figure: str, name: str) -> Any:
        """The value of a chart's signal."""
        return self.page.evaluate(f"views['{figure}'].signal('{name}')")


def visit(browser: Browser, path: Path, size: str = "desktop", scheme: str = "light", at: str = "") -> Visit:
    """Open a report, at one of its neurons (``#site/layer/index``), and wait until its charts are drawn."""
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    opened = Visit(page, path.absolute())
    page.on("console", lambda message: opened.said.append(message.text))
    page.on("pageerror", lambda error: opened.said.append(str(error)))
    page.on("request", lambda request: opened.asked.append(request.url))
    page.goto(opened.path.as_uri() + at)
    page.wait_for_selector("html[data-drawn]", timeout=DRAW_MS)
    return opened


def check(browser: Browser, path: Path) -> list[str]:
    """Open a report in every look, use its controls, keep screenshots; returns what is wrong."""
    wrong = []
    for size, scheme in LOOKS:
        opened = visit(browser, path, size, scheme)
        page = opened.page
        opened.keep(f"{path.stem}-{size}-{scheme}")
        wrong += [f"{size}, {scheme}: {name} is not drawn" for name in opened.undrawn()]
        last = page.locator("#relation option").last.inner_text()
        page.select_option("#relation", last)
        page.locator("#neurons button.open").first.click()
        if (
            page.locator("#h-neurons [data-show=relation]").inner_text() != last
            or opened.signal("distribution", "relation") != last
        ):
            wrong.append(f"{size}, {scheme}: choosing a relation changes nothing")
        page.click("#theme")
        page.wait_for_selector(
            f"html[data-drawn={'dark' if scheme == 'light' else 'light'}]", timeout=DRAW_MS
        )
        if page.evaluate("document.documentElement.scrollWidth") > SIZES[size][0]:
            wrong.append(f"{size}, {scheme}: wider than the window")
        wrong += [f"{size}, {scheme}: {problem}" for problem in opened.problems()]
        page.close()
    return wrong


if __name__ == "__main__":
    with chromium() as started:
        problems = [problem for name in sys.argv[1:] for problem in check(started, Path(name))]
    print(
        "\n".join(problems)
        or f"{len(sys.argv) - 1} report(s) drawn, nothing said, nothing asked; see {SCREENSHOTS}"
    )
    sys.exit(bool(problems))
