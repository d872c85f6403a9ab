"""The runners: the processes in which the instances' models work, one request at a time each.

In:   which instance's model is wanted, and what to do with it.
Out:  a turn at its runner, which is started, or started anew after a fault, where it has to be.
Fails with LoadFailedError and RunnerLostError.
A model that is asked for takes the place of an idle one where no more may be loaded. `time_scale`
stretches the waiting, never the numbers: they are the simulated instance's.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from provisioning.sim.faults import Kind
from provisioning.sim.fleet import Fleet, InstanceState
from provisioning.sim.generate import cold_ns
from provisioning.sim.golang import NS_PER_S
from provisioning.sim.models import Loaded, canonical
from provisioning.sim.spec import Model

LOADING_KINDS = frozenset({Kind.LOADING, Kind.OOM_RESTART})
LOADING_CHECK_S = 0.1
"""How often a request that came too early looks whether its instance serves now."""


class LoadFailedError(Exception):
    """The runner was killed while it loaded the model."""


class RunnerLostError(Exception):
    """The runner was killed while it worked."""


@dataclass(eq=False, slots=True)
class Run:
    """One request's turn at a runner."""

    state: InstanceState
    began_s: float
    """By the loop's clock; later by the time that the runner was frozen."""
    waited_ns: int
    """Before its turn came, without what it waited for the model to be loaded."""
    cold_ns: int
    """What loading the model took, whoever had it loaded."""
    limit: asyncio.Timeout | None = None
    """Of what it does now; it is over at once when a fault of the instance begins or ends."""
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_frozen(self) -> bool:
        """Say whether its runner does nothing."""
        return _kind(self.state) is Kind.RUNNER_HANG

    def tell(self) -> None:
        """Take note that the instance's faults are other ones now."""
        self.news.set()
        if self.limit is not None:
            self.limit.reschedule(0.0)


