"""The inventory file is replaced in one step, and equal fleets write equal bytes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from provisioning.simulator.errors import InventoryError
from provisioning.simulator.fleet import Fleet
from provisioning.simulator.inventory import (
    PublishedInventory,
    entries,
    inventory_of,
    write_atomically,
)
from provisioning.simulator.spec import FleetSpec, instances_of
from tests.provisioning.simulator.client import FakeClock


def test_equal_fleets_write_equal_inventories() -> None:
    spec = FleetSpec(n_instances=50)
    first, second = (inventory_of(entries(spec, instances_of(spec), 1)) for _ in range(2))

    assert first == second
    assert first != inventory_of(entries(spec, instances_of(spec), 2))


def test_an_empty_inventory_is_an_empty_list() -> None:
    assert [] == json.loads(inventory_of([]).body)


def test_a_file_is_replaced_as_a_whole_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_bytes(b"old and much longer than the new one")
    with path.open("rb") as reader:
        write_atomically(path, b"new")

        # Who has the old file open goes on reading the old one, whole.
        assert b"old and much longer than the new one" == reader.read()
    assert b"new" == path.read_bytes()
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)
    assert [path] == list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "fleet.json"

    with pytest.raises(InventoryError, match=r"missing/fleet\.json.*No such file"):
        write_atomically(path, b"")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.mkdir()

    with pytest.raises(InventoryError):
        write_atomically(path, b"")

    assert [path] == list(tmp_path.iterdir())


def test_faults_that_leave_the_inventory_alone_do_not_write_it(tmp_path: Path) -> None:
    fleet = Fleet(FleetSpec(n_instances=10), clock=FakeClock())
    path = tmp_path / "fleet.json"
    inventory = PublishedInventory(fleet, port=1, path=path)
    before = inventory.current
    path.unlink()

    fleet.inject("kill", count=1)

    assert inventory.current is before
    assert not path.exists()
