"""What the simulated fleet says and what the exporter reads are the same language."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from exporter.inventory import Inventory, sources_for
from exporter.model import Outcome, State, Target, Values
from exporter.steps import run_with_pauses
from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.spec import RELEASES, FleetSpec, Mode
from tests.exporter.pollers import Polled, hastily_polling, watching
from tests.waiting import eventually


async def targets_of(fleet: RunningFleet, path: Path) -> tuple[Target, ...]:
    """Return the simulator's inventory as the exporter reads it."""
    path.write_text(json.dumps(fleet.inventory))
    inventory = Inventory(sources_for([str(path)]))
    await inventory.load()
    await inventory.close()
    return inventory.targets


def values_of(polled: Polled) -> list[Values]:
    rows = run_with_pauses(polled.poller.rows())
    assert {Outcome.OK} == {row.reading.verdict.metrics_outcome for row in rows if row.reading}
    return [row.reading.verdict.values for row in rows if row.reading]


async def test_the_inventory_is_read_as_it_was_meant(tmp_path: Path) -> None:
    async with running_fleet(FleetSpec(n_instances=3)) as fleet:
        target = (await targets_of(fleet, tmp_path / "fleet.json"))[0]
        meant = fleet.inventory[0]

    assert (meant["id"], meant["url"]) == (target.id, target.url)
    assert (meant["node"], meant["model"]) == (target.node, target.model)
    assert (meant["developer"], meant["labels"]) == (target.developer, dict(target.labels))
    assert ("fleet", State.RUNNING) == (target.engine, target.state)


ARTICLE = {"tokens_per_second", "latency_p99_s", "errors_total"}
OF_OTHER_ENGINES = {
    "loaded",
    "installed",
    "kv_cache_usage_ratio",
    "time_to_first_token",
    "queue_time",
}
DIALECT = {*Values.__struct_fields__} - OF_OTHER_ENGINES


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (FleetSpec(n_instances=3, request_histogram=True), DIALECT),
        (FleetSpec(n_instances=3, article_metrics=True), ARTICLE),
    ],
)
async def test_what_the_fleet_dialect_says_is_read(
    spec: FleetSpec, expected: set[str], tmp_path: Path
) -> None:
    """All that the exporter knows, or the three figures of the article."""
    async with running_fleet(spec) as fleet:
        async with watching(*await targets_of(fleet, tmp_path / "fleet.json")) as polled:
            await polled.polled_all()
            told = msgspec.structs.asdict(values_of(polled)[0])

    assert expected == {name for name, value in told.items() if value not in (None, ())}


async def test_failed_requests_are_among_those_whose_durations_are_told(tmp_path: Path) -> None:
    """Every request fails from now on: errors and requests grow alike, but for rounding."""
    async with running_fleet(FleetSpec(n_instances=500, request_histogram=True)) as fleet:
        fleet.inject("errors", share=1, ratio=1.0)
        async with watching(*await targets_of(fleet, tmp_path / "fleet.json")) as polled:
            fleet_counters = polled.fleet_counters
            await eventually(lambda: (fleet_counters.requests or 0.0) >= 300)
            requests, failed = fleet_counters.requests, fleet_counters.failed_requests

    assert pytest.approx(requests, rel=0.25) == failed


async def test_a_stock_ollamas_models_and_version_are_told_and_read(tmp_path: Path) -> None:
    async with running_fleet(FleetSpec(n_instances=3, mode=Mode.OLLAMA)) as fleet:
        async with watching(*await targets_of(fleet, tmp_path / "fleet.json")) as polled:
            await polled.polled_all()
            told = values_of(polled)[0]
            known = run_with_pauses(polled.poller.rows())[0].counters

    assert (fleet.inventory[0]["model"],) == told.models
    assert known.version in {release.version for release in RELEASES}


FAULTS = {
    "kill": (Outcome.RESET, Outcome.OK),
    "hang": (Outcome.TIMEOUT, Outcome.OK),
    "loading": (Outcome.LOADING, Outcome.OK),
    "oom_restart": (Outcome.LOADING, Outcome.OK),
    "garbage": (Outcome.BAD_BODY, Outcome.OK),
    "malformed": (Outcome.MALFORMED, Outcome.OK),
    "close": (Outcome.CLOSED, Outcome.OK),
    "delay": (Outcome.TIMEOUT, Outcome.OK),
    "no_metrics": (Outcome.OK, Outcome.HTTP_STATUS),
}
FINE = (Outcome.OK, Outcome.OK)
LONG = {"oom_restart": {"seconds": 600}}


@pytest.mark.parametrize("kind", FAULTS)
async def test_each_fault_has_its_own_outcome(kind: str, tmp_path: Path) -> None:
    """Where it is that no answer comes in time, a busy machine may be late as well: the other
    instance's answer, or the connection to the broken one."""
    poll = hastily_polling if Outcome.TIMEOUT in FAULTS[kind] else watching
    async with running_fleet(FleetSpec(n_instances=2)) as fleet:
        fault = fleet.inject(kind, count=1, **LONG.get(kind, {}))
        (broken,) = fleet.ids_of(fault)
        (other,) = {str(one["id"]) for one in fleet.inventory} - {broken}
        seen = []

        def are_told() -> bool:
            seen.append(polled.outcomes(broken))
            return (seen[-1], polled.outcomes(other)) == (FAULTS[kind], FINE)

        async with poll(*await targets_of(fleet, tmp_path / "fleet.json")) as polled:
            await polled.polled_all()
            await eventually(are_told)

    assert {FAULTS[kind]} == {*seen} - {(Outcome.CONNECT_TIMEOUT, Outcome.OK)}
