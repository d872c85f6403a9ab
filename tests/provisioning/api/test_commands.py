"""What a person may ask of the leader, and what happens when others write at the same moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from provisioning.api.routes import NOT_LEADING
from provisioning.model import ContainerState, Fleet, ObservedContainer, Phase, Reason
from provisioning.spec.document import decode_fleet, encode_fleet
from provisioning.state import Orphan
from provisioning.store.base import Change, ChangeResult, Put, PutSpec, Term
from tests.provisioning.api.board import FLEET, LEADER, SPEC, Board, instance, running_board

FOR_THE_LEADER = (
    ("POST", "/instances/llama-00001/assign", {"developer": "ann"}),
    ("POST", "/instances/llama-00001/release", None),
    ("POST", "/instances/llama-00001/drain", None),
    ("POST", "/instances/llama-00001/replace", None),
    ("POST", "/pools/llama/scale", {"count": 4}),
    ("PUT", "/spec", SPEC),
    ("POST", "/orphans/delete", {"count": 0}),
    ("GET", "/orphans", None),
    ("GET", "/nodes", None),
)


def fleet(board: Board) -> Fleet:
    assert board.backend.spec is not None
    return decode_fleet(board.backend.spec.text)


def developers(board: Board) -> tuple[str, ...]:
    return fleet(board).pools[0].developers


def owners(board: Board, *numbers: int) -> list[str]:
    return [board.stored(f"llama-{number:05}").developer for number in numbers]


def others_write(board: Board, id_: str, **changes: Any) -> None:
    """Let others change an instance just before the next commit."""
    known = board.backend.stored[id_]
    changed = msgspec.structs.replace(known.instance, **changes)
    board.store.before_commit.append([Put(changed, known.version)])


# Who leads


async def test_a_standby_changes_nothing_and_names_the_leader(board: Board) -> None:
    board.is_leading = False

    for method, path, body in FOR_THE_LEADER:
        problem = await board.ask(method, path, body, expect=503)
        assert (LEADER, NOT_LEADING) == (problem["leader"], problem["type"]), path
        assert "this provisioner does not lead, so it " in problem["detail"]


async def test_a_leader_that_was_fenced_off_says_who_leads_now(board: Board) -> None:
    board.backend.begin_term("other")

    problem = await board.ask("POST", "/instances/llama-00001/replace", expect=503)

    assert (LEADER, NOT_LEADING) == (problem["leader"], problem["type"])
    assert not board.stored("llama-00001").is_replace_asked


def fence_second_commit(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let others write before the first commit, and another provisioner lead before the next."""
    others_write(board, "llama-00002", generation=2)
    commit, n_commits = board.store.commit, 0

    async def fenced(changes: Sequence[Change], *, term: Term) -> tuple[ChangeResult, ...]:
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
    fence_second_commit(board, monkeypatch)

    order = {"developer": "bob"}
    problem = await board.ask("POST", "/instances/llama-00002/assign", order, expect=503)

    assert (("ann", "bob"), [""]) == (developers(board), owners(board, 2))
    assert ("about:blank", False) == (problem["type"], "leader" in problem)
    assert "the change may be done in part: check before you try again" in problem["detail"]


