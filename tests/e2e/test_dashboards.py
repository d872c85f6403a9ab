"""Every query of every dashboard, on a real Prometheus that watches a fleet with faults.

All are asked of one fleet, which is well at first and then broken in many ways: what is well then
shows on no panel that is for trouble, and everything that can be wrong shows somewhere.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from dashboards.choices import Uid
from dashboards.collection import boards
from dashboards.kit.board import Board, document
from dashboards.settings import DashboardSettings
from provisioning.simulator.app import RunningFleet
from provisioning.simulator.spec import FleetSpec
from tests.conftest import program
from tests.dashboards import expansion
from tests.dashboards.asking import Answer, Source, ask
from tests.dashboards.expansion import Asked, Origin
from tests.e2e.watching import watched_fleet
from tests.waiting import eventually

SLOW_NODE, SLOW_FACTOR = "node-003", 0.7
SPEC = FleetSpec(n_instances=120, n_nodes=6, request_histogram=True)
IMPATIENT = tuple(
    f"--set=alerts.{alert}.for=1s"
    for alert in ("OllamaFleetHealthyInstancesLow", "OllamaNodeSlowerThanFleet")
)
RANGE_S = 60.0
MAX_LINES = 40
"""More could not be told apart; the heat map, whose series are colours, has fewer as well."""

EMPTY_HERE = {
    (Uid.NODES, "Nodes with failing instances", "E"): "every instance was polled: none is unknown",
}
"""What shows nothing in the broken fleet, and why that is right."""

# Whichever test comes first waits for the fixtures as well.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Watched:
    """The fleet, and all that its dashboards showed."""

    fleet: RunningFleet = field(repr=False)
    source: Source = field(repr=False)
    boards: Sequence[Board] = field(default_factory=lambda: boards(DashboardSettings()), repr=False)

    async def answers(self, of: Collection[str] = tuple(Uid)) -> list[Answer]:
        """Return the answer to every query of some dashboards."""
        return [
            await ask(self.source, asked, self._choices(board))
            for board in self.boards
            if board.uid in of
            for asked in expansion.queries(document(board), board.may_be_empty)
        ]

    async def shows(self, uid: str, title: str, ref_id: str = "A") -> Answer:
        """Return the answer to one query of a panel."""
        (answer,) = (
            answer
            for answer in await self.answers([uid])
            if (title, ref_id) == (answer.asked.title, answer.asked.ref_id)
        )
        return answer

    def _choices(self, board: Board) -> dict[str, expansion.Choice]:
        chosen = {}
        if board.uid == Uid.INSTANCE:
            chosen = {"node": SLOW_NODE, "instance_id": instance_on(self.fleet, SLOW_NODE)}
        return expansion.choices(document(board), **chosen)


def instance_on(fleet: RunningFleet, node: str) -> str:
    return next(str(entry["id"]) for entry in fleet.inventory if entry["node"] == node)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    folder = tmp_path_factory.mktemp("dashboards")
    async with (
        watched_fleet(
            folder,
            program("prometheus"),
            SPEC,
            alertmanager_binary=program("alertmanager"),
            alert_options=IMPATIENT,
            has_provisioner=True,
        ) as (fleet, url),
        aiohttp.ClientSession() as session,
    ):
        yield Watched(fleet, Source(
            session=session, url=url, range_s=RANGE_S, scrape_interval_s=1, step_s=1
        ))  # fmt: skip


JUDGED = ("Healthy instances", "Request latency, p99", "Generation capacity")


async def test_a_fleet_that_is_well_is_green_and_marks_no_restart(watched: Watched) -> None:
    expected = {title: ["A"] for title in JUDGED}
    await eventually(lambda: _show(watched, expected))
    assert not (await watched.shows(Uid.INSTANCE, "Restarts", "")).labels


async def _show(watched: Watched, expected: Mapping[str, Sequence[str]]) -> bool:
    """Say whether these figures show these of their sides, A in green and B in red, at one look."""
    sides: dict[str, list[str]] = {title: [] for title in expected}
    for answer in await watched.answers([Uid.OVERVIEW]):
        asked = answer.asked
        if answer.labels and asked.title in sides and asked.ref_id in ("A", "B"):
            sides[asked.title].append(asked.ref_id)
    return expected == sides


class Answers(list[Answer]):
    """What all dashboards showed; a test that fails repeats this and not the answers."""

    def __repr__(self) -> str:
        return f"<{len(self)} answers, {sum(not answer.labels for answer in self)} of them empty>"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broken(watched: Watched) -> Answers:
    """Break the fleet; return what all dashboards show once nothing is missing any more."""
    fleet = watched.fleet
    fleet.inject("slow", node=SLOW_NODE, factor=SLOW_FACTOR)
    fleet.inject("kill", count=6)
    fleet.inject("loading", count=2)
    fleet.inject("garbage", count=2)
    fleet.inject("errors", node="node-004", ratio=0.2)
    fleet.inject("no_metrics", count=2)
    fleet.inject("oom_restart", count=4, seconds=3)
    fleet.inject("oom_restart", ids=[instance_on(fleet, SLOW_NODE)], seconds=3)
    seen = Answers()

    async def shows_everything() -> bool:
        seen[:] = await watched.answers()
        return not empty(seen)

    try:
        await eventually(shows_everything)
    except AssertionError:
        pytest.fail(f"no data for: {', '.join(sorted(empty(seen)))}", pytrace=False)
    return seen


def empty(answers: Iterable[Answer]) -> set[str]:
    """Return which queries have nothing to show, and should."""
    by_panel: dict[tuple[str, Origin, str], list[Answer]] = {}
    for answer in answers:
        asked = answer.asked
        by_panel.setdefault((asked.uid, asked.origin, asked.title), []).append(answer)
    return {
        str(answer.asked)
        for panel in by_panel.values()
        for answer in panel
        if not answer.labels and not _is_well_empty(answer.asked, panel)
    }


def _is_well_empty(asked: Asked, panel: Sequence[Answer]) -> bool:
    """Return whether a query may show nothing: of a figure's good and bad side, one does."""
    is_excused = (asked.uid, asked.title, asked.ref_id) in EMPTY_HERE
    return is_excused or (asked.panel_type == "stat" and any(answer.labels for answer in panel))


