"""What only the holder of a token may ask: each write, its refusals, its line in the audit log."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
import pytest

from provisioning.api.routes import NOT_LEADING
from provisioning.model import Fleet, Phase, Reason
from provisioning.spec import decode_fleet, encode_fleet
from provisioning.store.base import Change, Done, Put, PutSpec, Term
from tests.provisioning.api.board import FLEET, LEADER, Board, instance, running_board

SPEC = json.loads(encode_fleet(FLEET))
WRITES = [
    ("POST", "/instances/llama-00001/assign", {"developer": "ann"}),
    ("POST", "/instances/llama-00001/release", None),
    ("POST", "/instances/llama-00001/drain", None),
    ("POST", "/instances/llama-00001/replace", None),
    ("POST", "/pools/llama/scale", {"count": 4}),
    ("PUT", "/spec", SPEC),
]


def fleet(board: Board) -> Fleet:
    assert board.backend.spec is not None
    return decode_fleet(board.backend.spec.text)


def developers(board: Board) -> tuple[str, ...]:
    return fleet(board).pools[0].developers


# Who may


@pytest.mark.parametrize(("method", "path", "order"), WRITES)
@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic {token}", "{token}"])
async def test_a_write_without_the_token_is_refused(
    board: Board, method: str, path: str, order: Any, authorization: str
) -> None:
    headers = {"Authorization": authorization.format(token=board.token)}
    revision = board.backend.revision
    async with aiohttp.ClientSession(board.url, headers=headers) as session:
        async with session.request(method, path, json=order) as response:
            assert (401, "Bearer") == (response.status, response.headers["WWW-Authenticate"])
            seen = await response.text()
            assert board.token not in seen
            assert str(board.tokens.path) not in seen

    assert revision == board.backend.revision
    (record,) = board.audited()
    assert ("", 401, None) == (record["who"], record["status"], record["order"])


@pytest.mark.parametrize(("method", "path", "order"), WRITES)
async def test_a_standby_changes_nothing_and_names_the_leader(
    board: Board, method: str, path: str, order: Any
) -> None:
    board.is_leading = False

    problem = await board.ask(method, path, order, expect=503)

    assert (LEADER, 503, NOT_LEADING) == (problem["leader"], problem["status"], problem["type"])


async def test_a_leader_that_was_fenced_off_says_who_leads_now(board: Board) -> None:
    board.backend.begin_term("other")

    problem = await board.ask("POST", "/instances/llama-00001/replace", expect=503)

    assert (LEADER, NOT_LEADING) == (problem["leader"], problem["type"])
    assert not board.stored("llama-00001").is_replace_asked


def fenced_at_second_commit(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let others write before the first commit, and another provisioner take over before the next.

    The instance is another generation then, so that what is written of it is refused at first.
    """
    known = board.backend.stored["llama-00002"]
    moved = msgspec.structs.replace(known.instance, generation=2)
    board.store.before_commit.append([Put(moved, known.version)])
    commit, n_commits = board.store.commit, 0

    async def fenced(changes: Sequence[Change], *, term: Term) -> tuple[Done, ...]:
        nonlocal n_commits
        n_commits += 1
        if n_commits == 2:
            board.backend.begin_term("other")
        return await commit(changes, term=term)

    monkeypatch.setattr(board.store, "commit", fenced)


