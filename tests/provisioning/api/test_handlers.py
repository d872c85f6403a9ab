"""What is asked is checked within bounds; reads answer from what is known of the fleet."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from multidict import CIMultiDict

from provisioning.api import handlers
from provisioning.model import Event, Fleet, NodeReport, Phase
from provisioning.spec.document import checked_fleet, encode_fleet
from tests.provisioning.api.board import FLEET, JSON, SPEC, Board, instance, running_board
from tests.waiting import eventually

# Reads


async def test_filters_narrow_the_list(board: Board) -> None:
    for query, ids in (
        ("pool=tiny", ["tiny-00001", "tiny-00002"]),
        ("pool=tiny&state=running", ["tiny-00001"]),
        ("developer=ann", ["llama-00001"]),
        ("developer=&pool=llama", ["llama-00002", "llama-00003", "llama-00004"]),
        ("phase=failed&phase=starting", ["llama-00002", "llama-00004"]),
        ("node=n2", ["llama-00004"]),
        ("model=other", []),
    ):
        for path in (f"/instances?{query}", f"/instances?details=1&{query}"):
            assert ids == [entry["id"] for entry in await board.ask("GET", path)], path


async def test_a_query_that_is_not_known_is_refused(board: Board) -> None:
    for path, detail in (
        ("/instances?nod=n1", "unknown parameter 'nod' of /instances; did you mean node?"),
        ("/instances?details=2", "parameter details must be one of 0, 1, got '2'"),
        ("/instances?details=1&details=1", "parameter details is given 2 times; give it once"),
        ("/instances?phase=gone", "parameter phase must be one of starting, running, draining"),
        ("/sd?details=1", "unknown parameter 'details' of /sd"),
    ):
        problem = await board.ask("GET", path, expect=400)
        assert problem["detail"].startswith(detail)


@pytest.mark.parametrize("path", ["/instances", "/instances?pool=tiny", "/instances?details=1"])
async def test_a_list_that_is_known_is_not_sent_again_until_it_changes(
    board: Board, path: str
) -> None:
    async with board.session.get(path) as response:
        known = {"If-None-Match": response.headers["ETag"]}
    async with board.session.get(path, headers=known) as response:
        assert (304, b"") == (response.status, await response.read())
        assert known["If-None-Match"] == response.headers["ETag"]
        assert "Inventory-Age-Seconds" in response.headers

    await board.put(instance(1, "tiny", phase=Phase.DRAINING))

    async with board.session.get(path, headers=known) as response:
        assert 200 == response.status


async def test_what_only_details_show_leaves_the_inventory_as_it_was(board: Board) -> None:
    async with board.session.get("/instances") as response:
        before = response.headers["ETag"]

    await board.put(instance(1, "tiny", is_replace_asked=True))

    async with board.session.get("/instances") as response:
        assert before == response.headers["ETag"]


async def test_the_age_of_the_data_is_in_a_header(board: Board) -> None:
    board.cache.age_s = 100.0

    async with board.session.get("/instances") as response:
        assert 100 <= float(response.headers["Inventory-Age-Seconds"]) < 160


async def test_one_instance_has_its_history(board: Board) -> None:
    document = await board.ask("GET", "/instances/llama-00001")
    assert ("llama-00001", "running") == (document["id"], document["phase"])
    assert [
        {"at_s": 990.0, "what": "placed", "detail": "n1", "generation": 1},
        {"at_s": 1000.0, "what": "started", "detail": "in 1.0 s", "generation": 1},
    ] == document["history"]

    problem = await board.ask("GET", "/instances/llama-00099", expect=404)
    assert {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no instance 'llama-00099'; list them all to see",
    } == problem


async def test_the_latest_events_are_listed_oldest_first(board: Board) -> None:
    for number in range(3, 300):
        history = tuple(Event(n + number / 1000, "started", str(n), 1) for n in range(5))
        await board.put(instance(number, "tiny", history=history, port=25_000 + number))

    latest = await board.ask("GET", "/events")
    some = await board.ask("GET", "/events?since=990.5&pool=llama&phase=failed")

    times = [event["at_s"] for event in latest]
    assert 1000 == len(latest)
    assert (sorted(times), 1000.0) == (times, max(times))
    assert min(times) > 0.3, "the oldest are left out"
    assert [("llama-00004", 1000.0, "started", "in 1.0 s", 1)] == [
        tuple(event[name] for name in ("id", "at_s", "what", "detail", "generation"))
        for event in some
    ]
    for wrong in ("x", "-1", "nan", "1e9", "", "1%0A"):
        await board.ask("GET", f"/events?since={wrong}", expect=400)


async def test_the_specification_is_given_as_it_is_stored_with_its_version(board: Board) -> None:
    async with board.session.get("/spec") as response:
        assert encode_fleet(FLEET) == await response.text()
        known = {"If-None-Match": response.headers["ETag"]}
    async with board.session.get("/spec", headers=known) as response:
        assert 304 == response.status


async def test_a_specification_is_planned_without_being_written_while_others_are_answered(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def slow(body: bytes) -> Fleet:
        goes_on.wait(100)
        return checked_fleet(body)

    monkeypatch.setattr(handlers, "checked_fleet", slow)
    revision = board.backend.revision
    document = {**SPEC, "pools": [{**SPEC["pools"][0], "count": 6}, SPEC["pools"][1]]}

    planning = asyncio.create_task(board.ask("POST", "/plan", document))
    await board.ask("GET", "/instances")
    assert not planning.done()
    goes_on.set()

    plan = await planning
    assert [2, 0] == [pool["n_created"] for pool in plan["pools"]]
    assert revision == board.backend.revision


async def test_the_leader_knows_every_node(board: Board) -> None:
    board.reports = {"n1": NodeReport("n1", 5.0, (), "no answer")}

    first, second = await board.ask("GET", "/nodes")

    keys = ("name", "is_reachable", "fault", "heard_s")
    assert ("n1", False, "no answer", 5.0) == tuple(first[key] for key in keys)
    assert ("n2", 0, 1) == tuple(second[key] for key in ("name", "n_instances", "n_failed"))


async def test_own_series_are_served(board: Board) -> None:
    await board.ask("GET", "/instances/nobody", expect=404)
    async with board.session.get("/metrics") as response:
        text = await response.text()

    assert 'ollama_provisioner_instances{phase="running"} 2.0\n' in text
    assert "ollama_provisioner_wanted_instances 6.0\n" in text
    assert 'ollama_provisioner_api_requests_total{operation="instance",status="404"} 1.0\n' in text


async def test_it_is_alive_before_it_is_ready(board: Board) -> None:
    board.cache.is_known = False
    async with board.session.get("/-/healthy") as response:
        assert 200 == response.status
    for path in ("/-/ready", "/instances", "/sd", "/spec", "/instances/x", "/nodes"):
        problem = await board.ask("GET", path, expect=503)
        assert problem["detail"].startswith("nothing is known of the fleet yet")

    board.cache.is_known = True
    async with board.session.get("/-/ready") as response:
        words = f"The fleet is known: 6 instances, as of revision {board.backend.revision}.\n"
        assert (200, words) == (response.status, await response.text())


async def test_a_store_without_a_specification_is_an_empty_fleet(tmp_path: Path) -> None:
    async with running_board(tmp_path, is_filled=False) as board:
        assert [] == await board.ask("GET", "/instances")
        problem = await board.ask("GET", "/spec", expect=404)

    assert "there is no specification yet; apply one first" == problem["detail"]


# Requests that are refused


async def test_only_requests_for_our_own_hosts_are_answered(board: Board) -> None:
    """A foreign page may give its name our address, and read what its visitor's browser can."""
    ours = ("127.0.0.1", "10.1.1.1:8080", "[::1]:8080", "localhost:1", "Fleet.example")
    foreign = ("evil.example", "localhost.evil.example:8080", "127.0.0.1.evil.example", "[", "")
    for host in (*ours, *foreign):
        async with board.session.get("/instances", headers={"Host": host}) as response:
            assert response.status == (200 if host in ours else 421), host
            assert (host in ours) == ("llama-00001" in await response.text())


