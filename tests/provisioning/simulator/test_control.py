"""The control API: inventory with ETag, faults behind a token, errors as problem documents."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from provisioning.simulator.app import Settings, Simulation, running_simulation
from provisioning.simulator.spec import FleetSpec, InventoryEngine
from tests.provisioning.simulator.client import get


def _settings(folder: Path, **others: Any) -> Settings:
    values: dict[str, Any] = {
        "spec": FleetSpec(n_instances=30),
        "listen_port": 0,
        "faults": (),
        "inventory_path": folder / "fleet.json",
        "control_host": "127.0.0.1",
        "control_port": 0,
        "token_path": folder / "token",
    }
    return Settings(**(values | others))


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with running_simulation(_settings(tmp_path)) as running:
        yield running


@pytest.fixture
async def api(simulation: Simulation) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {simulation.tokens.path.read_text().strip()}"}
    async with aiohttp.ClientSession(simulation.control_url, headers=headers) as session:
        yield session


async def _json(response: aiohttp.ClientResponse) -> Any:
    return json.loads(await response.read())


async def test_it_says_that_it_lives(api: aiohttp.ClientSession) -> None:
    async with api.get("/-/healthy") as response:
        assert 200 == response.status


async def test_the_inventory_is_the_same_over_http_and_in_the_file(
    api: aiohttp.ClientSession, simulation: Simulation, tmp_path: Path
) -> None:
    async with api.get("/instances") as response:
        assert "application/json" == response.content_type
        body = await response.read()

    assert body == (tmp_path / "fleet.json").read_bytes()
    assert simulation.running.inventory == json.loads(body)


async def test_an_entry_says_everything_about_an_instance(simulation: Simulation) -> None:
    entry = simulation.running.inventory[4]

    assert {
        "id": "llm-00005",
        "url": f"http://127.1.0.5:{simulation.running.port}",
        "node": "node-001",
        "model": simulation.running.fleet.instances[4].model.name,
        "engine": "fleet",
        "state": "running",
        "developer": simulation.running.fleet.instances[4].developer,
        "labels": {"hardware": "epyc-9654"},
    } == entry


async def test_the_inventory_can_leave_the_engine_to_be_found_out(tmp_path: Path) -> None:
    spec = FleetSpec(n_instances=1, inventory_engine=InventoryEngine.AUTO)
    async with running_simulation(_settings(tmp_path, spec=spec)) as simulation:
        assert "auto" == simulation.running.inventory[0]["engine"]


async def test_an_inventory_that_is_known_is_not_sent_again_until_it_changes(
    api: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with api.get("/instances") as response:
        known = {"If-None-Match": response.headers["ETag"]}
    async with api.get("/instances", headers=known) as response:
        assert 304 == response.status
        assert b"" == await response.read()
    async with api.post("/faults", json={"kind": "shrink", "count": 5}) as response:
        assert 201 == response.status
    async with api.get("/instances", headers=known) as response:
        assert 200 == response.status
        assert 25 == len(await _json(response))
    assert 25 == len(json.loads((tmp_path / "fleet.json").read_bytes()))
    async with api.delete("/faults") as response:
        assert 200 == response.status
    async with api.get("/instances", headers=known) as response:
        assert 304 == response.status


async def test_a_fault_is_injected_listed_and_healed(
    api: aiohttp.ClientSession, simulation: Simulation
) -> None:
    async with api.post("/faults", json={"kind": "loading", "count": 2}) as response:
        assert 201 == response.status
        fault = await _json(response)
    assert 2 == fault["instances"] == len(fault["instance_ids"])
    index = int(fault["instance_ids"][0].removeprefix("llm-")) - 1
    assert 503 == (await get(simulation.running, index, "/health")).status

    async with api.get("/faults") as response:
        (listed,) = await _json(response)
    assert ("fault-1", "loading", 2) == (listed["id"], listed["kind"], listed["count"])

    async with api.delete(f"/faults/{fault['id']}") as response:
        assert [listed] == (await _json(response))["healed"]
    assert 200 == (await get(simulation.running, index, "/health")).status


async def test_all_faults_are_healed_at_once(api: aiohttp.ClientSession) -> None:
    for kind in ("kill", "hang"):
        async with api.post("/faults", json={"kind": kind, "count": 2}):
            pass
    async with api.delete("/faults") as response:
        assert 2 == len((await _json(response))["healed"])
    async with api.get("/faults") as response:
        assert [] == await _json(response)


@pytest.mark.parametrize(
    "authorization", ["", "Bearer wrong", "Basic {token}", "{token}", "Bearer é"]
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/faults"), ("DELETE", "/faults")])
async def test_a_write_without_the_token_is_refused(
    simulation: Simulation, authorization: str, method: str, path: str
) -> None:
    headers = {
        "Authorization": authorization.format(token=simulation.tokens.path.read_text().strip())
    }
    async with (
        aiohttp.ClientSession(simulation.control_url) as session,
        session.request(
            method, path, json={"kind": "kill", "count": 1}, headers=headers
        ) as response,
    ):
        assert 401 == response.status
        assert "Bearer" == response.headers["WWW-Authenticate"]
        assert "application/problem+json" == response.content_type
        assert simulation.tokens.path.read_text().strip() not in await response.text()
    assert () == simulation.running.fleet.faults


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"kind":"kil","count":1}', "did you mean kill?"),
        (b'{"kind":"kill","node":"nod-001"}', "did you mean node-001?"),
        (b'{"kind":"kill","count":31}', "only 30"),
        (b"[]", "expected a JSON object"),
        (b"{", "expected a JSON object"),
        (b"\xff", "expected a JSON object"),
    ],
)
async def test_a_fault_that_cannot_be_is_a_problem_document(
    api: aiohttp.ClientSession, body: bytes, said: str
) -> None:
    async with api.post("/faults", data=body) as response:
        assert 400 == response.status
        assert "application/problem+json" == response.content_type
        problem = await _json(response)
    assert ("about:blank", "Bad Request", 400) == (
        problem["type"],
        problem["title"],
        problem["status"],
    )
    assert said in problem["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/faults/fault-9", 404),
        ("GET", "/nope", 404),
        ("PUT", "/faults", 405),
        ("GET", "/nodes/node-001/containers", 404),
    ],
)
async def test_what_is_not_there_is_a_problem_document(
    api: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with api.request(method, path) as response:
        assert status == response.status
        assert "application/problem+json" == response.content_type
        assert status == (await _json(response))["status"]
