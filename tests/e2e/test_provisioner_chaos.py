"""Three provisioners and three etcd members; any of them, or an instance, is killed or hangs.

However it goes: an instance has one process at most, no port is shared, and in the end everything
is there, running, and nothing else is.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import program
from tests.e2e.provisioner import Lab, Provisioner, UnitProcess, lab
from tests.etcd import Cluster, etcd_cluster
from tests.waiting import eventually

N = 20
LEASE_S = 2
N_ROUNDS = 14
SEED = 20_261_125
HANG_S = 2.5 * LEASE_S
"""Longer than a lease: whoever hangs so long has been replaced when it goes on."""
WHOLE_AGAIN_S = 60.0
SAMPLE_EVERY_S = 0.1


@dataclass
class Watch:
    """Looks at the processes of the units all the time."""

    lab: Lab
    n_samples: int = 0
    doubled: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Take down which instances have two processes, and which ports two instances."""
        units = self.lab.units()
        self.n_samples += 1
        for what in ("instance_id", "port"):
            counted = Counter(getattr(unit, what) for unit in units)
            self.doubled += [
                f"{what} {value}: {sorted(one.pid for one in units if getattr(one, what) == value)}"
                for value, n in counted.items()
                if n > 1
            ]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(SAMPLE_EVERY_S)


@asynccontextmanager
async def watched(made: Lab) -> AsyncIterator[Watch]:
    """Watch the units until the block ends; whatever was seen doubled fails the test."""
    watch = Watch(made)
    running = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert [] == watch.doubled
    assert watch.n_samples > 0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "etcd"
    folder.mkdir()
    with etcd_cluster(
        program("etcd"), folder, "--heartbeat-interval=100", "--election-timeout=500", n_members=3
    ) as running:
        yield running


@pytest.fixture
def fleet_lab(tmp_path: Path, cluster: Cluster) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


async def three(made: Lab, cluster: Cluster) -> None:
    """Start three provisioners, and apply a fleet."""
    for _ in range(3):
        made.provisioner(f"--store.lease={LEASE_S}", store=cluster.url).start()
    for one in made.provisioners:
        await eventually(one.is_ready)
    await made.done("provisioner", "apply", str(made.spec(N)))


async def leader_of(made: Lab) -> Provisioner | None:
    """Return who says that it leads."""
    for one in made.provisioners:
        if one.is_running and await one.leads():
            return one
    return None