async def test_every_query_is_taken_shows_something_and_can_be_read(broken: Answers) -> None:
    assert 150 < len(broken)
    assert set() == empty(broken)
    assert [] == [fault for answer in broken for fault in _faults(answer)]


def _faults(answer: Answer) -> list[str]:
    """Return what is wrong with an answer.

    A legend may name the cluster: this fleet has none, and Grafana leaves it out of the name.
    """
    asked = answer.asked
    faults = [f"{answer.complaint}\n{answer.expr}"] if answer.complaint else []
    if answer.labels and (asked.uid, asked.title, asked.ref_id) in EMPTY_HERE:
        faults.append("is excused for showing nothing, and shows something")
    if len(answer.labels) > MAX_LINES and not asked.is_instant:
        faults.append(f"{len(answer.labels)} lines cannot be told apart")
    faults += [
        f"{asked.legend} of {dict(labels)}"
        for labels in answer.labels
        for name in re.findall(r"{{\s*(\w+)", asked.legend)
        if name not in {*labels, "cluster"}
    ]
    return [f"{asked}: {fault}" for fault in faults]


async def test_a_figure_of_a_broken_fleet_is_red_and_not_green(
    watched: Watched, broken: Answers
) -> None:
    expected = {title: ["B"] for title in ("Healthy instances", "Generation capacity")}
    await eventually(lambda: _show(watched, expected))


async def test_the_node_that_is_a_third_slower_leads_the_table_of_slow_nodes(
    watched: Watched, broken: Answers
) -> None:
    ratio = await watched.shows(Uid.NODES, "Nodes slowest against their peers")

    async def leads() -> bool:
        values = await _lowest_by_node(watched.source, ratio.expr)
        slowest = min(values, key=lambda node: values[node], default="")
        expected = pytest.approx(SLOW_FACTOR, abs=0.08)
        return slowest == SLOW_NODE and values[slowest] == expected

    await eventually(leads)


async def _lowest_by_node(source: Source, expr: str) -> dict[str, float]:
    url, form = f"{source.url}/api/v1/query", {"query": f"min by (node) ({expr})"}
    async with source.session.post(url, data=form) as answer:
        result: list[dict[str, Any]] = (await answer.json())["data"]["result"]
    return {series["metric"]["node"]: float(series["value"][1]) for series in result}