async def test_what_was_refused_whole_before_another_took_over_changed_nothing(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence_second_commit(board, monkeypatch)

    problem = await board.ask("POST", "/instances/llama-00002/replace", expect=503)

    assert (LEADER, NOT_LEADING) == (problem["leader"], problem["type"])


# Developers


async def test_an_instance_is_given_to_a_developer_whom_the_pool_lists_from_then_on(
    board: Board,
) -> None:
    document = await board.ask("POST", "/instances/llama-00002/assign", {"developer": "bob"})

    assert ["bob"] == [document["developer"]] == owners(board, 2)
    assert ("ann", "bob") == developers(board)


async def test_a_developer_who_gets_another_instance_gives_the_first_back(board: Board) -> None:
    """Also if what is written of the first one is refused at first."""
    others_write(board, "llama-00001", n_failures=1)

    await board.ask("POST", "/instances/llama-00002/assign", {"developer": "ann"})

    assert ["", "ann"] == owners(board, 1, 2)
    assert ("ann",) == developers(board)
    assert 1 == board.stored("llama-00001").n_failures


async def test_an_order_that_is_refused_when_part_of_it_is_written_says_so(board: Board) -> None:
    """Another developer gets the instance in between; the pool lists ours already."""
    others_write(board, "llama-00002", developer="eve")

    order = {"developer": "bob"}
    problem = await board.ask("POST", "/instances/llama-00002/assign", order, expect=409)

    assert ("ann", "bob") == developers(board)
    assert (
        "llama-00002 is eve's; release it first; part of it is written already: check before "
        "you try again"
    ) == problem["detail"]


async def test_nobody_gets_what_is_anothers_or_on_its_way_out(board: Board) -> None:
    await board.put(instance(3, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN))
    for id_, detail in (
        ("llama-00001", "llama-00001 is ann's; release it first"),
        ("llama-00003", "llama-00003 is on its way out (scaled_down); choose another one"),
    ):
        order = {"developer": "bob"}
        problem = await board.ask("POST", f"/instances/{id_}/assign", order, expect=409)
        assert detail == problem["detail"]

    assert ["ann", ""] == owners(board, 1, 3)


async def test_more_developers_than_instances_are_refused(board: Board) -> None:
    await board.ask("POST", "/instances/tiny-00001/assign", {"developer": "a"})
    await board.ask("POST", "/instances/tiny-00002/assign", {"developer": "b"})
    await board.put(instance(3, "tiny"))

    order = {"developer": "c"}
    problem = await board.ask("POST", "/instances/tiny-00003/assign", order, expect=422)

    (fault,) = problem["problems"]
    assert fault.startswith("pools[1].developers: 3 want one of 2 instances")


async def test_a_released_developer_is_not_given_another_instance(board: Board) -> None:
    document = await board.ask("POST", "/instances/llama-00001/release")

    assert ["", ""] == [document["developer"], *owners(board, 1)]
    assert () == developers(board)


# Instances


async def test_draining_begins_at_once_and_only_of_what_runs(board: Board) -> None:
    document = await board.ask("POST", "/instances/llama-00001/drain", expect=202)
    stored = board.stored("llama-00001")
    assert ("draining", "drained") == (document["phase"], document["reason"])
    assert (Phase.DRAINING, Reason.DRAINED) == (stored.phase, stored.reason)
    assert "drained" == document["history"][-1]["what"]

    problem = await board.ask("POST", "/instances/llama-00002/drain", expect=409)
    assert "llama-00002 is starting: only a running instance can be drained" == problem["detail"]


async def test_a_replacement_is_left_to_the_reconciler_which_is_woken(board: Board) -> None:
    document = await board.ask("POST", "/instances/llama-00001/replace", expect=202)

    assert True is document["is_replace_asked"] is board.stored("llama-00001").is_replace_asked
    assert Phase.RUNNING == board.stored("llama-00001").phase
    assert 1 == board.n_wakes


async def test_what_is_so_already_is_not_written_again(board: Board) -> None:
    revision = board.backend.revision

    await board.ask("POST", "/instances/llama-00001/assign", {"developer": "ann"})
    await board.ask("POST", "/instances/llama-00002/release")
    await board.ask("PUT", "/spec", SPEC, expect=202)
    for id_ in ("llama-00003", "tiny-00002"):
        for order in ("drain", "replace"):
            await board.ask("POST", f"/instances/{id_}/{order}", expect=202)

    assert revision == board.backend.revision


async def test_whoever_writes_reads_it_at_once(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board.cache, "take", lambda _: None)  # before the watch knows

    await board.ask("POST", "/instances/llama-00001/drain", expect=202)

    found = [one["id"] for one in await board.ask("GET", "/instances?state=draining")]

    assert ["llama-00001", "llama-00003", "tiny-00002"] == found


async def test_what_is_not_there_is_an_answer(board: Board) -> None:
    for order in ("assign", "release", "drain", "replace"):
        body = {"developer": "x"} if order == "assign" else None
        await board.ask("POST", f"/instances/nobody/{order}", body, expect=404)
    problem = await board.ask("POST", "/pools/lama/scale", {"count": 1}, expect=404)

    assert "there is no pool 'lama'; see the active specification" == problem["detail"]


# Others write as well


async def test_a_write_that_met_another_one_is_made_on_what_that_wrote(board: Board) -> None:
    others_write(board, "llama-00001", generation=2)

    await board.ask("POST", "/instances/llama-00001/replace", expect=202)

    stored = board.stored("llama-00001")
    assert (2, True) == (stored.generation, stored.is_replace_asked)


async def test_a_write_that_always_comes_second_is_given_up(board: Board) -> None:
    known = board.backend.stored["llama-00001"]
    board.store.before_commit = [
        [Put(msgspec.structs.replace(known.instance, generation=n + 2), known.version + n)]
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
        "try again; part of it is written already: check before you try again"
    )


# The specification


async def test_a_pool_is_scaled_in_the_specification(board: Board) -> None:
    plan = await board.ask("POST", "/pools/llama/scale", {"count": 6}, expect=202)
    assert 6 == fleet(board).pools[0].count
    assert (2, 4, 6) == tuple(plan["pools"][0][key] for key in ("n_created", "n_before", "n_after"))

    plan = await board.ask("POST", "/pools/llama/scale", {"count": 0}, expect=202)
    assert FLEET.pools[0].developers == fleet(board).pools[0].developers
    assert (4, 1) == tuple(plan["pools"][0][key] for key in ("n_removed", "n_without"))


async def test_what_cannot_be_is_refused_with_all_problems(board: Board) -> None:
    nodes = [{**SPEC["nodes"][0], "cpus": 0}, {**SPEC["nodes"][1], "nmae": "x"}]

    scaled = await board.ask("POST", "/pools/llama/scale", {"count": 99}, expect=422)
    unknown = await board.ask("PUT", "/spec", {**SPEC, "nodes": nodes}, expect=422)
    wrong = await board.ask("POST", "/plan", {**SPEC, "nodes": nodes[:1], "name": ""}, expect=422)

    assert "99 instances do not fit: there is room for 16" in scaled["detail"]
    assert "nodes[1].nmae: unknown key; did you mean name?" == unknown["problems"][1]
    assert ["name", "nodes[0].cpus"] == [text.split(":")[0] for text in wrong["problems"]]
    assert FLEET == fleet(board)


async def test_a_specification_is_put_in_force(board: Board) -> None:
    plan = await board.ask("PUT", "/spec", {**SPEC, "pools": SPEC["pools"][:1]}, expect=202)

    assert 1 == len(fleet(board).pools)
    assert ("tiny", "removed", 2) == tuple(
        plan["pools"][1][key] for key in ("name", "verb", "n_removed")
    )


async def test_the_first_specification_has_the_fleets_name(tmp_path: Path) -> None:
    async with running_board(tmp_path, is_filled=False) as board:
        for method, path in (("PUT", "/spec"), ("POST", "/plan")):
            problem = await board.ask(method, path, {**SPEC, "name": "other"}, expect=409)
            assert "keeps fleet lab, and the specification is of fleet other" in problem["detail"]
        assert board.backend.spec is None

        star = {"If-Match": "*"}
        problem = await board.ask("PUT", "/spec", SPEC, headers=star, expect=412)
        assert "there is no active specification yet" in problem["detail"]
        plan = await board.ask("PUT", "/spec", SPEC, headers={"If-Match": '"0"'}, expect=202)

        assert FLEET == fleet(board)
        assert [4, 2] == [pool["n_created"] for pool in plan["pools"]]


async def test_a_fleet_that_was_kept_under_another_name_is_not_renamed(board: Board) -> None:
    assert board.backend.spec
    kept = encode_fleet(FLEET.replace(name="old"))
    await board.commit(PutSpec(kept, board.backend.spec.version))

    problem = await board.ask("PUT", "/spec", SPEC, expect=409)

    assert "the fleet's name is old and cannot become lab" in problem["detail"]


async def test_a_node_that_holds_instances_is_dropped_only_when_it_is_cordoned(
    board: Board,
) -> None:
    """A provisioner that takes over would not know how to reach them."""
    await board.put(instance(11, node="n2"))
    first, second = SPEC["nodes"]
    without = {**SPEC, "nodes": [first]}

    problem = await board.ask("PUT", "/spec", without, expect=409)
    assert problem["detail"].startswith(
        "cannot drop nodes that hold instances and are not cordoned: n2 (holds 1 instance); "
    )
    (node,) = (await board.ask("POST", "/plan", without))["nodes"]
    assert ("n2", "removed", 1) == (node["name"], node["verb"], node["n_held"])
    assert FLEET == fleet(board)

    cordoned = {**SPEC, "nodes": [first, {**second, "cordoned": True}]}
    await board.ask("PUT", "/spec", cordoned, expect=202)
    await board.ask("PUT", "/spec", without, expect=202)
    assert ["n1"] == [node.name for node in fleet(board).nodes]


# The version that a write is for


def changing(board: Board) -> list[tuple[str, str, Any, str]]:
    """Return both writes of the specification, and the version in force."""
    assert board.backend.spec is not None
    version = str(board.backend.spec.version)
    changed = {**SPEC, "pools": SPEC["pools"][:1]}
    return [
        ("PUT", "/spec", changed, version),
        ("POST", "/pools/llama/scale", {"count": 6}, version),
    ]


async def test_a_version_that_is_not_written_as_a_tag_is_refused(board: Board) -> None:
    """A guard that is not understood must not be taken for none."""
    forms = ("", " ", "999", "W/999", '"1', '1"', 'W/"1"', '"1" "2"', '"1",', '"1", *', '*, "1"')
    for method, path, body, version in changing(board):
        for form in forms:
            given = {"If-Match": form.replace("1", version)}
            problem = await board.ask(method, path, body, headers=given, expect=400)
            assert "If-Match must be the ETag that GET /spec gave, in its" in problem["detail"], (
                form
            )

    assert FLEET == fleet(board)


async def test_a_version_that_is_not_in_force_changes_nothing(board: Board) -> None:
    forms = ('"0{}"', '"{}0"', '""', '"-1"', '"x"', '"{}", "999"', f'"{"9" * 5000}"')
    for method, path, body, version in changing(board):
        for form in forms:
            given = {"If-Match": form.format(version)}
            await board.ask(method, path, body, headers=given, expect=412)

    assert FLEET == fleet(board)


@pytest.mark.parametrize("place", [0, 1], ids=["put_spec", "scale"])
async def test_a_write_for_what_is_in_force_is_carried_out(board: Board, place: int) -> None:
    for form in (None, "*", ' "{}" '):
        method, path, body, version = changing(board)[place]
        given = {"If-Match": form.format(version)} if form else {}
        await board.ask(method, path, body, headers=given, expect=202)


async def test_a_specification_that_another_one_overtook_is_refused(board: Board) -> None:
    """Even if the other one comes when this one is about to be written."""
    others = FLEET.replace(pools=FLEET.pools[:1])
    writes = changing(board)
    board.store.before_commit.append([PutSpec(encode_fleet(others), int(writes[0][-1]))])

    for method, path, body, version in reversed(writes):
        headers = {"If-Match": f'"{version}"'}
        problem = await board.ask(method, path, body, headers=headers, expect=412)
        assert "of the specification is active, not " in problem["detail"]

    assert others == fleet(board)


# Orphans


async def test_only_as_many_orphans_as_were_seen_are_deleted(board: Board) -> None:
    board.orphans = [
        Orphan("n1", ObservedContainer("chat-00001.2", "chat-00001", 2, ContainerState.RUNNING))
    ]

    for count in (0, 2):
        problem = await board.ask("POST", "/orphans/delete", {"count": count}, expect=409)
        assert "there are 1 now, and none was deleted" in problem["detail"]
    assert 0 == board.n_orphan_orders

    (deleted,) = await board.ask("POST", "/orphans/delete", {"count": 1}, expect=202)
    assert [deleted] == await board.ask("GET", "/orphans")
    assert ("n1", "chat-00001.2") == (deleted["node"], deleted["name"])
    assert 1 == board.n_orphan_orders


async def test_before_orphans_are_known_none_is_listed_or_deleted(board: Board) -> None:
    board.orphans = None

    for method, path, body in (
        ("GET", "/orphans", None),
        ("POST", "/orphans/delete", {"count": 0}),
    ):
        problem = await board.ask(method, path, body, expect=409)
        assert "each node" in problem["detail"]
    assert 0 == board.n_orphan_orders