async def test_a_request_that_is_refused_unread_leaves_a_line_in_the_audit_log(
    board: Board,
) -> None:
    cases: list[tuple[str, dict[str, Any], int, str]] = [
        ("/instances/llama-00001/drain", {"json": {}}, 400, "drain takes no body"),
        ("/pools/llama/scale?x=1", {"json": {}}, 400, "unknown parameter 'x'"),
        ("/pools/llama/scale", {"data": b"count: 1"}, 415, "the body must be application/json, go"),
        ("/pools/llama/scale", {"json": " " * 16_384}, 413, "16384"),
    ]
    for path, sent, status, fault in cases:
        problem = await board.ask("POST", path, expect=status, **sent)
        record = board.audited()[-1]
        assert ("token", status, None) == (record["who"], record["status"], record["body"])
        assert fault in record["fault"] == problem["detail"]


async def test_a_body_that_cannot_be_understood_is_refused(board: Board) -> None:
    for body, status, detail in (
        ("{", 400, "the body is no JSON"),
        ("", 400, "the body is no JSON"),
        ("[" * 5_000, 422, "the request"),
        ("{}", 422, "missing required field `developer`"),
        ('{"developer": ""}', 422, "length >= 1"),
        ('{"developer": "a", "x": 1}', 422, "unknown field `x`"),
        ('{"developer": "\\u0007"}', 422, "must not hold control characters"),
        ('{"developer": "%s"}' % ("x" * 17_000), 413, ""),
    ):
        path = "/instances/llama-00002/assign"
        problem = await board.ask("POST", path, data=body, headers=JSON, expect=status)
        assert detail in problem["detail"], body

    assert "" == board.stored("llama-00002").developer


