"""Hosted containers keep the promises of every runtime, over a real control API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from provisioning.errors import (
    ContainerError,
    NodeUnreachableError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.model import ContainerSpec, ContainerState, container_name
from provisioning.runtime.simulator import SimulatorRuntime
from provisioning.simulator.app import Simulation
from tests.ports import free_port
from tests.provisioning.runtime.contract import (
    FLEET,
    Behaviour,
    Feature,
    RuntimeContract,
    has_exited,
    running,
)
from tests.provisioning.simulator.hosting import hosting
from tests.waiting import eventually

NODE = "n1"
HOST = "127.1.0.1"
MODEL = "llama3.1:8b"
STRANGER = "stranger"
FAULT_BY_BEHAVIOUR: Mapping[Behaviour, str] = {
    Behaviour.ENDS: "kill",
    Behaviour.EATS_MEMORY: "oom_kill",
}
"""What befalls a container as soon as it runs. One that ignores SIGTERM is like any other: there
is no process that could ignore it."""


OpenAt = Callable[..., SimulatorRuntime]
"""`open_at(url, token_path, timeout_s=1.0)`."""


class HostedLab:
    """A simulation's first node.

    Containers have no environment, and none ends by itself, so that the exit status is that of the
    fault: always -9.
    """

    features = frozenset({Feature.PORTS, Feature.MEMORY})

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        assert simulation.running.host is not None
        self.host = simulation.running.host
        self._fleet = simulation.running.fleet
        self._ports = iter(range(simulation.running.port, simulation.running.port + 30))
        self._opened: list[SimulatorRuntime] = []
        self._fault_by_port: dict[int, str] = {}
        self._fleet.watch(self._befall)

    def open(
        self, *, fleet: str = FLEET, node: str = NODE, timeout_s: float = 100.0
    ) -> SimulatorRuntime:
        runtime = SimulatorRuntime(
            fleet,
            node,
            endpoint=self.simulation.control_url,
            token_path=self.simulation.tokens.path,
            timeout_s=timeout_s,
        )
        self._opened.append(runtime)
        return runtime

    def container(
        self, behaviour: Behaviour = Behaviour.SERVES, *, number: int = 1, fleet: str = FLEET
    ) -> ContainerSpec:
        port = next(self._ports)
        if behaviour in FAULT_BY_BEHAVIOUR:
            self._fault_by_port[port] = FAULT_BY_BEHAVIOUR[behaviour]
        return ContainerSpec(
            name=container_name(f"pool-{number}", 1),
            fleet=fleet,
            instance_id=f"pool-{number}",
            generation=1,
            pool="pool",
            host=HOST,
            port=port,
            image="",
            command=(),
            environment=(),
            mounts=(),
            cpus=1.0,
            memory_bytes=0,
            model="no-such" if behaviour is Behaviour.CANNOT_START else MODEL,
        )

    async def kill(self, container: ContainerSpec) -> None:
        self._fleet.inject("kill", ids=[container.instance_id])

    async def take_port(self, container: ContainerSpec) -> None:
        taker = msgspec.structs.replace(container, fleet=STRANGER, name=STRANGER)
        await self.open(fleet=STRANGER).start(taker)

    async def environment(self, container: ContainerSpec) -> Mapping[str, str]:
        raise AssertionError("simulated containers have none")

    async def close(self) -> None:
        for runtime in self._opened:
            await runtime.close()

    def _befall(self, indices: frozenset[int]) -> None:
        for index in indices & self._fleet.states.keys():
            instance = self._fleet.states[index].instance
            fault = self._fault_by_port.pop(instance.port, None)
            if fault is not None:
                self._fleet.inject(fault, ids=[instance.id])


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[HostedLab]:
    async with hosting(tmp_path) as simulation:
        made = HostedLab(simulation)
        yield made
        await made.close()


@pytest.fixture
async def open_at() -> AsyncIterator[OpenAt]:
    """Open runtimes of any control API; they are closed after the test."""
    async with AsyncExitStack() as stack:

        def opened(url: str, token_path: Path, *, timeout_s: float = 100.0) -> SimulatorRuntime:
            runtime = SimulatorRuntime(
                FLEET, NODE, endpoint=url, token_path=token_path, timeout_s=timeout_s
            )
            stack.push_async_callback(runtime.close)
            return runtime

        yield opened


class TestSimulatorRuntime(RuntimeContract):
    """Hosted containers keep the promises of every runtime."""


async def test_a_node_that_is_gone_is_unreachable_and_its_stream_breaks_off(lab: HostedLab) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    fleet = lab.simulation.running.fleet
    async with aclosing(runtime.changes()) as names:
        next_name = asyncio.ensure_future(anext(names))
        await eventually(lambda: lab.host.n_listeners == 1)
        fleet.inject("node_gone", node=NODE)

        with pytest.raises(NodeUnreachableError, match="ended the stream"):
            await next_name
    for asked in (
        runtime.start(container),
        runtime.remove(container.name, grace_s=0.0),
        runtime.containers(),
        anext(runtime.changes()),
    ):
        with pytest.raises(NodeUnreachableError, match=f"node {NODE} does not answer"):
            await asked
    assert () == await lab.open(node="n2").containers()

    fleet.heal()
    assert (running(container),) == await runtime.containers()


async def test_a_simulation_that_does_not_run_is_an_unreachable_node(
    open_at: OpenAt, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("secret-token")
    url = f"http://127.0.0.1:{free_port()}"
    runtime = open_at(url, tmp_path / "token")

    with pytest.raises(NodeUnreachableError, match="--host-containers` running there") as caught:
        await runtime.remove("pool-1.1", grace_s=0.0)

    assert url in str(caught.value)
    assert "secret-token" not in str(caught.value)


async def test_a_stream_that_is_no_stream_of_containers_is_told(
    open_at: OpenAt, tmp_path: Path
) -> None:
    async with answering(200, b"hello\n") as url:
        runtime = open_at(url, tmp_path)

        with pytest.raises(TransientError, match="something else than containers"):
            await anext(runtime.changes())


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b" \n", "holds no token"), (b"a\nb", "no token"), (b"\xff", "text")],
)
async def test_a_token_file_that_cannot_be_used_is_named(
    open_at: OpenAt, lab: HostedLab, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "other-token"
    if content is not None:
        path.write_bytes(content)
    runtime = open_at(lab.simulation.control_url, path)

    with pytest.raises(TransientError, match=f"{path}.*{said}"):
        await runtime.start(lab.container())


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, PermanentError),
        (401, PermanentError),
        (404, PermanentError),
        (409, ResourceExhaustedError),
        (500, TransientError),
        (502, TransientError),
        (503, NodeUnreachableError),
    ],
)
async def test_every_refusal_is_an_error_of_its_own(
    open_at: OpenAt, tmp_path: Path, status: int, expected: type[ContainerError]
) -> None:
    async with answering(status, b'{"detail": "for a reason"}') as url:
        runtime = open_at(url, tmp_path)

        with pytest.raises(expected, match=f"HTTP {status}: for a reason") as caught:
            await runtime.containers()
    assert expected is type(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"a": 1}', b'[{"name": 3}]', b'["\xff"]'])
async def test_an_answer_that_is_no_list_of_containers_is_told(
    open_at: OpenAt, tmp_path: Path, body: bytes
) -> None:
    async with answering(200, body) as url:
        runtime = open_at(url, tmp_path)

        with pytest.raises(TransientError, match="something else than containers"):
            await runtime.containers()


async def test_a_started_container_is_told_of_under_any_name(lab: HostedLab) -> None:
    """Names that mean something in a URL are words like any other."""
    runtime = lab.open(fleet="a&b=c d", node="rack 1/n?1#x")
    container = msgspec.structs.replace(lab.container(), name="x/y?z#%41", fleet="a&b=c d")

    await runtime.start(container)
    await lab.kill(container)
    await eventually(lambda: has_exited(runtime, container))
    await runtime.start(container)

    (found,) = await runtime.containers()
    assert (container.name, ContainerState.RUNNING) == (found.name, found.state)
    await runtime.remove(container.name, grace_s=0.0)
    assert () == await runtime.containers()


@asynccontextmanager
async def answering(status: int, body: bytes) -> AsyncIterator[str]:
    """Run a server that answers everything alike."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    app = web.Application()
    app.add_routes([web.route("*", "/{path:.*}", answer)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
