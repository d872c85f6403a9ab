"""The runners: the processes in which the instances' models work, one request at a time each.

In:   which instance's model is wanted, and what to do with it.
Out:  a turn at its runner, which is started, or started anew after a fault, where it has to be.
Fails with LoadFailedError and RunnerLostError.
A model that is asked for takes the place of an idle one where no more may be loaded. `time_scale`
stretches the waiting, never the numbers: they are the simulated instance's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from provisioning.simulator.faults import Kind
from provisioning.simulator.fleet import Fleet, InstanceState
from provisioning.simulator.generate import cold_ns
from provisioning.simulator.golang import NS_PER_S
from provisioning.simulator.models import Loaded, ModelCache, canonical
from provisioning.simulator.spec import Model

LOADING_KINDS = frozenset({Kind.LOADING, Kind.OOM_RESTART})
CHECK_S = 0.1
"""How often a request that waits looks whether a fault has begun or ended."""


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
    n_killed: int
    """How many runners of the instance had been killed when it began."""

    @property
    def is_frozen(self) -> bool:
        """Say whether its runner does nothing."""
        return _kind(self.state) is Kind.RUNNER_HANG


class Runners:
    """The runners of all instances."""

    def __init__(self, fleet: Fleet, *, time_scale: float) -> None:
        self._fleet = fleet
        self._clock = fleet.clock
        self._time_scale = time_scale
        self._locks: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()
        """By instance and model, for as long as a request holds it or waits for it."""

    async def serving(self, state: InstanceState) -> None:
        """Wait while an instance is loading after its start, as its own clock says."""
        while (trouble := self._fleet.trouble_of(state, self._clock())) is not None:
            if trouble.fault.kind not in LOADING_KINDS:
                break
            await _wait(CHECK_S)

    async def load(self, state: InstanceState, model: Model, keep_alive_s: float | None) -> None:
        """Have a model loaded, and let it stay for a time."""
        loaded = self._fleet.models_of(state).find_loaded(model, self._clock())
        if state.runner is not None or loaded is None:
            async with self.turn(state, model, keep_alive_s):
                return
        with loaded.using(keep_alive_s, self._clock):
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
        async with self._locked(state, model):
            began_s = self._loop_s()
            loaded = self._fleet.models_of(state).find_loaded(model, self._clock())
            loaded_s = asked_s if loaded is None else max(asked_s, loaded.loaded_s)
            waited_ns = self._simulated_ns(began_s - loaded_s)
            load_ns = self._simulated_ns(loaded_s - asked_s)
            if loaded is None or state.runner is not None:
                loaded, took_ns = await self._load(state, model, began_s)
                load_ns += took_ns
            run = Run(state, began_s, waited_ns, load_ns, state.n_runners_killed)
            with loaded.using(keep_alive_s, self._clock):
                yield run

    async def until(self, run: Run, due_ns: int) -> None:
        """Wait until so much simulated time of a turn has passed; none does while it is frozen.

        Raises:
            RunnerLostError: The runner was killed meanwhile.
        """
        while run.n_killed == run.state.n_runners_killed:
            left_s, was_frozen = self._left_s(run.began_s, due_ns), run.is_frozen
            if left_s <= 0 and not was_frozen:
                return
            before_s = self._loop_s()
            await _wait(CHECK_S if was_frozen else left_s)
            if was_frozen:
                run.began_s += self._loop_s() - before_s
        raise RunnerLostError

    async def _load(self, state: InstanceState, model: Model, began_s: float) -> tuple[Loaded, int]:
        """Start a runner where there is none, or a bad one; return how long that took, in ns."""
        took_ns = 0
        if state.runner is not None and state.runner.fault.kind is Kind.RUNNER_HANG:
            took_ns = int(state.runner.fault.seconds * NS_PER_S)
            await self._until(began_s, took_ns)
        models, took_ns = self._fleet.models_of(state), took_ns + cold_ns(model)
        loaded = await self._reserve(state, models, model)
        try:
            await self._until(began_s, took_ns)
            if _kind(state) is Kind.RUNNER_OOM:
                raise LoadFailedError
        except BaseException:
            models.take(model)
            raise
        loaded.is_loading, loaded.loaded_s = False, self._loop_s()
        if state.runner is not None:
            self._fleet.runner_was_renewed(state)
        return loaded, took_ns

    async def _reserve(self, state: InstanceState, models: ModelCache, model: Model) -> Loaded:
        """Unload models until one more may be loaded; one that works ends its work first."""
        while (loaded := models.reserve(model, self._clock())) is None:
            victim = models.victim()
            async with self._lock_of(state, victim):
                models.take(victim)
        return loaded

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
        key = state.instance.index, canonical(model.name)
        return self._locks.setdefault(key, asyncio.Lock())

    async def _until(self, began_s: float, due_ns: int) -> None:
        while (left_s := self._left_s(began_s, due_ns)) > 0:
            await _wait(left_s)

    def _left_s(self, began_s: float, due_ns: int) -> float:
        """Return how long it takes until so much simulated time has passed."""
        return began_s + due_ns / NS_PER_S * self._time_scale - self._loop_s()

    def _simulated_ns(self, duration_s: float) -> int:
        return int(duration_s / self._time_scale * NS_PER_S) if self._time_scale else 0

    def _loop_s(self) -> float:
        return asyncio.get_running_loop().time()


async def _wait(most_s: float) -> None:
    """Wait, though not for so long that a fault would go unseen."""
    await asyncio.sleep(min(most_s, CHECK_S))


def _kind(state: InstanceState) -> Kind | None:
    return None if state.runner is None else state.runner.fault.kind
