"""A specification with its pools and nodes found by name."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from provisioning.health import ProbeTarget
from provisioning.model import ContainerSpec, Fleet, Instance, Phase, Workload
from provisioning.spec.defaults import ENGINES, Engine
from provisioning.store.base import StoredInstance
from provisioning.workload import container_spec, host_of, model_store


class StartRequest(msgspec.Struct, frozen=True):
    """A container to be made on a node, and how to see that it is healthy."""

    node: str
    container: ContainerSpec
    workload: Workload
    store: str = ""
    """Where it keeps models; see `base.Prober`."""


class SpecIndex:
    """A fleet's pools and nodes by name; made once for each specification."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.pool_by_name = {pool.name: pool for pool in fleet.pools}
        self.node_by_name = {node.name: node for node in fleet.nodes}
        self.n_wanted = sum(pool.count for pool in fleet.pools)
        self._digest_by_pool = {pool.name: pool.workload.digest for pool in fleet.pools}

    def start_request(self, instance: Instance) -> StartRequest | None:
        """Return the request to start an instance's container.

        None: it is not in the specification.
        """
        pool = self.pool_by_name.get(instance.pool)
        node = self.node_by_name.get(instance.node)
        if pool is None or node is None:
            return None
        container = container_spec(self.fleet.name, pool, node, instance)
        return StartRequest(node.name, container, pool.workload, model_store(node, container))

    def probe_target(self, instance: Instance) -> ProbeTarget | None:
        """Return how an instance is asked whether it is healthy; None: it is not asked."""
        pool = self.pool_by_name.get(instance.pool)
        node = self.node_by_name.get(instance.node)
        if pool is None or node is None or instance.phase is not Phase.RUNNING:
            return None
        host = host_of(instance, node)
        probe, entry = pool.workload.probe, instance.inventory_entry
        canary = probe.canary if ENGINES.get(entry.engine, Engine()).canary_path else None
        return ProbeTarget(
            instance.container,
            node.name,
            host,
            instance.port,
            probe,
            canary,
            entry.engine,
            entry.model,
        )

    def count_ready(
        self, stored: Mapping[str, StoredInstance], unhealthy: Mapping[str, object]
    ) -> int:
        """Return how many instances run, are healthy, and are up to date."""
        digest_by_pool = self._digest_by_pool
        return sum(
            one.instance.phase is Phase.RUNNING
            and one.instance.workload == digest_by_pool.get(one.instance.pool)
            and id_ not in unhealthy
            for id_, one in stored.items()
        )
