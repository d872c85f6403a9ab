"""Hosted containers: begun where ordered, ended by removal or fault, reported like real ones."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from provisioning.simulator.app import Hosting, RunningFleet, running_fleet, running_host
from provisioning.simulator.errors import (
    FaultError,
    ListenError,
    NodeGoneError,
    PlaceTakenError,
    StartOrderError,
)
from provisioning.simulator.fleet_api import metrics_body
from provisioning.simulator.hosting import MAX_NODES, ContainerHost, ContainerState, InstanceFactory
from provisioning.simulator.server import open_listeners
from provisioning.simulator.spec import MODELS, FleetSpec, Hardware, Layout, Mode, dealt
from tests.provisioning.simulator.client import Answer, Client, FakeClock, connected
from tests.provisioning.simulator.hosting import N_PORTS, free_range, order

LOAD_S = 3.0
MIXED = FleetSpec(hardware=((Hardware.EPYC_9654, 2), (Hardware.GPU, 1)))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def running(clock: FakeClock) -> AsyncIterator[RunningFleet]:
    async with running_host(MIXED, Hosting(free_range(), LOAD_S), clock=clock) as fleet:
        yield fleet


@pytest.fixture
def host(running: RunningFleet) -> ContainerHost:
    assert running.host is not None
    return running.host


async def ask(address: str, port: int, path: str) -> Answer:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        return await Client(reader, writer).get(path)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


def layout_of(running: RunningFleet) -> Layout:
    return Layout(running.port, N_PORTS)


def ports_of(running: RunningFleet) -> range:
    return layout_of(running).ports


def states(host: ContainerHost, node: str = "n1") -> dict[str, ContainerState]:
    return {status.name: status.state for status in host.containers(node)}


async def test_nobody_lives_there_before_a_container_is_ordered(running: RunningFleet) -> None:
    with pytest.raises(ConnectionResetError):
        await ask("127.1.0.1", running.port, "/health")

    assert [] == running.inventory


async def test_a_container_loads_then_serves_as_the_instance_that_was_ordered(
    running: RunningFleet, host: ContainerHost, clock: FakeClock
) -> None:
    host.start("n1", "u", order(running.port))
    clock.now_s += LOAD_S - 0.1
    assert 503 == (await ask("127.1.0.1", running.port, "/health")).status
    clock.now_s += 0.1

    assert 200 == (await ask("127.1.0.1", running.port, "/health")).status
    metrics = (await ask("127.1.0.1", running.port, "/api/metrics")).json
    assert "llama3.1:8b" == metrics["model"]
    assert clock.now_s - LOAD_S == metrics["start_time_seconds"]
    assert 0 == metrics["generated_tokens_total"]


async def test_counters_grow_only_once_it_serves(
    running: RunningFleet, host: ContainerHost, clock: FakeClock
) -> None:
    host.start("n1", "u", order(running.port))
    clock.now_s += LOAD_S
    await ask("127.1.0.1", running.port, "/health")
    clock.now_s += 1_000

    metrics = (await ask("127.1.0.1", running.port, "/api/metrics")).json

    (instance,) = running.fleet.instances
    assert (
        pytest.approx(1_000 * instance.requests_per_s * 2.2, rel=0.5)
        == (metrics["generated_tokens_total"])
    )


async def test_address_and_port_identify_an_instance(
    running: RunningFleet, host: ContainerHost
) -> None:
    """Two nodes, two ports each: four containers, each with its own model; a fifth is empty."""
    places = [(f"127.1.0.{node}", running.port + slot) for node in (1, 2) for slot in (0, 1)]
    for number, ((address, port), model) in enumerate(zip(places, MODELS, strict=True)):
        asked = msgspec.structs.replace(order(port, number=number), host=address, model=model.name)
        host.start(f"n{address[-1]}", f"u{number}", asked)

    assert [model.name for model in MODELS] == [one.model.name for one in running.fleet.instances]
    seen = [running.inventory[number] for number in range(4)]
    assert [f"http://{address}:{port}" for address, port in places] == [one["url"] for one in seen]
    with pytest.raises(ConnectionResetError):
        await ask("127.1.0.2", running.port + 2, "/health")
    for address, port in places:
        assert 503 == (await ask(address, port, "/health")).status


async def test_starting_what_runs_does_nothing(
    running: RunningFleet, host: ContainerHost, clock: FakeClock
) -> None:
    host.start("n1", "u", order(running.port))
    (before,) = running.fleet.states.values()
    clock.now_s += 60

    host.start("n1", "u", order(running.port))
    host.start("n1", "u", order(running.port + 1))

    assert [before] == list(running.fleet.states.values())


async def test_a_place_belongs_to_one_container_until_that_is_removed(
    running: RunningFleet, host: ContainerHost
) -> None:
    host.start("n1", "first", order(running.port))
    for node, fleet in (("n1", "f"), ("n2", "f"), ("n1", "g")):
        with pytest.raises(PlaceTakenError, match=f"port {running.port} of 127.1.0.1.*first"):
            host.start(node, "second", order(running.port, fleet=fleet))
    assert ["first"] == [status.name for status in host.containers("n1")]

    host.remove("n1", "first", fleet="f")
    host.start("n1", "second", order(running.port))

    assert {"second": ContainerState.RUNNING} == states(host)


async def test_a_removed_container_is_gone_with_its_connections(
    running: RunningFleet, host: ContainerHost
) -> None:
    host.start("n1", "u", order(running.port))
    async with connected(running, running.fleet.instances[0]) as client:
        await client.get("/health")
        host.remove("n1", "u", fleet="f")
        host.start("n1", "next", order(running.port, generation=2))

        with pytest.raises(ConnectionResetError):
            await client.reader.read()
    host.remove("n1", "next", fleet="f")
    host.remove("n1", "next", fleet="f")

    with pytest.raises(ConnectionResetError):
        await ask("127.1.0.1", running.port, "/health")
    assert {} == states(host)
    assert {} == running.fleet.states


async def test_a_killed_container_is_told_as_exited_and_started_anew_has_a_fresh_life(
    running: RunningFleet, host: ContainerHost, clock: FakeClock
) -> None:
    host.start("n1", "u", order(running.port))
    clock.now_s += 500
    running.fleet.inject("kill", ids=["llama-00001"])
    (killed,) = host.containers("n1")
    with pytest.raises(ConnectionResetError):
        await ask("127.1.0.1", running.port, "/health")
    clock.now_s += 60

    host.start("n1", "u", order(running.port))

    assert (ContainerState.EXITED, -9, False) == (
        killed.state,
        killed.exit_status,
        killed.is_out_of_memory,
    )
    (healed,) = host.containers("n1")
    assert (ContainerState.RUNNING, None) == (healed.state, healed.exit_status)
    assert () == running.fleet.faults
    (state,) = running.fleet.states.values()
    assert clock.now_s == state.life.start_s
    assert b'"generated_tokens_total":0,' in metrics_body(MIXED)(state, clock.now_s)


async def test_an_exited_container_may_be_started_anew_elsewhere(
    running: RunningFleet, host: ContainerHost
) -> None:
    host.start("n1", "u", order(running.port))
    running.fleet.inject("kill", node="n1")

    host.start("n1", "u", order(running.port + 1))

    assert [running.port + 1] == [status.port for status in host.containers("n1")]
    assert 1 == len(running.fleet.states)


async def test_a_fault_spares_those_that_were_started_anew_and_befalls_the_others(
    running: RunningFleet, host: ContainerHost
) -> None:
    for number in (1, 2):
        host.start("n1", f"u{number}", order(running.port + number, number=number))
    fault = running.fleet.inject("kill", node="n1")

    host.start("n1", "u1", order(running.port + 1, number=1))

    assert {"u1": ContainerState.RUNNING, "u2": ContainerState.EXITED} == states(host)
    (left,) = running.fleet.faults
    assert (fault.id, 1) == (left.id, len(left.indices))
    running.fleet.heal(fault.id)
    assert {"u1": ContainerState.RUNNING, "u2": ContainerState.RUNNING} == states(host)


async def test_who_follows_in_a_place_has_no_fault_of_its_forerunner(
    running: RunningFleet, host: ContainerHost
) -> None:
    host.start("n1", "u", order(running.port))
    running.fleet.inject("hang", node="n1")
    host.remove("n1", "u", fleet="f")
    host.start("n1", "v", order(running.port))

    assert 503 == (await ask("127.1.0.1", running.port, "/health")).status
    assert () == running.fleet.faults


@pytest.mark.parametrize(
    ("kind", "state", "status", "is_out_of_memory"),
    [
        ("kill", ContainerState.EXITED, -9, False),
        ("oom_kill", ContainerState.EXITED, -9, True),
        ("oom_restart", ContainerState.RUNNING, None, True),
        ("runner_oom", ContainerState.RUNNING, None, True),
        ("hang", ContainerState.RUNNING, None, False),
        ("slow", ContainerState.RUNNING, None, False),
        ("loading", ContainerState.RUNNING, None, False),
    ],
)
async def test_a_runtime_sees_of_a_fault_what_it_does_to_the_process(
    running: RunningFleet,
    host: ContainerHost,
    kind: str,
    state: ContainerState,
    status: int | None,
    is_out_of_memory: bool,
) -> None:
    host.start("n1", "u", order(running.port))

    running.fleet.inject(kind, node="n1")

    (seen,) = host.containers("n1")
    assert (state, status, is_out_of_memory) == (
        seen.state,
        seen.exit_status,
        seen.is_out_of_memory,
    )


async def test_a_restart_for_memory_is_over_after_its_time(
    running: RunningFleet, host: ContainerHost, clock: FakeClock
) -> None:
    host.start("n1", "u", order(running.port))
    running.fleet.inject("oom_restart", node="n1", seconds=7.0)
    clock.now_s += 7.0

    (seen,) = host.containers("n1")

    assert not seen.is_out_of_memory
    assert 200 == (await ask("127.1.0.1", running.port, "/health")).status


async def test_a_fault_among_no_containers_is_refused(running: RunningFleet) -> None:
    with pytest.raises(FaultError, match="there are no instances yet"):
        running.fleet.inject("kill", share=1)


async def test_a_node_that_is_gone_answers_nothing_and_comes_back_whole(
    running: RunningFleet, host: ContainerHost
) -> None:
    host.start("n1", "u", order(running.port))
    host.start("n2", "v", msgspec.structs.replace(order(running.port), host="127.1.0.2"))
    running.fleet.inject("node_gone", node="n1")

    with pytest.raises(NodeGoneError):
        host.containers("n1")
    with pytest.raises(NodeGoneError):
        host.start("n1", "w", order(running.port + 1))
    with pytest.raises(NodeGoneError):
        host.remove("n1", "u", fleet="f")
    with pytest.raises(NodeGoneError), host.listening("n1", fleet="f"):
        pass
    assert {"v": ContainerState.RUNNING} == states(host, "n2")

    running.fleet.heal()
    assert {"u": ContainerState.RUNNING} == states(host)


async def test_containers_are_told_sorted_by_name(
    running: RunningFleet, host: ContainerHost
) -> None:
    for number, name in enumerate("bca"):
        host.start("n1", name, order(running.port + number, number=number))

    assert ["a", "b", "c"] == [status.name for status in host.containers("n1")]


async def test_fleets_share_a_node_and_do_not_see_each_other(
    running: RunningFleet, host: ContainerHost
) -> None:
    """Both call their container `u`."""
    host.start("n1", "u", order(running.port, fleet="f"))
    host.start("n1", "u", order(running.port + 1, fleet="g"))

    host.remove("n1", "u", fleet="f")

    assert [] == host.containers("n1", fleet="f")
    assert ["g"] == [status.fleet for status in host.containers("n1")]


async def test_listeners_hear_of_the_ends_of_their_fleet_on_their_node(
    running: RunningFleet, host: ContainerHost
) -> None:
    """Of eight containers on two nodes and of two fleets, two are theirs; one has ended before."""
    for slot, (node, fleet) in enumerate([("n1", "f"), ("n1", "g"), ("n2", "f"), ("n2", "g")]):
        for number in (1, 2):
            asked = order(running.port + 2 * slot + number, fleet=fleet, number=number)
            host.start(node, f"u{number}", asked)
    running.fleet.inject("kill", ids=["llama-00001"])

    with host.listening("n1", fleet="f") as names:
        assert "u1" == names.get_nowait()
        running.fleet.inject("slow", ids=["llama-00002"])
        assert names.empty()
        running.fleet.inject("oom_restart", ids=["llama-00002"])
        assert "u2" == names.get_nowait()
        assert names.empty()
        running.fleet.inject("node_gone", node="n2")
        assert names.empty()
        running.fleet.inject("node_gone", node="n1")
        assert names.get_nowait() is None
    assert 0 == host.n_listeners


async def test_the_same_id_gives_the_same_instance_wherever_it_is(running: RunningFleet) -> None:
    book = InstanceFactory(MIXED, layout_of(running))

    here = book.instance_of("n1", order(running.port))
    there = book.instance_of("n1", order(running.port + 1, generation=2))
    other = book.instance_of("n1", order(running.port, number=2))

    assert here.requests_per_s == there.requests_per_s
    assert here.tokens_per_second == there.tokens_per_second
    assert here.requests_per_s != other.requests_per_s


@pytest.mark.parametrize("model", MODELS)
async def test_speed_is_that_of_the_model_on_the_hardware_of_the_nodes_address(
    running: RunningFleet, model: Any
) -> None:
    book = InstanceFactory(MIXED, layout_of(running))
    asked = msgspec.structs.replace(order(running.port), model=model.name)

    # Asked backwards: the order in which nodes are first used decides nothing.
    by_node = {
        number: book.instance_of("n", msgspec.structs.replace(asked, host=f"127.1.0.{number}"))
        for number in (9, 3, 2, 1)
    }

    hardware = dict(zip(range(1, 10), dealt(dict(MIXED.hardware)), strict=False))
    usual = {Hardware.EPYC_9654: 42.0, Hardware.GPU: 187.0}
    for number, instance in by_node.items():
        assert hardware[number] == instance.hardware
        expected = usual[instance.hardware] * model.relative_speed
        assert pytest.approx(expected, rel=0.031) == instance.tokens_per_second


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"host": "127.0.0.1"}, "give each node its own from 127.1.0.1 to 127.2.0.0"),
        ({"host": "127.2.0.1"}, "no address of a hosted node"),
        ({"host": "::1"}, "no address"),
        ({"host": "localhost"}, "no address"),
        ({"port": 1}, "--host-containers"),
        ({"model": "llama3.1:9b"}, "did you mean llama3.1:8b?"),
        ({"model": ""}, "they have llama3.1:8b, mistral:7b"),
    ],
)
async def test_what_cannot_be_is_refused_and_leaves_nothing(
    running: RunningFleet, host: ContainerHost, change: dict[str, Any], said: str
) -> None:
    asked = msgspec.structs.replace(order(running.port), **change)

    with pytest.raises(StartOrderError, match=said):
        host.start("n1", "u", asked)

    assert {} == states(host)


async def test_the_first_and_the_last_place_can_be_had(
    running: RunningFleet, host: ContainerHost
) -> None:
    ports = ports_of(running)
    last = msgspec.structs.replace(order(ports[-1], number=2), host="127.2.0.0")
    host.start("n1", "first", order(ports[0]))
    host.start("n65536", "last", last)

    assert [0, MAX_NODES * len(ports) - 1] == list(running.fleet.states)
    assert 503 == (await ask("127.2.0.0", ports[-1], "/health")).status
    for port in (ports[0] - 1, ports[-1] + 1):
        with pytest.raises(StartOrderError):
            host.start("n1", "beside", order(port))


async def test_each_port_takes_the_place_of_a_connection(running: RunningFleet) -> None:
    async with running_fleet(MIXED) as fleet:
        assert fleet.max_connections - (N_PORTS - 1) == running.max_connections


async def test_a_port_that_is_taken_leaves_none_of_the_others_open() -> None:
    ports = free_range(3)
    with socket.create_server(("0.0.0.0", ports[-1])):  # noqa: S104
        with pytest.raises(ListenError, match=f"port {ports[-1]}"):
            open_listeners(ports)

    for listener in open_listeners(ports):
        listener.close()


async def test_an_order_s_engine_says_what_a_container_is_and_the_mode_where_it_is_another(
    clock: FakeClock,
) -> None:
    pages = {}
    for mode in Mode:
        ports, engines = free_range(3), ("fleet", "ollama", "auto")
        async with running_host(FleetSpec(mode=mode), Hosting(ports, 0.0), clock=clock) as running:
            assert running.host is not None
            for number, (port, engine) in enumerate(zip(ports, engines, strict=True), start=1):
                asked = msgspec.structs.replace(order(port, number=number), engine=engine)
                running.host.start("n1", engine, asked)
                answer = await ask("127.1.0.1", port, "/api/ps")
                pages[mode, engine] = answer.status
                version = running.fleet.instances[-1].release.version
                assert ("0.23.0" if answer.status == 200 else "0.4.7") == version
                if answer.status == 200:
                    (model,) = answer.json["models"]
                    assert "llama3.1:8b" == model["name"]
                    assert model["size"] == model["size_vram"], "it has a GPU"

    assert {
        (mode, engine): 200
        if engine == "ollama" or (mode, engine) == (Mode.OLLAMA, "auto")
        else 404
        for mode in Mode
        for engine in ("fleet", "ollama", "auto")
    } == pages
