"""Which of a pool's instances stay when there are too many.

In:   a pool, its instances, and where they serve.
Out:  the same instances, those that are kept first in front. Pure; never fails.

What serves well is kept first, then what a developer has who is listed. Among equals, with the
strategy `spread`, the fullest node loses one first; then the oldest goes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from provisioning.model import Instance, Phase
from provisioning.spec_model import Node, Pool, Spread
from provisioning.usage import Usage

KEPT_FIRST = {
    Phase.RUNNING: 0,
    Phase.DRAINING: 1,
    Phase.STARTING: 2,
    Phase.STOPPING: 3,
    Phase.FAILED: 4,
}
Rank = tuple[bool, int, bool, bool]


class Keeping:
    """Puts the instances of one pool in order."""

    def __init__(
        self,
        pool: Pool,
        nodes: Iterable[Node],
        *,
        serving_nodes: Collection[str],
        ill: Collection[str],
    ) -> None:
        self._pool = pool
        self._nodes = tuple(nodes)
        self._serving_nodes = serving_nodes
        self._ill = ill
        self._developers = frozenset(pool.developers)

    def ranked(self, instances: Iterable[Instance], others: Iterable[Instance]) -> list[Instance]:
        """Return the pool's instances, those that are kept first in front.

        `others` are of other pools, and fill the nodes as well.
        """
        ranked = sorted(instances, key=lambda one: (self._rank(one), -one.started_s, one.id))
        if self._pool.placement.strategy is Spread.SPREAD:
            share_by_id = self._shares(ranked, others)
            ranked.sort(key=lambda one: (self._rank(one), share_by_id[one.id]))
        return ranked

    def _rank(self, instance: Instance) -> Rank:
        return (
            instance.id in self._ill,
            KEPT_FIRST[instance.phase],
            instance.node not in self._serving_nodes,
            instance.developer not in self._developers,
        )

    def _shares(
        self, ranked: Sequence[Instance], others: Iterable[Instance]
    ) -> Mapping[str, float]:
        """Return how full each instance's node is with it, and with those kept before it."""
        usages = {node.name: Usage(node) for node in self._nodes}
        shares = {}
        for instance in others:
            if usage := usages.get(instance.node):
                usage.count(instance)
        for instance in ranked:
            usage = usages.get(instance.node)
            if usage:
                usage.count(instance)
            shares[instance.id] = usage.share if usage else 0.0
        return shares
