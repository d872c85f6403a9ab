"""The orphans, told and deleted by the leader alone."""

from __future__ import annotations

from provisioning.model import ContainerState, ObservedContainer
from provisioning.state import Orphan
from tests.provisioning.api.board import LEADER, Board

ORPHAN = Orphan("n1", ObservedContainer("chat-00001.2", "chat-00001", 2, ContainerState.RUNNING))


async def test_only_as_many_as_were_seen_are_deleted(board: Board) -> None:
    board.orphans = [ORPHAN]

    problem = await board.ask("POST", "/orphans/delete", {"count": 2}, expect=409)
    assert "there are 1 now, and none was deleted" in problem["detail"]
    assert 0 == board.n_orphan_orders

    (deleted,) = await board.ask("POST", "/orphans/delete", {"count": 1}, expect=202)
    assert ("n1", "chat-00001.2") == (deleted["node"], deleted["name"])
    assert 1 == board.n_orphan_orders


async def test_a_standby_names_the_leader(board: Board) -> None:
    board.is_leading = False

    for method, path, order in (
        ("GET", "/orphans", None),
        ("POST", "/orphans/delete", {"count": 0}),
    ):
        assert LEADER == (await board.ask(method, path, order, expect=503))["leader"]


async def test_before_they_are_known_none_is_listed_or_deleted(board: Board) -> None:
    board.orphans = None

    for method, path, order in (
        ("GET", "/orphans", None),
        ("POST", "/orphans/delete", {"count": 0}),
    ):
        problem = await board.ask(method, path, order, expect=409)
        assert "each node" in problem["detail"]
    assert 0 == board.n_orphan_orders
