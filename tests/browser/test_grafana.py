"""Every dashboard in a Grafana, in a real browser: no query fails, no panel shows an error.

A Grafana on PATH is started beside a simulated fleet. One that runs is given by the variables that
`dashboards push` reads; nothing is written there, so push before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import BrowserContext, Page, Response, Route

from dashboards import build, provisioning
from dashboards.collection import boards
from dashboards.push_cli import TOKEN_VARIABLE, URL_VARIABLE
from dashboards.settings import DashboardSettings
from provisioning.demo.processes import Children, ChildSpec
from tests.alerts.test_runbook_commands import live
from tests.browser.chromium import ChromiumMissingError, chromium
from tests.conftest import refuse
from tests.ports import free_port

PANEL_ERROR = '[data-testid="data-testid Panel status error"]'
"""Of Grafana's own tests, since 9.4: `@grafana/e2e-selectors`, Panels.Panel.status."""
SETTLED_MS = 60_000


@dataclass(frozen=True, slots=True)
class Grafana:
    url: str
    token: str = ""


@asynccontextmanager
async def some_grafana(folder: Path) -> AsyncIterator[Grafana]:
    """Give the Grafana that is named, or start the one on PATH; skip the test without either."""
    if url := os.environ.get(URL_VARIABLE):
        token_file = os.environ.get(TOKEN_VARIABLE)
        yield Grafana(url.rstrip("/"), Path(token_file).read_text().strip() if token_file else "")
        return
    program = shutil.which("grafana")
    if not program:
        pytest.skip(f"no Grafana is on PATH, and {URL_VARIABLE} names none")
    async with live(folder) as running, Children(folder) as children:
        spec = started(Path(program), folder, running.environ)
        await children.start(spec)
        yield Grafana(spec.ready_url.removesuffix("/api/health"))


def started(program: Path, folder: Path, environ: dict[str, str]) -> ChildSpec:
    """Return how to start a Grafana that has our boards, and that everybody may read."""
    settings = DashboardSettings(
        prometheus_url=environ["PROMETHEUS"],
        alertmanager_url=environ["ALERTMANAGER"],
        dashboards_path=str(folder / "boards"),
    )
    provisioning.write(settings, folder / "provisioning")
    build.write(settings, folder / "boards")
    package = Path("/usr/share/grafana")
    port = free_port()
    options = {
        "paths.data": folder / "grafana",
        "paths.provisioning": folder / "provisioning",
        "server.http_addr": "127.0.0.1",
        "server.http_port": port,
        "auth.anonymous.enabled": "true",
        "analytics.check_for_updates": "false",
    }
    home = package if package.exists() else program.resolve().parent.parent
    command = (
        *(str(program), "server", "--homepath", str(home)),
        *(f"cfg:{name}={value}" for name, value in options.items()),
    )
    return ChildSpec("grafana", command, f"http://127.0.0.1:{port}/api/health")


async def faults(context: BrowserContext, grafana: Grafana, uid: str) -> list[str]:
    """Open a dashboard; return which queries failed, and how many panels say so."""

    async def signed(route: Route) -> None:
        own = {"authorization": f"Bearer {grafana.token}"} if grafana.token else {}
        await route.continue_(headers={**route.request.headers, **own})

    page = await context.new_page()
    await page.route(f"{grafana.url}/**", signed)
    answers: list[Response] = []
    page.on("response", lambda one: answers.append(one) if "/api/ds/query" in one.url else None)
    await page.goto(f"{grafana.url}/d/{uid}?from=now-15m&to=now&kiosk")
    await page.wait_for_load_state("networkidle", timeout=SETTLED_MS)
    return [*[text async for text in _failed(answers)], *await _marked(page)]


async def _failed(answers: list[Response]) -> AsyncIterator[str]:
    if not answers:
        yield "no query was sent: is the dashboard there, and may the token read it?"
    for one in answers:
        results = (await one.json()).get("results", {}).values() if one.ok else ()
        errors = [result["error"] for result in results if "error" in result]
        if errors or not one.ok:
            yield f"query: {one.status} {errors}"


async def _marked(page: Page) -> list[str]:
    n_marked = await page.locator(PANEL_ERROR).count()
    return [f"panels with an error: {n_marked}"] if n_marked else []


@asynccontextmanager
async def browser_context() -> AsyncIterator[BrowserContext]:
    """Give a window so high that Grafana loads every panel at once."""
    try:
        async with chromium() as browser:
            yield await browser.new_context(viewport={"width": 1600, "height": 12_000})
    except ChromiumMissingError as error:
        refuse(str(error))


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_every_dashboard_is_shown_without_an_error(tmp_path: Path) -> None:
    uids = [board.uid for board in boards(DashboardSettings())]
    async with some_grafana(tmp_path) as grafana, browser_context() as context:
        found = {uid: await faults(context, grafana, uid) for uid in uids}

    assert {} == {uid: texts for uid, texts in found.items() if texts}


PAGE = """<script>for (const n of [1, 2]) fetch("/api/ds/query?n=" + n);</script>%s"""
MARKED = '<div data-testid="data-testid Panel status error"></div>'


@asynccontextmanager
async def stub(answer: dict[str, object], status: int, body: str) -> AsyncIterator[Grafana]:
    """Serve a page that asks as Grafana's do; one without the token gets 401."""

    async def query(request: web.Request) -> web.Response:
        is_known = "Bearer t" == request.headers.get("Authorization")
        return web.json_response(answer, status=status if is_known else 401)

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="text/html")

    app = web.Application()
    app.add_routes([web.get("/d/board", page), web.get("/api/ds/query", query)])
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield Grafana(f"http://127.0.0.1:{port}", "t")
    await runner.cleanup()


def cases() -> Iterator[tuple[dict[str, object], int, str, str]]:
    good: dict[str, object] = {"results": {"A": {"frames": []}}}
    yield (good, 200, PAGE % "", "[]")
    yield ({"results": {"A": {"error": "bad"}}}, 200, PAGE % "", "bad")
    yield (good, 400, PAGE % "", "query: 400")
    yield (good, 200, PAGE % MARKED, "panels with an error: 1")
    yield (good, 200, "", "no query was sent")


async def test_whatever_goes_wrong_on_a_dashboard_is_seen() -> None:
    """A query that fails, in its answer or its status; a marked panel; a page without queries."""
    async with browser_context() as context:
        for answer, status, body, expected in cases():
            async with stub(answer, status, body) as grafana:
                assert expected in str(await faults(context, grafana, "board"))
