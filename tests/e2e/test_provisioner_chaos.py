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

import pytest

from tests.e2e.chaos import (
    ACCIDENTS,
    LEASE_S,
    WHOLE_AGAIN_S,
    Accident,
    assert_sane_histories,
    generations,
    three,
    three_members,
    watched,
    whole,
)
from tests.e2e.provisioner import Lab, UnitProcess, lab
from tests.etcd import Cluster
from tests.waiting import eventually

N = 20
SEED = 20_261_125


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with three_members(tmp_path / "etcd") as running:
        yield running


@pytest.fixture
def fleet_lab(tmp_path: Path, cluster: Cluster) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


async def kill_units(made: Lab, _: Cluster, dice: random.Random) -> str:
    killed = dice.sample(made.units(), 5)
    for unit in killed:
        unit.kill()
    return f"killed {', '.join(unit.instance_id for unit in killed)}"


async def hang_unit(made: Lab, _: Cluster, dice: random.Random) -> str:
    """It is stopped for good: it has to be killed and replaced."""
    unit = dice.choice(made.units())
    os.kill(unit.pid, signal.SIGSTOP)
    await eventually(lambda: unit not in made.units(), within_s=WHOLE_AGAIN_S)
    return f"{unit.instance_id} hung"


ROUNDS: tuple[Accident, ...] = (*ACCIDENTS, kill_units, hang_unit)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("n_each", [1, pytest.param(4, marks=pytest.mark.nightly)])
async def test_whatever_is_killed_or_hangs_the_fleet_is_whole_again(
    fleet_lab: Lab, cluster: Cluster, n_each: int
) -> None:
    """Each kind of accident, in a random order and at random victims."""
    dice = random.Random(SEED)  # noqa: S311 - not for secrets
    print(f"seed {SEED}")  # noqa: T201 - to do it again
    await three(fleet_lab, cluster, fleet_lab.spec(N))
    async with watched(fleet_lab):
        least: dict[str, int] = {}
        for number, accident in enumerate(dice.sample(n_each * ROUNDS, n_each * len(ROUNDS)), 1):
            print(f"round {number}: {await accident(fleet_lab, cluster, dice)}")  # noqa: T201
            instances = await whole(fleet_lab, N, least_generations=least)
            least = generations(instances)

    await assert_sane_histories(fleet_lab, instances)


async def test_without_etcd_nothing_is_changed_and_instances_go_on(
    fleet_lab: Lab, cluster: Cluster
) -> None:
    await three(fleet_lab, cluster, fleet_lab.spec(N))
    async with watched(fleet_lab):
        before = await whole(fleet_lab, N, least_generations={})
        units = set(fleet_lab.units())

        cluster.kill()
        killed = dice_free_choice(fleet_lab)
        killed.kill()
        refusing = asyncio.create_task(fleet_lab.run("instances", "drain", "web-00002"))
        await eventually(lambda: all_older_than(fleet_lab, 2.0 * LEASE_S))
        refused = await refusing
        told = [await one.instances() for one in fleet_lab.provisioners]
        assert units - {killed} == set(fleet_lab.units())
        assert [before] * 3 == told
        assert 1 == refused.returncode
        assert "Traceback" not in refused.stderr

        cluster.start()
        after = await whole(fleet_lab, N, least_generations={killed.instance_id: 2})

    assert {killed.instance_id} == {
        new["id"] for old, new in zip(before, after, strict=True) if old != new
    }
    assert units - {killed} <= set(fleet_lab.units())


def dice_free_choice(made: Lab) -> UnitProcess:
    """Return one of the units, always the same."""
    return min(made.units(), key=lambda unit: unit.instance_id)


async def all_older_than(made: Lab, age_s: float) -> bool:
    """Say whether every provisioner answers that what it tells is so old."""
    ages = [(await one.answer()).age_s for one in made.provisioners]
    return min(ages) > age_s
