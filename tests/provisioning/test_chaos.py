"""Two provisioners, a store that comes and goes, and a world in which everything breaks."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from provisioning.model import Limits, Rotation
from provisioning.spec.document import encode_fleet
from provisioning.store.base import PutSpec
from provisioning.store.memory import MemoryBackend
from tests.provisioning.making import fleet, node, pool
from tests.provisioning.scene import Stage, staged
from tests.provisioning.virtual import VirtualClock, virtual_run
from tests.provisioning.world import Behaviour, World

NODES = tuple(node(f"n{n}", address=f"127.0.0.{n}") for n in range(1, 6))
WANTED = fleet(
    pool(20, rotation=Rotation(every_s=1800.0, at_once=3, drain_s=10.0)),
    nodes=NODES,
    limits=Limits(unavailable_ratio=0.2, retry_failed_s=60.0, backoff_cap_s=5.0),
)
CALM = fleet(pool(20), nodes=NODES, limits=WANTED.limits)
FRAGILE = Behaviour(
    start_s=1.0, healthy_after_s=1.0, failure_ratio=0.1, hang_ratio=0.02, out_of_memory_after_s=3e3
)
STURDY = Behaviour(start_s=1.0, healthy_after_s=1.0)
N_FAULTS = 80


class Chaos:
    """A world, its provisioners, and the dice."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311
        self.seed = seed
        self.backend = MemoryBackend()
        self.world = World(VirtualClock(), seed=seed, behaviour=FRAGILE)
        self.stages: list[Stage] = []

    def begin(self) -> None:
        """Begin with a specification in the store, and two provisioners."""
        session = self.backend.begin_term("setup")
        self.backend.commit([PutSpec(encode_fleet(WANTED), 0)], session.term)
        self.backend.end_term(session)
        self.stages = [self.stage(), self.stage()]

    def stage(self) -> Stage:
        """Return another provisioner, at work."""
        made = staged(self.world, self.backend, name="one of two", seed=self.seed)
        made.tasks += [
            asyncio.create_task(made.cache.follow()),
            asyncio.create_task(made.controller.run()),
        ]
        return made

    async def befall(self) -> None:
        """Let one thing happen."""
        dice = self.dice
        stage = dice.choice(self.stages)
        containers = [
            container.name for node in NODES for container in self.world.containers(node.name)
        ]
        match dice.randrange(7):
            case 0 | 1 if containers:
                self.world.kill(dice.choice(containers))
            case 2 if containers:
                self.world.sicken(dice.choice(containers))
            case 3:
                self.world.silence(dice.choice(NODES).name)
            case 4:
                for one in NODES:
                    self.world.restore(one.name)
            case 5:
                await stage.stop()
                self.stages.remove(stage)
                self.stages.append(self.stage())
            case 6:
                stage.store.is_down = not stage.store.is_down
                stage.store.forgets_answers = dice.randrange(2)

    async def calm(self) -> None:
        """Let everything be well again."""
        self.world.behave(STURDY)
        for one in NODES:
            self.world.restore(one.name)
        for stage in self.stages:
            stage.store.is_down = False
            stage.store.forgets_answers = 0
        await self.leading()

    async def leading(self) -> Stage:
        """Return the provisioner that leads, once one does."""
        while True:
            for stage in self.stages:
                if stage.controller.term:
                    return stage
            await VirtualClock().sleep(0.1)

    def check(self) -> None:
        """No port is shared, no node too full, and no generation is there twice."""
        records = [stored.instance for stored in self.backend.stored.values()]
        claims = [(one.node, one.port) for one in records]
        assert len(claims) == len(set(claims))
        running = [
            container.name for node in NODES for container in self.world.containers(node.name)
        ]
        assert len(running) == len(set(running))
        for one in NODES:
            if self.world.node(one.name).is_reachable:
                assert (
                    sum(container.cpus for container in self.world.containers(one.name)) <= one.cpus
                )


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_fleet_is_whole_in_the_end(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def scene() -> None:
        chaos = Chaos(seed)
        chaos.begin()
        try:
            for _ in range(N_FAULTS):
                await chaos.befall()
                for _ in range(20):
                    await VirtualClock().sleep(1.0)
                    chaos.check()
            await chaos.calm()
            # Rotation would go on and on; what has crashed too often waits for its hour to be over.
            stage = await chaos.leading()
            await stage.put_spec(CALM)
            await stage.until(stage.is_whole, within_s=2 * 3600.0)
        finally:
            for stage in chaos.stages:
                await stage.stop()

    virtual_run(scene())
