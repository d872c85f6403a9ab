"""Real etcd without hurry, where slow must not be taken for dead; clocks for what is waited for."""

from __future__ import annotations

import asyncio

from ollama_fleet.clock import SystemClock
from provisioning.store.etcd.access import Access
from provisioning.store.etcd.client import Client
from provisioning.store.etcd.leadership import EtcdLeadership
from provisioning.store.etcd.store import PAGE, EtcdStore
from tests.etcd import Cluster
from tests.provisioning.store.examples import PATIENCE_S, Opened

HURRIED_S = 0.1


class HurriedClock(SystemClock):
    """Sleeps for a moment only, so that what is done now and then is done at once; time goes on."""

    async def sleep(self, duration_s: float) -> None:
        await super().sleep(min(duration_s, HURRIED_S))


class SleepyClock(SystemClock):
    """Whoever sleeps by it never wakes."""

    async def sleep(self, duration_s: float) -> None:
        await asyncio.Event().wait()


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
