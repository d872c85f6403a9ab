"""What the simulated fleet says and what the exporter reads are the same language."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest

from exporter.inventory import Inventory, sources_for
from exporter.model import Condition, Generation, Outcome, State, Status, Target, Values
from exporter.steps import run_with_pauses
from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.endpoints import FOREVER_S
from provisioning.simulator.spec import RELEASES, FleetSpec, Hardware, Mode
from tests.exporter.canaries import canarying
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


@pytest.mark.parametrize("mode", [Mode.FLEET, Mode.OLLAMA])
async def test_each_restart_that_shows_is_counted_once(mode: Mode, tmp_path: Path) -> None:
    """A `fleet` server says when it started; stock Ollama is asked for its version again."""
    async with running_fleet(FleetSpec(n_instances=20, mode=mode)) as fleet:
        async with watching(*await targets_of(fleet, tmp_path / "fleet.json")) as polled:
            await polled.polled_all()
            old = {
                row.target.id
                for row in run_with_pauses(polled.poller.rows())
                if row.counters.version != "0.23.0"
            }
            fleet.inject("restart", ids=sorted(old), version="0.23.0")
            await eventually(lambda: polled.fleet_counters.restarts == len(old))
            for instance_id in old:
                await polled.polled_again(instance_id)

    assert 0 < len(old) == polled.fleet_counters.restarts


async def test_failed_requests_are_among_those_whose_durations_are_told(tmp_path: Path) -> None:
    """Every request fails from now on: errors and requests grow alike, but for rounding."""
    async with running_fleet(FleetSpec(n_instances=500, request_histogram=True)) as fleet:
        fleet.inject("errors", share=1, ratio=1.0)
        async with watching(*await targets_of(fleet, tmp_path / "fleet.json")) as polled:
            fleet_counters = polled.fleet_counters
            await eventually(lambda: sum(fleet_counters.requests.values()) >= 300)
            requests = sum(fleet_counters.requests.values())
            failed = sum(fleet_counters.request_errors.values())

    assert pytest.approx(requests, rel=0.25) == failed


STOCK = FleetSpec(
    n_instances=8, mode=Mode.OLLAMA, hardware=((Hardware.GPU, 1),), keep_alive_s=FOREVER_S
)


async def test_a_stock_ollamas_models_and_version_are_read_and_again_after_a_restart(
    tmp_path: Path,
) -> None:
    async with running_fleet(STOCK) as fleet:
        async with watching(*await targets_of(fleet, tmp_path / "fleet.json")) as polled:
            await polled.polled_all()
            for release in RELEASES:
                fleet.inject("restart", share=1, version=release.version)
                await eventually(partial(all_run, polled, release.version))
                (loaded,) = values_of(polled)[0].loaded or ()
                assert fleet.inventory[0]["model"] == loaded.name
                assert loaded.size_bytes == loaded.vram_bytes
                assert loaded.is_pinned
                assert (loaded.context_length is not None) is release.ps_has_context_length


def all_run(polled: Polled, version: str) -> bool:
    rows = run_with_pauses(polled.poller.rows())
    return {version} == {row.counters.version for row in rows}


async def test_each_fault_of_a_stock_ollamas_model_is_a_condition_but_those_of_its_runner(
    tmp_path: Path,
) -> None:
    """A frozen or busy runner's server says what it said before: only a canary can tell."""
    expected = {
        "unload": {Condition.MODEL_NOT_LOADED},
        "no_model": {Condition.MODEL_NOT_LOADED, Condition.MODEL_NOT_INSTALLED},
        "partly_cpu": {Condition.ON_CPU},
        "runner_hang": set(),
        "runner_kill": set(),
        "busy": set(),
    }
    async with running_fleet(STOCK) as fleet:
        kind_by_id = {fleet.ids_of(fleet.inject(kind, count=1))[0]: kind for kind in expected}
        async with watching(*await targets_of(fleet, tmp_path / "fleet.json")) as polled:
            await polled.polled_all()
            rows = run_with_pauses(polled.poller.rows())

    assert len(expected) == len(kind_by_id)
    assert {Status.HEALTHY} == {row.status for row in rows}
    assert expected | {"none": set()} == {
        kind_by_id.get(row.target.id, "none"): {*row.conditions} for row in rows
    }


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


async def test_a_canary_is_told_what_a_runners_faults_cost(tmp_path: Path) -> None:
    """Waiting behind others is no part of its speed, and half a model on the CPU is."""
    async with running_fleet(replace(STOCK, n_instances=3, time_scale=0.001)) as fleet:
        busy, partly = (
            fleet.ids_of(fleet.inject(kind, count=1, **parameters))[0]
            for kind, parameters in (("busy", {"seconds": 60}), ("partly_cpu", {"ratio": 0.5}))
        )
        usual = {one.id: one.tokens_per_second for one in fleet.fleet.instances}
        async with watching(*await targets_of(fleet, tmp_path / "fleet.json")) as polled:
            await polled.polled_all()
            async with canarying(polled):
                await eventually(lambda: len(generations(polled)) == len(usual))
                told = generations(polled)

    waited_s = told[busy].waiting_s
    assert waited_s is not None
    assert waited_s > 59.9
    assert {one: usual[one] * (2 / (1 + 187 / 42) if one == partly else 1) for one in usual} == {
        one: pytest.approx(generation.tokens_per_second, rel=0.01)
        for one, generation in told.items()
    }


def generations(polled: Polled) -> dict[str, Generation]:
    rows = run_with_pauses(polled.poller.rows())
    return {
        row.target.id: row.canary.generation
        for row in rows
        if row.canary is not None and row.canary.generation is not None
    }
