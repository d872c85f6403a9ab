"""`ollama-fleet provisioner nodes` against a real API, and what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from provisioning.api.routes import NodeDocument
from provisioning.cli.provisioner import nodes_text, provisioner
from provisioning.model import NodeReport
from tests.provisioning.api.served import Served

WELL = NodeDocument(
    name="n1",
    runtime="containerd",
    is_listed=True,
    is_cordoned=False,
    is_asked=True,
    is_reachable=True,
    heard_s=100.0,
    fault="",
    n_instances=1200,
    n_failed=3,
    cpus_used=2.5,
    cpus=64.0,
    memory_used_bytes=3 * 2**29,
    memory_bytes=2**33,
)
SILENT = replace(WELL, name="n2", is_reachable=False, fault="cannot\nconnect", is_cordoned=True)
GONE = replace(SILENT, name="n3", runtime="", heard_s=0.0, is_listed=False, is_cordoned=False)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


def run(*words: str) -> Result:
    return CliRunner().invoke(provisioner, ["nodes", *words])


def test_nodes_are_shown_as_a_table_and_as_json(served: Served) -> None:
    served.board.reports = {"n1": NodeReport("n1", 5.0), "n2": NodeReport("n2", 0.0, (), "gone")}

    result = run("--provisioner.url", served.url)
    assert 0 == result.exit_code, result.output
    head, first, second, summary = result.stdout.splitlines()
    assert ["NODE", "RUNTIME", "STATE"] == head.split()[:3]
    assert ["n1", "simulated", "answers", "5", "0"] == first.split()[:5]
    assert second.endswith("never heard: gone")
    assert "2 nodes, 1 of them silent" == summary

    listed = json.loads(run("--json", "--provisioner.url", served.url).stdout)
    assert [("n1", True), ("n2", False)] == [(one["name"], one["is_reachable"]) for one in listed]


def test_of_several_provisioners_the_one_that_leads_is_asked(
    served: Served, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with Served(other, is_leading=False) as standby:
        result = run("--provisioner.url", standby.url, "--provisioner.url", served.url)

    assert 0 == result.exit_code, result.output
    assert "2 nodes, 2 of them not asked" == result.stdout.splitlines()[-1]


def test_a_row_tells_the_state_the_room_and_what_is_out_of_the_ordinary() -> None:
    _, well, silent, gone, summary = nodes_text((WELL, SILENT, GONE), now_s=172.0).splitlines()

    words = "n1 containerd answers 1,200 3 2.5 of 64 1.5 of 8.0 GiB"
    assert words.split() == well.split()
    assert silent.endswith("heard 1m 12s ago: cannot connect; cordoned")
    assert gone.split()[:3] == ["n3", "-", "silent"]
    assert gone.endswith("never heard: cannot connect; not in the specification")
    assert "3 nodes, 2 of them silent" == summary


def test_a_node_that_was_not_asked_yet_is_not_said_to_be_silent() -> None:
    """So it is with each of them just after a takeover."""
    unasked = replace(GONE, is_asked=False, is_listed=True, fault="it was not asked yet")
    *_, row, summary = nodes_text((WELL, SILENT, unasked), now_s=172.0).splitlines()

    assert re.search("^n3 +- +not asked +1,200 .* GiB +it was not asked yet$", row)
    assert "3 nodes, 1 of them silent, 1 of them not asked" == summary


def test_a_fleet_whose_nodes_all_answer_says_so_and_one_without_any_too() -> None:
    assert nodes_text((WELL,), now_s=100.0).endswith("\n1 node, all answer")
    assert "no nodes" == nodes_text((), now_s=100.0)
