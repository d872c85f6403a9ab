"""A whole provisioner over a simulated world and a store in memory, in virtual time.

def test_…():
    async def scene() -> None:
        async with provisioner(fleet(pool(3))) as stage:
            await stage.until(stage.is_whole)
    virtual_run(scene())
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from provisioning.cache import Cache
from provisioning.controller import Controller, ReconcileLoop
from provisioning.errors import StoreError, StoreUnavailableError
from provisioning.model import Fleet, Instance, Node, Phase
from provisioning.spec.document import decode_fleet, encode_fleet
from provisioning.store.base import Change, ChangeResult, PutSpec, Term, View
from provisioning.store.memory import MemoryBackend, MemoryLeadership, MemoryStore
from tests.provisioning.counters import Counters
from tests.provisioning.virtual import VirtualClock
from tests.provisioning.world import Behaviour, SimulatedProber, SimulatedRuntime, World

QUICK = Behaviour(start_s=1.0, healthy_after_s=0.5, stop_s=0.5)


class FickleStore(MemoryStore):
    """A store that can be out of reach, before or after it has written."""

    is_down = False
    forgets_answers = 0
    """So many commits are made, but their answer is lost."""
    refusal: StoreError | None = None
    """What every commit is refused with."""
    n_commits = 0
    n_refused = 0

    async def load(self) -> View:
        self._reach()
        return await super().load()

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[ChangeResult, ...]:
        self._reach()
        if self.refusal:
            self.n_refused += 1
            raise self.refusal
        self.n_commits += 1
        results = await super().commit(changes, term=term)
        if self.forgets_answers:
            self.forgets_answers -= 1
            raise StoreUnavailableError("the answer was lost")
        return results

    def _reach(self) -> None:
        if self.is_down:
            raise StoreUnavailableError("the store is down")


@dataclass
class Stage:
    """What a test looks at and meddles with."""

    world: World
    backend: MemoryBackend
    store: FickleStore
    cache: Cache
    controller: Controller
    counters: Counters
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def fleet(self) -> Fleet:
        assert self.backend.spec
        return decode_fleet(self.backend.spec.text)

    @property
    def instances(self) -> list[Instance]:
        """Return the records, sorted by id."""
        return [self.backend.stored[id_].instance for id_ in sorted(self.backend.stored)]

    @property
    def running_containers(self) -> list[str]:
        """Return the containers that run anywhere."""
        return sorted(
            container.name
            for node in self.fleet.nodes
            for container in self.world.containers(node.name)
        )

    def is_whole(self) -> bool:
        """Say whether all that is wanted runs, up to date, and nothing else does."""
        fleet = self.fleet
        wanted = {one.name: (one.count, one.workload.digest) for one in fleet.pools}
        for name, (count, digest) in wanted.items():
            mine = [one for one in self.instances if one.pool == name]
            is_good = all(one.phase is Phase.RUNNING and one.workload == digest for one in mine)
            if len(mine) != count or not is_good:
                return False
        return self.running_containers == sorted(one.container for one in self.instances)

    async def until(self, condition: Callable[[], object], *, within_s: float = 600.0) -> None:
        """Let virtual time pass until something is so."""
        clock = VirtualClock()
        deadline_s = clock.monotonic_s() + within_s
        while not condition():
            assert clock.monotonic_s() < deadline_s, (
                f"not so within {within_s} s: {self.controller!r}, {self.counters.last}\n"
                + "\n".join(f"{one}" for one in self.instances[:20])
            )
            await clock.sleep(0.1)

    async def put_spec(self, fleet: Fleet) -> None:
        """Put another specification in force, as the API does."""
        term = self.controller.term
        assert term
        expected = self.backend.spec.version if self.backend.spec else 0
        await MemoryStore(self.backend).commit([PutSpec(encode_fleet(fleet), expected)], term=term)

    async def stop(self) -> None:
        """End the provisioner as at a clean stop."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()


@asynccontextmanager
async def provisioner(
    fleet: Fleet | None,
    *,
    behaviour: Behaviour = QUICK,
    world: World | None = None,
    backend: MemoryBackend | None = None,
    name: str = "one",
    seed: int = 0,
) -> AsyncIterator[Stage]:
    """Run a provisioner; without a fleet, on the specification that the store has."""
    clock = VirtualClock()
    backend = backend or MemoryBackend()
    world = world or World(clock, seed=seed, behaviour=behaviour)
    if fleet is not None:
        session = backend.begin_term("setup")
        backend.commit([PutSpec(encode_fleet(fleet), 0)], session.term)
        backend.end_term(session)
    stage = staged(world, backend, name=name, seed=seed)
    stage.tasks += [
        asyncio.create_task(stage.cache.follow()),
        asyncio.create_task(stage.controller.run()),
    ]
    try:
        yield stage
    finally:
        await stage.stop()


def staged(world: World, backend: MemoryBackend, *, name: str, seed: int) -> Stage:
    """Return a provisioner that does not run yet."""
    clock, counters, store = VirtualClock(), Counters(), FickleStore(backend)
    cache = Cache(store, clock)

    def open_runtime(node: Node) -> SimulatedRuntime:
        return SimulatedRuntime(world, node.name, "test")

    loop = ReconcileLoop(
        store=store,
        cache=cache,
        open_runtime=open_runtime,
        prober_of=lambda _: SimulatedProber(world),
        clock=clock,
        read_spec=decode_fleet,
        jitter=random.Random(seed).random,  # noqa: S311
        listener=counters,
    )
    controller = Controller(MemoryLeadership(backend, holder=name), loop, clock)
    return Stage(world, backend, store, cache, controller, counters)