class Runners:
    """The runners of all instances."""

    def __init__(self, fleet: Fleet, *, time_scale: float) -> None:
        self._fleet = fleet
        self._clock = fleet.clock
        self._time_scale = time_scale
        self._locks: defaultdict[tuple[int, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        """By instance and model."""
        self._loaded_s: dict[tuple[int, str], float] = {}
        """When each was loaded last, by the loop's clock."""
        self._runs_by_index: dict[int, set[Run]] = {}
        fleet.watch(self._faults_changed)

    async def serving(self, state: InstanceState) -> None:
        """Wait while an instance is loading after its start, as its own clock says."""
        while (trouble := self._fleet.trouble_of(state, self._clock())) is not None:
            if trouble.fault.kind not in LOADING_KINDS:
                break
            await asyncio.sleep(LOADING_CHECK_S)

    async def load(self, state: InstanceState, model: Model, keep_alive_s: float | None) -> None:
        """Have a model loaded, and let it stay for a time."""
        models = self._fleet.models_of(state)
        if state.runner is not None or not models.is_loaded(model, self._clock()):
            async with self.turn(state, model, keep_alive_s):
                return
        with models.using(model, keep_alive_s, self._clock):
            pass

    @asynccontextmanager
    async def turn(
        self, state: InstanceState, model: Model, keep_alive_s: float | None
    ) -> AsyncIterator[Run]:
        """Wait for the requests before this one, then be the one that runs.

        Raises:
            LoadFailedError: The model cannot be loaded.
        """
        asked_s = self._loop_s()
        models = self._fleet.models_of(state)
        async with self._locked(state, model):
            began_s = self._loop_s()
            loaded_s = max(asked_s, self._loaded_s.get(_key(state, model), asked_s))
            waited_ns = self._simulated_ns(began_s - loaded_s)
            load_ns = self._simulated_ns(loaded_s - asked_s)
            load_ns += await self._load(state, model, began_s)
            run = Run(state, began_s, waited_ns, load_ns)
            with models.using(model, keep_alive_s, self._clock):
                yield run

    async def carry_out(self, run: Run, work: Callable[[], Awaitable[None]]) -> None:
        """Do work that goes on where it was when it is begun again, as after a freeze.

        Raises:
            RunnerLostError: The runner was killed meanwhile.
        """
        runs = self._runs_by_index.setdefault(run.state.instance.index, set())
        runs.add(run)
        try:
            while not await _is_done(run, work):
                await self._survive(run)
        finally:
            runs.discard(run)
            if not runs:
                self._runs_by_index.pop(run.state.instance.index, None)

    async def until(self, run: Run, due_ns: int) -> None:
        """Wait until so much simulated time has passed since a turn began."""
        await self._until(run.began_s, due_ns)

    async def _load(self, state: InstanceState, model: Model, began_s: float) -> int:
        """Start a runner where there is none, or a bad one; return how long that took, in ns."""
        models, fault = self._fleet.models_of(state), state.runner
        if fault is None and models.is_loaded(model, self._clock()):
            return 0
        took_ns = 0
        if fault is not None and fault.fault.kind is Kind.RUNNER_HANG:
            took_ns = int(fault.fault.seconds * NS_PER_S)
            await self._until(began_s, took_ns)
        loaded = models.take(model) or Loaded(model, free_since_s=self._clock())
        await self._make_room(state)
        took_ns += cold_ns(model)
        await self._until(began_s, took_ns)
        if _kind(state) is Kind.RUNNER_OOM:
            raise LoadFailedError
        models.put(loaded)
        self._loaded_s[_key(state, model)] = self._loop_s()
        if state.runner is not None:
            self._fleet.runner_was_renewed(state)
        return took_ns

    async def _make_room(self, state: InstanceState) -> None:
        """Unload models until one more may be loaded; one that works ends its work first."""
        models = self._fleet.models_of(state)
        while (victim := models.victim(self._clock())) is not None:
            async with self._lock_of(state, victim):
                models.take(victim)

    async def _survive(self, run: Run) -> None:
        """Wait while the runner is frozen; raise RunnerLostError where it was killed."""
        since_s = self._loop_s()
        while run.is_frozen:
            run.news.clear()
            await run.news.wait()
        if run.state.runner is not None:
            raise RunnerLostError
        run.began_s += self._loop_s() - since_s

    @asynccontextmanager
    async def _locked(self, state: InstanceState, model: Model) -> AsyncIterator[None]:
        lock = self._lock_of(state, model)
        state.n_waiting += 1
        try:
            await lock.acquire()
        finally:
            state.n_waiting -= 1
        state.n_generating += 1
        try:
            yield
        finally:
            state.n_generating -= 1
            lock.release()

    def _lock_of(self, state: InstanceState, model: Model) -> asyncio.Lock:
        return self._locks[_key(state, model)]

    async def _until(self, began_s: float, due_ns: int) -> None:
        left_s = began_s + due_ns / NS_PER_S * self._time_scale - self._loop_s()
        if left_s > 0:
            await asyncio.sleep(left_s)

    def _simulated_ns(self, duration_s: float) -> int:
        return int(duration_s / self._time_scale * NS_PER_S) if self._time_scale else 0

    def _loop_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _faults_changed(self, indices: frozenset[int]) -> None:
        for index in indices & self._runs_by_index.keys():
            for run in self._runs_by_index[index]:
                run.tell()


def _key(state: InstanceState, model: Model) -> tuple[int, str]:
    return state.instance.index, canonical(model.name)


def _kind(state: InstanceState) -> Kind | None:
    return None if state.runner is None else state.runner.fault.kind


async def _is_done(run: Run, work: Callable[[], Awaitable[None]]) -> bool:
    """Work until the end, or until a fault begins or ends."""
    try:
        async with asyncio.timeout(None) as run.limit:
            await work()
    except TimeoutError:
        return False
    finally:
        run.limit = None
    return True
