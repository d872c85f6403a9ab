"""What the page says when something is wrong: with the fleet, the exporter or Prometheus."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Route, expect

from tests.browser.conftest import Open, StartExporter
from tests.browser.page import UPDATE, FleetPage, Held
from tests.browser.programs import exporter, write_inventory
from tests.ports import free_port
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

UNREACHABLE = "#a00020"
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
NEVER_READ = "An inventory source was never read: its instances are missing."
LEAST_CONTRAST = 4.5
GONE = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")
"""What Chromium itself writes to its console about an exporter that is gone."""

CONTRASTS = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const channels = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (colour) => {
    const [r, g, b] = channels(colour).slice(0, 3)
      .map((channel) => channel / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backgroundOf = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return channels(colour)[3] === 255 ? colour : backgroundOf(element.parentElement);
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const hasText = (element) => [...element.childNodes]
    .some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim() !== "");
  const shown = [...document.body.querySelectorAll("*")]
    .filter((element) => element.checkVisibility() && !element.disabled);
  const texts = shown.filter(hasText).map((element) => [element, getComputedStyle(element).color]);
  const hints = shown.filter((element) => element.placeholder)
    .map((element) => [element, getComputedStyle(element, "::placeholder").color]);
  return [...texts, ...hints].map(([element, colour]) =>
    [element.textContent || element.placeholder, contrast(colour, backgroundOf(element))]);
}"""
"""Every text that is shown, and its contrast to what is behind it."""


def pattern(text: str) -> re.Pattern[str]:
    """Return a pattern of a text in which `{clock}` stands for any time of day."""
    return re.compile(text.replace("{clock}", "[0-9]{2}:[0-9]{2}:[0-9]{2}"))


def altered(change: Callable[[Any], None]) -> Callable[[Route], Any]:
    """Return a handler that lets an answer of the exporter pass with a change in it."""

    async def handle(route: Route) -> None:
        answer = await route.fetch()
        body = await answer.json()
        change(body)
        await route.fulfill(response=answer, json=body)

    return handle


def aged(name: str, seconds: float) -> Callable[[Any], None]:
    """Return a change of answers: an age in their summary was so large when it was made."""
    started_s = time.monotonic()

    def age(answer: Any) -> None:
        answer["summary"][name] = seconds + time.monotonic() - started_s

    return age


MUTATIONS = """(id) => {
  window.mutations = 0;
  new MutationObserver((records) => { window.mutations += records.length; })
    .observe(document.getElementById(id), { subtree: true, childList: true, characterData: true });
}"""


async def changes_of(page: FleetPage, element_id: str) -> int:
    """Return how often an element changes while some updates come."""
    await page.run(MUTATIONS, element_id)
    await updates(page, 3)
    n: int = await page.run("() => window.mutations")
    return n


