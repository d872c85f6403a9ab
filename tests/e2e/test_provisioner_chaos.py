"""Three provisioners and three etcd members; any of them, or an instance, is killed or hangs.

However it goes: an instance has one process at most, no port is shared, and in the end everything
is there, running, and nothing else is.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.chaos import (
    ACCIDENTS,
    LEASE_S,
    Accident,
    assert_sane_histories,
    generations,
    three,
    three_members,
    watched,
    whole,
)
from tests.e2e.containers import ContainerLab, container_lab
from tests.e2e.provisioner import Lab, lab
from tests.etcd import Cluster
from tests.waiting import eventually

N = 20
SEED = 20_261_125
N_CONTAINERS = 6
LONGEST_WAIT_S, LONGEST_AWAY_S = 3.0, 1.5
"""Until containerd is killed, maybe amid an accident; and until it is back, well within the grace
that nodes have."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with three_members(tmp_path / "etcd") as running:
        yield running


@pytest.fixture
def fleet_lab(tmp_path: Path, cluster: Cluster) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


async def kill_processes(made: Lab, _: Cluster, dice: random.Random) -> str:
    killed = dice.sample(made.processes(), 5)
    for process in killed:
        process.kill()
    return f"killed {', '.join(process.instance_id for process in killed)}"


async def hang_process(made: Lab, _: Cluster, dice: random.Random) -> str:
    """It is stopped for good: it has to be killed and replaced."""
    process = dice.choice(made.processes())
    os.kill(process.pid, signal.SIGSTOP)
    await eventually(lambda: process not in made.processes())
    return f"{process.instance_id} hung"


ROUNDS: tuple[Accident, ...] = (*ACCIDENTS, kill_processes, hang_process)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("n_each", [1, pytest.param(4, marks=pytest.mark.nightly)])
async def test_whatever_is_killed_or_hangs_the_fleet_is_whole_again(
    fleet_lab: Lab, cluster: Cluster, n_each: int
) -> None:
    """Each kind of accident, in a random order and at random victims."""
    dice = random.Random(SEED)  # noqa: S311 - not for secrets
    await three(fleet_lab, cluster, fleet_lab.spec(N))
    async with watched(fleet_lab):
        least: dict[str, int] = {}
        for accident in dice.sample(n_each * ROUNDS, n_each * len(ROUNDS)):
            print(await accident(fleet_lab, cluster, dice))  # noqa: T201
            instances = await whole(fleet_lab, N, least_generations=least)
            least = generations(instances)

    await assert_sane_histories(fleet_lab, instances)


@pytest.mark.nightly
async def test_without_etcd_nothing_is_changed_and_instances_go_on(
    fleet_lab: Lab, cluster: Cluster
) -> None:
    await three(fleet_lab, cluster, fleet_lab.spec(N))
    async with watched(fleet_lab):
        before = await whole(fleet_lab, N, least_generations={})
        processes = set(fleet_lab.processes())

        cluster.kill()
        killed = min(processes)
        killed.kill()
        refusing = asyncio.create_task(fleet_lab.run("instances", "drain", "web-00002"))
        await eventually(lambda: all_older_than(fleet_lab, 2.0 * LEASE_S))
        refused = await refusing
        told = [await one.instances() for one in fleet_lab.provisioners]
        assert processes - {killed} == set(fleet_lab.processes())
        assert [before] * 3 == told
        assert 1 == refused.returncode
        assert "Traceback" not in refused.stderr

        cluster.start()
        after = await whole(fleet_lab, N, least_generations={killed.instance_id: 2})

    assert {killed.instance_id} == {
        new["id"] for old, new in zip(before, after, strict=True) if old != new
    }
    assert processes - {killed} <= set(fleet_lab.processes())


async def all_older_than(made: Lab, age_s: float) -> bool:
    """Say whether every provisioner answers that what it tells is so old."""
    answers = [await one.answer() for one in made.provisioners]
    return all(float(each.headers["Inventory-Age-Seconds"]) > age_s for each in answers)


async def restart_containerd(made: ContainerLab, dice: random.Random) -> str:
    """Kill a node's containerd and instances, at any moment, and start containerd again."""
    node = dice.choice(made.nodes)
    wait_s, away_s = dice.uniform(0.0, LONGEST_WAIT_S), dice.uniform(0.0, LONGEST_AWAY_S)
    await asyncio.sleep(wait_s)
    node.containerd.stop(signal.SIGKILL)
    there = [process for process in made.processes() if process.host == node.address]
    killed = dice.sample(there, min(len(there), dice.randint(0, 2)))
    for process in killed:
        process.kill()
    await asyncio.sleep(away_s)
    await asyncio.to_thread(node.containerd.start)
    return (
        f"{wait_s:.1f} s later containerd of {node.name} was killed for {away_s:.1f} s, and "
        f"{', '.join(process.instance_id for process in killed) or 'no instance'}"
    )


async def all_at_once(
    made: ContainerLab, cluster: Cluster, accident: Accident, dice: random.Random
) -> str:
    """Let an accident happen while containerd restarts; each throws dice of its own."""
    first, second = (random.Random(dice.random()) for _ in range(2))  # noqa: S311
    told = await asyncio.gather(accident(made, cluster, first), restart_containerd(made, second))
    return "; ".join(told)


async def without_orphans(made: ContainerLab, instances: list[dict[str, Any]]) -> None:
    """Return when nodes have what the instances need, and nothing else."""

    async def is_clean() -> bool:
        return not await made.orphans(instances)

    try:
        await eventually(is_clean)
    except AssertionError as error:
        raise AssertionError(await made.orphans(instances)) from error


@pytest.mark.nightly
@pytest.mark.timeout(900)
async def test_whatever_is_killed_or_hangs_while_containerd_restarts_the_fleet_is_whole_again(
    tmp_path: Path, cluster: Cluster
) -> None:
    """Each kind of accident once, in a random order, with one node's containerd killed in it."""
    dice = random.Random(SEED)  # noqa: S311 - not for secrets
    with container_lab(tmp_path) as made:
        await three(made, cluster, made.containers(N_CONTAINERS))
        async with watched(made):
            least: dict[str, int] = {}
            for accident in dice.sample(ACCIDENTS, len(ACCIDENTS)):
                print(await all_at_once(made, cluster, accident, dice))  # noqa: T201
                instances = await whole(made, N_CONTAINERS, least_generations=least)
                await without_orphans(made, instances)
                least = generations(instances)

        await assert_sane_histories(made, instances)
