"""The fleet over real loopback sockets: how it answers, and every fault as a client meets it."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from typing import cast

import pytest
import uvloop

from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.connection import Connection
from provisioning.simulator.fleet import Fleet
from provisioning.simulator.fleet_api import FleetRouter
from provisioning.simulator.runner import TextGenerator
from provisioning.simulator.server import BACKLOG, FleetServer, open_listener
from provisioning.simulator.spec import FleetSpec, Mode
from provisioning.simulator.wire import Request, RequestReader
from tests.provisioning.simulator.client import FakeClock, connected, get, victim
from tests.waiting import eventually

SPEC = FleetSpec(n_instances=20, n_nodes=2)
PAIR = (
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    b"GET /api/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def fleet(clock: FakeClock) -> AsyncIterator[RunningFleet]:
    async with running_fleet(SPEC, clock=clock) as running:
        yield running


async def test_a_healthy_instance_says_so(fleet: RunningFleet) -> None:
    answer = await get(fleet, 0, "/health")

    assert 200 == answer.status
    assert {"status": "ok"} == answer.json
    assert "application/json" == answer.headers["content-type"]


async def test_instances_are_told_apart_by_the_address_that_is_called(fleet: RunningFleet) -> None:
    for index in (0, 7, 19):
        speed = fleet.fleet.instances[index].tokens_per_second
        assert (
            round(speed, 2) == (await get(fleet, index, "/api/metrics")).json["tokens_per_second"]
        )


async def test_pipelined_requests_are_answered_in_order_on_a_connection_that_stays(
    fleet: RunningFleet,
) -> None:
    async with connected(fleet) as client:
        for _ in range(3):
            client.send(PAIR)
            assert b'{"status":"ok"}' == (await client.read_answer()).body
            assert "error_count" in (await client.read_answer()).json
    assert 1 == fleet.n_accepted


async def test_the_usual_read_gives_values_of_the_moment(
    fleet: RunningFleet, clock: FakeClock
) -> None:
    async with connected(fleet) as client:
        answers = []
        for _ in range(4):
            answers.append(await client.get("/api/metrics"))
            clock.now_s += 3600

    totals = [answer.json["prompt_tokens_total"] for answer in answers]
    assert totals == sorted(set(totals))
    assert 4 == len({answer.headers["date"] for answer in answers})


async def test_a_request_in_pieces_is_answered_once_it_is_whole(fleet: RunningFleet) -> None:
    async with connected(fleet) as client:
        client.send(PAIR[:30])
        assert await client.hears_nothing()
        client.send(PAIR[30:])
        assert 200 == (await client.read_answer()).status
        assert 200 == (await client.read_answer()).status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/version", 404),
        ("GET", "/metrics", 404),
        ("POST", "/health", 405),
        ("HEAD", "/health", 200),
        ("HEAD", "/api/metrics", 200),
        ("GET", "/health?verbose=1", 200),
    ],
)
async def test_fleet_mode_serves_its_two_pages_only(
    fleet: RunningFleet, method: str, path: str, status: int
) -> None:
    async with connected(fleet) as client:
        for _ in range(3):
            assert status == (await client.get(path, method=method)).status
        assert 200 == (await client.get("/health")).status


@pytest.mark.parametrize(
    ("request_head", "stays"),
    [
        (b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        (b"GET /health HTTP/1.0\r\n\r\n", False),
        (b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
async def test_the_connection_is_kept_as_the_client_asks(
    fleet: RunningFleet, request_head: bytes, stays: bool
) -> None:
    async with connected(fleet) as client:
        client.send(request_head)
        assert 200 == (await client.read_answer()).status
        if stays:
            assert await client.hears_nothing()
        else:
            assert b"" == await client.read_rest()


@pytest.mark.parametrize("nonsense", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"HELLO\r\n\r\n"])
async def test_what_is_no_http_is_refused_and_the_connection_closed(
    fleet: RunningFleet, nonsense: bytes
) -> None:
    async with connected(fleet) as client:
        client.send(nonsense)
        assert (await client.read_rest()).startswith(b"HTTP/1.1 400 ")


async def test_a_request_larger_than_the_limit_is_refused(fleet: RunningFleet) -> None:
    async with connected(fleet) as client:
        client.send(
            b"POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n"
            + b" " * 1_100_000
        )
        assert 400 == (await client.read_answer()).status


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.0.21", "127.255.0.1"])
async def test_a_connection_to_an_address_where_no_instance_lives_is_reset(
    fleet: RunningFleet, address: str
) -> None:
    reader, writer = await asyncio.open_connection(address, fleet.port)
    writer.write(PAIR)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert 0 == fleet.n_accepted


async def test_connections_beyond_the_limit_are_reset_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fleet = Fleet(SPEC, clock=FakeClock())
    generator = TextGenerator(fleet, time_scale=0)
    routers = {Mode.FLEET: FleetRouter(SPEC)}
    server = FleetServer(fleet, routers, generator, max_connections=1)
    listener = open_listener(0)
    running = RunningFleet(fleet, server, port=listener.getsockname()[1], max_connections=1)
    await server.start(listener, backlog=BACKLOG)
    try:
        async with connected(running, 0) as client:
            assert 200 == (await client.get("/health")).status
            for index in (1, 2):
                with pytest.raises(ConnectionResetError):
                    await get(running, index, "/health")
        assert 1 == caplog.text.count("limit of open files")
    finally:
        await server.stop()


async def test_a_killed_instance_resets_open_connections_and_new_ones(fleet: RunningFleet) -> None:
    async with connected(fleet, 3) as client:
        await client.get("/health")
        fleet.inject("kill", ids=["llm-00004"])

        with pytest.raises(ConnectionResetError):
            await client.reader.read()
    with pytest.raises(ConnectionResetError):
        await get(fleet, 3, "/health")
    assert 200 == (await get(fleet, 4, "/health")).status


async def test_an_instance_healed_from_a_kill_is_a_new_process(
    fleet: RunningFleet, clock: FakeClock
) -> None:
    before = (await get(fleet, 3, "/api/metrics")).json
    fault = fleet.inject("kill", ids=["llm-00004"])
    clock.now_s += 60
    fleet.heal(fault.id)

    after = (await get(fleet, 3, "/api/metrics")).json

    assert 0 < before["generated_tokens_total"]
    assert 0 == after["generated_tokens_total"]
    assert clock.now_s == after["start_time_seconds"]


async def test_a_node_that_is_gone_takes_all_its_instances_along(fleet: RunningFleet) -> None:
    fault = fleet.inject("node_gone", node="node-002")

    assert [f"llm-{number:05}" for number in range(11, 21)] == fleet.ids_of(fault)
    with pytest.raises(ConnectionResetError):
        await get(fleet, 10, "/health")
    assert 200 == (await get(fleet, 9, "/health")).status


async def test_a_hung_instance_accepts_and_answers_once_it_is_healed(fleet: RunningFleet) -> None:
    index = victim(fleet.inject("hang", count=1))
    async with connected(fleet, index) as client:
        client.send(PAIR)
        assert await client.hears_nothing()

        fleet.heal()

        assert 200 == (await client.read_answer()).status
        assert "errors" in (await client.read_answer()).json


async def test_hanging_reaches_connections_that_were_answered_before(fleet: RunningFleet) -> None:
    async with connected(fleet, 0) as client:
        for _ in range(2):
            await client.get("/health")
        fleet.inject("hang", ids=["llm-00001"])
        client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")

        assert await client.hears_nothing()


async def test_a_fault_reaches_connections_that_were_answered_before_and_leaves_them(
    fleet: RunningFleet,
) -> None:
    async with connected(fleet, 0) as client:
        statuses = []
        for change in (None, lambda: fleet.inject("loading", ids=["llm-00001"]), fleet.heal):
            if change is not None:
                change()
            statuses += [(await client.get("/health")).status for _ in range(2)]

    assert [200, 200, 503, 503, 200, 200] == statuses
    assert 1 == fleet.n_accepted


async def test_a_hung_instance_takes_only_so_many_requests_into_its_queue(
    fleet: RunningFleet,
) -> None:
    fleet.inject("hang", share=1)
    async with connected(fleet, 0) as client:
        client.send(PAIR * 1_000)
        await eventually(lambda: fleet.n_paused == 1)
        fleet.heal()
        await eventually(lambda: fleet.n_paused == 0)


async def test_a_hung_instance_takes_only_so_many_bytes_into_its_queue(
    fleet: RunningFleet,
) -> None:
    fleet.inject("hang", share=1)
    async with connected(fleet, 0) as client:
        for _ in range(3):
            client.send(
                b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + b" " * 500_000
            )
        await eventually(lambda: fleet.n_paused == 1)


async def test_many_requests_in_one_stream_are_no_large_request_and_leave_nothing() -> None:
    reader = RequestReader()
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + b" " * 500_000
    stream = request * 5
    for begin in range(0, len(stream), 300_000):
        reader.feed(stream[begin : begin + 300_000])

    assert reader.is_idle
    assert not reader._body


async def test_a_lost_connection_leaves_nothing_to_the_collector(fleet: RunningFleet) -> None:
    def readers() -> int:
        return sum(type(one) is RequestReader for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        n_before = readers()
        async with connected(fleet, 0) as client:
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234")
            await eventually(lambda: readers() > n_before)
        await eventually(lambda: readers() == n_before)
    finally:
        gc.enable()


async def test_a_client_that_reads_no_answers_is_read_no_further(fleet: RunningFleet) -> None:
    async with connected(fleet, 0) as client:
        transport = cast(asyncio.ReadTransport, client.writer.transport)
        transport.pause_reading()
        client.send(PAIR * 30_000)
        await eventually(lambda: fleet.n_paused == 1)
        transport.resume_reading()
        client.writer.write_eof()
        assert (await client.read_rest()).endswith(b"}")
        assert 0 == fleet.n_paused


async def test_a_slow_node_is_slower_by_the_factor_on_speed_and_p99(
    fleet: RunningFleet, clock: FakeClock
) -> None:
    before = (await get(fleet, 0, "/api/metrics")).json
    fleet.inject("slow", node="node-001", factor=0.7)
    after = (await get(fleet, 0, "/api/metrics")).json

    assert 0.7 * before["tokens_per_second"] == pytest.approx(after["tokens_per_second"], rel=0.01)
    assert before["latency_p99"] / 0.7 == pytest.approx(after["latency_p99"], rel=0.01)
    assert before["generated_tokens_total"] == after["generated_tokens_total"]

    fleet.heal()
    assert before == (await get(fleet, 0, "/api/metrics")).json


async def test_two_slownesses_multiply(fleet: RunningFleet) -> None:
    sound = (await get(fleet, 0, "/api/metrics")).json["tokens_per_second"]
    fleet.inject("slow", share=1, factor=0.5)
    fleet.inject("slow", share=1, factor=0.5)

    slow = (await get(fleet, 0, "/api/metrics")).json["tokens_per_second"]

    assert sound / 4 == pytest.approx(slow, rel=0.01)


async def test_errors_grow_at_the_ratio_of_the_fault(fleet: RunningFleet, clock: FakeClock) -> None:
    fleet.inject("errors", share=1, ratio=0.5)
    before = (await get(fleet, 0, "/api/metrics")).json["error_count"]
    clock.now_s += 1_000
    after = (await get(fleet, 0, "/api/metrics")).json["error_count"]

    n_requests = fleet.fleet.instances[0].requests_per_s * 1_000
    assert 0.5 * n_requests == pytest.approx(after - before, abs=3)


async def test_an_out_of_memory_restart_resets_counters_loads_and_comes_back(
    fleet: RunningFleet, clock: FakeClock
) -> None:
    async with connected(fleet, 0) as client:
        await client.get("/api/metrics")
        fleet.inject("oom_restart", ids=["llm-00001"], seconds=4)
        with pytest.raises(ConnectionResetError):
            await client.reader.read()

    async with connected(fleet, 0) as client:
        assert 503 == (await client.get("/health")).status
        assert 503 == (await client.get("/api/metrics")).status
        clock.now_s += 4
        assert 200 == (await client.get("/health")).status
        metrics = (await client.get("/api/metrics")).json

    assert {"timeout": 0, "out_of_memory": 1, "overloaded": 0} == metrics["errors"]
    assert 1 == metrics["error_count"]
    assert 0 == metrics["generated_tokens_total"]
    assert clock.now_s - 4 == metrics["start_time_seconds"]


async def test_a_loading_instance_answers_503_until_it_is_healed(fleet: RunningFleet) -> None:
    index = victim(fleet.inject("loading", count=1))
    answer = await get(fleet, index, "/health")

    assert 503 == answer.status
    assert {"status": "loading"} == answer.json
    fleet.heal()
    assert 200 == (await get(fleet, index, "/health")).status


async def test_garbage_is_status_200_and_no_json(fleet: RunningFleet) -> None:
    index = victim(fleet.inject("garbage", count=1))
    answer = await get(fleet, index, "/api/metrics")

    assert 200 == answer.status
    with pytest.raises(ValueError, match="utf-8"):
        assert answer.json


async def test_malformed_is_no_http(fleet: RunningFleet) -> None:
    index = victim(fleet.inject("malformed", count=1))
    async with connected(fleet, index) as client:
        client.send(PAIR)
        assert not (await client.read_rest()).startswith(b"HTTP")


async def test_close_ends_the_connection_in_the_middle_of_an_answer(fleet: RunningFleet) -> None:
    index = victim(fleet.inject("close", count=1))
    async with connected(fleet, index) as client:
        client.send(PAIR)
        head, _, body = (await client.read_rest()).partition(b"\r\n\r\n")

    assert b"Content-Length: 15" in head
    assert b'{"statu' == body


async def test_a_delayed_answer_comes_late_and_complete(fleet: RunningFleet) -> None:
    index = victim(fleet.inject("delay", count=1, seconds=0.4))
    async with connected(fleet, index) as client:
        client.send(PAIR)
        assert await client.hears_nothing()
        assert b'{"status":"ok"}' == (await client.read_answer()).body
        assert 200 == (await client.read_answer()).status


async def test_a_late_answer_is_not_overtaken_when_its_instance_is_healed(
    fleet: RunningFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is late for as long as the test wants: no machine is too slow to see it."""
    is_begun, may_end, answer_late = asyncio.Event(), asyncio.Event(), Connection._answer_late

    async def wait_and_answer(connection: Connection, request: Request, _delay_s: float) -> None:
        is_begun.set()
        await may_end.wait()
        await answer_late(connection, request, 0.0)

    monkeypatch.setattr(Connection, "_answer_late", wait_and_answer)
    fleet.inject("delay", share=1, seconds=0.5)
    async with connected(fleet, 0) as client:
        client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await is_begun.wait()
        fleet.heal()
        client.send(b"GET /api/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await client.hears_nothing()
        may_end.set()

        assert {"status": "ok"} == (await client.read_answer()).json
        assert "error_count" in (await client.read_answer()).json


@pytest.mark.parametrize(("how", "status"), [("404", 404), ("broken", 200)])
async def test_metrics_fail_while_health_is_fine(
    fleet: RunningFleet, how: str, status: int
) -> None:
    index = victim(fleet.inject("no_metrics", count=1, how=how))
    answer = await get(fleet, index, "/api/metrics")

    assert 200 == (await get(fleet, index, "/health")).status
    assert status == answer.status
    with pytest.raises(ValueError, match=r"Expecting|Extra data"):
        assert answer.json


async def test_an_instance_that_left_the_inventory_goes_on_answering(fleet: RunningFleet) -> None:
    index = victim(fleet.inject("shrink", count=1))

    assert fleet.fleet.instances[index].id not in {entry["id"] for entry in fleet.inventory}
    assert 19 == len(fleet.inventory)
    assert 200 == (await get(fleet, index, "/health")).status
    fleet.heal()
    assert 20 == len(fleet.inventory)


async def test_the_dead_stay_dead_under_a_later_fault(fleet: RunningFleet) -> None:
    fleet.inject("kill", ids=["llm-00001"])
    slow = fleet.inject("delay", share=1, seconds=9)

    with pytest.raises(ConnectionResetError):
        await get(fleet, 0, "/health")
    fleet.heal(slow.id)
    with pytest.raises(ConnectionResetError):
        await get(fleet, 0, "/health")


async def test_stopping_cuts_every_connection(clock: FakeClock) -> None:
    async with running_fleet(SPEC, clock=clock) as fleet:
        reader, writer = await asyncio.open_connection("127.1.0.1", fleet.port)
        await eventually(lambda: 1 == fleet.n_connections)

    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.1.0.1", fleet.port)


def test_it_all_works_on_uvloop_too() -> None:
    async def scene() -> int:
        async with running_fleet(SPEC) as fleet, connected(fleet, 2) as client:
            await client.get("/health")
            fleet.inject("kill", ids=["llm-00003"])
            with pytest.raises(ConnectionResetError):
                await client.reader.read()
            return (await get(fleet, 1, "/health")).status

    assert 200 == uvloop.run(scene())


def test_a_thousand_instances_share_one_listener() -> None:
    async def scene() -> int:
        async with running_fleet(FleetSpec(n_instances=1_000)) as fleet:
            answers = await asyncio.gather(*(get(fleet, i, "/health") for i in range(1_000)))
            return sum(answer.status == 200 for answer in answers)

    assert 1_000 == uvloop.run(scene())


async def test_the_listener_is_bound_to_the_loopback_device() -> None:
    listener = open_listener(0)
    with listener:
        try:
            device = listener.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        except PermissionError:
            pytest.skip("this kernel does not let us bind to a device")
        assert b"lo" == device.rstrip(b"\0")
