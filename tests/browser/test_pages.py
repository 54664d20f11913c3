"""The pages in a real browser, with a real server: content and behaviour."""

from __future__ import annotations

import json
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from sidecar.domain import fluid
from tests.browser.conftest import Tab
from tests.browser.prefix import Prefix
from tests.support import harness
from tests.support.access import TokenFile
from tests.support.harness import Server, eventually

Open = Callable[..., Any]

PAGES = ["/", "/jobs", "/jobs/submit", "/nodes", "/stop"]
_GONE = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET")
EVIL = "<img src=x onerror=alert(1)><script>alert(2)</script>'\"&"


def plain(f58: str) -> str:
    return fluid.f58_ascii(f58)


@pytest.fixture
def filled(server: Server) -> str:
    """A server with jobs of every kind; the ID of one that has ended with output."""
    job = server.run(["sh", "-c", "echo out; echo err >&2"], name="talks")
    server.run("false", name="fails")
    return plain(job["f58id"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
async def test_every_page_is_accessible(server: Server, filled: str, tab: Open, scheme: str, width: int) -> None:
    opened: Tab = await tab(server.url, color_scheme=scheme, viewport={"width": width, "height": 800})
    for path in [*PAGES, f"/jobs/{filled}", "/login"]:
        page = await opened.open(path)
        await expect(page.locator("h1")).to_be_visible()
        assert await opened.accessible() == [], path
        overflow = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, f"{path} is wider than {width} px"


async def test_pages_without_scripts(server: Server, filled: str, tab: Open) -> None:
    opened = await tab(server.url, java_script_enabled=False)
    page = await opened.open("/")
    await expect(page.locator("#failures")).to_contain_text("fails")
    page = await opened.open("/jobs?q=talks")
    await expect(page.locator("tbody tr")).not_to_have_count(0)
    page = await opened.open("/jobs/submit")
    await page.get_by_label("Command").fill("echo by form")
    await page.get_by_label("Name", exact=True).fill("formed")
    await page.get_by_role("button", name="Submit").click()
    await expect(page.locator("h1")).to_contain_text("formed")
    job = page.url.rsplit("/", 1)[1]
    assert server.ended(job)["result"] == "COMPLETED"


async def test_typed_text_is_never_lost(server: Server, tab: Open) -> None:
    opened = await tab(server.url, java_script_enabled=False)
    page = await opened.open("/jobs/submit")
    await page.get_by_label("Command").fill("echo 'open quote")
    await page.get_by_label("Name", exact=True).fill("kept")
    await page.get_by_role("button", name="Submit").click()
    await expect(page.locator("#e-command")).to_contain_text("quot")
    await expect(page.get_by_label("Command")).to_have_value("echo 'open quote")
    await expect(page.get_by_label("Name", exact=True)).to_have_value("kept")
    opened.tolerated = ("400",)


async def test_job_is_checked_while_it_is_typed(server: Server, tab: Open) -> None:
    opened = await tab(server.url)
    page = await opened.open("/jobs/submit")
    await page.get_by_label("Command").fill("echo")
    await expect(page.locator("[data-valid]")).to_have_text("The job would be accepted.")
    await page.get_by_label("Dependencies").fill("nonsense")
    await expect(page.locator("#e-dependencies")).not_to_be_empty()
    await expect(page.get_by_label("Dependencies")).to_have_attribute("aria-invalid", "true")
    await page.get_by_label("Dependencies").fill("")
    await expect(page.locator("#e-dependencies")).to_be_empty()
    opened.tolerated = ("400",)  # Chromium logs each response that is not a success


async def test_table_is_updated(server: Server, tab: Open) -> None:
    opened = await tab(server.url)
    page = await opened.open("/jobs?state=active&sort=t_submit")
    job = server.submit("sleep 60", name="appears")
    row = page.locator(f"#row-{plain(server.job(job)['f58id'])}")
    await expect(row).to_contain_text("run")
    await row.get_by_role("checkbox").check()
    other = server.submit("true", name="passes")
    server.ended(other)
    await expect(row.get_by_role("checkbox")).to_be_checked()
    await page.get_by_role("button", name="Cancel selected jobs").click()
    await page.get_by_role("dialog").get_by_role("button", name="Yes").click()
    assert server.ended(job)["result"] == "CANCELED"
    await expect(page).to_have_url(re.compile(r"/jobs\?state=active&sort=t_submit$"))
    await expect(row).to_have_count(0)


async def test_view_is_in_the_url(server: Server, filled: str, tab: Open) -> None:
    opened = await tab(server.url)
    page = await opened.open("/jobs")
    await page.get_by_label("Search").fill("talks")
    await page.get_by_label("Result").select_option("completed")
    await expect(page).to_have_url(re.compile(r"\?q=talks&result=completed$"))
    await expect(page.locator("tbody tr").first).to_contain_text("talks")
    await page.reload()
    await expect(page.get_by_label("Search")).to_have_value("talks")
    await page.get_by_role("link", name="Name").click()
    await expect(page.locator("th[aria-sort]")).to_contain_text("Name")
    await expect(page).to_have_url(re.compile(r"q=talks.*sort=name"))


async def test_live_output_and_cancel(server: Server, tab: Open) -> None:
    job = server.submit(["sh", "-c", r"printf '\033[31mred\033[0m plain\n'; echo oops >&2; exec sleep 60"], name="live")
    opened = await tab(server.url)
    page = await opened.open(f"/jobs/{plain(server.job(job)['f58id'])}")
    output = page.locator("[data-lines]")
    await expect(output).to_contain_text("red plain")
    await expect(output.locator(".sgr-31")).to_have_text("red")
    await expect(output.locator(".stderr")).to_contain_text("oops")
    await page.get_by_label("stderr").uncheck()
    await expect(output.locator(".stderr")).to_have_count(0)
    await page.get_by_label("Find").fill("PLAIN")
    await expect(output.locator(".line")).to_have_count(1)
    await page.get_by_role("button", name="Cancel", exact=True).click()
    await page.get_by_role("dialog").get_by_role("button", name="Yes").click()
    await expect(page.locator("h1")).to_contain_text("canceled")
    await expect(page.locator("#events")).to_contain_text("exception")
    await page.get_by_role("link", name="Submit again, with changes").click()
    await expect(page.get_by_label("Name", exact=True)).to_have_value("live")


@pytest.mark.parametrize("server", [pytest.param("flux", marks=pytest.mark.flux)], indirect=True)
async def test_messages_of_the_shell_are_among_the_lines(server: Server, tab: Open) -> None:
    script = "echo out; head -c 3000 /dev/zero | tr '\\0' x"
    job = server.run(["sh", "-c", script], workdir="/no/such/directory", option_flags={"output.limit": "1K"})
    page = await (await tab(server.url)).open(f"/jobs/{plain(job['f58id'])}")
    said = page.locator("[data-lines] .shell")
    await expect(said.filter(has_text="/no/such/directory")).not_to_have_count(0)
    await expect(said.filter(has_text="stdout: 1980 of 3004 bytes truncated")).to_have_count(1)
    await expect(page.locator("[data-lines] .line:not(.shell)")).to_have_text(re.compile("out$"))


async def test_interrupted_output_resumes(own_server: Callable[..., Server], tab: Open, tmp_path: Path) -> None:
    """The reader is cut off as too slow, or the network breaks: the browser reconnects after the last line."""
    server = own_server()
    go = tmp_path / "go"
    script = f"for i in $(seq 500); do echo line $i; done; while [ ! -e {go} ]; do sleep 0.1; done; for i in $(seq 501 1000); do echo line $i; done"
    job = server.submit(["sh", "-c", script])
    opened = await tab(server.url)
    page = await opened.open(f"/jobs/{plain(server.job(job)['f58id'])}")
    lines = page.locator("[data-lines]")
    await expect(lines).to_contain_text("line 500")
    await page.context.set_offline(True)
    go.touch()
    server.ended(job)
    await page.context.set_offline(False)
    await expect(lines).to_contain_text("line 1000")
    await page.get_by_label("Find").fill("line ")
    await expect(page.locator("[data-status]")).to_contain_text("1000 lines match")
    opened.tolerated = ("ERR_INTERNET_DISCONNECTED", "ERR_NETWORK_CHANGED", "Failed to fetch")


async def test_restarted_server_without_its_store(started: Callable[[Any], Any], tab: Open, tmp_path: Path) -> None:
    """The position of the page is unknown to the new server, so the page continues from the new server's position."""
    first = started(harness.embedded(tmp_path / "1")).ready()
    first.run("true", name="before")
    url = first.url
    opened: Tab = await tab(url)
    opened.tolerated = (*_GONE, "400")
    page = await opened.open("/jobs")
    await expect(page.locator("tbody")).to_contain_text("before")
    first.signal(signal.SIGKILL)
    first.close()
    followed: list[int] = []
    page.on("response", lambda answer: followed.append(answer.status) if "/v1/events?" in answer.url else None)
    argv = [harness.SIDECAR, "serve", "--embedded", "--port", url.rpartition(":")[2]]
    second = started(Server(argv, tmp_path / "2")).ready()
    await expect(page.locator("tbody")).not_to_contain_text("before", timeout=30_000)
    deadline = time.monotonic() + 60
    while 200 not in followed:  # the browser's events arrive during the wait
        assert time.monotonic() < deadline, followed
        await page.wait_for_timeout(100)
    second.run("true", name="after")
    await expect(page.locator("tbody")).to_contain_text("after")


async def test_output_of_jobs_is_escaped(server: Server, tab: Open) -> None:
    job = server.run(["sh", "-c", "printf '%s\\n' \"$0\"; exit 1", EVIL], name=EVIL)
    held = server.submit("true", name=EVIL, urgency=0)
    canceled = server.http.post(f"/v1/jobs/{held}/cancel", json={"reason": EVIL})
    assert canceled.status_code == 200
    ended = server.ended(held)
    opened = await tab(server.url)
    for path in (
        "/",
        "/jobs",
        f"/jobs/{plain(job['f58id'])}",
        f"/jobs/{plain(ended['f58id'])}",
        f"/jobs/submit?like={plain(job['f58id'])}",
    ):
        page = await opened.open(path)
        await expect(page.locator("h1")).to_be_visible()
        assert await page.locator("main img").count() == 0
        assert await page.locator("main script:not([type='application/json'])").count() == 0
    page = await opened.open(f"/jobs/{plain(job['f58id'])}")
    await expect(page.locator("[data-lines]")).to_contain_text("<img src=x")
    page = await opened.open(f"/jobs/{plain(ended['f58id'])}")
    await expect(page.locator("#ending")).to_contain_text("<img src=x")


async def test_directional_characters_are_shown(server: Server, tab: Open) -> None:
    """They would reverse the rest of a line: the command shown would not be the one that runs."""
    reversing = "gpj.\u202egnp.exe\u2066"
    job = server.run(["printf", "%s\\n", reversing], name=reversing, urgency=10)
    opened = await tab(server.url)
    await opened.open("/jobs")
    await expect(opened.page.locator("td.name").first).to_have_text("gpj.\\u202egnp.exe\\u2066")
    page = await opened.open(f"/jobs/{plain(job['f58id'])}")
    await expect(page.locator("[data-lines]")).to_contain_text("gpj.\\u202egnp.exe\\u2066")
    text = await page.locator("main").inner_text()
    assert not set(text) & set("\u202e\u2066")
    curl = await page.locator("#curl").inner_text()
    body = json.loads(shlex.split(curl)[-1])
    assert body["command"][-1] == reversing, "the copied text is the same command"
    assert body["urgency"] == 10


async def test_nodes_are_drained_and_undrained(own_server: Callable[..., Server], tab: Open) -> None:
    server = own_server()
    opened = await tab(server.url)
    page = await opened.open("/nodes")
    await page.get_by_label("Reason").fill("new disk")
    await page.get_by_role("button", name="Drain").click()
    await expect(page.locator(".tile")).to_contain_text("drained")
    await expect(page.locator(".tile")).to_contain_text("new disk")
    await page.get_by_role("button", name="Undrain").click()
    await expect(page.locator(".tile")).to_contain_text("free")


async def test_from_login_to_stop(own_server: Callable[..., Server], tab: Open, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, alice="admin")
    server = own_server(*tokens.options)
    opened = await tab(server.url)
    opened.tolerated = ("401", *_GONE)
    page = await opened.open("/jobs")
    await page.get_by_label("Token").fill(tokens.tokens["alice"])
    await page.get_by_role("button", name="Log in").click()
    await expect(page.locator("h1")).to_have_text("Jobs")
    await page.get_by_role("link", name="Submit", exact=True).click()
    await page.get_by_label("Command").fill("sh -c 'echo hello from a browser'")
    await page.get_by_role("button", name="Submit").click()
    await expect(page.locator("[data-lines]")).to_contain_text("hello from a browser")
    await page.get_by_role("link", name="Stop", exact=True).click()
    await page.get_by_label("Now: running jobs are cancelled").check()
    await page.get_by_role("button", name="Stop", exact=True).click()
    await expect(page.locator("#stop")).to_contain_text("stopping")
    assert server.wait() == 0
    await expect(page.locator("#connection")).to_contain_text("The instance has ended.")


async def test_progress_of_a_drain(own_server: Callable[..., Server], tab: Open, tmp_path: Path) -> None:
    server = own_server()
    go = tmp_path / "go"
    job = server.submit(["sh", "-c", f"while [ ! -e {go} ]; do sleep 0.1; done"])
    server.state(job, "RUN")
    opened = await tab(server.url)
    opened.tolerated = _GONE
    page = await opened.open("/stop")
    await expect(page.locator("#stop")).to_contain_text("1 job has not ended")
    await page.get_by_role("button", name="Stop", exact=True).click()
    await expect(page.locator("#stop")).to_contain_text("draining")
    await expect(page.get_by_role("button", name="Stop now")).to_be_visible()
    go.touch()
    assert server.wait() == 0
    await expect(page.locator("#connection")).to_contain_text("The instance has ended.")


async def test_pages_behind_a_prefix(own_server: Callable[..., Server], tab: Open, tmp_path: Path) -> None:
    """A proxy strips a prefix: from the login to a job's live output, no request leaves it."""
    tokens = TokenFile(tmp_path, alice="admin")
    server = own_server(*tokens.options)
    with Prefix(server.url, "/clusters/mine") as url:
        opened = await tab(url)
        opened.tolerated = ("401",)
        page = await opened.open("/jobs")
        await page.get_by_label("Token").fill(tokens.tokens["alice"])
        await page.get_by_role("button", name="Log in").click()
        await expect(page.locator("h1")).to_have_text("Jobs")
        await page.get_by_role("link", name="Submit", exact=True).click()
        await page.get_by_label("Command").fill("sh -c 'echo hello; exec sleep 60'")
        await expect(page.locator("[data-valid]")).to_have_text("The job would be accepted.")
        await page.get_by_role("button", name="Submit").click()
        await expect(page.locator("[data-lines]")).to_contain_text("hello")
        await page.get_by_role("button", name="Cancel", exact=True).click()
        await page.get_by_role("dialog").get_by_role("button", name="Yes").click()
        await expect(page.locator("h1")).to_contain_text("canceled")
        for name in ("Overview", "Nodes"):
            await page.get_by_role("link", name=name, exact=True).click()
            await expect(page.locator("h1")).to_have_text(name)
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Token")).to_be_visible()
        assert page.url.startswith(url)


async def test_keyboard_navigation(server: Server, tab: Open) -> None:
    opened = await tab(server.url)
    page = await opened.open("/jobs/submit")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Command")).to_be_focused()
    await page.keyboard.type("echo typed")
    for _ in range(40):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.textContent") == "Submit":
            break
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-lines]")).to_contain_text("typed")


@pytest.mark.long
async def test_hundred_megabytes_of_output(started: Callable[[Any], Any], tab: Open, tmp_path: Path) -> None:
    """The tab stays responsive; output that it does not keep can be downloaded.

    Delays are measured as CPU time of the tab's main thread, which does not depend on other processes of the machine.
    """
    server = started(harness.embedded(tmp_path)).ready()
    job = server.submit(["sh", "-c", "head -c 100000000 /dev/zero | tr '\\0' x | fold -w 199; echo; echo the end"])
    opened = await tab(server.url)
    page = await opened.open(f"/jobs/{plain(server.job(job)['f58id'])}")
    page.set_default_timeout(300_000)  # milliseconds of CPU time
    worst = 0.0
    metrics = await page.context.new_cdp_session(page)
    await metrics.send("Performance.enable", {"timeDomain": "threadTicks"})

    async def computed() -> float:
        found = (await metrics.send("Performance.getMetrics"))["metrics"]
        return next(float(each["value"]) for each in found if each["name"] == "TaskDuration")

    async def at_the_end() -> bool:
        nonlocal worst
        begin = await computed()
        # A part of it: to transfer all lines takes longer than the tab itself.
        text = await page.locator("[data-lines]").evaluate("(lines) => lines.textContent.slice(-1000)")
        worst = max(worst, await computed() - begin)
        return "the end" in text and "of its output" in await page.locator("[data-status]").inner_text()

    while not await at_the_end():
        await page.wait_for_timeout(200)
    print(f"an answer of the tab waited for {worst:.1f} s of computing")
    assert 0 < worst < 5
    await expect(page.locator("[data-status]")).to_contain_text(re.compile(r"last \d{5,6} lines"))
    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="Download").click()
    path = await (await downloading.value).path()
    assert path.stat().st_size > 100_000_000


