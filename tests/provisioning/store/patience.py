"""Real etcd without hurry: where nothing dies, a machine that is slow must not be taken for it."""

from __future__ import annotations

from ollama_fleet.clock import SystemClock
from provisioning.store.etcd.access import Access
from provisioning.store.etcd.client import Client
from provisioning.store.etcd.leadership import EtcdLeadership
from provisioning.store.etcd.store import PAGE, EtcdStore
from tests.etcd import Cluster
from tests.provisioning.store.examples import PATIENCE_S, Opened

DEADLINE_S = 60.0
LEASE_S = int(2 * PATIENCE_S)
"""Longer than any test waits, so that none passes because a lease has ended."""


def patient_client(etcd: Cluster) -> Client:
    """Return a client that waits for its answers."""
    return Client(Access(etcd.addresses, deadline_s=DEADLINE_S))


def opened_with(client: Client, fleet: str, *, holder: str = "alice", page: int = PAGE) -> Opened:
    """Return a store and a leadership, which share a client."""
    clock = SystemClock()
    leadership = EtcdLeadership(client, fleet, holder=holder, clock=clock, lease_s=LEASE_S)
    return EtcdStore(client, fleet, clock=clock, page=page), leadership