async def updates(page: FleetPage, n: int) -> None:
    """Return when so many more updates have come."""
    n_before = len(await page.durations_ms(UPDATE))

    async def have_come() -> bool:
        return len(await page.durations_ms(UPDATE)) >= n_before + n

    await eventually(have_come)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The page over three dead instances."""
    run_dir = tmp_path_factory.mktemp("dead")
    async with exporter(run_dir, write_inventory(run_dir / "fleet.json", 3)) as base:
        yield f"{base}/fleet"


async def test_the_page_says_that_the_exporter_is_gone_and_recovers(
    tmp_path: Path, open_page: Open
) -> None:
    inventory = write_inventory(tmp_path / "fleet.json", 3)
    port = free_port()
    async with exporter(tmp_path, inventory, port=port) as url:
        page = await open_page(f"{url}/fleet")
        page.watch.allowed += GONE
        await page.eventually_paints(UNREACHABLE, "i1")
        assert "none" == await _filter_of_the_map(page)

    alert = page.page.get_by_role("alert")
    await expect(alert).to_have_text(
        pattern("The exporter does not answer since {clock}. The data shown is from then.")
    )
    assert "grayscale(1) opacity(0.5)" == await _filter_of_the_map(page)

    async with exporter(tmp_path, inventory, port=port):
        await expect(alert).to_be_hidden()
        assert "none" == await _filter_of_the_map(page)
        await page.eventually_paints(UNREACHABLE, "i1")


async def _filter_of_the_map(page: FleetPage) -> str:
    shown: str = await page.find("#map").evaluate("(map) => getComputedStyle(map).filter")
    return shown


async def test_old_data_is_told(url: str, open_page: Open) -> None:
    """The exporter answers, but no poll cycle has ended for three intervals."""
    page = await open_page(url)
    notice = page.find("#notice")
    await expect(notice).to_be_hidden()

    await page.page.route("**/fleet/changes?*", altered(aged("last_cycle_age_seconds", 3.1)))

    await expect(notice).to_have_text(
        pattern("The exporter answers, but its last poll cycle ended at {clock}: the data is old.")
    )
    await expect(notice).to_have_role("status")

    async def stays() -> bool:
        return 0 == await changes_of(page, "notice")

    # The moment in it may change by a second once, as it is reckoned from what was rounded.
    await eventually(stays)


@pytest.mark.nightly
async def test_an_exporter_that_hangs_is_told_and_asked_again(url: str, open_page: Open) -> None:
    page = await open_page(url)
    held = Held()
    await page.page.route("**/fleet/changes?*", held.handle)

    alert = page.page.get_by_role("alert")
    await expect(alert).to_have_text(
        pattern("The exporter does not answer since {clock}. The data shown is from then.")
    )
    await eventually(lambda: held.n >= 2)
    held.release()
    await expect(alert).to_be_hidden()


async def test_open_details_say_that_they_are_old(url: str, open_page: Open) -> None:
    """On a narrow screen they cover all but the word that the exporter is gone."""
    page = await open_page(f"{url}?id=i1", width=420, height=700)
    await expect(page.find("#details-list")).to_contain_text("refused")
    assert "" == await page.text("#details-state")

    await page.page.route("**/instances?*", lambda route: None)
    await page.page.route("**/fleet/changes?*", lambda route: route.fulfill(body="<html>"))

    await expect(page.find("#details-state")).to_contain_text("this may be old")

    async def are_details_below_the_banner() -> bool:
        banner = await page.find("#failure").bounding_box()
        details = await page.find("#details").bounding_box()
        assert banner is not None
        assert details is not None
        return 0 == banner["y"] and banner["y"] + banner["height"] == details["y"]

    await eventually(are_details_below_the_banner)


async def test_instances_that_come_and_go_change_the_map(
    tmp_path: Path, start_exporter: StartExporter, open_page: Open
) -> None:
    inventory = write_inventory(tmp_path / "fleet.json", 3)
    url = await start_exporter(inventory, "--poll.starting-timeout=1s")
    page = await open_page(f"{url}?id=i3")

    write_inventory(inventory, 5)
    await page.eventually_paints(UNREACHABLE, "i5")
    await expect(page.find("#facts")).to_contain_text("5 instances")

    write_inventory(inventory, 2)
    await expect(page.find("#facts")).to_contain_text("2 instances")

    async def is_gone() -> bool:
        return [None] == await page.colours("i5")

    await eventually(is_gone)
    await expect(page.find("#details-state")).to_have_text(
        "The inventory has no instance of this id."
    )


async def test_an_inventory_source_that_was_never_read_is_told(
    tmp_path: Path, start_exporter: StartExporter, open_page: Open
) -> None:
    """One source is a file; the other one's server is away since the exporter started."""
    inventory = write_inventory(tmp_path / "fleet.json", 3)
    url = await start_exporter(inventory, f"--inventory={_away()}", ready_path="/-/healthy")
    page = await open_page(url)

    await expect(page.find("#facts")).to_contain_text("an inventory source was never read")
    await expect(page.find("#notice")).to_have_text(NEVER_READ)


def _away() -> str:
    """Return the URL of an inventory whose server is away."""
    port = free_port()
    return f"http://127.0.0.1:{port}/instances"


async def test_what_the_fleet_says_of_itself_is_text_and_never_markup(
    tmp_path: Path, start_exporter: StartExporter, open_page: Open
) -> None:
    """Ids, nodes, models, developers and errors come from elsewhere."""

    def fail(answer: Any) -> None:
        for instance in answer if isinstance(answer, list) else answer["instances"]:
            instance["last_error"] = HOSTILE

    inventory = write_inventory(
        tmp_path / "fleet.json", 1, id=HOSTILE, node=HOSTILE, model=HOSTILE, developer=HOSTILE
    )
    url = await start_exporter(inventory)
    page = await open_page(url)
    await page.page.route("**/instances?*", altered(fail))
    await page.page.route("**/fleet/worst?*", altered(fail))

    await page.point(HOSTILE)
    await expect(page.find("#tip em")).to_have_text(HOSTILE)
    await page.click(HOSTILE)
    await expect(page.find("#details-title")).to_have_text(HOSTILE)
    await expect(page.find("#details-list")).to_contain_text(HOSTILE)
    await page.field("Node").press_sequentially("img")
    await page.press("Enter")
    await expect(page.find("#matching")).to_have_text("No instance matches, of 1.")
    await page.field("Node").fill(HOSTILE)
    await page.press("Enter")
    await expect(page.find("#worst-rows")).to_contain_text(HOSTILE)

    assert 0 == await page.find("img").count()
    assert "Fleet – ollama-fleet" == await page.page.title()


