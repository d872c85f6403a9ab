"""What anybody may ask: the inventory in its forms, one instance, the specification."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from provisioning.api import handlers
from provisioning.model import Fleet, Phase
from provisioning.spec import encode_fleet
from tests.provisioning.api.board import FLEET, Board, instance, running_board
from tests.waiting import eventually


async def test_an_entry_says_what_the_exporter_wants_to_know_and_no_more(board: Board) -> None:
    entries = await board.ask("GET", "/instances")

    assert {
        "id": "llama-00001",
        "url": "http://127.0.0.1:20501",
        "node": "n1",
        "model": "llama3.1:8b",
        "engine": "ollama",
        "state": "running",
        "developer": "ann",
        "labels": {"pool": "llama", "rack": "r1"},
    } == entries[0]


async def test_phases_become_the_states_that_the_exporter_knows(board: Board) -> None:
    entries = await board.ask("GET", "/instances")

    assert {
        "llama-00001": "running",
        "llama-00002": "provisioning",
        "llama-00003": "draining",
        "llama-00004": "running",
        "tiny-00001": "running",
        "tiny-00002": "draining",
    } == {entry["id"]: entry["state"] for entry in entries}


async def test_an_ipv6_address_stands_in_brackets(board: Board) -> None:
    entries = await board.ask("GET", "/instances?node=n2")

    assert ["http://[::1]:20504"] == [entry["url"] for entry in entries]


async def test_details_say_all_that_is_known(board: Board) -> None:
    (entry,) = await board.ask("GET", "/instances?details=1&phase=failed")

    assert {
        "id": "llama-00004",
        "url": "http://[::1]:20504",
        "node": "n2",
        "model": "llama3.1:8b",
        "engine": "ollama",
        "state": "running",
        "developer": "",
        "labels": {"pool": "llama"},
        "pool": "llama",
        "port": 20504,
        "phase": "failed",
        "since_s": 1000.0,
        "generation": 1,
        "workload": instance(1).workload,
        "started_s": 1000.0,
        "fault": "exited with status 1",
        "reason": None,
        "n_failures": 1,
        "retry_at_s": 0.0,
        "is_replace_asked": False,
    } == entry


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("pool=tiny", ["tiny-00001", "tiny-00002"]),
        ("pool=tiny&state=running", ["tiny-00001"]),
        ("developer=ann", ["llama-00001"]),
        ("developer=", ["llama-00002", "llama-00003", "llama-00004", "tiny-00001", "tiny-00002"]),
        ("phase=failed&phase=starting", ["llama-00002", "llama-00004"]),
        ("node=n2", ["llama-00004"]),
        ("model=other", []),
    ],
)
async def test_filters_narrow_the_list(board: Board, query: str, ids: list[str]) -> None:
    for path in (f"/instances?{query}", f"/instances?details=1&{query}"):
        assert ids == [entry["id"] for entry in await board.ask("GET", path)]


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/instances?nod=n1", "unknown parameter 'nod' of /instances; did you mean node?"),
        ("/instances?details=2", "parameter details must be one of 0, 1, got '2'"),
        ("/instances?details=1&details=1", "parameter details is given 2 times; give it once"),
        ("/instances?phase=gone", "parameter phase must be one of starting, running, draining"),
        ("/sd?details=1", "unknown parameter 'details' of /sd"),
        ("/spec?x=1", "unknown parameter 'x' of /spec"),
    ],
)
async def test_what_is_not_known_is_refused(board: Board, path: str, detail: str) -> None:
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


async def test_what_only_details_tell_leaves_the_inventory_as_it_was(board: Board) -> None:
    async with board.session.get("/instances") as response:
        before = response.headers["ETag"]

    await board.put(instance(1, "tiny", is_replace_asked=True))

    async with board.session.get("/instances") as response:
        assert before == response.headers["ETag"]


async def test_the_age_of_the_data_is_told(board: Board) -> None:
    board.follower.as_of_s -= 100

    async with board.session.get("/instances") as response:
        assert 100 <= float(response.headers["Inventory-Age-Seconds"]) < 160


async def test_one_instance_has_its_history(board: Board) -> None:
    document = await board.ask("GET", "/instances/llama-00001")

    assert ("llama-00001", "running") == (document["id"], document["phase"])
    assert [
        {"at_s": 990.0, "what": "placed", "detail": "n1", "generation": 1},
        {"at_s": 1000.0, "what": "started", "detail": "in 1.0 s", "generation": 1},
    ] == document["history"]


async def test_an_instance_that_is_not_there_is_a_problem(board: Board) -> None:
    async with board.session.get("/instances/llama-00099") as response:
        assert (404, "application/problem+json") == (response.status, response.content_type)
        problem = json.loads(await response.read())

    assert {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "there is no instance 'llama-00099'; list them all to see",
    } == problem


async def test_service_discovery_lists_targets_with_labels(board: Board) -> None:
    groups = await board.ask("GET", "/sd?pool=llama&state=running&developer=ann")

    assert [
        {
            "targets": ["127.0.0.1:20501"],
            "labels": {
                "instance_id": "llama-00001",
                "node": "n1",
                "model": "llama3.1:8b",
                "pool": "llama",
                "rack": "r1",
                "__meta_ollama_engine": "ollama",
                "__meta_ollama_state": "running",
                "__meta_ollama_developer": "ann",
            },
        }
    ] == groups


async def test_the_specification_is_given_as_it_is_stored_with_its_version(board: Board) -> None:
    async with board.session.get("/spec") as response:
        assert encode_fleet(FLEET) == await response.text()
        known = {"If-None-Match": response.headers["ETag"]}
    async with board.session.get("/spec", headers=known) as response:
        assert 304 == response.status


async def test_a_specification_is_planned_without_being_written(board: Board) -> None:
    document = json.loads(encode_fleet(FLEET))
    document["pools"][0]["count"] = 6
    version = board.backend.revision

    plan = await board.ask("POST", "/plan", document)

    assert (2, 0) == (plan["pools"][0]["n_created"], plan["pools"][1]["n_created"])
    assert version == board.backend.revision


async def test_planning_needs_the_token(board: Board) -> None:
    async with aiohttp.ClientSession(board.url) as session:
        async with session.post("/plan", data=encode_fleet(FLEET), headers=JSON) as response:
            assert 401 == response.status


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Bearer \xff"])
async def test_the_specification_is_told_to_holders_of_a_token_only(
    board: Board, authorization: str
) -> None:
    """It shows values of environment variables."""
    async with aiohttp.ClientSession(board.url) as session:
        async with session.get("/spec", headers={"Authorization": authorization}) as response:
            assert 401 == response.status
            assert "llama3.1" not in await response.text()


@pytest.mark.parametrize(
    ("authorization", "seen"), [(None, "got none"), ("Bearer wrong-token", "got another token")]
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/spec"), ("PUT", "/spec")])
async def test_a_refused_token_leaves_one_line_that_does_not_tell_it(
    board: Board,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    authorization: str | None,
    seen: str,
) -> None:
    """In the log and in the audit file, whether something was to be read or to be changed."""
    headers = {**JSON, **({"Authorization": authorization} if authorization else {})}
    async with aiohttp.ClientSession(board.url) as session:
        async with session.request(method, path, headers=headers) as response:
            assert 401 == response.status

    name = "spec" if method == "GET" else "put_spec"
    (record,) = board.audited()
    assert ("", "127.0.0.1", name, 401) == (
        record["who"],
        record["address"],
        record["operation"],
        record["status"],
    )
    assert seen in record["fault"]
    (line,) = [one for one in caplog.records if one.name == "provisioning.api.auth"]
    assert "WARNING" == line.levelname
    assert line.getMessage().startswith(f"{name} by nobody known from 127.0.0.1: status 401 ")
    assert "wrong-token" not in f"{line.getMessage()}{record}"


async def test_reads_that_are_answered_leave_no_line(board: Board) -> None:
    await board.ask("GET", "/spec")
    async with aiohttp.ClientSession(board.url) as session:
        async with session.get("/instances", headers={"Authorization": "Bearer wrong"}) as response:
            assert 200 == response.status

    assert [] == board.audited()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("10.1.1.1:8080", 200),
        ("[::1]:8080", 200),
        ("localhost:1", 200),
        ("Fleet.example", 200),
        ("evil.example", 421),
        ("localhost.evil.example:8080", 421),
        ("127.0.0.1.evil.example", 421),
        ("[", 421),
        ("", 421),
    ],
)
async def test_only_requests_for_our_own_hosts_are_answered(
    board: Board, host: str, status: int
) -> None:
    """A stranger's page may give its name our address, and read what its visitor's browser can."""
    async with board.session.get("/instances", headers={"Host": host}) as response:
        assert status == response.status
        assert (status == 200) == ("llama-00001" in await response.text())


async def test_others_are_answered_while_a_plan_is_made(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    n_at_once, most = 0, 0

    def slow(_: bytes) -> Fleet:
        nonlocal n_at_once, most
        n_at_once += 1
        most = max(most, n_at_once)
        goes_on.wait(10)
        n_at_once -= 1
        return FLEET

    monkeypatch.setattr(handlers, "checked_fleet", slow)
    body = json.loads(encode_fleet(FLEET))
    plans = [asyncio.create_task(board.ask("POST", "/plan", body)) for _ in range(3)]
    await eventually(lambda: n_at_once)

    await board.ask("GET", "/instances")
    assert not any(plan.done() for plan in plans)
    goes_on.set()

    await asyncio.gather(*plans)
    assert 1 == most


async def test_own_series_are_served(board: Board) -> None:
    await board.ask("GET", "/instances/nobody", expect=404)
    async with board.session.get("/metrics") as response:
        text = await response.text()

    assert 'ollama_provisioner_instances{phase="running"} 2.0\n' in text
    assert "ollama_provisioner_wanted_instances 6.0\n" in text
    assert 'ollama_provisioner_api_requests_total{operation="instance",status="404"} 1.0\n' in text


async def test_it_is_alive_before_it_is_ready(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        board.follower.view = None
        async with board.session.get("/-/healthy") as response:
            assert 200 == response.status
        for path in ("/-/ready", "/instances", "/sd", "/spec", "/instances/x"):
            problem = await board.ask("GET", path, expect=503)
            assert problem["detail"].startswith("nothing is known of the fleet yet")
        await board.follower.refresh()
        async with board.session.get("/-/ready") as response:
            revision = board.backend.revision
            words = f"The fleet is known: 6 instances, as of revision {revision}.\n"
            assert (200, words) == (response.status, await response.text())


async def test_a_store_without_a_specification_is_an_empty_fleet(tmp_path: Path) -> None:
    async with running_board(tmp_path, is_filled=False) as board:
        assert [] == await board.ask("GET", "/instances")
        problem = await board.ask("GET", "/spec", expect=404)

    assert "there is no specification yet; apply one first" == problem["detail"]


# What the specification does not tell any more


async def put_spec(board: Board, **changes: Any) -> None:
    document = {**json.loads(encode_fleet(FLEET)), **changes}
    await board.ask("PUT", "/spec", document, expect=202)
    await board.follower.refresh()


async def test_instances_of_a_pool_that_is_gone_are_listed_until_they_are_gone(
    board: Board,
) -> None:
    before = await board.ask("GET", "/instances")

    await put_spec(board, pools=[])

    assert before == await board.ask("GET", "/instances")


async def test_instances_of_a_node_that_is_gone_are_listed_until_they_are_gone(
    board: Board,
) -> None:
    before = await board.ask("GET", "/instances")

    await put_spec(board, nodes=[json.loads(encode_fleet(FLEET))["nodes"][0]])

    assert before == await board.ask("GET", "/instances")


async def test_an_instance_at_an_unknown_address_is_only_in_the_details(board: Board) -> None:
    await board.put(instance(4, node="n9"))

    ids = [entry["id"] for entry in await board.ask("GET", "/instances?node=n9&details=1")]

    assert ["llama-00004"] == ids
    assert [] == await board.ask("GET", "/instances?node=n9")
    assert [] == await board.ask("GET", "/sd?node=n9")
    assert 5 == len(await board.ask("GET", "/instances"))


# What no handler sees


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("DELETE", "/spec", 405), ("HEAD", "/instances", 405)],
)
async def test_other_paths_and_methods_are_problems_too(
    board: Board, method: str, path: str, status: int
) -> None:
    async with board.session.request(method, path) as response:
        assert (status, "application/problem+json") == (response.status, response.content_type)
        assert ("Allow" in response.headers) == (status == 405)


async def test_a_fault_of_ours_is_a_problem_without_our_secrets(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(board.follower), "as_of_s", property(lambda _: 1 / 0), raising=False)

    problem = await board.ask("GET", "/instances", expect=500)

    assert "the provisioner's log says why" == problem["detail"]
