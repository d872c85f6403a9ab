from __future__ import annotations

import asyncio
import gc
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator

import pytest
import trustme

from exporter.connection import Bounds, Deadlines
from exporter.errors import PollError
from exporter.instance_client import ONE_BY_ONE_POLLS, InstanceClient, TransportConfig
from exporter.model import Answer, Outcome, Target
from exporter.resolver import Resolver
from ollama_fleet.clock import SystemClock
from tests.exporter.servers import (
    Handler,
    answering,
    hanging,
    read_request,
    response,
    saying,
    serving,
)
from tests.waiting import eventually

BOTH = ("/health", "/api/metrics")
BODIES = {"/health": b"ok", "/api/metrics": b"{}"}
TOO_LATE = (Outcome.TIMEOUT, Outcome.CONNECT_TIMEOUT)
"""What a slow machine makes of an answer that was in time."""


@pytest.fixture
async def transport() -> AsyncIterator[TransportConfig]:
    resolver = Resolver(SystemClock())
    bounds = Bounds(header_bytes=2000, body_bytes=5000)
    yield TransportConfig(resolver, ssl.create_default_context(), bounds)
    await resolver.close()


def client_to(port: int, transport: TransportConfig, host: str = "127.0.0.1") -> InstanceClient:
    return InstanceClient(Target("a", host, port), transport)


def soon(first_s: float = 100.0, all_s: float = 100.0) -> Deadlines:
    now_s = asyncio.get_running_loop().time()
    return Deadlines(now_s + first_s, now_s + all_s)


async def outcomes(
    handler: Handler, transport: TransportConfig, deadlines: Deadlines | None = None
) -> list[Outcome]:
    """Ask both paths once; return how each went."""
    async with serving(handler) as port:
        client = client_to(port, transport)
        answers = await client.fetch(BOTH, deadlines or soon())
        client.close()
    return [Outcome.OK if isinstance(a, Answer) else a.outcome for a in answers.values()]


async def eventually_are(
    expected: list[Outcome],
    handler: Handler,
    transport: TransportConfig,
    *,
    first_s: float,
    all_s: float,
) -> None:
    """Return once asking goes as expected: an answer that was in time may be seen too late."""

    async def are_so() -> bool:
        return are_or_too_late(expected, await outcomes(handler, transport, soon(first_s, all_s)))

    await eventually(are_so)


def are_or_too_late(expected: list[Outcome], found: list[Outcome]) -> bool:
    """Say whether they are as expected; fail where they differ by more than being too late."""
    pairs = list(zip(expected, found, strict=True))
    assert [] == [pair for pair in pairs if pair[1] not in {pair[0], *TOO_LATE}]
    return expected == found


async def learns(client: InstanceClient) -> None:
    """Ask a server that answers one of two pipelined requests, until the channel has seen that."""

    async def has_seen() -> bool:
        answers = await client.fetch(BOTH, soon(0.1, 0.2))
        found = [_outcome(answer) for answer in answers.values()]
        return are_or_too_late([Outcome.OK, Outcome.TIMEOUT], found)

    await eventually(has_seen)


async def test_one_connection_serves_many_polls(transport: TransportConfig) -> None:
    n_connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_connections
        n_connections += 1
        await answering(BODIES)(reader, writer)

    async with serving(handle) as port:
        client = client_to(port, transport)
        for _ in range(5):
            await client.fetch(BOTH, soon())
        client.close()

    assert 1 == n_connections


async def test_a_kept_connection_keeps_nothing_of_what_came(transport: TransportConfig) -> None:
    async with serving(answering(BODIES)) as port:
        client = client_to(port, transport)
        await client.fetch(BOTH, soon())

        kept = gc.get_referents(client._connection)
        client.close()

    assert [] == [one for one in kept if isinstance(one, list | tuple | bytes) and one]


async def test_both_requests_leave_in_one_piece(transport: TransportConfig) -> None:
    pieces: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pieces.append(await reader.read(4096))
        writer.write(response() + response())
        await reader.read()

    async with serving(handle) as port:
        client = client_to(port, transport)
        await client.fetch(BOTH, soon())
        client.close()

    assert 2 == pieces[0].count(b"GET ")
    assert b"Host: 127.0.0.1:%d\r\n" % port in pieces[0]


