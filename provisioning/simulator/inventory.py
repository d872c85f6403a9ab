"""The fleet as an inventory, for the exporter and for load tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ollama_fleet.files import write_whole
from provisioning.simulator.errors import InventoryError
from provisioning.simulator.fleet import Fleet
from provisioning.simulator.spec import FleetSpec, Instance, InventoryEngine


@dataclass(frozen=True, slots=True)
class Inventory:
    """The list as it is sent, with the tag that tells it from others."""

    body: bytes
    etag: str


class PublishedInventory:
    """The inventory of the moment, kept in a file too where one is wanted.

    Raises InventoryError where that file cannot be written.
    """

    def __init__(self, fleet: Fleet, *, port: int, path: Path | None) -> None:
        self._fleet = fleet
        self._port = port
        self._path = path
        self._roster = self._roster_now()
        self._latest = self._publish()
        if path is not None:
            fleet.watch(self._changed)

    @property
    def current(self) -> Inventory:
        """Return the current list; it is rebuilt only if it has changed."""
        spec_index = self._roster_now()
        if spec_index != self._roster:
            self._roster = spec_index
            self._latest = self._publish()
        return self._latest

    def _changed(self, _indices: frozenset[int]) -> None:
        _ = self.current

    def _roster_now(self) -> tuple[int, frozenset[int]]:
        """Return what tells one list from another: who has come or gone, and who is hidden."""
        return self._fleet.n_changes_of_roster, self._fleet.unlisted

    def _publish(self) -> Inventory:
        inventory = inventory_of(entries(self._fleet.spec, self._fleet.listed, self._port))
        if self._path is not None:
            write_atomically(self._path, inventory.body)
        return inventory


def entries(spec: FleetSpec, instances: Sequence[Instance], port: int) -> list[dict[str, object]]:
    """Return one inventory entry per instance; `port` is that of instances without their own."""
    is_auto = spec.inventory_engine is InventoryEngine.AUTO
    return [
        {
            "id": instance.id,
            "url": f"http://{instance.address}:{instance.port or port}",
            "node": instance.node,
            "model": instance.model.name,
            "engine": "auto" if is_auto else instance.mode.value,
            "state": "running",
            "developer": instance.developer,
            "labels": {"hardware": instance.hardware.value},
        }
        for instance in instances
    ]


def inventory_of(listed: Sequence[dict[str, object]]) -> Inventory:
    """Write the entries, one a line."""
    body = b"[\n%b\n]\n" % b",\n".join(map(msgspec.json.encode, listed))
    return Inventory(body, hashlib.sha256(body).hexdigest()[:32])


def write_atomically(path: Path, body: bytes) -> None:
    """Replace a file in one step.

    Raises:
        InventoryError: The folder is missing or not writable.
    """
    try:
        write_whole(path, body)
    except OSError as error:
        raise InventoryError(
            f"cannot write the inventory {path}: {error.strerror}; choose another with --inventory"
        ) from error
