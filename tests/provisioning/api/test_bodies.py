"""Whatever is sent as a body, and however: it is bounded, and no fault of ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from provisioning.api import requests
from provisioning.spec import encode_fleet
from tests.provisioning.api.board import FLEET, Board
from tests.waiting import eventually

SPEC = encode_fleet(FLEET).encode()
JSON = {"Content-Type": "application/json"}
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def begun(
    board: Board, body: bytes, *headers: str, path: str = "/plan"
) -> AsyncIterator[Connection]:
    """Send the beginning of a request, and leave when the context ends."""
    url = urlsplit(board.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    token = f"Authorization: Bearer {board.token}"
    common = ("Host: localhost", "Content-Type: application/json", token)
    lines = (f"POST {path} HTTP/1.1", *common, *headers)
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
        pass

    await eventually(lambda: 1 == answered(board, "plan", 400))
    assert [] == errors(caplog)
    assert 0 == answered(board, "plan", 500)


async def test_a_body_that_does_not_come_is_waited_for_no_longer_than_is_allowed(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "WITHIN_S", 0.01)
    path = "/pools/llama/scale"

    async with begun(board, b"{", "Content-Length: 50", path=path) as (reader, _):
        assert 408 == await status_of(reader)

    (record,) = board.audited()
    assert (408, "the body did not come whole within 0.01 s") == (
        record["status"],
        record["fault"],
    )


async def test_a_number_beyond_all_bounds_is_refused_in_words(board: Board) -> None:
    """As 10^400, which is no float: it was an error of ours."""
    for path, body in (
        ("/plan", SPEC.replace(b'"count":4', b'"count":1' + 400 * b"0")),
        ("/pools/llama/scale", b'{"count":1' + 400 * b"0" + b"}"),
    ):
        assert 400 * b"0" in body
        problem = await board.ask("POST", path, data=body, headers=JSON, expect=422)
        assert "count" in problem["detail"]


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