async def test_a_connection_closed_while_idle_is_no_failure(transport: TransportConfig) -> None:
    """As llama-server does after 5 s: the next poll opens a new one."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in BOTH:
            await read_request(reader)
            writer.write(response())

    async with serving(handle) as port:
        client = client_to(port, transport)
        await client.fetch(BOTH, soon())
        await eventually(lambda: not client.is_open)

        answers = await client.fetch(BOTH, soon())

        assert [Answer(200, b"ok")] * 2 == list(answers.values())
        client.close()


async def test_a_close_that_races_with_the_request_is_asked_again(
    transport: TransportConfig,
) -> None:
    """The server closes the kept connection on receipt of the second poll, without a byte."""
    n_connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_connections
        n_connections += 1
        for _ in BOTH:
            await read_request(reader)
            writer.write(response())
        await reader.readexactly(1)

    async with serving(handle) as port:
        client = client_to(port, transport)
        await client.fetch(BOTH, soon())

        answers = await client.fetch(BOTH, soon())

        assert [Answer(200, b"ok")] * 2 == list(answers.values())
        assert 2 == n_connections
        client.close()


async def test_a_server_that_closes_after_each_answer_is_asked_one_by_one(
    transport: TransportConfig,
) -> None:
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.read(4096))
        writer.write(response(b"ok", "200 OK", "Connection: close"))

    async with serving(handle) as port:
        client = client_to(port, transport)

        first = await client.fetch(BOTH, soon())
        second = await client.fetch(BOTH, soon())

    assert [Answer(200, b"ok")] * 2 == list(first.values())
    assert [Answer(200, b"ok")] * 2 == list(second.values())
    assert [2, 1, 1, 1] == [request.count(b"GET ") for request in requests]


async def test_a_server_that_swallows_the_second_request_is_asked_one_by_one(
    transport: TransportConfig,
) -> None:
    """It answers the first of two pipelined requests only: the next poll does not pipeline."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(response())

    async with serving(handle) as port:
        client = client_to(port, transport)
        await learns(client)
        answers = await client.fetch(BOTH, soon())
        client.close()

    assert [Answer(200, b"ok")] * 2 == list(answers.values())


