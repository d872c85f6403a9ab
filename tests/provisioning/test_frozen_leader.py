"""A leader that is stopped or swaps for a while, and what it does to nodes when it wakes.

It leads by a lease in an etcd that is played here: others lead once that has run out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from provisioning.errors import StoreUnavailableError
from provisioning.model import ContainerSpec, Limits
from provisioning.store.etcd.client import GRANT, RANGE, REVOKE, Method
from provisioning.store.etcd.leadership import EtcdLeadership
from provisioning.store.etcd.messages_pb2 import (
    Header,
    KeyValue,
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseRevokeResponse,
    RangeResponse,
    TxnResponse,
)
from provisioning.store.memory import MemoryBackend
from tests.provisioning.making import fleet, pool
from tests.provisioning.scene import Stage, provisioner
from tests.provisioning.virtual import VirtualClock, freeze, virtual_run
from tests.provisioning.world import NEVER_S, Behaviour, SimulatedRuntime

LEASE_S = 10
START_TIMEOUT_S = 30.0
NEVER_HEALTHY = Behaviour(start_s=1.0, healthy_after_s=NEVER_S)
N_CONTAINERS = 8


class Cluster:
    """An etcd's leases and its leader key, as its client shows them."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend
        self.is_silent = False
        self.answer_s = 0.0
        """How long it takes to answer that a lease is kept."""

    async def read(self, method: Method[Any, Any], _request: object, **_: object) -> object:
        if method is GRANT:
            return LeaseGrantResponse(id=1, ttl=LEASE_S)
        if method is REVOKE:
            return LeaseRevokeResponse()
        assert method is RANGE
        return RangeResponse(kvs=[KeyValue(value=b"another")] if self._backend.session else [])

    async def write(self, _method: object, _request: object, **_: object) -> object:
        epoch = self._backend.begin_term("one").term.epoch
        return TxnResponse(succeeded=True, header=Header(revision=epoch))

    async def first_response(self, _method: object, _request: object, **_: object) -> object:
        await VirtualClock().sleep(self.answer_s)
        if self.is_silent:
            raise StoreUnavailableError("no member answers")
        return LeaseKeepAliveResponse(id=1, ttl=LEASE_S)

    async def stream(self, *_: object, **__: object) -> object:
        await VirtualClock().sleep(1e6)
        raise AssertionError("nobody waits so long")

    @property
    def member(self) -> str:
        return "played"


def leadership(cluster: Cluster, holder: str = "one") -> EtcdLeadership:
    client: Any = cluster
    return EtcdLeadership(client, "test", holder=holder, clock=VirtualClock(), lease_s=LEASE_S)


class Acts:
    """What was asked of nodes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        start, remove = SimulatedRuntime.start, SimulatedRuntime.remove

        async def noted_start(runtime: SimulatedRuntime, container: ContainerSpec) -> None:
            self.seen.append(f"start {container.name}")
            await start(runtime, container)

        async def noted_remove(runtime: SimulatedRuntime, name: str, *, grace_s: float) -> None:
            self.seen.append(f"remove {name}")
            await remove(runtime, name, grace_s=grace_s)

        monkeypatch.setattr(SimulatedRuntime, "start", noted_start)
        monkeypatch.setattr(SimulatedRuntime, "remove", noted_remove)


@pytest.fixture
def acts(monkeypatch: pytest.MonkeyPatch) -> Acts:
    return Acts(monkeypatch)


@asynccontextmanager
async def leader(
    monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour, limits: Limits
) -> AsyncIterator[tuple[Stage, Cluster]]:
    """Run a provisioner that leads by a lease."""
    backend = MemoryBackend()
    cluster = Cluster(backend)

    def made(_backend: MemoryBackend, *, holder: str) -> EtcdLeadership:
        return leadership(cluster, holder)

    monkeypatch.setattr("tests.provisioning.scene.MemoryLeadership", made)
    wanted = fleet(pool(N_CONTAINERS), limits=limits)
    async with provisioner(wanted, behaviour=behaviour, backend=backend) as stage:
        yield stage, cluster


def succeed(stage: Stage) -> None:
    """Let another one lead."""
    stage.backend.session = None
    stage.backend.begin_term("another")


def test_a_leader_that_wakes_after_its_lease_leaves_its_starts_to_its_successor(
    acts: Acts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them have timed out meanwhile; the successor has gone on with the same containers."""

    async def scene() -> None:
        limits = Limits(start_timeout_s=START_TIMEOUT_S)
        async with leader(monkeypatch, NEVER_HEALTHY, limits) as (stage, cluster):
            await stage.until(lambda: N_CONTAINERS == len(stage.running_containers))
            await VirtualClock().sleep(START_TIMEOUT_S - 10.0)
            cluster.is_silent = True
            acts.seen.clear()

            freeze(15.0)
            succeed(stage)
            await VirtualClock().sleep(60.0)

            assert [] == acts.seen
            assert N_CONTAINERS == len(stage.running_containers)
            assert None is stage.controller.term
            assert 0 == stage.controller.loop.n_running

    virtual_run(scene())