async def test_end_of_a_long_output(server: Server, tab: Open) -> None:
    """It is read without the beginning, and the page says that there is more."""
    job = server.run(["sh", "-c", "seq -f %0100.0f 60000"])
    opened = await tab(server.url)
    page = await opened.open(f"/jobs/{plain(job['f58id'])}")
    await expect(page.locator("[data-status]")).to_contain_text("Only the last 20000 lines are shown here")
    await expect(page.locator("[data-status]")).to_contain_text("the end of its output")
    await expect(page.locator("[data-lines]")).to_contain_text(f"{60000:0100d}")
    await page.get_by_label("Find").fill(f"{40001:0100d}")
    await expect(page.locator("[data-lines] .line")).to_have_count(1)


async def test_read_scope_shows_no_controls(own_server: Callable[..., Server], tab: Open, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, reader="read", admin="admin")
    server = own_server(*tokens.options)
    with tokens.client(server, "admin") as admin:
        job = plain(admin.post("/v1/jobs/submit", json={"command": "sleep 60"}).json()["f58id"])
    opened = await tab(server.url)
    opened.tolerated = ("401", "403")
    page = await opened.open("/")
    await page.get_by_label("Token").fill(tokens.tokens["reader"])
    await page.get_by_role("button", name="Log in").click()
    await expect(page.locator("h1")).to_have_text("Overview")
    for text in ("Submit", "Stop"):
        await expect(page.get_by_role("link", name=text, exact=True)).to_have_count(0)
    page = await opened.open(f"/jobs/{job}")
    await expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    page = await opened.open("/stop")
    await expect(page.locator("h1")).to_have_text("Not allowed")