async def test_an_answer_without_a_length_ends_with_the_connection(
    transport: TransportConfig,
) -> None:
    handler = saying(b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nhello ", b"world")

    async with serving(handler) as port:
        answers = await client_to(port, transport).fetch(BOTH, soon())

    assert [Answer(200, b"hello world")] * 2 == list(answers.values())


async def test_a_chunked_answer_is_put_together(transport: TransportConfig) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    handler = saying(head + b"3\r\nhel\r\n", b"2\r\nlo\r\n0\r\n\r\n")

    async with serving(handler) as port:
        answers = await client_to(port, transport).fetch(BOTH[:1], soon())

    assert {"/health": Answer(200, b"hello")} == answers


async def test_unasked_bytes_are_not_taken_for_an_answer(transport: TransportConfig) -> None:
    """One answer too many, in the same piece: the connection cannot be trusted any more."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(response() + response() + response(b"poison"))
        await reader.read()

    async with serving(handle) as port:
        client = client_to(port, transport)
        await client.fetch(BOTH, soon())

        assert not client.is_open


async def test_bytes_that_come_later_unasked_close_the_connection(
    transport: TransportConfig,
) -> None:
    sent = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(response() + response())
        await sent.wait()
        writer.write(response(b"poison"))
        await reader.read()

    async with serving(handle) as port:
        client = client_to(port, transport)
        await client.fetch(BOTH, soon())
        assert client.is_open
        sent.set()
        await eventually(lambda: not client.is_open)


async def test_a_kept_connection_that_hangs_is_not_asked_a_second_time(
    transport: TransportConfig,
) -> None:
    """Only a connection that closed deserves another try; a hang has used up the time."""
    n_connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_connections
        n_connections += 1
        await reader.read(4096)
        writer.write(response() + response())
        await reader.read(4096)
        await reader.read()

    async with serving(handle) as port:
        client = client_to(port, transport)
        await client.fetch(BOTH, soon())
        answers = await client.fetch(BOTH, soon(0.1, 100.0))

    assert [Outcome.TIMEOUT] * 2 == [_outcome(answer) for answer in answers.values()]
    assert 1 == n_connections


async def test_pipelining_is_tried_again_after_a_while(transport: TransportConfig) -> None:
    requests: list[bytes] = []
    is_slow = True

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.read(4096):
            requests.append(request)
            n = request.count(b"GET ")
            writer.write(response() * (1 if is_slow else n))

    async with serving(handle) as port:
        client = client_to(port, transport)
        await learns(client)
        is_slow = False
        n_before = len(requests)
        for _ in range(ONE_BY_ONE_POLLS + 1):
            await client.fetch(BOTH, soon())
        client.close()

    assert 1 == requests[n_before].count(b"GET ")
    assert 2 == requests[-1].count(b"GET ")


async def test_where_slots_are_few_a_kept_connection_is_not_used_at_once(
    transport: TransportConfig,
) -> None:
    async with serving(answering(BODIES)) as port:
        client = client_to(port, transport)
        await client.fetch(BOTH, soon())
        transport.slots = asyncio.Semaphore(1)

        assert not client.fetch_now(BOTH, soon(), print)
        await client.fetch(BOTH, soon())
        assert not client.is_open


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"

REFUSALS: dict[str, tuple[Handler, Outcome]] = {
    "not HTTP": (saying(b"\x00\xffnonsense\r\n\r\n"), Outcome.MALFORMED),
    "an upgrade": (saying(b"HTTP/1.1 101 Up\r\nUpgrade: x\r\n\r\n"), Outcome.MALFORMED),
    "closed at once": (saying(), Outcome.RESET),
    "closed in the header": (saying(b"HTTP/1.1 200 OK\r\nCont"), Outcome.CLOSED),
    "closed in the body": (saying(response(b"x" * 100)[:-1]), Outcome.CLOSED),
    "a body too large": (saying(response(b"x" * 5001)), Outcome.TOO_LARGE),
    "a length too large, before the body comes": (
        saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5001\r\n\r\n", then_close=False),
        Outcome.TOO_LARGE,
    ),
    "an endless body": (
        saying(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 1000] * 6, then_close=False),
        Outcome.TOO_LARGE,
    ),
    "endless trailers": (
        saying(CHUNKED + b"X: ", *[b"x" * 4000] * 8, then_close=False),
        Outcome.TOO_LARGE,
    ),
    "endless interim answers": (
        saying(*[b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100] * 20, then_close=False),
        Outcome.TOO_LARGE,
    ),
    "an endless header": (
        saying(b"HTTP/1.1 200 OK\r\nX: ", *[b"x" * 1000] * 3, then_close=False),
        Outcome.TOO_LARGE,
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_each_kind_of_bad_answer_has_its_own_outcome(
    case: str, transport: TransportConfig
) -> None:
    handler, expected = REFUSALS[case]

    assert [expected, expected] == await outcomes(handler, transport)


async def test_a_hung_server_is_given_up_at_the_first_deadline(transport: TransportConfig) -> None:
    await eventually_are([Outcome.TIMEOUT] * 2, hanging, transport, first_s=0.1, all_s=1000.0)


async def test_figures_that_take_their_time_are_waited_for(transport: TransportConfig) -> None:
    """The health answer is in time; the second answer comes after the first deadline."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(response())
        await asyncio.sleep(0.3)
        writer.write(response())
        await reader.read()

    await eventually_are([Outcome.OK] * 2, handle, transport, first_s=0.1, all_s=100.0)


@pytest.mark.parametrize("tls", [True, False])
async def test_a_port_where_nobody_listens_is_refused(
    *, tls: bool, transport: TransportConfig
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = Target("a", "127.0.0.1", unused.getsockname()[1], tls=tls)
        answers = await InstanceClient(target, transport).fetch(BOTH, soon())

    errors = [answer for answer in answers.values() if isinstance(answer, PollError)]
    assert [Outcome.REFUSED] * 2 == [error.outcome for error in errors]
    assert re.fullmatch(r"cannot connect to 127\.0\.0\.1:\d+: Connection refused", str(errors[0]))


async def test_a_full_backlog_is_a_connect_timeout(transport: TransportConfig) -> None:
    """A listening socket whose queue is full drops what comes, as a dead machine does."""
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        filler.connect(listener.getsockname())
        answers = await client_to(listener.getsockname()[1], transport).fetch(BOTH, soon(0.2, 0.2))

    errors = [answer for answer in answers.values() if isinstance(answer, PollError)]
    assert [Outcome.CONNECT_TIMEOUT] * 2 == [error.outcome for error in errors]


async def test_a_connection_that_is_reset_on_accept_is_a_reset(transport: TransportConfig) -> None:
    async def handle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        linger = struct.pack("ii", 1, 0)
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    assert [Outcome.RESET] * 2 == await outcomes(handle, transport)


async def test_a_name_that_does_not_resolve_says_so(transport: TransportConfig) -> None:
    answers = await client_to(80, transport, "no-such-host.invalid").fetch(BOTH, soon())

    error = answers["/health"]
    assert isinstance(error, PollError)
    assert Outcome.UNRESOLVED == error.outcome
    assert "no-such-host.invalid" in str(error)


async def test_without_a_free_slot_a_poll_ends_in_time(transport: TransportConfig) -> None:
    transport.slots = asyncio.Semaphore(1)
    async with serving(hanging) as port:
        blocking = asyncio.create_task(client_to(port, transport).fetch(BOTH, soon(100.0, 100.0)))
        await eventually(lambda: transport.slots is not None and transport.slots.locked())

        answers = await client_to(port, transport).fetch(BOTH, soon(0.1, 0.1))

        assert not blocking.done()
        blocking.cancel()
        await asyncio.gather(blocking, return_exceptions=True)
    assert Outcome.NO_DESCRIPTOR == _outcome(answers["/health"])


def _outcome(answer: Answer | PollError) -> Outcome:
    return Outcome.OK if isinstance(answer, Answer) else answer.outcome


@pytest.fixture
async def tls_server() -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """The port of an HTTPS server on 127.0.0.1, and a context that trusts it."""
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(server_context)
    server = await asyncio.start_server(answering(BODIES), "127.0.0.1", 0, ssl=server_context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    yield server.sockets[0].getsockname()[1], trusting
    server.close()
    await server.wait_closed()


async def test_a_certificate_that_nobody_vouches_for_is_a_tls_failure(
    transport: TransportConfig, tls_server: tuple[int, ssl.SSLContext]
) -> None:
    port, trusting = tls_server
    target = Target("a", "127.0.0.1", port, tls=True)

    refused = await InstanceClient(target, transport).fetch(BOTH, soon())
    client = InstanceClient(target, TransportConfig(transport.resolver, trusting))
    assert not client.fetch_now(BOTH, soon(), print)  # in plain text, that is
    accepted = await client.fetch(BOTH, soon())
    client.close()

    assert Outcome.TLS == _outcome(refused["/health"])
    assert Answer(200, b"ok") == accepted["/health"]


class TwoAddresses(Resolver):
    async def resolve(self, host: str, deadline_s: float) -> tuple[str, ...]:
        """Return one where nobody listens, and one where the test's servers do."""
        return ("127.0.0.2", "127.0.0.1")


@pytest.mark.parametrize("tls", [True, False])
async def test_the_next_address_of_a_name_is_tried_with_tls_and_without(
    *, tls: bool, tls_server: tuple[int, ssl.SSLContext]
) -> None:
    tls_port, trusting = tls_server
    transport = TransportConfig(TwoAddresses(SystemClock()), trusting)
    async with serving(answering(BODIES)) as plain_port:
        port = tls_port if tls else plain_port
        client = InstanceClient(Target("a", "localhost", port, tls=tls), transport)
        answers = await client.fetch(BOTH, soon())
        client.close()

    assert Answer(200, b"ok") == answers["/health"]