def test_a_leader_that_wakes_within_its_lease_cleans_up_as_ever(
    acts: Acts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        limits = Limits(start_timeout_s=START_TIMEOUT_S)
        async with leader(monkeypatch, NEVER_HEALTHY, limits) as (stage, _):
            await stage.until(lambda: N_CONTAINERS == len(stage.running_containers))
            await VirtualClock().sleep(START_TIMEOUT_S - 5.0)
            acts.seen.clear()

            freeze(6.0)
            await VirtualClock().sleep(0.1)

            removals = {f"remove {one.container}" for one in stage.instances}
            assert removals == set(acts.seen)
            assert N_CONTAINERS == len(acts.seen)
            assert stage.controller.term

    virtual_run(scene())


def test_a_leader_that_wakes_after_its_lease_neither_stops_nor_makes_anything(
    acts: Acts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was waiting to try again what had failed."""

    async def scene() -> None:
        limits = Limits(tries=9, backoff_base_s=20.0, backoff_cap_s=20.0)
        failing = Behaviour(failure_ratio=1.0)
        async with leader(monkeypatch, failing, limits) as (stage, cluster):
            await stage.until(lambda: N_CONTAINERS <= len(acts.seen))
            cluster.is_silent = True
            await VirtualClock().sleep(0.01)
            acts.seen.clear()

            freeze(20.0)
            succeed(stage)
            await VirtualClock().sleep(60.0)

            assert [] == acts.seen

    virtual_run(scene())


def certain_until(change: Callable[[Cluster], None], *, after_s: float) -> tuple[float, float]:
    """Return until when a term that begins at 0 s is certain; at its beginning, and later."""

    async def scene() -> tuple[float, float]:
        cluster = Cluster(MemoryBackend())
        async with leadership(cluster).lead() as current:
            first_s = current.until_s
            change(cluster)
            await VirtualClock().sleep(after_s)
            return first_s, current.until_s

    return virtual_run(scene())


def test_a_term_is_certain_for_a_lease_from_when_its_last_renewal_was_sent() -> None:
    def answers_late(cluster: Cluster) -> None:
        cluster.answer_s = 0.5

    sent_s = LEASE_S / 3

    assert (LEASE_S, LEASE_S) == certain_until(answers_late, after_s=sent_s + 0.4)
    assert (LEASE_S, LEASE_S + sent_s) == certain_until(answers_late, after_s=sent_s + 0.6)


def test_a_term_that_is_not_renewed_is_no_longer_certain_and_never_again_once_it_is_over() -> None:
    def falls_silent(cluster: Cluster) -> None:
        cluster.is_silent = True

    assert (LEASE_S, LEASE_S) == certain_until(falls_silent, after_s=LEASE_S - 0.1)
    assert (LEASE_S, -NEVER_S) == certain_until(falls_silent, after_s=LEASE_S + 0.1)
