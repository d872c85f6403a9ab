"""A small fleet is shown as cards, and the alerts and the worst of any fleet lead on."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.spec import FleetSpec
from tests.browser.conftest import Open
from tests.browser.programs import exporter
from tests.exporter.servers import serving
from tests.exporter.ui.prometheuses import Asked, firing, rule

pytestmark = pytest.mark.asyncio(loop_scope="session")

ALERT = "OllamaNodeInstancesDown"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def prometheus() -> Asked:
    return Asked()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running() -> AsyncIterator[RunningFleet]:
    """Run 16 instances on four nodes; one node is gone and one slow."""
    async with running_fleet(FleetSpec(n_instances=16, n_nodes=4)) as running:
        running.inject("node_gone", node="node-002")
        running.inject("slow", node="node-003", factor=0.6)
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(
    running: RunningFleet, prometheus: Asked, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    run_dir: Path = tmp_path_factory.mktemp("cards")
    inventory = run_dir / "fleet.json"
    inventory.write_text(json.dumps(running.inventory))
    prometheus.results = firing(since=0.0)
    async with serving(prometheus.handle) as port:
        option = f"--ui.prometheus-url=http://127.0.0.1:{port}"
        async with exporter(run_dir, inventory, option, interval_s=2) as base:
            yield f"{base}/fleet"


async def test_a_card_says_name_model_speed_and_state(url: str, open_page: Open) -> None:
    page = await open_page(url, cards=None)
    card = page.find("[data-card=llm-00001]")

    await expect(card).to_have_text(
        re.compile(r"^llm-00001 [0-9.]+ tokens/s llama3.1:8b healthy $")
    )
    await expect(page.find("[data-card=llm-00005] .state")).to_have_text("unreachable")
    await expect(page.find("#cards h2").nth(1)).to_have_text("node-002 4 of 4 fail")
    await expect(page.find("#cards h2").nth(2)).to_have_text(re.compile("^node-003 slow, 6. %$"))
    await expect(page.find("#map")).to_be_hidden()
    await card.click()
    await expect(page.page.get_by_role("dialog", name="llm-00001")).to_be_visible()


async def test_filters_leave_the_cards_that_they_take(
    running: RunningFleet, url: str, open_page: Open
) -> None:
    page = await open_page(url, cards=None)
    developer = str(running.inventory[0]["developer"])
    taken = [one for one in running.inventory if one["developer"] == developer]

    await page.field("Developer").fill(developer)
    await page.press("Enter")

    await expect(page.find(".card:visible")).to_have_count(len(taken))
    n_nodes = len({str(one["node"]) for one in taken})
    await expect(page.find("#cards h2:visible")).to_have_count(n_nodes)


async def test_a_small_fleet_can_be_shown_as_a_map_too(url: str, open_page: Open) -> None:
    page = await open_page(url, cards=None)

    await page.field("Show as").select_option("map")

    await expect(page.find("#map")).to_be_visible()
    await expect(page.find("#cards")).to_be_hidden()
    await page.page.reload()
    await expect(page.field("Show as")).to_have_value("map")


async def test_a_row_of_the_worst_is_a_whole_node_and_leads_to_it(
    url: str, open_page: Open
) -> None:
    page = await open_page(url, cards=None)
    rows = page.find("#worst-rows tr")

    await expect(rows).to_have_text(
        [re.compile("4 instances.*node-002.*unreachable"), re.compile("slow node.*node-003.*6. %")]
    )
    await expect(page.find("#worst-caption")).to_have_text(
        "Not healthy, or with a condition: 4 of 16 instances"
    )
    await rows.first.get_by_role("button").click()

    assert {"node": "node-002", "status": "unreachable"} == page.query
    await expect(rows).to_have_count(4)


async def test_statuses_that_no_instance_has_are_not_shown(url: str, open_page: Open) -> None:
    page = await open_page(url, cards=None)

    await expect(page.find("#totals button")).to_have_text(["healthy 12", "unreachable 4"])


async def test_an_alert_moves_nothing_and_leads_to_runbook_dashboard_and_prometheus(
    url: str, prometheus: Asked, open_page: Open
) -> None:
    page = await open_page(url, cards=None)
    await expect(page.find("#alerts-in-short")).to_have_text("no alert fires")
    before = await page.find("#fleet-side").bounding_box()

    prometheus.rules = [rule(ALERT, 3600.0, dashboard_url="http://grafana/d/x")]
    prometheus.results = firing(ALERT, since=time.time() - 600)
    alerts = page.find("#alerts-list li")
    await expect(alerts).to_have_count(2)

    assert before == await page.find("#fleet-side").bounding_box()
    await expect(alerts.last).to_contain_text(re.compile("fires in (4[0-9]|50) min"))
    links = [
        await link.get_attribute("href") for link in await alerts.first.get_by_role("link").all()
    ]
    assert [f"/runbooks/{ALERT}", "http://grafana/d/x"] == links[:2]
    assert "/graph?" in str(links[2])
    await alerts.first.get_by_role("link", name="runbook").click()
    await expect(page.page.get_by_role("heading", name=ALERT)).to_be_visible()
    prometheus.results = firing(since=0.0)
