"""What instances and nodes are found by, also once the specification does not list them any more.

Each InventoryBuilder here is a fresh one, as after a restart: it has seen no earlier specification.
"""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from provisioning.api.inventory import InventoryBuilder, node_documents
from provisioning.model import Canary, Fleet, Instance, InventoryEntry, NodeReport, Phase, Probe
from provisioning.spec.document import encode_fleet
from provisioning.spec_index import SpecIndex
from provisioning.store.base import StoredInstance, StoredSpec, View
from tests.provisioning.api.board import FLEET, INSTANCES, WORKLOAD, Board, instance
from tests.provisioning.making import GIB, fleet, node, report, silent
from tests.provisioning.making import instance as held_instance

OLD = instance(1)
CHANGED = tuple(
    pool.replace(workload=WORKLOAD.replace(model="llama4", engine="llamacpp"))
    for pool in FLEET.pools
)


def view(revision: int, *instances: Instance, of: Fleet | None = FLEET) -> View:
    stored = {one.id: StoredInstance(one, revision) for one in instances}
    return View(revision, stored, StoredSpec(encode_fleet(of), 1) if of else None)


# What the exporter and Prometheus read


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
        "started": 1000.0,
        "labels": {"pool": "llama", "rack": "r1"},
    } == entries[0]
    assert "http://[::1]:20504" == entries[3]["url"]
    states = ["running", "provisioning", "draining", "running", "running", "draining"]
    assert states == [entry["state"] for entry in entries]
    assert [False, True, False, True, False, True] == ["started" not in one for one in entries]


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
        "started": None,
        "health": "poll",
        "labels": {"pool": "llama"},
        "pool": "llama",
        "port": 20504,
        "phase": "failed",
        "phase_since_s": 1000.0,
        "generation": 1,
        "workload": instance(1).workload,
        "fault": "exited with status 1",
        "reason": None,
        "n_failures": 1,
        "retry_at_s": 0.0,
        "is_replace_asked": False,
    } == entry


async def test_gateways_get_the_running_instances_at_addresses(board: Board) -> None:
    listed = await board.ask("GET", "/upstreams")

    assert {
        "format": 1,
        "models": ["llama3.1:8b"],
        "nodes": ["n1"],
        "instances": [
            ["llama-00001", "127.0.0.1", 20501, 0, "ollama", [0], [], "ann"],
            ["tiny-00001", "127.0.0.1", 20401, 0, "ollama", [0], [], ""],
        ],
    } == listed


def test_an_instance_on_a_node_with_a_name_for_an_address_is_left_out_and_counted() -> None:
    nodes = tuple(one.replace(address="rack1.example") for one in FLEET.nodes)
    entry = InventoryEntry(address="rack1.example")
    known = view(1, replace(instance(1), inventory_entry=entry), of=FLEET.replace(nodes=nodes))

    listed = InventoryBuilder().inventory_of(known)

    assert [] == msgspec.json.decode(listed.upstreams)["instances"]
    assert 1 == listed.n_left_out


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
                "__meta_ollama_started": "1000.0",
                "__meta_ollama_health": "poll",
            },
        }
    ] == groups


async def test_an_instance_at_an_unknown_address_is_only_in_the_details(board: Board) -> None:
    await board.put(instance(4, node="n9"))

    ids = [entry["id"] for entry in await board.ask("GET", "/instances?node=n9&details=1")]

    assert ["llama-00004"] == ids
    assert [] == await board.ask("GET", "/instances?node=n9")
    assert [] == await board.ask("GET", "/sd?node=n9")


# What the specification does not list any more


@pytest.mark.parametrize(
    "of",
    [
        FLEET,
        FLEET.replace(pools=CHANGED),
        FLEET.replace(pools=()),
        FLEET.replace(nodes=FLEET.nodes[1:]),
        None,
    ],
    ids=["in force", "another workload", "no pool", "no node", "no specification"],
)
def test_an_instance_is_listed_as_it_was_started(of: Fleet | None) -> None:
    details = InventoryBuilder().inventory_of(view(1, OLD, of=of)).rows[OLD.id].details

    assert ("llama3.1:8b", "ollama", "http://127.0.0.1:20501") == (
        details.model,
        details.engine,
        details.url,
    )
    assert {"pool": "llama", "rack": "r1"} == dict(details.labels)


def test_a_pool_with_a_canary_has_the_exporter_judge_by_canaries_too() -> None:
    probe = Probe(canary=Canary())
    pools = [pool.replace(workload=WORKLOAD.replace(probe=probe)) for pool in FLEET.pools[:1]]
    changed = FLEET.replace(pools=(*pools, *FLEET.pools[1:]))

    rows = InventoryBuilder().inventory_of(view(1, *INSTANCES, of=changed)).rows

    with_canary = {row.details.pool for row in rows.values() if row.details.health == "canary"}
    assert {"llama"} == with_canary
    assert b'"health":"canary"' in rows[OLD.id].entry_json


