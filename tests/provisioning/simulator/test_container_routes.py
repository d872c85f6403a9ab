"""Containers over the control API: idempotent orders, refusals, the stream of those that end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from provisioning.simulator import control
from provisioning.simulator.app import Simulation
from tests.provisioning.simulator.hosting import hosting, order
from tests.waiting import eventually

CONTAINER = "/nodes/n1/containers/llama-00001.1"


@pytest.fixture
async def simulation(tmp_path: Path) -> AsyncIterator[Simulation]:
    async with hosting(tmp_path) as running:
        yield running


@pytest.fixture
async def api(simulation: Simulation) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {simulation.tokens.path.read_text().strip()}"}
    async with aiohttp.ClientSession(simulation.control_url, headers=headers) as session:
        yield session


@pytest.fixture
def body(simulation: Simulation) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(order(simulation.running.port))
    return made


async def containers(api: aiohttp.ClientSession, query: str = "") -> Any:
    async with api.get(f"/nodes/n1/containers{query}") as response:
        assert 200 == response.status
        return await response.json()


async def test_a_container_is_ordered_listed_and_removed_each_twice(
    api: aiohttp.ClientSession, body: dict[str, Any]
) -> None:
    for _ in range(2):
        async with api.put(CONTAINER, json=body) as response:
            assert 204 == response.status
    (listed,) = await containers(api)
    assert (
        body
        | {"name": "llama-00001.1", "state": "running"}
        | {"exit_status": None, "is_out_of_memory": False}
    ) == listed

    for _ in range(2):
        async with api.delete(f"{CONTAINER}?fleet=f") as response:
            assert 204 == response.status
    assert [] == await containers(api)


async def test_containers_can_be_listed_by_fleet(
    api: aiohttp.ClientSession, body: dict[str, Any]
) -> None:
    async with api.put(CONTAINER, json=body):
        pass

    assert 1 == len(await containers(api, "?fleet=f"))
    assert [] == await containers(api, "?fleet=g")


async def test_the_inventory_follows_the_containers(
    api: aiohttp.ClientSession, body: dict[str, Any]
) -> None:
    async def listed() -> list[tuple[str, str, str]]:
        async with api.get("/instances") as response:
            return [(one["id"], one["url"], one["node"]) for one in await response.json()]

    assert [] == await listed()
    async with api.put(CONTAINER, json=body):
        pass
    assert [("llama-00001", f"http://127.1.0.1:{body['port']}", "n1")] == await listed()
    async with api.delete(f"{CONTAINER}?fleet=f"):
        pass
    assert [] == await listed()


async def test_a_fault_by_the_instances_id_befalls_its_container(
    api: aiohttp.ClientSession, body: dict[str, Any]
) -> None:
    async with api.put(CONTAINER, json=body):
        pass
    async with api.post("/faults", json={"kind": "kill", "ids": ["llama-00001"]}) as response:
        assert ["llama-00001"] == (await response.json())["instance_ids"]

    (killed,) = await containers(api)

    assert ("exited", -9) == (killed["state"], killed["exit_status"])


async def test_a_taken_port_is_a_conflict_and_a_gone_node_unavailable(
    api: aiohttp.ClientSession, body: dict[str, Any]
) -> None:
    async with api.put(CONTAINER, json=body):
        pass
    async with api.put(f"{CONTAINER}x", json=body) as response:
        assert 409 == response.status
        assert "is taken by llama-00001.1" in (await response.json())["detail"]
    async with api.post("/faults", json={"kind": "node_gone", "node": "n1"}):
        pass
    for method, path in (
        ("PUT", CONTAINER),
        ("DELETE", f"{CONTAINER}?fleet=f"),
        ("GET", "/nodes/n1/containers"),
        ("GET", "/nodes/n1/changes?fleet=f"),
    ):
        async with api.request(method, path, json=body) as response:
            assert 503 == response.status
            assert "application/problem+json" == response.content_type
            assert "node_gone" in (await response.json())["detail"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"host": "10.0.0.1"}, "no address of a hosted node"),
        ({"model": "gemma"}, "no model 'gemma'"),
        ({"port": "80"}, "Expected `int`"),
        ({"colour": "red"}, "unknown field `colour`"),
    ],
)
async def test_an_order_that_cannot_be_is_a_problem_document(
    api: aiohttp.ClientSession, body: dict[str, Any], change: dict[str, Any], said: str
) -> None:
    async with api.put(CONTAINER, json=body | change) as response:
        assert 400 == response.status
        assert "application/problem+json" == response.content_type
        assert said in (await response.json())["detail"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
async def test_a_body_that_is_no_order_is_a_problem_document(
    api: aiohttp.ClientSession, data: bytes
) -> None:
    async with api.put(CONTAINER, data=data) as response:
        assert 400 == response.status
        assert "expected a container to start" in (await response.json())["detail"]


@pytest.mark.parametrize(("method", "path"), [("DELETE", CONTAINER), ("GET", "/nodes/n1/changes")])
async def test_who_does_not_say_which_fleet_is_asked_for_it(
    api: aiohttp.ClientSession, method: str, path: str
) -> None:
    async with api.request(method, path) as response:
        assert 400 == response.status
        assert "?fleet=NAME" in (await response.json())["detail"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_a_write_without_the_token_changes_nothing(
    simulation: Simulation, body: dict[str, Any], method: str
) -> None:
    host = simulation.running.host
    assert host is not None
    host.start("n1", "llama-00001.1", order(simulation.running.port))
    async with (
        aiohttp.ClientSession(simulation.control_url) as session,
        session.request(method, f"{CONTAINER}x?fleet=f", json=body) as response,
    ):
        assert 401 == response.status

    assert ["llama-00001.1"] == [status.name for status in host.containers("n1")]


async def test_the_stream_tells_of_containers_that_end_as_they_do(
    api: aiohttp.ClientSession, body: dict[str, Any]
) -> None:
    async with api.put(CONTAINER, json=body):
        pass
    async with api.get("/nodes/n1/changes?fleet=f") as stream:
        assert "application/x-ndjson" == stream.content_type
        async with api.post("/faults", json={"kind": "kill", "node": "n1"}):
            pass

        assert {"name": "llama-00001.1"} == json.loads(await stream.content.readline())


async def test_open_streams_do_not_delay_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SHUTDOWN_S", 3600.0)
    async with asyncio.timeout(100.0), aiohttp.ClientSession() as session:
        async with hosting(tmp_path) as simulation:
            stream = await session.get(f"{simulation.control_url}/nodes/n1/changes?fleet=f")

        assert b"" == await stream.read()


async def test_a_client_that_hangs_up_is_forgotten(
    simulation: Simulation, api: aiohttp.ClientSession
) -> None:
    host = simulation.running.host
    assert host is not None
    stream = await api.get("/nodes/n1/changes?fleet=f")
    await eventually(lambda: host.n_listeners == 1)

    stream.close()

    await eventually(lambda: host.n_listeners == 0)


async def test_many_orders_at_once_are_all_carried_out(
    api: aiohttp.ClientSession, body: dict[str, Any], simulation: Simulation
) -> None:
    async def put(number: int) -> int:
        asked = body | {"port": body["port"] + number, "instance_id": f"i{number}"}
        async with api.put(f"/nodes/n1/containers/i{number}.1", json=asked) as response:
            return response.status

    assert [204] * 30 == await asyncio.gather(*map(put, range(30)))
    assert 30 == len(await containers(api)) == len(simulation.running.inventory)
