"""Probes, warm-up requests, and who listens on a port."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import aiohttp
import pytest
from aiohttp import web

from provisioning.errors import NotAskedError, ResourceExhaustedError, TransientError
from provisioning.model import Probe, RequestsPage, WarmUp
from provisioning.runtime import probe
from provisioning.runtime.base import Prober
from provisioning.runtime.probe import MAX_PAGE_BYTES, HttpProber
from provisioning.spec.defaults import ENGINES
from tests.ports import free_port

HOST = "127.0.0.1"
PROBE = Probe(timeout_s=60.0)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[int]]


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    prober = HttpProber()
    yield prober
    await prober.close()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(handler)`: the port of a server that answers everything by the handler."""
    runners = []

    async def start(handler: Handler) -> int:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, HOST, 0).start()
        runners.append(runner)
        port: int = runner.addresses[0][1]
        return port

    yield start
    for runner in runners:
        await runner.cleanup()


async def hang(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


def answering(status: int, text: str = "", **headers: str) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, headers=headers)

    return answer


async def test_an_instance_that_answers_200_is_healthy(prober: Prober, serve: Serve) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.path_qs == "/up?deep=1" else 404)

    port = await serve(answer)

    assert "" == await prober.probe(HOST, port, Probe(path="/up?deep=1", timeout_s=60.0))


@pytest.mark.parametrize("status", [204, 301, 404, 500, 503])
async def test_any_other_answer_is_told(prober: Prober, serve: Serve, status: int) -> None:
    port = await serve(answering(status, Location="/health"))

    said = await prober.probe(HOST, port, PROBE)

    assert said.startswith(f"http://{HOST}:{port}/health answers {status} ")


async def test_an_instance_that_hangs_is_told_after_the_probes_time(
    prober: Prober, serve: Serve
) -> None:
    port = await serve(hang)

    said = await prober.probe(HOST, port, Probe(timeout_s=0.1))

    assert f"http://{HOST}:{port}/health does not answer within 0.1 s" == said


@pytest.mark.parametrize("host", [HOST, "no-such-host.invalid"])
async def test_without_a_descriptor_an_instance_is_not_asked(
    prober: Prober, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_AGAIN, "as resolvers do without a descriptor")

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    await prober.probe(HOST, free_port(), PROBE)  # what a first question loads takes descriptors

    with no_descriptor_left(), pytest.raises(NotAskedError, match="was not asked"):
        await prober.probe(host, 1, PROBE)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/dev/null") as lowest_free:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free.fileno(), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_warm_up_sends_all_its_requests_in_order(prober: Prober, serve: Serve) -> None:
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, request.path, request.content_type, await request.text()))
        return web.Response(text="{}")

    port = await serve(answer)
    load = WarmUp(path="/api/generate", body='{"model": "m"}')

    await prober.warm_up(HOST, port, (WarmUp(path="/api/tags"), load))

    assert [
        ("GET", "/api/tags", "application/octet-stream", ""),
        ("POST", "/api/generate", "application/json", '{"model": "m"}'),
    ] == seen


async def test_a_warm_up_ends_with_the_last_byte_of_its_answer(
    prober: Prober, serve: Serve
) -> None:
    """As of a model that is pulled: the answer tells of its progress, for minutes."""
    is_loaded = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"status": "pulling"}\n')
        await is_loaded.wait()
        return response

    port = await serve(answer)
    warming = asyncio.create_task(prober.warm_up(HOST, port, (WarmUp(path="/api/pull"),)))

    done, _ = await asyncio.wait([warming], timeout=0.2)
    assert set() == done

    is_loaded.set()
    await asyncio.wait_for(warming, 100.0)


async def test_a_warm_up_that_is_refused_fails_with_what_was_said_and_stops(
    prober: Prober, serve: Serve
) -> None:
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=500, text="model\n not found" + "." * 10_000)

    port = await serve(answer)

    with pytest.raises(TransientError, match=r"500 Internal.*: model not found\.+; see") as caught:
        await prober.warm_up(HOST, port, (WarmUp(path="/one"), WarmUp(path="/two")))

    assert ["/one"] == asked
    assert len(str(caught.value)) < 400


class Store:
    """A folder of models, and an Ollama that has it; notes what is pulled."""

    def __init__(self, *models: str) -> None:
        self.models = set(models)
        self.pulled: list[str] = []
        self.refusals: list[int] = []
        """What the next pulls are answered with; then they go well."""

    async def answer(self, request: web.Request) -> web.Response:
        model = (await request.json())["model"]
        whole = model if ":" in model else f"{model}:latest"
        if request.path == "/api/show":
            return web.Response(status=200 if whole in self.models else 404)
        self.pulled.append(model)
        await asyncio.sleep(0.02)  # so that others could pull meanwhile
        if self.refusals:
            return web.Response(status=self.refusals.pop(0))
        self.models.add(whole)
        return web.Response()


def pull(model: str) -> tuple[WarmUp]:
    return (WarmUp(path="/api/pull", body=json.dumps({"model": model, "stream": False})),)


@pytest.mark.parametrize(
    ("models", "expected"),
    [((), ["tiny"]), (("tiny:latest",), []), (("tiny:8b",), ["tiny"])],
    ids=["missing", "there", "another"],
)
async def test_only_a_model_that_is_missing_is_pulled(
    prober: Prober, serve: Serve, models: tuple[str, ...], expected: list[str]
) -> None:
    store = Store(*models)
    port = await serve(store.answer)

    await prober.warm_up(HOST, port, pull("tiny"))

    assert expected == store.pulled


