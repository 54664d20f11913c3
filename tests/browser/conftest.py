"""A real Chromium: every page must load without errors, reports and requests to other hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

from tests.support import harness

OPTIONS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.chromium)


class Tab:
    """A page, and its errors."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.tolerated: tuple[str, ...] = ()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.complaints.append(f"request: {request.url}")

    async def open(self, path: str) -> Page:
        await self.page.goto(f"{self.url}{path}")
        return self.page

    async def accessible(self) -> list[str]:
        """Return the violations of WCAG 2.2 AA that axe finds."""
        # Evaluated, not added as an element, which the page's policy would refuse.
        await self.page.evaluate(_AXE)
        found = await self.page.evaluate("(tags) => axe.run(document, {runOnly: {type: 'tag', values: tags}})", _RULES)
        return [f"{each['id']}: {[node['html'][:160] for node in each['nodes']]}" for each in found["violations"]]

    def check(self) -> None:
        found = [each for each in self.complaints if not any(text in each for text in self.tolerated)]
        assert not found, found


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        found = await playwright.chromium.launch(executable_path=harness.CHROMIUM, args=OPTIONS)
        yield found
        await found.close()


@pytest.fixture
async def tab(browser: Browser) -> AsyncIterator[Callable[..., Any]]:
    """Open a tab: ``await tab(url, **options of the browser's context)``."""
    tabs: list[Tab] = []

    async def new(url: str, **options: Any) -> Tab:
        context = await browser.new_context(**options)
        context.set_default_timeout(20000)
        tabs.append(Tab(await context.new_page(), url))
        return tabs[-1]

    yield new
    for each in tabs:
        each.check()
