"""How each node is, told by the leader alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.api.inventory import node_documents
from provisioning.model import NodeReport, Phase
from tests.provisioning.api.board import FLEET, LEADER, running_board
from tests.provisioning.making import GIB, fleet, instance, node, report, silent

FIRST, SECOND = node("n1", is_cordoned=True), node("n2")
HELD = (
    instance(1),
    instance(2, phase=Phase.DRAINING),
    instance(3, phase=Phase.FAILED),
    instance(4, node="n9"),
)


def test_a_node_tells_what_it_holds_and_whether_it_answers() -> None:
    first, second, gone = node_documents(
        fleet(nodes=(SECOND, FIRST)), HELD, {"n1": report("n1", at_s=7.0)}
    )

    assert ("n1", "simulated", True, True, True) == (
        first.name,
        first.runtime,
        first.is_listed,
        first.is_cordoned,
        first.is_reachable,
    )
    assert (7.0, "") == (first.heard_s, first.fault)
    assert (2, 1) == (first.n_instances, first.n_failed)
    assert (2.0, 8.0) == (first.cpus_used, first.cpus)
    assert (2 * GIB, 8 * GIB) == (first.memory_used_bytes, first.memory_bytes)
    assert ("n2", False, 0, 0) == (
        second.name, second.is_cordoned, second.n_instances, second.n_failed
    )  # fmt: skip
    assert ("n9", "", False, 1, 1.0, 0.0, 0) == (
        gone.name, gone.runtime, gone.is_listed, gone.n_instances, gone.cpus_used, gone.cpus,
        gone.memory_bytes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        (report("n2", at_s=7.0), (True, 7.0, "")),
        (silent("n2", for_s=60.0), (False, silent(for_s=60.0).at_s, "cannot connect")),
        (NodeReport("n2", 0.0, (), "cannot connect"), (False, 0.0, "cannot connect")),
        (NodeReport("n2", 0.0), (False, 0.0, "it was not asked yet")),
        (None, (False, 0.0, "it was not asked yet")),
    ],
)
def test_why_a_node_does_not_answer_is_told(
    heard: NodeReport | None, expected: tuple[bool, float, str]
) -> None:
    (only,) = node_documents(fleet(nodes=(SECOND,)), (), {"n2": heard} if heard else {})

    assert expected == (only.is_reachable, only.heard_s, only.fault)
    assert (expected[2] != "it was not asked yet") == only.is_asked


def test_a_node_that_is_not_listed_says_so_and_one_without_a_specification_is_told_too() -> None:
    (only,) = node_documents(None, HELD[:1], {})
    assert "it cannot be asked: the specification does not list it" == only.fault
    assert not only.is_asked

    (asked,) = node_documents(None, (), {"n3": report("n3")})
    assert ("n3", True, False) == (asked.name, asked.is_reachable, asked.is_listed)


async def test_the_leader_tells_of_every_node(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        board.reports = {"n1": NodeReport("n1", 5.0, (), "no answer")}
        first, second = await board.ask("GET", "/nodes")

    assert ("n1", False, "no answer", 5.0) == tuple(
        first[key] for key in ("name", "is_reachable", "fault", "heard_s")
    )
    assert ["n1", "n2"] == [one.name for one in FLEET.nodes]
    assert ("n2", 0, 1) == tuple(second[key] for key in ("name", "n_instances", "n_failed"))


async def test_a_standby_names_the_leader(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        board.is_leading = False
        problem = await board.ask("GET", "/nodes", expect=503)

    assert LEADER == problem["leader"]
    assert "does not lead, so it knows nothing of nodes: ask the leader" in problem["detail"]


async def test_nobody_tells_of_nodes_before_the_fleet_is_known(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        board.follower.view = None
        await board.ask("GET", "/nodes", expect=503)
