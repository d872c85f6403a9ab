"""What the inventory says about an instance apart from its address and labels.

In:   Fields, of an entry or of a service-discovery group's labels.
Out:  a Description, and with an address the Target.
Both input formats meet here, so that they cannot come to mean different things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from sys import intern
from typing import NamedTuple

from exporter.inventory.address import Address
from exporter.inventory.fields import Fields
from exporter.model import EngineName, State, Target

FIELDS = frozenset({"id", "node", "model", "engine", "state", "developer"})
"""Keys of an entry that describe; in service discovery they arrive as labels."""

RESERVED = FIELDS | {"instance_id"}
"""Names that no label may have: the exporter's own labels carry these values."""


class Description(NamedTuple):
    """Checked values of the describing fields; empty texts where nothing was said."""

    id: str
    node: str
    model: str
    engine: EngineName
    state: State
    developer: str


def describe(fields: Fields) -> Description:
    """Read the describing fields; faults go to the fields' problems."""
    return Description(
        id=fields.text("id"),
        # A fleet has many instances but few nodes, models and developers: one copy of each.
        node=intern(fields.text("node")),
        model=intern(fields.text("model")),
        engine=fields.choice("engine", EngineName.AUTO),
        state=fields.choice("state", State.RUNNING),
        developer=intern(fields.text("developer")),
    )


def new_target(
    address: Address, description: Description, labels: Mapping[str, str], origin: str
) -> Target:
    """Return the target; its node defaults to its host and its id to `host:port`."""
    target = Target(
        id=description.id,
        host=address.host,
        port=address.port,
        tls=address.tls,
        path=address.path,
        node=description.node or address.host,
        model=description.model,
        engine=description.engine,
        state=description.state,
        developer=description.developer,
        labels=labels,
        origin=origin,
    )
    return target if target.id else replace(target, id=target.netloc)