def test_an_instance_is_listed_where_it_listens_and_is_asked_for_its_health() -> None:
    """Its node's address has changed since it was started; its labels count at once."""
    moved = FLEET.nodes[0].replace(address="10.0.0.9", labels={"rack": "r2"})
    changed = FLEET.replace(nodes=(moved,))

    details = InventoryBuilder().inventory_of(view(1, OLD, of=changed)).rows[OLD.id].details
    probe_target = SpecIndex(changed).probe_target(OLD)

    assert probe_target
    assert ("127.0.0.1", "http://127.0.0.1:20501") == (probe_target.host, details.url)
    assert {"pool": "llama", "rack": "r2"} == dict(details.labels)


def test_an_instances_document_says_where_its_log_is_if_its_node_is_listed() -> None:
    builder = InventoryBuilder(lambda node, id_: f"/logs/{node.name}/{id_}.log")
    builder.inventory_of(view(1))

    assert f"/logs/n1/{OLD.id}.log" == builder.document_of(OLD).log
    assert "" == builder.document_of(replace(OLD, node="gone")).log
    assert "" == InventoryBuilder().document_of(OLD).log


# Views


def test_the_inventory_of_a_view_is_made_once_and_rows_that_stay_are_kept() -> None:
    builder, first = InventoryBuilder(), view(1, *INSTANCES)
    before = builder.inventory_of(first)
    assert before is builder.inventory_of(first)

    changed = replace(INSTANCES[0], phase=Phase.DRAINING)
    stored = {**first.stored, changed.id: StoredInstance(changed, 2)}
    after = builder.inventory_of(msgspec.structs.replace(first, revision=2, stored=stored))

    assert [changed.id] == [id_ for id_, row in after.rows.items() if row is not before.rows[id_]]
    assert Phase.DRAINING == after.rows[changed.id].details.phase


def test_another_view_of_the_same_revision_is_listed_as_it_is() -> None:
    """Answers to two writes may come the other way round."""
    builder = InventoryBuilder()
    builder.inventory_of(view(1, replace(OLD, phase=Phase.STARTING)))

    (row,) = builder.inventory_of(view(1, OLD)).rows.values()

    assert Phase.RUNNING == row.stored.instance.phase


def test_a_specification_that_cannot_be_read_leaves_the_last_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    builder = InventoryBuilder()
    builder.inventory_of(view(1, OLD))
    broken = msgspec.structs.replace(view(2, OLD), spec=StoredSpec("{}", 2))

    assert OLD.id in builder.inventory_of(broken).rows

    assert FLEET == builder.fleet
    assert "specification cannot be read version=2" in caplog.text


# Nodes


FIRST, SECOND = node("n1", is_cordoned=True), node("n2")
HELD = (
    held_instance(1),
    held_instance(2, phase=Phase.DRAINING),
    held_instance(3, phase=Phase.FAILED),
    held_instance(4, node="n9"),
)


def test_a_node_shows_what_it_holds_and_whether_it_answers() -> None:
    reports = {"n1": report("n1", at_s=7.0)}
    first, second, gone = node_documents(fleet(nodes=(SECOND, FIRST)), HELD, reports)

    assert (True, True, True, 7.0, "") == (
        first.is_listed, first.is_cordoned, first.is_reachable, first.heard_s, first.fault
    )  # fmt: skip
    assert ("n1", "simulated", 2, 1) == (
        first.name, first.runtime, first.n_instances, first.n_failed
    )  # fmt: skip
    assert (2.0, 8.0, 2 * GIB, 8 * GIB) == (
        first.cpus_used, first.cpus, first.memory_used_bytes, first.memory_bytes
    )  # fmt: skip
    assert ("n2", False, 0, 0) == (
        second.name, second.is_cordoned, second.n_instances, second.n_failed
    )  # fmt: skip
    assert ("n9", "", False, 1, 1.0, 0.0, 0) == (
        gone.name, gone.runtime, gone.is_listed, gone.n_instances, gone.cpus_used, gone.cpus,
        gone.memory_bytes,
    )  # fmt: skip
    assert "it cannot be asked: the specification does not list it" == gone.fault


def test_why_a_node_does_not_answer_is_shown() -> None:
    unasked = "it was not asked yet"
    for heard, expected in (
        (report("n2", at_s=7.0), (True, 7.0, "")),
        (silent("n2", for_s=60.0), (False, silent(for_s=60.0).at_s, "cannot connect")),
        (NodeReport("n2", 0.0, (), "cannot connect"), (False, 0.0, "cannot connect")),
        (NodeReport("n2", 0.0), (False, 0.0, unasked)),
        (None, (False, 0.0, unasked)),
    ):
        reports = {"n2": heard} if heard else {}
        (only,) = node_documents(fleet(nodes=(SECOND,)), (), reports)
        assert expected == (only.is_reachable, only.heard_s, only.fault)
        assert (expected[2] != unasked) == only.is_asked
