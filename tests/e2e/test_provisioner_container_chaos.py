"""Three provisioners and three etcd members over two nodes, whose containerd is killed in between.

However it goes: an instance has one process at most, no port is shared, and in the end everything
is there, running, and nothing is left on the nodes of what was there before.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.chaos import (
    ACCIDENTS,
    Accident,
    assert_sane_histories,
    generations,
    three,
    three_members,
    watched,
    whole,
)
from tests.e2e.containers import ContainerLab, container_lab
from tests.etcd import Cluster
from tests.waiting import eventually

N = 6
SEED = 20_261_127
LONGEST_WAIT_S = 3.0
"""Until containerd is killed, after the accident has begun: it may be in the midst of it."""
LONGEST_AWAY_S = 1.5
"""Well within the grace that nodes have."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with three_members(tmp_path / "etcd") as running:
        yield running


@pytest.fixture
async def fleet_lab(tmp_path: Path, cluster: Cluster) -> AsyncIterator[ContainerLab]:
    async with container_lab(tmp_path) as made:
        yield made


async def restart_containerd(made: ContainerLab, dice: random.Random) -> str:
    """Kill a node's containerd and units, at any moment, and start containerd again."""
    node = dice.choice(made.nodes)
    wait_s, away_s = dice.uniform(0.0, LONGEST_WAIT_S), dice.uniform(0.0, LONGEST_AWAY_S)
    await asyncio.sleep(wait_s)
    node.containerd.stop(signal.SIGKILL)
    there = [unit for unit in made.units() if unit.host == node.address]
    killed = dice.sample(there, min(len(there), dice.randint(0, 2)))
    for unit in killed:
        unit.kill()
    await asyncio.sleep(away_s)
    await asyncio.to_thread(node.containerd.start)
    return (
        f"{wait_s:.1f} s later containerd of {node.name} was killed for {away_s:.1f} s, and "
        f"{', '.join(unit.instance_id for unit in killed) or 'no unit'}"
    )


async def all_at_once(
    made: ContainerLab, cluster: Cluster, accident: Accident, dice: random.Random
) -> str:
    """Let an accident happen while containerd restarts; each throws dice of its own."""
    first, second = (random.Random(dice.random()) for _ in range(2))  # noqa: S311
    told = await asyncio.gather(accident(made, cluster, first), restart_containerd(made, second))
    return "; ".join(told)


async def without_orphans(made: ContainerLab, instances: Sequence[Mapping[str, Any]]) -> None:
    """Return when nodes have what the instances need, and nothing else."""
    found: list[str] = []

    async def is_clean() -> bool:
        nonlocal found
        found = await made.orphans(instances)
        return not found

    try:
        await eventually(is_clean)
    except AssertionError as error:
        raise AssertionError(found) from error


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_whatever_is_killed_or_hangs_while_containerd_restarts_the_fleet_is_whole_again(
    fleet_lab: ContainerLab, cluster: Cluster
) -> None:
    """Each kind of accident once, in a random order, with one node's containerd killed in it."""
    dice = random.Random(SEED)  # noqa: S311 - not for secrets
    print(f"seed {SEED}")  # noqa: T201 - to do it again
    await three(fleet_lab, cluster, fleet_lab.containers(N))
    async with watched(fleet_lab):
        least: dict[str, int] = {}
        for number, accident in enumerate(dice.sample(ACCIDENTS, len(ACCIDENTS)), 1):
            told = await all_at_once(fleet_lab, cluster, accident, dice)
            print(f"round {number}: {told}")  # noqa: T201
            instances = await whole(fleet_lab, N, least_generations=least)
            await without_orphans(fleet_lab, instances)
            least = generations(instances)

    await assert_sane_histories(fleet_lab, instances)
