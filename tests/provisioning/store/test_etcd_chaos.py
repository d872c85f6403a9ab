"""Three leaders and three members, killed and paused at random: nothing that was said is lost."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from ollama_fleet.clock import SystemClock
from provisioning.store.base import place_of
from provisioning.store.factory import open_store
from tests.etcd import Cluster, etcd_cluster
from tests.provisioning.store.examples import applied, content, leading, watched
from tests.provisioning.store.leaders import Leader, leader
from tests.waiting import eventually

LEASE_S = 2
N_ROUNDS = 6

Harm = Callable[[Cluster, list[Leader], random.Random], Awaitable[None]]


@pytest.fixture
def three(etcd_binary: Path, tmp_path: Path) -> Iterator[Cluster]:
    with etcd_cluster(etcd_binary, tmp_path, n_members=3) as cluster:
        yield cluster


async def kill_a_member(cluster: Cluster, _: list[Leader], chance: random.Random) -> None:
    member = chance.choice(cluster.members)
    member.kill()
    await asyncio.sleep(chance.uniform(0, 2 * LEASE_S))
    member.start()


async def pause_a_member(cluster: Cluster, _: list[Leader], chance: random.Random) -> None:
    member = chance.choice(cluster.members)
    member.pause()
    await asyncio.sleep(chance.uniform(0, 2 * LEASE_S))
    member.resume()


async def pause_the_cluster(cluster: Cluster, _: list[Leader], chance: random.Random) -> None:
    for member in cluster.members:
        member.pause()
    await asyncio.sleep(chance.uniform(0, 2 * LEASE_S))
    for member in cluster.members:
        member.resume()


async def pause_a_leader(_: Cluster, leaders: list[Leader], chance: random.Random) -> None:
    paused = chance.choice(leaders)
    paused.signal(signal.SIGSTOP)
    await asyncio.sleep(chance.uniform(0, 2 * LEASE_S))
    paused.signal(signal.SIGCONT)


async def kill_a_leader(_: Cluster, leaders: list[Leader], chance: random.Random) -> None:
    alive = [one for one in leaders if one.process.returncode is None]
    if len(alive) > 1:
        chance.choice(alive).signal(signal.SIGKILL)


HARMS: tuple[Harm, ...] = (
    kill_a_member,
    pause_a_member,
    pause_the_cluster,
    pause_a_leader,
    pause_a_leader,
    kill_a_leader,
)


def n_writes(leaders: list[Leader]) -> int:
    return sum(line.startswith("wrote ") for one in leaders for line in one.said)


def has_written_more(leaders: list[Leader], before: int) -> bool:
    return n_writes(leaders) > before


@pytest.mark.timeout(300)
@pytest.mark.nightly
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_what_was_acknowledged_outlives_all_harm(
    three: Cluster, fleet: str, seed: int
) -> None:
    """No two leaders of one term, no port of two instances, no acknowledged write that is gone."""
    chance = random.Random(seed)  # noqa: S311
    store, leadership = open_store(three.url, fleet, clock=SystemClock(), holder="last", lease_s=2)
    start = await store.load()
    async with AsyncExitStack() as stack:
        leaders = [
            await stack.enter_async_context(leader(three.url, fleet, name, lease_s=LEASE_S))
            for name in ("alice", "bob", "carol")
        ]
        await eventually(lambda: any(one.said for one in leaders))
        for _ in range(N_ROUNDS):
            await chance.choice(HARMS)(three, leaders, chance)
            await asyncio.to_thread(three.wait_healthy)
            await eventually(partial(has_written_more, leaders, n_writes(leaders)))
        acknowledged = [await one.ended() for one in leaders]

    async with leading((store, leadership)):
        view = await store.load()
    versions = {name: one.version for name, one in view.stored.items()}
    places = [place_of(one.instance) for one in view.stored.values()]
    terms = [line for one in leaders for line in one.said if line.startswith("leads ")]
    updates = await watched(
        store, start.revision, lambda seen: len(applied(start, seen).stored) == len(view.stored)
    )

    for writes in acknowledged:
        assert writes.items() <= versions.items()
    assert len(set(places)) == len(places)
    assert len(set(terms)) == len(terms)
    assert content(view) == content(applied(start, updates))
    await store.close()
