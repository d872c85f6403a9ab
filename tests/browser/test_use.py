"""What a person does with the page: filter, look, open, with pointer and keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.spec import FleetSpec
from tests.browser.conftest import Open
from tests.browser.page import FleetPage
from tests.browser.programs import exporter

pytestmark = pytest.mark.asyncio(loop_scope="session")

N = 200
HEALTHY, HEALTHY_BUT_LEFT_OUT = "#7f97a5", "#ebeef1"
HEALTHY_IN_THE_DARK = "#4f6a79"
KILLED = "llm-00042"
ROLES = {"button", "combobox", "textbox", "link", "application", "dialog", "table", "form"}


@dataclass(frozen=True, slots=True)
class Fleet:
    """200 instances on four nodes, of which one is dead, and the page over them."""

    url: str
    running: RunningFleet

    def entry(self, instance_id: str) -> dict[str, object]:
        """Return what the inventory says of an instance."""
        (entry,) = [one for one in self.running.inventory if one["id"] == instance_id]
        return entry

    def ids(self, **wanted: str) -> list[str]:
        """Return the ids of the instances that have all of these."""
        return [
            str(entry["id"])
            for entry in self.running.inventory
            if all(entry[key] == text for key, text in wanted.items())
        ]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    run_dir: Path = tmp_path_factory.mktemp("use")
    async with running_fleet(FleetSpec(n_instances=N, n_nodes=4)) as running:
        running.inject("kill", ids=[KILLED])
        inventory = run_dir / "fleet.json"
        inventory.write_text(json.dumps(running.inventory))
        # The servers live in this process, which the tests keep busy: each has seconds to answer.
        async with exporter(run_dir, inventory, interval_s=5) as url:
            yield Fleet(f"{url}/fleet", running)


async def test_filters_are_in_the_address_and_survive_a_reload(
    fleet: Fleet, open_page: Open
) -> None:
    page = await open_page(fleet.url)
    entry = fleet.entry("llm-00007")
    wanted = {key: str(entry[key]) for key in ("model", "node", "developer")}

    for label, key in (("Model", "model"), ("Node", "node"), ("Developer", "developer")):
        await page.field(label).fill(wanted[key])
        await page.press("Enter")
    await page.total("healthy").click()
    await page.field("Colour by").select_option("p99")

    expected = {**wanted, "status": "healthy", "value": "p99"}
    assert expected == page.query
    matching = f"{len(fleet.ids(**wanted))} of 200 match"
    await expect(page.find("#matching")).to_have_text(matching)
    await page.page.reload()
    await expect(page.find("#matching")).to_have_text(matching)
    await expect(page.field("Developer")).to_have_value(wanted["developer"])
    await expect(page.field("Colour by")).to_have_value("p99")
    await expect(page.total("healthy")).to_have_attribute("aria-pressed", "true")


async def test_the_back_button_undoes_a_choice(fleet: Fleet, open_page: Open) -> None:
    page = await open_page(fleet.url)
    await page.total("unreachable").click()
    await expect(page.find("#matching")).to_have_text("1 of 200 match")

    await page.page.go_back()

    assert {} == page.query
    await expect(page.find("#matching")).to_have_text("")
    await expect(page.total("unreachable")).to_have_attribute("aria-pressed", "false")


async def test_the_table_of_the_worst_follows_the_filters(fleet: Fleet, open_page: Open) -> None:
    page = await open_page(f"{fleet.url}?value=age&node=node-002")

    await expect(page.find("#worst-caption")).to_have_text("Oldest: 50 of 50 instances")
    assert ["node-002"] * 50 == await page.texts("#worst-rows td:nth-child(2)")
    page = await open_page(f"{fleet.url}?status=unreachable")
    await expect(page.find("#worst-caption")).to_have_text(re.compile(r": 1 of 1 instance$"))


async def test_the_legend_counts_the_instances_of_each_colour(
    fleet: Fleet, open_page: Open
) -> None:
    page = await open_page(f"{fleet.url}?value=speed")

    await expect(page.find("#legend-steps li").nth(3)).to_have_text("90 – 110 199")
    await expect(page.find("#legend-steps li").last).to_have_text("not known 1")


async def test_the_pointer_shows_what_an_instance_is_and_what_it_suffers_from(
    fleet: Fleet, open_page: Open
) -> None:
    page = await open_page(fleet.url)
    entry = fleet.entry(KILLED)

    await page.point(KILLED)

    lines = page.find("#tip span")
    await expect(lines).to_have_text(
        [
            KILLED,
            f"node: {entry['node']}",
            f"model: {entry['model']}",
            f"developer: {entry['developer']}",
            "status: unreachable",
        ]
    )
    await expect(page.find("#tip em")).to_contain_text("reset by peer")
    await page.page.mouse.move(1, 1)
    await expect(page.find("#tip")).to_be_hidden()


async def test_a_click_opens_the_details_and_escape_closes_them(
    fleet: Fleet, open_page: Open
) -> None:
    page = await open_page(fleet.url)

    await page.click("llm-00007")

    details = page.page.get_by_role("dialog", name="llm-00007")
    await expect(details).to_be_visible()
    await expect(details).to_contain_text(str(fleet.entry("llm-00007")["url"]))
    await expect(details.get_by_role("link")).to_have_attribute("href", "/instances?id=llm-00007")
    assert {"id": "llm-00007"} == page.query
    await page.press("Escape")
    await expect(details).to_be_hidden()
    assert {} == page.query


async def test_the_keyboard_goes_from_cell_to_cell_and_opens_one(
    fleet: Fleet, open_page: Open
) -> None:
    page = await open_page(fleet.url)
    await page.field("Developer").focus()
    await page.press("Tab")
    assert "map" == await page.focused()
    reader = page.find("#reader")
    await expect(reader).to_have_text(_words(fleet, "llm-00001"))

    for key, expected in (
        ("ArrowRight", "llm-00002"),
        ("PageDown", "llm-00051"),
        ("End", "llm-00200"),
        ("PageUp", "llm-00101"),
        ("Home", "llm-00001"),
    ):
        await page.press(key)
        await expect(reader).to_have_text(_words(fleet, expected))

    await page.press("ArrowRight", "Enter")
    await expect(page.page.get_by_role("dialog", name="llm-00002")).to_be_visible()
    assert "details-close" == await page.focused()
    await page.press("Enter")
    await expect(page.find("#details")).to_be_hidden()
    assert "map" == await page.focused()
    await page.press("Escape")
    await expect(page.find("#tip")).to_be_hidden()


def _words(fleet: Fleet, instance_id: str) -> str:
    entry = fleet.entry(instance_id)
    return (
        f"{instance_id}, node: {entry['node']}, model: {entry['model']}, "
        f"developer: {entry['developer']}, status: healthy"
    )


async def test_the_worst_are_a_table_that_a_screen_reader_can_read(
    fleet: Fleet, open_page: Open
) -> None:
    page = await open_page(fleet.url)

    table = page.page.get_by_role(
        "table", name="Not healthy, or with a condition: 1 of 200 instances"
    )
    await expect(table).to_be_visible()
    await expect(table.get_by_role("columnheader")).to_have_text(
        ["Instance", "Node", "Model", "Why"]
    )
    row = table.get_by_role("row").nth(1)
    await expect(row.get_by_role("rowheader")).to_have_text(KILLED)
    await expect(row).to_contain_text("unreachable: ")

    await row.get_by_role("button", name=KILLED).press("Enter")
    await expect(page.page.get_by_role("dialog", name=KILLED)).to_be_visible()


async def test_everything_that_can_be_pressed_has_a_name(fleet: Fleet, open_page: Open) -> None:
    page = await open_page(fleet.url)
    await expect(page.find("#worst-rows tr")).to_have_count(1)

    named = await _named(page)
    await page.click(KILLED)
    await expect(page.find("#details-list")).to_contain_text(KILLED)
    named |= await _named(page)

    assert {role for role, _ in named} >= ROLES - {"textbox"}
    assert [] == [role for role, name in named if not name]


async def _named(page: FleetPage) -> set[tuple[str, str]]:
    """Return the roles of what can be pressed or is a part of its own, and their names."""
    session = await page.page.context.new_cdp_session(page.page)
    tree = await session.send("Accessibility.getFullAXTree")
    return {
        (node["role"]["value"], node["name"]["value"])
        for node in tree["nodes"]
        if node.get("role", {}).get("value") in ROLES and not node["ignored"]
    }


async def test_the_scheme_is_the_systems_and_changes_with_it(fleet: Fleet, open_page: Open) -> None:
    page = await open_page(fleet.url, scheme="dark")
    await page.eventually_paints(HEALTHY_IN_THE_DARK, "llm-00001")

    await page.page.emulate_media(color_scheme="light")

    await page.eventually_paints(HEALTHY, "llm-00001")


async def test_a_narrow_window_has_what_is_wrong_above_the_map_and_filters_folded(
    fleet: Fleet, open_page: Open
) -> None:
    page = await open_page(fleet.url, width=420, height=900)

    canvas = await page.find("#map").bounding_box()
    table = await page.find("table").bounding_box()
    assert canvas is not None
    assert table is not None
    assert table["y"] + table["height"] < canvas["y"]
    await expect(page.field("Model")).to_be_hidden()
    await page.page.get_by_text("Colours and filters").click()
    await expect(page.field("Model")).to_be_visible()
    assert not await page.page.evaluate("() => document.body.scrollWidth > window.innerWidth")
    await page.eventually_paints(HEALTHY, "llm-00001", "llm-00200")