async def whole(made: Lab, *, least_generations: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the instances once all is well, as every provisioner tells it."""
    told: list[dict[str, Any]] = []

    async def is_whole() -> bool:
        nonlocal told
        views = [await one.instances() for one in made.provisioners]
        told = views[0]
        return (
            all(view == told for view in views)
            and made.is_whole(told, N)
            and all(one["generation"] >= least_generations.get(one["id"], 1) for one in told)
            and await leader_of(made) is not None
        )

    try:
        await eventually(is_whole, within_s=WHOLE_AGAIN_S)
    except AssertionError as error:
        leader = await leader_of(made)
        raise AssertionError(f"{made.faults(told, N)}, {leader} leads") from error
    return told


Round = Callable[[Lab, Cluster, random.Random], Awaitable[str]]


async def kill_leader(made: Lab, _: Cluster, __: random.Random) -> str:
    leader = await leader_of(made)
    assert leader is not None
    leader.kill()
    await asyncio.sleep(LEASE_S / 2)
    leader.start()
    return f"killed {leader.url}, which led"


async def hang_leader(made: Lab, _: Cluster, dice: random.Random) -> str:
    """What it was about to write when it was stopped must not be written when it goes on."""
    leader = await leader_of(made)
    assert leader is not None
    unit = kill_one(made, dice)
    await asyncio.sleep(dice.uniform(0.0, 0.5))
    leader.send(signal.SIGSTOP)
    await asyncio.sleep(HANG_S)
    leader.send(signal.SIGCONT)
    return f"{unit} killed, then {leader.url}, which led, hung for {HANG_S} s"


async def kill_standby(made: Lab, _: Cluster, dice: random.Random) -> str:
    leader = await leader_of(made)
    standby = dice.choice([one for one in made.provisioners if one is not leader])
    standby.kill()
    unit = kill_one(made, dice)
    standby.start()
    return f"killed {standby.url}, which stood by, and {unit}"


async def kill_member(made: Lab, cluster: Cluster, dice: random.Random) -> str:
    member = dice.choice(cluster.members)
    member.kill()
    unit = kill_one(made, dice)
    await asyncio.sleep(LEASE_S)
    member.start()
    return f"killed {member.name} of etcd, and {unit}"


async def hang_member(made: Lab, cluster: Cluster, dice: random.Random) -> str:
    member = dice.choice(cluster.members)
    member.pause()
    unit = kill_one(made, dice)
    await asyncio.sleep(HANG_S)
    member.resume()
    return f"{member.name} of etcd hung, {unit} killed"


async def kill_units(made: Lab, _: Cluster, dice: random.Random) -> str:
    killed = dice.sample(made.units(), 5)
    for unit in killed:
        unit.kill()
    return f"killed {', '.join(unit.instance_id for unit in killed)}"


async def hang_unit(made: Lab, _: Cluster, dice: random.Random) -> str:
    """It is stopped for good: it has to be killed and replaced."""
    unit = dice.choice(made.units())
    os.kill(unit.pid, signal.SIGSTOP)
    await eventually(lambda: unit not in made.units())
    return f"{unit.instance_id} hung"


def kill_one(made: Lab, dice: random.Random) -> str:
    unit: UnitProcess = dice.choice(made.units())
    unit.kill()
    return unit.instance_id


ROUNDS: tuple[Round, ...] = (
    kill_leader,
    hang_leader,
    kill_standby,
    kill_member,
    hang_member,
    kill_units,
    hang_unit,
)


def is_sane(history: Sequence[Mapping[str, Any]], generation: int) -> bool:
    """Say whether a history goes forward, and no generation was started twice."""
    times = [line["at_s"] for line in history]
    generations = [line["generation"] for line in history]
    started = Counter(line["generation"] for line in history if line["what"] == "started")
    return (
        times == sorted(times)
        and generations == sorted(generations)
        and generations[-1] == generation
        and max(started.values()) == 1
        and started[generation] == 1
    )


async def test_whatever_is_killed_or_hangs_the_fleet_is_whole_again(
    fleet_lab: Lab, cluster: Cluster
) -> None:
    """Each kind of accident twice, in a random order and at random victims."""
    dice = random.Random(SEED)  # noqa: S311 - not for secrets
    print(f"seed {SEED}")  # noqa: T201 - to do it again
    await three(fleet_lab, cluster)
    async with watched(fleet_lab):
        generations: dict[str, int] = {}
        for number, accident in enumerate(dice.sample(2 * ROUNDS, N_ROUNDS), 1):
            print(f"round {number}: {await accident(fleet_lab, cluster, dice)}")  # noqa: T201
            instances = await whole(fleet_lab, least_generations=generations)
            generations = {one["id"]: one["generation"] for one in instances}

    for one in instances:
        shown = (await fleet_lab.provisioners[0].answer(f"/instances/{one['id']}")).json
        assert is_sane(shown["history"], one["generation"]), shown


async def test_without_etcd_nothing_is_changed_and_instances_go_on(
    fleet_lab: Lab, cluster: Cluster
) -> None:
    await three(fleet_lab, cluster)
    async with watched(fleet_lab):
        before = await whole(fleet_lab, least_generations={})
        units = set(fleet_lab.units())

        cluster.kill()
        killed = dice_free_choice(fleet_lab)
        killed.kill()
        await eventually(lambda: all_older_than(fleet_lab, 2.0 * LEASE_S))
        refused = await fleet_lab.run("instances", "drain", "web-00002")
        told = [await one.instances() for one in fleet_lab.provisioners]
        assert units - {killed} == set(fleet_lab.units())
        assert [before] * 3 == told
        assert 1 == refused.returncode
        assert "Traceback" not in refused.stderr

        cluster.start()
        after = await whole(fleet_lab, least_generations={killed.instance_id: 2})

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