async def test_instances_with_one_folder_of_models_pull_once(prober: Prober, serve: Serve) -> None:
    store = Store()
    ports = [await serve(store.answer) for _ in range(6)]
    names = ["tiny", "tiny:latest"] * 3

    async with asyncio.TaskGroup() as group:
        for port, name in zip(ports, names, strict=True):
            group.create_task(prober.warm_up(HOST, port, pull(name), store="/models"))

    assert ["tiny"] == store.pulled


async def test_a_pull_that_fails_is_made_by_the_next_of_its_folder_and_holds_up_no_other(
    prober: Prober, serve: Serve
) -> None:
    store, is_asked = Store(), asyncio.Event()
    store.refusals = [500]
    ports = [await serve(store.answer) for _ in range(2)]

    async def hang_once_asked(request: web.Request) -> web.Response:
        if request.path == "/api/show":
            return web.Response(status=404)
        is_asked.set()
        return await hang(request)

    hanging = asyncio.create_task(
        prober.warm_up(HOST, await serve(hang_once_asked), pull("tiny"), store="/elsewhere")
    )
    await is_asked.wait()

    ends = await asyncio.gather(
        *(prober.warm_up(HOST, port, pull("tiny"), store="/models") for port in ports),
        return_exceptions=True,
    )

    assert [TransientError, type(None)] == [type(end) for end in ends]
    assert ["tiny", "tiny"] == store.pulled
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


async def test_a_warm_up_that_is_given_up_says_what_it_has_waited_for(
    prober: Prober, serve: Serve
) -> None:
    """The first waits for the registry, the second for the first."""

    is_pulled = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/api/show":
            return web.Response(status=404)
        is_pulled.set()
        return await hang(request)

    port = await serve(answer)
    notes = []
    tasks = [asyncio.create_task(prober.warm_up(HOST, port, pull("tiny"))) for _ in range(2)]
    await is_pulled.wait()
    for task in reversed(tasks):
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        notes += caught.value.__notes__

    assert [
        "it waits for tiny, which another instance pulls",
        f"the warm-up http://{HOST}:{port}/api/pull is not answered",
    ] == notes


FLEET, LLAMA, VLLM = (ENGINES[name].requests for name in ("fleet", "llamacpp", "vllm"))
IDLE_VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="a } b"} 0 1800000000000
vllm:num_requests_running{engine="1",model_name="a } b"} 0
vllm:num_requests_waiting{engine="0",model_name="a } b"} 0.0
"""


@pytest.mark.parametrize(
    ("page", "status", "body", "is_idle"),
    [
        (FLEET, 200, '{"requests_running": 0, "requests_queued": 0, "x": 3}', True),
        (FLEET, 200, '{"requests_running": 0, "requests_queued": 1}', False),
        (FLEET, 200, '{"requests_running": 0}', False),
        (FLEET, 200, '{"requests_running": 0, "requests_queued": false}', False),
        (FLEET, 200, '{"requests_running": 0', False),
        (LLAMA, 200, "# X\nllamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n", True),
        (LLAMA, 200, "llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n", False),
        (LLAMA, 200, "llamacpp:requests_processing 0\n" + "#" * MAX_PAGE_BYTES, False),
        (VLLM, 200, IDLE_VLLM, True),
        (VLLM, 200, IDLE_VLLM.replace("0.0", "1.0"), False),
        (VLLM, 200, IDLE_VLLM.replace("0.0", "much"), False),
        (VLLM, 200, IDLE_VLLM.replace("waiting{", "waiting_by_reason{"), False),
        (LLAMA, 501, "llamacpp:requests_processing 0\nllamacpp:requests_deferred 0\n", False),
    ],
)  # fmt: skip
async def test_an_instance_is_idle_only_where_its_page_says_that_nothing_runs_or_waits(
    prober: Prober, serve: Serve, page: RequestsPage, status: int, body: str, is_idle: bool
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status if request.path == page.path else 404, text=body)

    assert is_idle == await prober.is_idle(HOST, await serve(answer), page)


@pytest.mark.parametrize("listening_on", [HOST, "0.0.0.0"])  # noqa: S104 # what strangers do
async def test_a_port_on_which_somebody_listens_is_refused(listening_on: str) -> None:
    with socket.create_server((listening_on, 0)) as stranger:
        port = stranger.getsockname()[1]

        with pytest.raises(ResourceExhaustedError, match=rf"{HOST}:{port}: somebody does already"):
            await probe.refuse_taken(HOST, port)


async def test_a_host_that_is_silent_does_not_hold_up_a_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe, "CONNECT_LIMIT_S", 0.05)
    with socket.create_server((HOST, 0), backlog=0) as full, contextlib.ExitStack() as stack:
        for _ in range(2):  # more than it keeps waiting: to the next one it does not answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())

        await probe.refuse_taken(*full.getsockname())


async def test_a_connection_that_has_reached_itself_is_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    from_there = functools.partial(asyncio.open_connection, local_addr=(HOST, port))
    monkeypatch.setattr(asyncio, "open_connection", from_there)

    await probe.refuse_taken(HOST, port)