async def test_what_was_begun_before_another_took_over_is_not_said_to_be_undone(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool lists the developer, and the instance is not theirs yet."""
    fenced_at_second_commit(board, monkeypatch)

    order = {"developer": "bob"}
    problem = await board.ask("POST", "/instances/llama-00002/assign", order, expect=503)

    assert (("ann", "bob"), "") == (developers(board), board.stored("llama-00002").developer)
    assert ("about:blank", False) == (problem["type"], "leader" in problem)
    assert (
        "another provisioner took over in the midst of it, so it may have been done in part: "
        "look before you try again"
    ) == problem["detail"]


async def test_what_was_refused_whole_before_another_took_over_changed_nothing(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    fenced_at_second_commit(board, monkeypatch)

    problem = await board.ask("POST", "/instances/llama-00002/replace", expect=503)

    assert (LEADER, NOT_LEADING) == (problem["leader"], problem["type"])
    assert not board.stored("llama-00002").is_replace_asked


async def test_a_store_that_is_away_is_told_with_when_to_come_again(board: Board) -> None:
    board.store.is_away = True

    async with board.session.post("/instances/llama-00001/replace") as response:
        assert (503, "2") == (response.status, response.headers["Retry-After"])
        problem = json.loads(await response.read())
        assert ("the store is away", "about:blank") == (problem["detail"], problem["type"])


# Developers


async def test_an_instance_is_given_to_a_developer_whom_the_pool_lists_from_then_on(
    board: Board,
) -> None:
    document = await board.ask("POST", "/instances/llama-00002/assign", {"developer": "bob"})

    assert "bob" == document["developer"] == board.stored("llama-00002").developer
    assert ("ann", "bob") == developers(board)


async def test_a_developer_who_gets_another_instance_gives_the_first_back(board: Board) -> None:
    await board.ask("POST", "/instances/llama-00002/assign", {"developer": "ann"})

    assert ("", "ann") == (
        board.stored("llama-00001").developer,
        board.stored("llama-00002").developer,
    )
    assert ("ann",) == developers(board)


async def test_a_developer_gets_the_instance_that_is_asked_for_though_the_former_one_changes(
    board: Board,
) -> None:
    """What is written of it is refused at first; with two, the next pass would take one."""
    known = board.backend.stored["llama-00001"]
    failed = msgspec.structs.replace(known.instance, n_failures=1)
    board.store.before_commit.append([Put(failed, known.version)])

    await board.ask("POST", "/instances/llama-00002/assign", {"developer": "ann"})

    assert ("", "ann") == (
        board.stored("llama-00001").developer,
        board.stored("llama-00002").developer,
    )
    assert 1 == board.stored("llama-00001").n_failures


async def test_an_order_that_is_refused_when_part_of_it_is_written_says_so(board: Board) -> None:
    """Another developer gets the instance in between; the pool lists ours already."""
    known = board.backend.stored["llama-00002"]
    taken = msgspec.structs.replace(known.instance, developer="eve")
    board.store.before_commit.append([Put(taken, known.version)])

    problem = await board.ask(
        "POST", "/instances/llama-00002/assign", {"developer": "bob"}, expect=409
    )

    assert ("ann", "bob") == developers(board)
    assert (
        "llama-00002 is eve's; release it first; part of it is written already, so look before "
        "you try again"
    ) == problem["detail"]


async def test_nobody_loses_an_instance_to_another_developer(board: Board) -> None:
    problem = await board.ask(
        "POST", "/instances/llama-00001/assign", {"developer": "bob"}, expect=409
    )

    assert "llama-00001 is ann's; release it first" == problem["detail"]
    assert "ann" == board.stored("llama-00001").developer


async def test_more_developers_than_instances_are_refused(board: Board) -> None:
    await board.ask("POST", "/instances/tiny-00001/assign", {"developer": "a"})
    await board.follower.refresh()
    await board.ask("POST", "/instances/tiny-00002/assign", {"developer": "b"})
    await board.put(instance(3, "tiny"))

    problem = await board.ask(
        "POST", "/instances/tiny-00003/assign", {"developer": "c"}, expect=422
    )

    assert ["pools[1].developers: 3 want one of 2 instances; raise its count or list fewer"] == (
        problem["problems"]
    )


async def test_an_instance_on_its_way_out_is_given_to_nobody(board: Board) -> None:
    await board.put(instance(3, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN))

    problem = await board.ask(
        "POST", "/instances/llama-00003/assign", {"developer": "bob"}, expect=409
    )

    assert "is on its way out (scaled_down)" in problem["detail"]


@pytest.mark.parametrize(
    ("id_", "order"),
    [("llama-00001", "assign"), ("llama-00002", "release")],
)
async def test_what_is_so_already_is_not_written_again(board: Board, id_: str, order: str) -> None:
    revision = board.backend.revision

    await board.ask(
        "POST", f"/instances/{id_}/{order}", {"developer": "ann"} if order == "assign" else None
    )

    assert revision == board.backend.revision


async def test_a_released_developer_is_not_given_another_instance(board: Board) -> None:
    document = await board.ask("POST", "/instances/llama-00001/release")

    assert "" == document["developer"]
    assert ("", ()) == (board.stored("llama-00001").developer, developers(board))


# Renewal


async def test_draining_begins_at_once(board: Board) -> None:
    document = await board.ask("POST", "/instances/llama-00001/drain", expect=202)

    stored = board.stored("llama-00001")
    assert ("draining", "drained") == (document["phase"], document["reason"])
    assert (Phase.DRAINING, Reason.DRAINED) == (stored.phase, stored.reason)
    assert "drained" == document["history"][-1]["what"]


async def test_only_what_runs_is_drained(board: Board) -> None:
    problem = await board.ask("POST", "/instances/llama-00002/drain", expect=409)

    assert "llama-00002 is starting: only a running instance can be drained" == problem["detail"]


async def test_a_replacement_is_left_to_the_reconciler(board: Board) -> None:
    document = await board.ask("POST", "/instances/llama-00001/replace", expect=202)

    assert True is document["is_replace_asked"] is board.stored("llama-00001").is_replace_asked
    assert Phase.RUNNING == board.stored("llama-00001").phase


@pytest.mark.parametrize("id_", ["llama-00003", "tiny-00002"])
@pytest.mark.parametrize("order", ["drain", "replace"])
async def test_what_is_on_its_way_already_is_left_alone(board: Board, id_: str, order: str) -> None:
    before = board.stored(id_)

    await board.ask("POST", f"/instances/{id_}/{order}", expect=202)

    assert before == board.stored(id_)


# The specification


async def test_a_pool_is_scaled_in_the_specification(board: Board) -> None:
    plan = await board.ask("POST", "/pools/llama/scale", {"count": 6}, expect=202)

    assert 6 == fleet(board).pools[0].count
    assert (2, 4, 6) == tuple(plan["pools"][0][key] for key in ("n_created", "n_before", "n_after"))


async def test_a_pool_with_developers_is_put_away_whole_and_the_plan_says_so(board: Board) -> None:
    plan = await board.ask("POST", "/pools/llama/scale", {"count": 0}, expect=202)

    assert 0 == fleet(board).pools[0].count
    assert FLEET.pools[0].developers == fleet(board).pools[0].developers
    assert (4, 1) == tuple(plan["pools"][0][key] for key in ("n_removed", "n_without"))


@pytest.mark.parametrize(
    ("path", "count", "status", "detail"),
    [
        ("/pools/lama/scale", 1, 404, "there is no pool 'lama'; see the specification in force"),
        ("/pools/llama/scale", 99, 422, "99 instances do not fit: there is room for 16"),
    ],
)
async def test_a_pool_that_cannot_be_so_large_is_refused(
    board: Board, path: str, count: int, status: int, detail: str
) -> None:
    problem = await board.ask("POST", path, {"count": count}, expect=status)

    assert detail in problem["detail"]
    assert FLEET == fleet(board)


async def test_a_specification_is_put_in_force(board: Board) -> None:
    plan = await board.ask("PUT", "/spec", {**SPEC, "pools": SPEC["pools"][:1]}, expect=202)

    assert 1 == len(fleet(board).pools)
    assert ("tiny", "removed", 2) == (
        plan["pools"][1]["name"],
        plan["pools"][1]["verb"],
        plan["pools"][1]["n_removed"],
    )


async def test_the_first_specification_is_put_in_force(tmp_path: Path) -> None:
    async with running_board(tmp_path, is_filled=False) as board:
        plan = await board.ask("PUT", "/spec", SPEC, expect=202, headers={"If-Match": '"0"'})

        assert FLEET == fleet(board)
        assert [4, 2] == [pool["n_created"] for pool in plan["pools"]]


async def test_the_same_specification_again_writes_nothing(board: Board) -> None:
    revision = board.backend.revision

    await board.ask("PUT", "/spec", SPEC, expect=202)

    assert revision == board.backend.revision


async def test_a_specification_that_another_one_overtook_is_refused(board: Board) -> None:
    async with board.session.get("/spec") as response:
        known = {"If-Match": response.headers["ETag"]}
    await board.ask("POST", "/pools/llama/scale", {"count": 5}, expect=202)

    problem = await board.ask("PUT", "/spec", SPEC, headers=known, expect=412)

    assert "of the specification is in force, not " in problem["detail"]
    assert 5 == fleet(board).pools[0].count


async def test_a_pool_of_a_specification_that_another_one_overtook_is_not_scaled(
    board: Board,
) -> None:
    """Even if the other one comes when this one is about to be written."""
    async with board.session.get("/spec") as response:
        known = {"If-Match": response.headers["ETag"]}
    spec = board.backend.spec
    assert spec is not None
    others = msgspec.structs.replace(FLEET, pools=FLEET.pools[:1])
    board.store.before_commit.append([PutSpec(encode_fleet(others), spec.version)])

    for _ in range(2):
        problem = await board.ask(
            "POST", "/pools/llama/scale", {"count": 5}, headers=known, expect=412
        )
        assert "of the specification is in force, not " in problem["detail"]

    assert others == fleet(board)


async def test_a_pool_is_scaled_in_the_specification_that_is_named(board: Board) -> None:
    async with board.session.get("/spec") as response:
        known = {"If-Match": response.headers["ETag"]}

    await board.ask("POST", "/pools/llama/scale", {"count": 5}, headers=known, expect=202)

    assert 5 == fleet(board).pools[0].count


@pytest.mark.parametrize("tag", ['"x"', '"1", "2"', '"-1"'])
async def test_a_tag_that_was_never_given_is_refused(board: Board, tag: str) -> None:
    await board.ask("PUT", "/spec", SPEC, headers={"If-Match": tag}, expect=412)
    scaled = {"count": 5}
    await board.ask("POST", "/pools/llama/scale", scaled, headers={"If-Match": tag}, expect=412)


async def test_a_fleet_keeps_its_name(board: Board) -> None:
    problem = await board.ask("PUT", "/spec", {**SPEC, "name": "other"}, expect=409)

    assert "keeps fleet lab, and the specification is of fleet other" in problem["detail"]
    assert "--fleet other" in problem["detail"]


async def test_a_fleets_first_specification_has_its_name(tmp_path: Path) -> None:
    """Nothing else is known of the fleet yet than how its provisioner is called."""
    async with running_board(tmp_path, is_filled=False) as board:
        for method, path in (("PUT", "/spec"), ("POST", "/plan")):
            await board.ask(method, path, {**SPEC, "name": "other"}, expect=409)

        assert board.backend.spec is None


async def test_a_fleet_that_was_kept_under_another_name_is_not_renamed(board: Board) -> None:
    kept = encode_fleet(msgspec.structs.replace(FLEET, name="old"))
    version = board.backend.spec.version if board.backend.spec else 0
    await board.store.commit([PutSpec(kept, version)], term=board.term)
    await board.follower.refresh()

    problem = await board.ask("PUT", "/spec", SPEC, expect=409)

    assert "the fleet's name is old and cannot become lab" in problem["detail"]
    assert "with another --fleet and --store.url" in problem["detail"]


async def put_on(board: Board, node: str, *, n: int = 1, **changes: Any) -> None:
    """Let a node hold some more instances."""
    for number in range(11, 11 + n):
        await board.put(instance(number, node=node, **changes))


async def applied_nodes(board: Board, *nodes: Any, expect: int = 202) -> Any:
    answer = await board.ask("PUT", "/spec", {**SPEC, "nodes": nodes}, expect=expect)
    await board.follower.refresh()
    return answer


async def test_a_node_that_holds_instances_is_not_dropped(board: Board) -> None:
    """A provisioner that takes over would not know how to reach them."""
    await put_on(board, "n2", n=2)
    revision = board.backend.revision

    problem = await applied_nodes(board, SPEC["nodes"][0], expect=409)

    assert (
        "cannot drop nodes that hold instances and are not cordoned: n2 (holds 2 instances); "
        "a provisioner that takes over could not reach 2 instances there. List each of them with "
        "cordoned: true, apply that, and drop it once 'ollama-fleet instances list --node=n2' "
        "shows none but failed ones"
    ) == problem["detail"]
    assert (409, "Conflict") == (problem["status"], problem["title"])
    assert (revision, FLEET) == (board.backend.revision, fleet(board))


async def test_the_plan_of_what_is_refused_shows_why(board: Board) -> None:
    await put_on(board, "n2")

    plan = await board.ask("POST", "/plan", {**SPEC, "nodes": SPEC["nodes"][:1]})

    (node,) = plan["nodes"]
    assert ("n2", "removed", 1, True) == (
        node["name"],
        node["verb"],
        node["n_held"],
        node["is_in_use"],
    )


@pytest.mark.parametrize("phase", [one for one in Phase if one is not Phase.FAILED])
async def test_whatever_has_a_container_holds_its_node(board: Board, phase: Phase) -> None:
    """One that leaves for good as well: its container would be left behind."""
    reason = Reason.SCALED_DOWN if phase in (Phase.DRAINING, Phase.STOPPING) else None
    await put_on(board, "n2", phase=phase, reason=reason)

    await applied_nodes(board, SPEC["nodes"][0], expect=409)


async def test_a_node_with_failed_instances_only_is_dropped(board: Board) -> None:
    await applied_nodes(board, SPEC["nodes"][0])

    assert ["n1"] == [node.name for node in fleet(board).nodes]


async def test_a_cordoned_node_is_dropped_though_it_holds_instances(board: Board) -> None:
    """Of a machine that is gone for good they cannot be moved."""
    await put_on(board, "n2")
    first, second = SPEC["nodes"]
    cordoned = {**second, "is_cordoned": True}

    await applied_nodes(board, first, cordoned)
    plan = await applied_nodes(board, first)

    assert ("removed", 1, False) == tuple(
        plan["nodes"][0][key] for key in ("verb", "n_held", "is_in_use")
    )
    assert ["n1"] == [node.name for node in fleet(board).nodes]


@pytest.mark.parametrize("is_cordoned", [False, True])
async def test_a_node_that_holds_instances_does_not_become_another_machine(
    board: Board, is_cordoned: bool
) -> None:
    await put_on(board, "n2", n=2)
    first, second = SPEC["nodes"]
    cordoned = {**second, "is_cordoned": is_cordoned}
    await applied_nodes(board, first, cordoned)
    before = fleet(board)

    elsewhere = {**second, "runtime": "simulated", "endpoint": "http://127.0.0.1:1"}
    problem = await applied_nodes(board, first, elsewhere, expect=409)
    plan = await board.ask("POST", "/plan", {**SPEC, "nodes": [first, elsewhere]})

    assert problem["detail"].startswith(
        "cannot have another runtime or endpoint for nodes that hold instances: n2 (holds 2 "
    )
    assert ("n2", True) == (plan["nodes"][0]["name"], plan["nodes"][0]["is_moved"])
    assert before == fleet(board)


async def test_a_specification_that_cannot_be_is_refused_with_all_problems(board: Board) -> None:
    nodes = [{**SPEC["nodes"][0], "cpus": 0}, {**SPEC["nodes"][1], "nmae": "x"}]

    unknown = await board.ask("PUT", "/spec", {**SPEC, "nodes": nodes}, expect=422)
    wrong = await board.ask("POST", "/plan", {**SPEC, "nodes": nodes[:1], "name": ""}, expect=422)

    assert ["nodes[1].nmae: unknown key; did you mean name?"] == unknown["problems"]
    assert ["name", "nodes[0].cpus"] == [text.split(":")[0] for text in wrong["problems"]]


# Orders


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("{", 400, "the body is no JSON"),
        ("", 400, "the body is no JSON"),
        ("{}", 422, "missing required field `developer`"),
        ('{"developer": ""}', 422, "length >= 1"),
        ('{"developer": "a", "x": 1}', 422, "unknown field `x`"),
        ('{"developer": "\\u0007"}', 422, "must not hold control characters"),
        ('{"developer": "%s"}' % ("x" * 17_000), 413, ""),
    ],
)
async def test_an_order_that_cannot_be_understood_is_refused(
    board: Board, body: str, status: int, detail: str
) -> None:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {board.token}"}
    async with aiohttp.ClientSession(board.url, headers=headers) as session:
        async with session.post("/instances/llama-00002/assign", data=body) as response:
            assert status == response.status
            assert detail in json.loads(await response.read())["detail"]

    assert "" == board.stored("llama-00002").developer


async def test_an_order_in_pieces_is_not_read_beyond_its_bound(board: Board) -> None:
    """Its length is not said before; no order of this kind is larger than 16 kB."""
    seen: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        for n in range(4):
            seen.append(n)
            yield b" " * 5_000

    headers = {"Content-Type": "application/json"}
    problem = await board.ask(
        "POST", "/pools/llama/scale", data=pieces(), headers=headers, expect=413
    )

    assert "16384" in problem["detail"]


async def test_a_large_specification_in_pieces_is_read_whole(board: Board) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b" " * 2_000_000
        yield encode_fleet(FLEET).encode()

    headers = {"Content-Type": "application/json"}
    await board.ask("POST", "/plan", data=pieces(), headers=headers)
    await board.ask("PUT", "/spec", data=pieces(), headers=headers, expect=202)


async def test_a_body_that_is_not_json_is_refused(board: Board) -> None:
    problem = await board.ask(
        "POST", "/pools/llama/scale", expect=415, headers={"Content-Type": "text/yaml"}
    )

    assert "the body must be application/json, got text/yaml" == problem["detail"]


async def test_a_body_where_none_belongs_is_refused(board: Board) -> None:
    problem = await board.ask("POST", "/instances/llama-00001/drain", {"now": True}, expect=400)

    assert "POST /instances/{id}/drain takes no body" == problem["detail"]


@pytest.mark.parametrize("order", ["assign", "release", "drain", "replace"])
async def test_an_instance_that_is_not_there_is_told(board: Board, order: str) -> None:
    body = {"developer": "x"} if order == "assign" else None

    await board.ask("POST", f"/instances/nobody/{order}", body, expect=404)


# Others write as well


async def test_a_write_that_met_another_one_is_made_on_what_that_wrote(board: Board) -> None:
    """The reconciler drains the instance just before a person asks to replace it."""
    known = board.backend.stored["llama-00001"]
    moved = msgspec.structs.replace(known.instance, generation=2)
    board.store.before_commit.append([Put(moved, known.version)])

    await board.ask("POST", "/instances/llama-00001/replace", expect=202)

    stored = board.stored("llama-00001")
    assert (2, True) == (stored.generation, stored.is_replace_asked)


async def test_a_write_that_always_comes_second_is_given_up(board: Board) -> None:
    known = board.backend.stored["llama-00001"]
    version = known.version
    board.store.before_commit = [
        [Put(msgspec.structs.replace(known.instance, generation=n + 2), version + n)]
        for n in range(5)
    ]

    problem = await board.ask("POST", "/instances/llama-00001/replace", expect=409)

    assert "it was changed by others 5 times in between; try again" == problem["detail"]


async def test_a_write_that_is_given_up_says_that_part_of_it_is_written(board: Board) -> None:
    known = board.backend.stored["llama-00002"]
    begun = board.backend.revision  # then others write, we list the developer, others write on
    versions = (known.version, begun + 1, begun + 3, begun + 4, begun + 5)
    board.store.before_commit = [
        [Put(msgspec.structs.replace(known.instance, generation=n), version)]
        for n, version in enumerate(versions, 2)
    ]
    order = {"developer": "bob"}

    problem = await board.ask("POST", "/instances/llama-00002/assign", order, expect=409)

    assert problem["detail"].endswith(
        "try again; part of it is written already, so look before you try again"
    )


# Once


async def test_a_request_that_comes_again_is_carried_out_once(board: Board) -> None:
    key = {"Idempotency-Key": "one"}
    first = await board.ask("POST", "/instances/llama-00001/replace", headers=key, expect=202)
    await board.put(instance(1, generation=2))

    second = await board.ask("POST", "/instances/llama-00001/replace", headers=key, expect=202)

    assert first == second
    assert not board.stored("llama-00001").is_replace_asked


async def test_a_key_that_comes_with_another_request_is_refused(board: Board) -> None:
    key = {"Idempotency-Key": "one"}
    await board.ask("POST", "/instances/llama-00001/replace", headers=key, expect=202)

    problem = await board.ask("POST", "/instances/tiny-00001/replace", headers=key, expect=409)

    assert "Idempotency-Key 'one' was used for another request" in problem["detail"]


async def test_a_key_that_another_person_used_is_refused(board: Board) -> None:
    board.tokens.path.write_text(f"{board.token}\nann {'t' * 20}\n")
    key = {"Idempotency-Key": "one"}
    anns = {**key, "Authorization": f"Bearer {'t' * 20}"}
    await board.ask("POST", "/instances/llama-00001/replace", headers=key, expect=202)

    await board.ask("POST", "/instances/llama-00001/replace", headers=anns, expect=409)


@pytest.mark.parametrize(("n_characters", "status"), [(0, 400), (1, 202), (200, 202), (201, 400)])
async def test_a_key_has_a_length(board: Board, n_characters: int, status: int) -> None:
    key = {"Idempotency-Key": "k" * n_characters}

    await board.ask("POST", "/instances/llama-00001/replace", headers=key, expect=status)


async def test_a_request_that_failed_may_come_again_with_its_key(board: Board) -> None:
    key = {"Idempotency-Key": "one"}
    board.store.is_away = True
    await board.ask("POST", "/instances/llama-00001/replace", headers=key, expect=503)
    board.store.is_away = False

    await board.ask("POST", "/instances/llama-00001/replace", headers=key, expect=202)


async def test_a_header_that_is_no_text_is_no_error_of_ours(board: Board) -> None:
    url = urlsplit(board.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(
        b"POST /instances/llama-00001/replace HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Authorization: Bearer " + board.token.encode() + b"\r\n"
        b"Idempotency-Key: one\r\nIf-Match: \xff\r\nContent-Length: 0\r\n\r\n"
    )

    answer = await reader.read()

    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 202 ")


# The audit log


async def test_every_write_leaves_a_line_that_says_who_did_what(board: Board) -> None:
    board.tokens.path.write_text(f"{board.token}\nann {'t' * 20}\n")
    headers = {"Authorization": f"Bearer {'t' * 20}"}
    await board.ask("POST", "/instances/llama-00002/assign", {"developer": "bob"}, headers=headers)
    await board.ask("POST", "/pools/nobody/scale", {"count": 1}, expect=404, headers=headers)

    first, second = board.audited()
    assert first.pop("at").endswith("+00:00")
    assert {
        "who": "ann",
        "address": "127.0.0.1",
        "operation": "assign",
        "target": "llama-00002",
        "order": {"developer": "bob"},
        "status": 200,
    } == first
    assert (
        "scale",
        "nobody",
        404,
        "there is no pool 'nobody'; see the specification in force",
    ) == (
        second["operation"],
        second["target"],
        second["status"],
        second["fault"],
    )


async def test_a_write_of_a_holder_of_a_token_is_no_warning(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await board.ask("POST", "/instances/llama-00001/replace", expect=202)
    await board.ask("POST", "/pools/nobody/scale", {"count": 1}, expect=404)

    assert ["INFO", "INFO"] == [
        one.levelname for one in caplog.records if one.name == "provisioning.api.auth"
    ]


async def test_a_stranger_forges_no_line_in_the_log(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by a newline, in one of its spellings, nor by what colours or erases a terminal."""
    caplog.set_level("INFO")
    target = "x\n2026-01-01 INFO audit: drain all by root\x1b[31m\r\u2028\x85"
    path = f"/instances/{quote(target)}/drain"
    async with aiohttp.ClientSession(board.url) as session:
        async with session.post(path) as response:
            assert 401 == response.status
    await board.ask("POST", path, expect=404)
    await board.ask("PUT", "/spec", {**SPEC, "naem": 1, "x": 2}, expect=422)

    lines = [one.getMessage() for one in caplog.records if one.name == "provisioning.api.auth"]
    assert [True] * 3 == [line.isprintable() for line in lines]
    shown = r"x\n2026-01-01 INFO audit: drain all by root\x1b[31m\r\u2028\x85"
    assert lines[0].startswith(f"drain {shown} by nobody known from ")
    assert r"2 problems in the specification\n  naem: unknown key" in lines[2]
    assert [target, target, ""] == [record["target"] for record in board.audited()]


async def test_the_audit_log_holds_neither_tokens_nor_specifications(board: Board) -> None:
    await board.ask("PUT", "/spec", SPEC, expect=202)

    text = board.audit_path.read_text()
    assert board.token not in text
    assert "llama3.1" not in text
    assert 64 == len(board.audited()[0]["order"]["sha256"])
    assert 0o600 == stat.S_IMODE(board.audit_path.stat().st_mode)


async def test_a_write_that_broke_is_no_success_in_the_audit_log(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(board.store, "commit", broken)
    await board.ask("POST", "/instances/llama-00001/replace", expect=500)

    assert [(500, "an error of the provisioner itself")] == [
        (record["status"], record["fault"]) for record in board.audited()
    ]


async def test_an_audit_log_that_cannot_be_written_is_logged(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    board.audit_path.unlink()
    board.audit_path.mkdir()

    await board.ask("POST", "/instances/llama-00001/replace", expect=202)

    assert f"cannot write to the audit log {board.audit_path}: Is a directory" in caplog.text
    board.audit_path.rmdir()
