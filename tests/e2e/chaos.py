"""Three provisioners and three etcd members; what may happen to them, and what must not."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import program
from tests.e2e.provisioner import InstanceProcess, Lab, Provisioner
from tests.etcd import Cluster, etcd_cluster
from tests.waiting import eventually

LEASE_S = 2
HANG_S = 2.5 * LEASE_S
"""Longer than a lease: whoever hangs so long has been replaced when it goes on."""
SAMPLE_EVERY_S = 0.1


def doubled_in(processes: Sequence[InstanceProcess]) -> list[str]:
    """Return the instances, and the addresses, that several processes have, though none may."""
    counted = Counter[object](process.instance_id for process in processes)
    counted.update((process.host, process.port) for process in processes)
    return [f"{what}: {processes}" for what, n in counted.items() if n > 1]


@asynccontextmanager
async def watched(made: Lab) -> AsyncIterator[None]:
    """Look at the processes until the block ends; whatever was seen doubled fails it."""
    doubled: list[str] = []

    async def look_again_and_again() -> None:
        while True:
            seen = made.processes()
            if doubled_in(seen):
                # A look takes a while: the first may have ended before the second was seen. What
                # is still there at the next look was there while the whole of this one was taken.
                there = set(made.processes())
                doubled.extend(doubled_in([process for process in seen if process in there]))
            await asyncio.sleep(SAMPLE_EVERY_S)

    looking = asyncio.create_task(look_again_and_again())
    try:
        yield
    finally:
        assert looking.cancel()
        await asyncio.wait([looking])
    assert not doubled, doubled


@contextmanager
def three_members(folder: Path) -> Iterator[Cluster]:
    """Run an etcd cluster that notices soon when a member is gone."""
    folder.mkdir()
    with etcd_cluster(
        program("etcd"), folder, "--heartbeat-interval=100", "--election-timeout=500", n_members=3
    ) as running:
        yield running


async def three(made: Lab, cluster: Cluster, spec: Path) -> None:
    """Start three provisioners, and apply a fleet."""
    for _ in range(3):
        made.provisioner(f"--store.lease={LEASE_S}s", store=cluster.url).start()
    for one in made.provisioners:
        await eventually(one.is_ready)
    await made.done("provisioner", "apply", str(spec))


async def leader_of(made: Lab) -> Provisioner | None:
    """Return who says that it leads."""
    for one in made.provisioners:
        if one.is_running and await one.leads():
            return one
    return None


async def led(made: Lab) -> Provisioner:
    """Return who leads, once somebody does: who is asked while leaders change may name nobody."""
    leader: Provisioner | None = None

    async def is_led() -> bool:
        nonlocal leader
        leader = await leader_of(made)
        return leader is not None

    await eventually(is_led)
    assert leader
    return leader


async def whole(
    made: Lab, count: int, *, least_generations: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return the instances once all is well, as every provisioner tells it."""
    told: list[dict[str, Any]] = []

    async def is_whole() -> bool:
        nonlocal told
        views = [await one.instances() for one in made.provisioners]
        told = views[0]
        return (
            all(view == told for view in views)
            and made.is_whole(told, count)
            and all(one["generation"] >= least_generations.get(one["id"], 1) for one in told)
            and await leader_of(made) is not None
        )

    try:
        await eventually(is_whole)
    except AssertionError as error:
        leader = await leader_of(made)
        raise AssertionError(f"{made.faults(told, count)}, {leader} leads") from error
    return told


def generations(instances: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the generation of each instance, by its id."""
    return {one["id"]: one["generation"] for one in instances}


async def assert_sane_histories(made: Lab, instances: Sequence[Mapping[str, Any]]) -> None:
    """Assert that no instance's history tells of two starts where there was to be one."""
    for one in instances:
        shown = (await made.provisioners[0].answer(f"/instances/{one['id']}")).json
        assert is_sane(shown["history"], one["generation"]), shown


def is_sane(history: Sequence[Mapping[str, Any]], generation: int) -> bool:
    """Say whether a history goes forward, and no generation was started twice."""
    moments = [(line["at_s"], line["generation"]) for line in history]
    numbers = [line["generation"] for line in history]
    started = [line["generation"] for line in history if line["what"] == "started"]
    return (
        moments == sorted(moments)
        and numbers == sorted(numbers)
        and numbers[-1] == started[-1] == generation
        and len(started) == len(set(started))
    )


Accident = Callable[[Lab, Cluster, random.Random], Awaitable[str]]


async def kill_leader(made: Lab, _: Cluster, __: random.Random) -> str:
    leader = await led(made)
    leader.kill()
    await asyncio.sleep(LEASE_S / 2)
    leader.start()
    return f"killed {leader.url}, which led"


async def hang_leader(made: Lab, _: Cluster, dice: random.Random) -> str:
    """What it was about to write when it was stopped must not be written when it goes on."""
    leader = await led(made)
    killed = kill_one(made, dice)
    await asyncio.sleep(dice.uniform(0.0, 0.5))
    leader.send(signal.SIGSTOP)
    await asyncio.sleep(HANG_S)
    leader.send(signal.SIGCONT)
    return f"{killed} killed, then {leader.url}, which led, hung for {HANG_S} s"


async def kill_standby(made: Lab, _: Cluster, dice: random.Random) -> str:
    leader = await led(made)
    standby = dice.choice([one for one in made.provisioners if one is not leader])
    standby.kill()
    killed = kill_one(made, dice)
    standby.start()
    return f"killed {standby.url}, which stood by, and {killed}"


async def kill_member(made: Lab, cluster: Cluster, dice: random.Random) -> str:
    member = dice.choice(cluster.members)
    member.kill()
    killed = kill_one(made, dice)
    await asyncio.sleep(LEASE_S)
    member.start()
    return f"killed {member.name} of etcd, and {killed}"


async def hang_member(made: Lab, cluster: Cluster, dice: random.Random) -> str:
    member = dice.choice(cluster.members)
    member.pause()
    killed = kill_one(made, dice)
    await asyncio.sleep(HANG_S)
    member.resume()
    return f"{member.name} of etcd hung, {killed} killed"


def kill_one(made: Lab, dice: random.Random) -> str:
    """End one process without warning; return its instance."""
    process: InstanceProcess = dice.choice(made.processes())
    process.kill()
    return process.instance_id


ACCIDENTS: tuple[Accident, ...] = (
    kill_leader,
    hang_leader,
    kill_standby,
    kill_member,
    hang_member,
)
"""What happens to provisioners and to members of etcd."""
