"""Whatever is sent as a body, and however: it is bounded, and no fault of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from provisioning.fleet.api import bodies, reads
from provisioning.fleet.api.bodies import Room
from provisioning.fleet.api.errors import BusyError
from provisioning.fleet.spec import encode_fleet
from tests.provisioning.fleet.api.board import FLEET, Board, running_board
from tests.waiting import eventually

SPEC = encode_fleet(FLEET).encode()
JSON = {"Content-Type": "application/json"}
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def begun(
    board: Board, body: bytes, *headers: str, path: str = "/plan"
) -> AsyncIterator[Connection]:
    """Send the beginning of a request without a token, and leave when the context ends."""
    url = urlsplit(board.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    lines = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers)
    writer.write("\r\n".join((*lines, "", "")).encode() + body)
    try:
        yield reader, writer
    finally:
        writer.close()


async def status_of(reader: asyncio.StreamReader) -> int:
    line = await reader.readline()
    return int(line.split()[1])


def answered(board: Board, operation: str, status: int) -> float:
    samples = [
        sample.value
        for metric in board.metrics.api_requests.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
        and {"operation": operation, "status": str(status)} == sample.labels
    ]
    return sum(samples)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]


# Bodies that are broken


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (("Content-Encoding: gzip", "Content-Length: 5"), b"hello"),
        (("Transfer-Encoding: chunked",), b"1\r\n{\r\nzz\r\n"),
    ],
)
async def test_a_body_that_is_not_as_its_headers_say_is_refused(
    board: Board, caplog: pytest.LogCaptureFixture, headers: tuple[str, ...], body: bytes
) -> None:
    async with begun(board, body, *headers) as (reader, _):
        assert 400 == await status_of(reader)

    assert [] == errors(caplog)


async def test_whoever_leaves_before_the_body_is_whole_is_no_fault_of_ours(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    async with begun(board, b"{", "Content-Length: 5000"):
        await eventually(lambda: "share" if board.api._reads._room._free_bytes else "")

    await eventually(lambda: 1 == answered(board, "plan", 400))
    assert [] == errors(caplog)
    assert 0 == answered(board, "plan", 500)


async def test_a_body_that_does_not_come_is_waited_for_no_longer_than_is_allowed(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "WITHIN_S", 0.01)
    token = f"Authorization: Bearer {board.token}"
    path = "/pools/llama/scale"

    async with begun(board, b"{", "Content-Length: 50", token, path=path) as (reader, _):
        assert 408 == await status_of(reader)

    (record,) = board.audited()
    assert (408, "the body did not come whole within 0.01 s") == (
        record["status"],
        record["fault"],
    )


# Bodies of strangers


@pytest.fixture
async def narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Board]:
    """A provisioner with room for two specifications of strangers."""
    monkeypatch.setattr(reads, "PLANNED_BYTES", 2 * len(SPEC))
    async with running_board(tmp_path) as running:
        yield running


async def planned(board: Board, **headers: str) -> int:
    async with aiohttp.ClientSession(board.url, headers={**JSON, **headers}) as session:
        async with session.post("/plan", data=SPEC) as response:
            if response.status == 503:
                assert "2" == response.headers["Retry-After"]
                assert "being read at once" in json.loads(await response.read())["detail"]
            return response.status


async def test_bodies_of_strangers_are_not_collected_without_bound(narrow: Board) -> None:
    """What is sent but for its end is held; who comes then is told to come again."""
    held = b" " * (len(SPEC) + 1)
    async with begun(narrow, held, f"Content-Length: {2 * len(SPEC)}"):
        await eventually(lambda: narrow.api._reads._room._free_bytes < len(SPEC))
        assert 503 == await planned(narrow)

    async def is_planned() -> bool:
        return 200 == await planned(narrow)

    await eventually(is_planned)
    assert 2 * len(SPEC) == narrow.api._reads._room._free_bytes


async def test_those_who_send_slowly_keep_nobody_else_out(narrow: Board) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(begun(narrow, b"{", f"Content-Length: {len(SPEC)}"))
        whole = 2 * len(SPEC)
        await eventually(lambda: whole - 20 == narrow.api._reads._room._free_bytes)

        assert 200 == await planned(narrow)


async def test_strangers_who_hold_all_room_keep_no_holder_of_a_token_out(narrow: Board) -> None:
    """They send all that there is room for, but for its end."""
    held = b" " * (2 * len(SPEC))
    async with begun(narrow, held, f"Content-Length: {2 * len(SPEC) + 1}"):
        await eventually(lambda: 0 == narrow.api._reads._room._free_bytes)

        assert 200 == await planned(narrow, Authorization=f"Bearer {narrow.token}")
        assert 503 == await planned(narrow, Authorization="Bearer " + "x" * 32)


async def test_who_plans_needs_no_token_file_that_can_be_read(narrow: Board) -> None:
    """They are strangers then."""
    token = narrow.token
    narrow.tokens.path.unlink()

    assert 200 == await planned(narrow, Authorization=f"Bearer {token}")


async def test_a_specification_that_waits_to_be_planned_takes_room(narrow: Board) -> None:
    async with narrow.api._reads._one_at_a_time:
        first = asyncio.create_task(planned(narrow))
        second = asyncio.create_task(planned(narrow))
        await eventually(lambda: 0 == narrow.api._reads._room._free_bytes)
        assert 503 == await planned(narrow)

    assert [200, 200] == [await first, await second]


def test_room_is_for_as_many_bytes_as_are_said_and_free_again_after() -> None:
    room = Room(10)

    with room.share() as take:
        take(4)
        with room.share() as other:
            other(6)
            assert "<Room for 0 of 10 bytes>" == repr(room)
        with pytest.raises(BusyError):
            take(7)

    assert "<Room for 10 of 10 bytes>" == repr(room)


async def test_of_many_problems_the_first_are_told_and_that_there_are_more(board: Board) -> None:
    document = {**json.loads(SPEC), **{f"nmae{n}": 0 for n in range(1300)}}

    problem = await board.ask("POST", "/plan", document, expect=422)

    first, *_, last = problem["problems"]
    assert ("nmae0: unknown key; did you mean name?", "and more") == (first, last)
    assert 101 == len(problem["problems"])
    assert problem["detail"].startswith("more than 100 problems in the specification\n  nmae0: ")


# Orders that are refused before their bodies are read


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "fault"),
    [
        ("POST", "/instances/llama-00001/drain", {"json": {}}, 400, "takes no body"),
        ("POST", "/pools/llama/scale?x=1", {"json": {}}, 400, "unknown parameter 'x'"),
        ("POST", "/pools/llama/scale", {"data": b"count: 1"}, 415, "must be application/json"),
        ("POST", "/pools/llama/scale", {"json": " " * 16_384}, 413, "16384"),
    ],
)
async def test_an_order_that_is_refused_unread_leaves_a_line(
    board: Board, method: str, path: str, sent: Any, status: int, fault: str
) -> None:
    await board.ask(method, path, expect=status, **sent)

    (record,) = board.audited()
    assert ("token", status, None) == (record["who"], record["status"], record["order"])
    assert fault in record["fault"]


async def test_without_a_token_nothing_is_said_of_an_order(board: Board) -> None:
    async with aiohttp.ClientSession(board.url) as session:
        async with session.post("/pools/llama/scale?x=1", data=b"count: 1") as response:
            assert 401 == response.status
