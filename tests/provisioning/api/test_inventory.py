"""What instances are found by, also once the specification does not tell it any more.

Each Directory here is a fresh one, as after a restart: it has seen no earlier specification.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from provisioning.api.inventory import Directory
from provisioning.api.routes import Details
from provisioning.model import Fleet, Instance, Listing
from provisioning.spec import encode_fleet
from provisioning.spec_index import SpecIndex
from provisioning.store.base import Stored, StoredSpec, View
from tests.provisioning.api.board import FLEET, WORKLOAD, instance

OLD = instance(1)
CHANGED = tuple(
    replace(pool, workload=replace(WORKLOAD, model="llama4", engine="llamacpp"))
    for pool in FLEET.pools
)


def listed(fleet: Fleet | None, one: Instance, *, after: Iterable[Fleet] = ()) -> Details:
    """Return an instance as a Directory lists it that has seen other specifications before."""
    directory = Directory()
    for number, fleet_ in enumerate((*after, fleet), 1):
        spec = StoredSpec(encode_fleet(fleet_), number) if fleet_ else None
        view = View(number, {one.id: Stored(one, 1)}, spec)
        details = directory.inventory_of(view).rows[one.id].details
    return details


def found_by(details: Details) -> tuple[str, str, str, dict[str, str]]:
    return details.model, details.engine, details.url, dict(details.labels)


THERE = ("llama3.1:8b", "ollama", "http://127.0.0.1:20501", {"pool": "llama", "rack": "r1"})


def test_an_instance_of_the_workload_in_force_is_listed_with_it() -> None:
    assert THERE == found_by(listed(FLEET, OLD))


def test_an_instance_of_an_earlier_workload_is_listed_with_that() -> None:
    assert THERE == found_by(listed(replace(FLEET, pools=CHANGED), OLD))


def test_an_instance_of_a_pool_that_is_gone_is_listed_as_before() -> None:
    assert THERE == found_by(listed(replace(FLEET, pools=()), OLD))


def test_an_instance_on_a_node_that_is_gone_is_listed_as_before() -> None:
    assert THERE == found_by(listed(replace(FLEET, nodes=FLEET.nodes[1:]), OLD))


def test_an_instances_document_says_where_its_log_is_if_its_node_is_listed() -> None:
    directory = Directory(lambda node, id_: f"/logs/{node.name}/{id_}.log")
    view = View(1, {}, StoredSpec(encode_fleet(FLEET), 1))
    directory.inventory_of(view)

    assert f"/logs/n1/{OLD.id}.log" == directory.document_of(OLD).log
    assert "" == directory.document_of(replace(OLD, node="gone")).log
    assert "" == Directory().document_of(OLD).log


def test_an_instance_without_any_specification_is_listed_as_before() -> None:
    assert THERE == found_by(listed(None, OLD))


@pytest.mark.parametrize(
    ("listing", "host"),
    [(OLD.listing, "127.0.0.1"), (Listing(), "10.0.0.9")],
    ids=["recorded", "of an earlier release"],
)
def test_an_instance_is_listed_where_it_listens_and_is_asked_for_its_health(
    listing: Listing, host: str
) -> None:
    """Its node's address has changed since it was started; its labels count at once."""
    moved = replace(FLEET.nodes[0], address="10.0.0.9", labels=(("rack", "r2"),))
    fleet = replace(FLEET, nodes=(moved,))
    one = replace(OLD, listing=listing)

    details = listed(fleet, one)
    probe_target = SpecIndex(fleet).probe_target(one)

    assert probe_target
    assert (host, f"http://{host}:20501") == (probe_target.host, details.url)
    assert {"pool": "llama", "rack": "r2"} == dict(details.labels)


def test_a_record_of_an_earlier_release_is_listed_by_the_specification() -> None:
    old = replace(OLD, listing=Listing())

    assert THERE == found_by(listed(FLEET, old))
    assert ("", "auto", "http://127.0.0.1:20501") == found_by(
        listed(replace(FLEET, pools=CHANGED), old)
    )[:3]
    assert ("llama3.1:8b", "ollama", "") == found_by(
        listed(replace(FLEET, nodes=FLEET.nodes[1:]), old)
    )[:3]


def test_what_is_listed_does_not_depend_on_earlier_specifications() -> None:
    """Two provisioners say the same, whichever of them was started later."""
    old = replace(OLD, listing=Listing())
    now = replace(FLEET, nodes=FLEET.nodes[1:], pools=CHANGED)

    for one in (OLD, old):
        assert listed(now, one) == listed(now, one, after=[FLEET])
