"""``make screenshots``: screenshots of the pages, in light and dark, for the README."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from playwright.async_api import async_playwright

from tests.browser.conftest import OPTIONS
from tests.support import harness

IMAGES = Path(__file__).parent / "images"
_SIZE = {"width": 1280, "height": 800}


def _fill(server: harness.Server) -> str:
    """Submit jobs of every kind; return the ID of one that writes."""
    for number in range(12):
        server.run(["sh", "-c", f"echo step {number}; sleep 0.{number % 5}"], name="equilibrate")
    server.run("false", name="analyse")
    server.run("sleep 60", name="fold", runtime=0.5)
    script = "for i in $(seq 40); do printf '\\033[32mstep %s\\033[0m  energy -%s.4\\n' $i $i; done; echo restart written >&2; exec sleep 300"
    job = server.submit(["sh", "-c", script], name="simulate")
    server.state(job, "RUN")
    server.submit("true", name="publish", urgency=0)
    return str(server.job(job)["f58id"]).replace("ƒ", "f")


async def _take(url: str, job: str) -> None:
    pages = {
        "overview": "/",
        "jobs": "/jobs",
        "job": f"/jobs/{job}",
        "submit": "/jobs/submit",
        "nodes": "/nodes",
        "stop": "/stop",
    }
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=harness.CHROMIUM, args=OPTIONS)
        for scheme in ("light", "dark"):
            page = await browser.new_page(viewport=_SIZE, color_scheme=scheme)  # type: ignore[arg-type]
            for name, path in pages.items():
                await page.goto(f"{url}{path}")
                if name == "job":
                    await page.locator(".line").first.wait_for()
                    await page.locator("#output").scroll_into_view_if_needed()
                await page.wait_for_load_state("load")
                await page.screenshot(path=IMAGES / f"{name}-{scheme}.png")
        await browser.close()


def main() -> None:
    """Write them all."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        start = harness.flux_start if harness.FLUX else harness.embedded
        server = start(Path(directory)).ready()
        try:
            asyncio.run(_take(server.url, _fill(server)))
        finally:
            server.close()


if __name__ == "__main__":
    main()