async def test_a_number_beyond_all_bounds_is_refused_in_words(board: Board) -> None:
    """As 10^400, which is no float."""
    spec = encode_fleet(FLEET).replace('"count":4', '"count":1' + 400 * "0")
    for path, body in (("/plan", spec), ("/pools/llama/scale", '{"count":1' + 400 * "0" + "}")):
        problem = await board.ask("POST", path, data=body, headers=JSON, expect=422)
        assert "count" in problem["detail"]


async def test_of_many_problems_the_first_are_listed_and_that_there_are_more(board: Board) -> None:
    document = {**SPEC, **{f"nmae{n}": 0 for n in range(1300)}}

    problem = await board.ask("POST", "/plan", document, expect=422)

    first, *_, last = problem["problems"]
    assert ("nmae0: unknown key; did you mean name?", "and more") == (first, last)
    assert 101 == len(problem["problems"])


async def test_all_lines_of_if_match_count(board: Board) -> None:
    headers = CIMultiDict([("If-Match", "*"), ("If-Match", '"999"')])

    await board.ask("PUT", "/spec", SPEC, headers=headers, expect=400)


# Bodies that come in pieces, broken, or not at all


async def test_a_body_in_pieces_is_not_read_beyond_its_bound(board: Board) -> None:
    """Its length is not said before."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b" " * 5_000

    path = "/pools/llama/scale"
    problem = await board.ask("POST", path, data=pieces(), headers=JSON, expect=413)

    assert "16384" in problem["detail"]


async def test_a_large_specification_in_pieces_is_read_whole(board: Board) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b" " * 2_000_000
        yield encode_fleet(FLEET).encode()

    await board.ask("POST", "/plan", data=pieces(), headers=JSON)
    await board.ask("PUT", "/spec", data=pieces(), headers=JSON, expect=202)


@asynccontextmanager
async def begun(
    board: Board, body: bytes, *headers: str, path: str = "/plan"
) -> AsyncIterator[asyncio.StreamReader]:
    """Send the beginning of a request, and leave when the context ends."""
    url = urlsplit(board.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    token = f"Authorization: Bearer {board.token}"
    common = ("Host: localhost", "Content-Type: application/json", token)
    lines = (f"POST {path} HTTP/1.1", *common, *headers)
    writer.write("\r\n".join((*lines, "", "")).encode(errors="surrogateescape") + body)
    try:
        yield reader
    finally:
        writer.close()


async def status_of(reader: asyncio.StreamReader) -> int:
    return int((await reader.readline()).split()[1])


async def test_what_is_not_as_its_headers_say_is_no_fault_of_ours(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    path = "/instances/llama-00001/replace"
    for status, body, *headers in (
        (400, b"hello", "Content-Encoding: gzip", "Content-Length: 5"),
        (400, b"1\r\n{\r\nzz\r\n", "Transfer-Encoding: chunked"),
    ):
        async with begun(board, body, *headers) as reader:
            assert status == await status_of(reader)
    async with begun(board, b"", "If-Match: \udcff", "Content-Length: 0", path=path) as reader:
        assert 202 == await status_of(reader)  # which has no version

    assert [] == [one for one in caplog.records if one.levelname == "ERROR"]


async def test_whoever_leaves_before_the_body_is_whole_is_counted_and_no_fault_of_ours(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    async with begun(board, b"{", "Content-Length: 5000"):
        pass

    def n_answered(status: int) -> float:
        labels = {"operation": "plan", "status": str(status)}
        name = "ollama_provisioner_api_requests_total"
        return board.metrics.registry.get_sample_value(name, labels) or 0.0

    await eventually(lambda: 1 == n_answered(400))
    assert [] == [one for one in caplog.records if one.levelname == "ERROR"]
    assert 0 == n_answered(500)


async def test_a_body_that_does_not_come_is_waited_for_no_longer_than_is_allowed(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "WITHIN_S", 0.01)

    async with begun(board, b"{", "Content-Length: 50", path="/pools/llama/scale") as reader:
        assert 408 == await asyncio.wait_for(status_of(reader), 100.0)

    (record,) = board.audited()
    assert (408, "the body did not come whole within 0.01 s") == (
        record["status"],
        record["fault"],
    )


# What no handler sees


async def test_other_paths_and_methods_are_problems_too(board: Board) -> None:
    for method, path, status in (
        ("GET", "/nowhere", 404),
        ("DELETE", "/spec", 405),
        ("HEAD", "/instances", 405),
    ):
        async with board.session.request(method, path) as response:
            assert (status, "application/problem+json") == (response.status, response.content_type)
            assert ("Allow" in response.headers) == (status == 405)


async def test_a_store_that_is_away_is_an_answer_with_when_to_come_again(board: Board) -> None:
    board.store.is_away = True

    async with board.session.post("/instances/llama-00001/replace") as response:
        assert (503, "2") == (response.status, response.headers["Retry-After"])
        problem = json.loads(await response.read())
    assert ("the store is away", "about:blank") == (problem["detail"], problem["type"])


async def test_a_fault_of_ours_is_a_problem_without_our_secrets(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(board.cache), "as_of_s", property(lambda _: 1 / 0))

    problem = await board.ask("GET", "/instances", expect=500)

    assert "the provisioner's log says why" == problem["detail"]