async def test_urls_of_the_predecessors_pages(server: Server, filled: str, tab: Open) -> None:
    opened = await tab(server.url)
    number = server.job(filled)["id"]
    for path in (f"/job/{number}", f"/job/{number}/cancel"):
        page = await opened.open(path)
        await expect(page.locator("h1")).to_contain_text("talks")
    for path in ("/page/about", "/logout"):
        page = await opened.open(path)
        await expect(page.locator("h1")).to_have_text("Overview")


async def test_ten_thousand_jobs_in_the_table(started: Callable[[Any], Any], tab: Open, tmp_path: Path) -> None:
    """A page takes as long as with few jobs: only the visible part is read."""
    server = started(harness.embedded(tmp_path)).ready()
    lines = "".join('{"command": "true", "urgency": 0, "name": "many"}\n' for _ in range(10000))
    assert server.http.post("/v1/jobs/bulk", content=lines, timeout=200).status_code == 200
    eventually(lambda: server.http.get("/v1/jobs/search?length=0").json()["recordsTotal"] == 10000, within=60)
    answer = server.http.get("/jobs?q=many&page=150&sort=name")
    assert answer.status_code == 200
    assert answer.text.count("<tr id=") == 50
    assert "7,451 to 7,500, of 10,000 jobs in total" in answer.text
    opened = await tab(server.url)
    page = await opened.open("/jobs?sort=name")
    await expect(page.locator("tbody tr")).to_have_count(50)
    await page.get_by_role("link", name="Next").click()
    await expect(page.locator("#paging")).to_contain_text("51 to 100, of 10,000 jobs in total")
    await page.get_by_label("Search").fill("no such job")
    await expect(page.locator("tbody")).to_contain_text("No job matches.")
    await page.get_by_label("Search").fill("many")
    await expect(page.locator("tbody tr")).to_have_count(50)