@pytest.mark.parametrize("query", ["", "?value=speed"])
async def test_the_map_is_asked_for_once(query: str, url: str, open_page: Open) -> None:
    page = await open_page(f"{url}{query}")

    await eventually(lambda: page.durations_ms(UPDATE))

    assert 1 == [path for path, _ in await page.loaded()].count("/fleet/map")


async def test_a_hidden_page_asks_nothing_until_it_is_seen_again(url: str, open_page: Open) -> None:
    page = await open_page(url)
    await eventually(lambda: page.durations_ms(UPDATE))

    await _set_hidden(page, "true")

    async def asks_nothing() -> bool:
        n_before = len(await page.loaded())
        await page.page.wait_for_timeout(2_000)  # two refreshes long
        return n_before == len(await page.loaded())

    # What it was asking for when it was hidden may still come.
    await eventually(asks_nothing)
    n_before = len(await page.loaded())

    await _set_hidden(page, "false")
    await eventually(lambda: _has_loaded_more(page, n_before))


async def _set_hidden(page: FleetPage, is_hidden: str) -> None:
    await page.page.evaluate(
        f"""() => {{
          Object.defineProperty(document, "hidden", {{ value: {is_hidden}, configurable: true }});
          document.dispatchEvent(new Event("visibilitychange"));
        }}"""
    )


async def _has_loaded_more(page: FleetPage, n: int) -> bool:
    return len(await page.loaded()) > n


@dataclass(slots=True)
class StandIn:
    """What answers instant queries as Prometheus does."""

    firing: list[dict[str, Any]]
    status: int = 200

    async def query(self, request: web.Request) -> web.Response:
        """Answer a query: with what fires, or with nothing where that is not what it is about."""
        query = request.query["query"]
        is_about_alerts = "ALERTS_FOR_STATE" in query and "pending" not in query
        data = {"resultType": "vector", "result": self.firing if is_about_alerts else []}
        return web.json_response({"status": "success", "data": data}, status=self.status)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen until the block ends; give the base URL."""
        app = web.Application()
        app.router.add_get("/api/v1/query", self.query)
        runner = web.AppRunner(app)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()


async def test_what_fires_in_prometheus_is_told_and_so_is_its_silence(
    tmp_path: Path, start_exporter: StartExporter, open_page: Open
) -> None:
    since_s = time.time() - 7_200
    labels = {"alertname": "OllamaNodeSlow", "severity": "warning", "node": "node-018"}
    stand_in = StandIn([{"metric": labels, "value": [time.time(), str(since_s)]}])
    inventory = write_inventory(tmp_path / "fleet.json", 1)
    async with stand_in.serving() as prometheus_url:
        url = await start_exporter(inventory, f"--ui.prometheus-url={prometheus_url}")
        page = await open_page(url)
        await expect(page.find("#alerts-state")).to_have_text("1 firing")
        await expect(page.find("#alerts-in-short")).to_have_text("1 alert fires, 0 critical")
        await expect(page.find("#alerts-list li")).to_have_text(
            pattern(
                "△ warning OllamaNodeSlownode=node-018 · since {clock} \\(2 h( [0-9]+ min)?\\) · "
                "runbook Prometheus ?"
            )
        )

        stand_in.status = 503
        await expect(page.find("#alerts-state")).to_have_text(
            "Prometheus answers with status 503; check that the URL and its path are those of "
            "Prometheus (ui.prometheus-url). What fired before:"
        )
        await expect(page.find("#alerts-list li")).to_have_count(1)
        await expect(page.find("#alerts-in-short")).to_have_text("? alerts not known")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_stands_out_from_what_is_behind_it(
    scheme: str, url: str, open_page: Open
) -> None:
    page = await open_page(f"{url}?value=speed", scheme=scheme)
    await expect(page.find("#legend")).to_be_visible()
    await page.total("unreachable").click()
    await page.point("i2")
    await expect(page.find("#tip em")).to_contain_text("refused")
    seen = await _contrasts(page)
    await page.click("i2")
    await expect(page.find("#details-list")).to_contain_text("refused")
    seen |= await _contrasts(page)
    await page.page.route("**/fleet/changes?*", altered(aged("last_cycle_age_seconds", 9)))
    await expect(page.find("#notice")).to_be_visible()
    seen |= await _contrasts(page)
    await page.page.route("**/fleet/changes?*", lambda route: route.fulfill(body="<html>"))
    await expect(page.find("#failure")).to_be_visible()
    seen |= await _contrasts(page)

    assert {"any", "Fleet", "Clear filters", "Alerts"} <= seen.keys()
    assert {} == {text: ratio for text, ratio in seen.items() if ratio < LEAST_CONTRAST}


async def _contrasts(page: FleetPage) -> dict[str, float]:
    return dict(await page.page.evaluate(CONTRASTS))
