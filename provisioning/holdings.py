"""What nodes hold, and whether another specification would lose sight of it.

In:   instances; nodes before and after.
Out:  which nodes cannot be what they are to be while they, or others, still hold some. Pure; never
      fails.
A node is the machine that it names: units are found where its runtime listens. Where its instances
listen is no part of that: each keeps the address that it was started with.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

from provisioning.model import Instance, Phase
from provisioning.spec_model import Node, RuntimeKind


class Holding:
    """What one node holds."""

    def __init__(self) -> None:
        self.n_instances = 0
        self.addresses: set[str] = set()
        """Where they listen, as far as it is known."""


class Holdings:
    """What the nodes of a fleet hold, those included that are listed no more."""

    def __init__(self, instances: Iterable[Instance]) -> None:
        self._by_node: defaultdict[str, Holding] = defaultdict(Holding)
        for one in instances:
            if one.phase is Phase.FAILED:  # that has no unit
                continue
            holding = self._by_node[one.node]
            holding.n_instances += 1
            if one.listing.address:
                holding.addresses.add(one.listing.address)

    def count(self, node: str) -> int:
        """Return how many instances a node holds."""
        return self._by_node[node].n_instances if node in self._by_node else 0

    def is_moved(self, before: Node | None, after: Node) -> bool:
        """Say whether a node that holds instances would be another machine, as far as is seen."""
        if after.name not in self._by_node:
            return False
        if before is None:
            return bool(self.left_at(before, after))
        return is_reached_otherwise(before, after)

    def left_at(self, before: Node | None, after: Node) -> tuple[str, ...]:
        """Return where instances of a node that is listed again listen, if it is nowhere there.

        Of one that was dropped before only that is known, and of containerd alone it tells
        machines apart: process nodes are this one, and simulated ones none.
        """
        if before is not None or after.runtime is not RuntimeKind.CONTAINERD:
            return ()
        holding = self._by_node.get(after.name)
        if holding is None or after.address in holding.addresses:
            return ()
        return tuple(sorted(holding.addresses))

    def renamed_from(
        self, before: Node | None, after: Node, *, old: Mapping[str, Node], kept: Iterable[str]
    ) -> str:
        """Return a node that is left out, and holds instances in what is this one's containerd now.

        Its units would be seen under the new name, where no record wants them, and be removed.
        Other runtimes keep the units of each name apart.
        """
        is_new = before is None or is_reached_otherwise(before, after)
        if after.runtime is not RuntimeKind.CONTAINERD or not is_new:
            return ""
        left_out = sorted(self._by_node.keys() - set(kept))
        return next((name for name in left_out if self._is_same(name, old.get(name), after)), "")

    def _is_same(self, name: str, former: Node | None, after: Node) -> bool:
        if former is not None:
            return not is_reached_otherwise(former, after)
        return after.address in self._by_node[name].addresses


def has_less_room(before: Node, after: Node) -> bool:
    """Say whether a node may take fewer instances than before, or has fewer ports for them."""
    return (
        after.cpus < before.cpus
        or after.memory_bytes < before.memory_bytes
        or 0 < after.max_instances < (before.max_instances or math.inf)
        or after.first_port > before.first_port
        or after.last_port < before.last_port
    )


def is_reached_otherwise(before: Node, after: Node) -> bool:
    """Say whether what runs on a node is asked for elsewhere from now on."""
    return (before.runtime, before.endpoint) != (after.runtime, after.endpoint)
