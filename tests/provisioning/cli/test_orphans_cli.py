"""`ollama-fleet provisioner orphans …` against a real API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from provisioning.cli.provisioner import provisioner
from provisioning.model import ContainerState, ObservedContainer
from provisioning.state import Orphan
from tests.provisioning.api.served import Served
from tests.provisioning.cli.terminal import on_terminal


def orphan(node: str, number: int, state: ContainerState = ContainerState.RUNNING) -> Orphan:
    id_ = f"chat-{number:05}"
    return Orphan(node, ObservedContainer(f"{id_}.2", id_, 2, state))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        running.board.orphans = [
            orphan("n2", 3, ContainerState.EXITED),
            orphan("n2", 2),
            orphan("n1", 1),
        ]
        yield running


def environment(served: Served) -> dict[str, str]:
    return {
        "OLLAMA_FLEET_INSTANCES_PROVISIONER_URL": served.url,
        "OLLAMA_FLEET_INSTANCES_PROVISIONER_TOKEN_FILE": str(served.board.tokens.path),
    }


def run(served: Served, *words: str) -> Result:
    return CliRunner().invoke(provisioner, ["orphans", *words], env=environment(served))


def test_orphans_are_counted_by_node_and_listed_as_json(served: Served) -> None:
    result = run(served, "list")
    assert 0 == result.exit_code, result.output
    _, first, second, summary = result.stdout.splitlines()
    assert ["n1", "1", "1", "chat-00001.2"] == first.split()
    assert ["n2", "2", "1", "chat-00002.2"] == second.split()
    assert "3 orphans" == summary

    listed = json.loads(run(served, "list", "--json").stdout)
    assert ["chat-00001.2", "chat-00002.2", "chat-00003.2"] == [one["name"] for one in listed]


@pytest.mark.parametrize(("answer", "n_orders"), [(b"y\n", 1), (b"n\n", 0)])
def test_deleting_them_asks_on_a_terminal(served: Served, answer: bytes, n_orders: int) -> None:
    words = ("provisioner", "orphans", "delete")

    status, screen = on_terminal(words, environment(served), answer)

    assert (not n_orders, n_orders) == (bool(status), served.board.n_orphan_orders), screen
    assert "Delete 3 orphans?" in screen


def test_a_script_needs_yes_and_the_order_is_audited(served: Served) -> None:
    refused = run(served, "delete")
    assert 1 == refused.exit_code
    assert "--yes" in refused.output
    assert 0 == served.board.n_orphan_orders

    result = run(served, "delete", "--yes")

    assert 0 == result.exit_code, result.output
    assert 1 == served.board.n_orphan_orders
    (record,) = served.board.audited()
    assert ("delete_orphans", {"count": 3}, 202) == tuple(
        record[key] for key in ("operation", "order", "status")
    )


def test_without_orphans_nothing_is_asked(served: Served) -> None:
    served.board.orphans = []

    assert "no orphans" in run(served, "delete").output
    assert 0 == served.board.n_orphan_orders
