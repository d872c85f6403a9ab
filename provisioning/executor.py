"""Carry actions out: tries with back-off, a bounded number at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec

from ollama_fleet.clock import Clock
from provisioning.actions import Action, CreateInstance, GarbageCollect, Reschedule, Start, Stop
from provisioning.errors import (
    ContainerError,
    NodeUnreachableError,
    NotAskedError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.lifecycle import Ended, Kind, Operation, Outcome, Result
from provisioning.model import ContainerState, Instance, Limits, NodeReport
from provisioning.nodes import Nodes
from provisioning.runtime.base import ProberOf, Runtime
from provisioning.spec_index import SpecIndex, StartRequest
from provisioning.state import KILLED_WORDS, ending_words
from provisioning.store.base import StoredInstance

log = logging.getLogger("provisioning.executor")

FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 60.0


class RemovalBackoff:
    """The containers whose removal has failed, each left alone for a while."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._backoff: dict[str, tuple[float, float]] = {}
        """By container: how long it is left alone, and until when."""

    def note_removed(self, container: str) -> None:
        """Take note that a container is gone."""
        self._backoff.pop(container, None)

    def note_failed(self, container: str) -> None:
        """Leave a container alone, each time for twice as long."""
        before_s, _ = self._backoff.get(container, (FIRST_BACKOFF_S / 2, 0.0))
        rest_s = min(LONGEST_BACKOFF_S, 2 * before_s)
        self._backoff[container] = (rest_s, self._clock.monotonic_s() + rest_s)

    def backing_off(self) -> frozenset[str]:
        """Return the containers that are to be left alone now."""
        now_s = self._clock.monotonic_s()
        return frozenset(
            container for container, (_, until_s) in self._backoff.items() if now_s < until_s
        )

    def clear(self) -> None:
        """Forget everything."""
        self._backoff.clear()


class Dispatcher:
    """The operations that go on, or have ended and were not written down yet."""

    def __init__(
        self,
        nodes: Nodes,
        prober_of: ProberOf,
        clock: Clock,
        *,
        jitter: Callable[[], float],
        leads: Callable[[], bool],
        on_end: Callable[[], None],
    ) -> None:
        self._nodes = nodes
        self._executor = Executor(nodes.runtime, prober_of, clock, jitter=jitter, leads=leads)
        self._backoff = RemovalBackoff(clock)
        self._on_end = on_end
        self._tasks: dict[Operation, asyncio.Task[Outcome]] = {}
        self._ended: list[tuple[Operation, Outcome]] = []

    @property
    def n_running(self) -> int:
        """Return how many operations are going on."""
        return len(self._tasks)

    @property
    def ended(self) -> Ended:
        """Return those whose outcome was not written down yet, the first ended first."""
        return tuple(self._ended)

    def working(self) -> frozenset[str]:
        """Return the instances that an operation is about, or was and is not written down."""
        ended = (operation for operation, _ in self._ended)
        return frozenset(one.id for one in (*self._tasks, *ended) if one.id)

    def starting(self) -> frozenset[str]:
        """Return the instances whose start goes on, and was not cancelled."""
        started = {one.id for one in self._tasks if one.kind is Kind.START}
        return frozenset(started - {one.id for one in self._tasks if one.kind is Kind.STOP})

    def collecting(self) -> frozenset[tuple[str, str]]:
        """Return the nodes and containers that are being removed without a record."""
        return frozenset(
            (one.node, one.container) for one in self._tasks if one.kind is Kind.GARBAGE_COLLECT
        )

    def backing_off(self) -> frozenset[str]:
        """Return the containers that could just not be removed, and are left alone for a while."""
        return self._backoff.backing_off()

    def take(self, n: int) -> None:
        """Drop the first n outcomes: they are written down."""
        del self._ended[:n]

    async def cancel(self) -> None:
        """Leave everything as it is, and return when nothing goes on any more."""
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ended.clear()
        self._backoff.clear()

    def take_report(self, report: NodeReport) -> None:
        """Tell starts of containers that have ended already."""
        for container in report.containers:
            if container.state is ContainerState.EXITED:
                self._executor.note_ended(container.name, ending_words(container), at_s=report.at_s)

    def begin(
        self, action: Action, spec_index: SpecIndex, stored: Mapping[str, StoredInstance]
    ) -> None:
        """Begin what an action does to a container, if it does anything."""
        limits = spec_index.fleet.limits
        known = stored.get(action.id)
        match action:
            case GarbageCollect(node, container):
                operation = Operation(Kind.GARBAGE_COLLECT, node, container)
                self._begin(operation, self._remove(operation, limits))
            case Stop() if known:
                operation = _operation(Kind.STOP, known.instance)
                self._begin(operation, self._stop(operation, limits))
            case CreateInstance() | Start() | Reschedule() if known:
                operation = _operation(Kind.START, known.instance)
                self._begin(operation, self._start(known.instance, spec_index))

    def _begin(self, operation: Operation, work: Coroutine[Any, Any, Outcome]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[operation] = task
        task.add_done_callback(lambda task: self._take_end(operation, task))

    def _take_end(self, operation: Operation, task: asyncio.Task[Outcome]) -> None:
        del self._tasks[operation]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            # A fault of ours: the executor reports what goes wrong, it does not raise it.
            log.error(
                "bug in an operation operation=%s container=%s",
                operation.kind,
                operation.container,
                exc_info=error,
            )
        outcome = Outcome(Result.FAILED, f"{error!r}") if error else task.result()
        self._ended.append((operation, outcome))
        self._on_end()

    async def _stop(self, operation: Operation, limits: Limits) -> Outcome:
        """Remove an instance's container, once a start that goes on has ended."""
        starts = [
            task
            for one, task in self._tasks.items()
            if one.kind is Kind.START and one.id == operation.id
        ]
        for task in starts:
            task.cancel()
        if starts:
            await asyncio.wait(starts)
        return await self._remove(operation, limits)

    async def _remove(self, operation: Operation, limits: Limits) -> Outcome:
        outcome = await self._executor.remove(operation.node, operation.container, limits)
        if outcome.result is Result.DONE:
            self._nodes.forget_container(operation.node, operation.container)
            self._backoff.note_removed(operation.container)
        else:
            self._backoff.note_failed(operation.container)
        return outcome

    async def _start(self, instance: Instance, spec_index: SpecIndex) -> Outcome:
        request = spec_index.start_request(instance)
        if request is None:
            return Outcome(Result.UNREACHABLE, f"{instance.node} is not in the specification")
        return await self._executor.start(request, spec_index.fleet.limits)


def _operation(kind: Kind, instance: Instance) -> Operation:
    return Operation(kind, instance.node, instance.container, instance.id, instance.generation)


FIRST_PROBE_S = 0.05
"""Small servers are healthy at once; each further probe waits longer, up to the limit."""
PROBE_GROWTH = 1.5
LONGEST_PROBE_S = 1.0
REMOVAL_SLACK_S = 30.0
"""A removal that takes so much longer than its grace hangs."""
WITHOUT_NEXT_TRY = frozenset({Result.PERMANENT, Result.RESOURCE_EXHAUSTED})


class Executor:
    """Makes and removes containers on any node; holds nothing but what is going on."""

    def __init__(
        self,
        runtime_of: Callable[[str], Runtime],
        prober_of: ProberOf,
        clock: Clock,
        *,
        jitter: Callable[[], float],
        leads: Callable[[], bool],
    ) -> None:
        """Take what gives a node's runtime, and random numbers from 0 to 1 for the jitter.

        `leads` says whether it is certain, at that moment, that nobody else does.
        """
        self._runtime_of = runtime_of
        self._prober_of = prober_of
        self._clock = clock
        self._jitter = jitter
        self._leads = leads
        self._endings: dict[str, tuple[float, str]] = {}
        """Of containers that are being started: when this try began, and how it has ended."""

    async def start(self, request: StartRequest, limits: Limits) -> Outcome:
        """Make a container, wait until it is healthy, and warm it up."""
        name = request.container.name
        try:
            return await self._tried(
                lambda: self._start_once(request, limits),
                lambda: self._remove_once(request.node, name, limits),
                limits,
            )
        finally:
            self._endings.pop(name, None)

    async def remove(self, node: str, name: str, limits: Limits) -> Outcome:
        """Remove a container and all that it leaves."""
        return await self._tried(lambda: self._remove_once(node, name, limits), None, limits)

    def note_ended(self, name: str, words: str, *, at_s: float) -> None:
        """Take note that a container has ended, so that its start need not time out."""
        begun_s, _ = self._endings.get(name, (float("inf"), ""))
        if at_s >= begun_s:
            self._endings[name] = (begun_s, words)

    async def _tried(
        self,
        attempt: Callable[[], Awaitable[None]],
        clean_up: Callable[[], Awaitable[None]] | None,
        limits: Limits,
    ) -> Outcome:
        begun_s = self._clock.monotonic_s()
        n_tries = max(1, limits.tries)
        for n in range(1, n_tries + 1):
            outcome = await self._attempted(attempt)
            if outcome.result is not Result.DONE and clean_up:
                outcome = await self._cleaned_up(outcome, clean_up)
            if outcome.result is Result.DONE or outcome.result in WITHOUT_NEXT_TRY or n == n_tries:
                break
            await self._clock.sleep(self.backoff_s(n, limits))
        duration_s = self._clock.monotonic_s() - begun_s
        return msgspec.structs.replace(outcome, duration_s=duration_s, n_tries=n)

    def backoff_s(self, n_failed: int, limits: Limits) -> float:
        """Return how long to wait after the nth failure: at random, up to twice as long each time.

        Full jitter: many that failed together do not come back together.
        """
        grown_s: float = limits.backoff_base_s * 2.0 ** (n_failed - 1)
        return self._jitter() * min(limits.backoff_cap_s, grown_s)

    async def _attempted(self, attempt: Callable[[], Awaitable[None]]) -> Outcome:
        if not self._leads():
            # After a freeze, all that was due meanwhile is due at once, and the end of the term
            # takes some turns of the loop to get here. Writes are fenced, a node's runtime is not:
            # whoever leads now may have gone on with this very container.
            raise asyncio.CancelledError
        try:
            await attempt()
        except ContainerError as error:
            return Outcome(_result_of(error), str(error))
        except Exception as error:
            # A fault of ours, or of a library that a runtime should have translated: it may befall
            # one container, but must not end the work on all the others.
            log.exception("bug in an operation")
            return Outcome(Result.FAILED, f"{type(error).__name__}: {error}")
        return Outcome(Result.DONE)

    async def _cleaned_up(
        self, outcome: Outcome, clean_up: Callable[[], Awaitable[None]]
    ) -> Outcome:
        """Remove what a failed start has left; where that fails too, it is collected later."""
        if outcome.result is Result.UNREACHABLE:
            return outcome
        cleaned = await self._attempted(clean_up)
        if cleaned.result is Result.DONE:
            return outcome
        fault = f"{outcome.fault}; it could not be removed either: {cleaned.fault}"
        return msgspec.structs.replace(outcome, fault=fault)

    async def _start_once(self, request: StartRequest, limits: Limits) -> None:
        container = request.container
        self._endings[container.name] = (self._clock.unix_s(), "")
        heard = ["it was not asked yet"]
        try:
            async with asyncio.timeout(limits.start_timeout_s):
                await self._runtime_of(request.node).start(container)
                await self._wait_until_healthy(request, heard)
        except TimeoutError as late:
            notes = getattr(late.__cause__, "__notes__", ())  # see Runtime.start
            seen = "; ".join(notes) or f"last seen: {heard[-1]}{self._see_log(request)}"
            raise TransientError(
                f"start of {container.name} on {request.node}: not healthy within "
                f"{limits.start_timeout_s:g} s (limits.start_timeout); {seen}"
            ) from None
        await self._warm_up(request, limits)

    async def _warm_up(self, request: StartRequest, limits: Limits) -> None:
        """Have the model fetched and loaded; a registry that hangs hangs no longer than that."""
        container = request.container
        try:
            async with asyncio.timeout(limits.warm_up_timeout_s):
                await self._prober_of(request.node).warm_up(
                    container.host,
                    container.port,
                    request.workload.warm_up_requests,
                    store=request.store,
                )
        except TimeoutError as late:
            notes = getattr(late.__cause__, "__notes__", ("it was not asked yet",))
            raise TransientError(
                f"start of {container.name} on {request.node}: its model is not loaded within "
                f"{limits.warm_up_timeout_s:g} s (limits.warm_up_timeout); "
                f"{'; '.join(notes)}{self._see_log(request)}"
            ) from None
        except TransientError as refused:
            if not await self._is_out_of_memory(request):
                raise
            raise TransientError(f"{refused}; {KILLED_WORDS}") from refused

    async def _is_out_of_memory(self, request: StartRequest) -> bool:
        """Say whether the kernel killed a process of a container that runs, such as a runner."""
        try:
            found = await self._runtime_of(request.node).containers()
        except ContainerError:
            return False
        return any(one.name == request.container.name and one.is_out_of_memory for one in found)

    async def _wait_until_healthy(self, request: StartRequest, heard: list[str]) -> None:
        """Ask until the container is healthy; what it answers is put into `heard`."""
        container, wait_s = request.container, FIRST_PROBE_S
        while True:
            heard[-1] = await self._seen(request)
            ending = self._endings[container.name][1]
            if ending and not heard[-1]:
                raise ResourceExhaustedError(
                    f"start of {container.name} on {request.node}: {ending}, but "
                    f"{container.host}:{container.port} answers: another process has its port; "
                    "find it there with `ss -ltnp`"
                )
            if not heard[-1]:
                return
            if ending:
                raise TransientError(
                    f"start of {container.name} on {request.node}: {ending} before it was healthy"
                    f"{self._see_log(request)}"
                )
            await self._clock.sleep(wait_s)
            wait_s = min(LONGEST_PROBE_S, wait_s * PROBE_GROWTH)

    async def _seen(self, request: StartRequest) -> str:
        """Return why a container is not healthy yet, as far as it could be asked; empty: it is."""
        try:
            return await self._prober_of(request.node).probe(
                request.container.host, request.container.port, request.workload.probe
            )
        except NotAskedError as error:
            return str(error)

    def _see_log(self, request: StartRequest) -> str:
        """Return where the log is, but nothing of it: it may hold secrets."""
        try:
            log_path = self._runtime_of(request.node).log_of(request.container.instance_id)
        except NodeUnreachableError:
            return ""  # it has left the specification meanwhile
        return f"; see its log, {log_path} on {request.node}" if log_path else ""

    async def _remove_once(self, node: str, name: str, limits: Limits) -> None:
        timeout_s = limits.stop_grace_s + REMOVAL_SLACK_S
        try:
            async with asyncio.timeout(timeout_s):
                await self._runtime_of(node).remove(name, grace_s=limits.stop_grace_s)
        except TimeoutError:
            raise TransientError(
                f"removal of {name} on {node}: not done within {timeout_s:g} s; "
                f"look at the node's runtime"
            ) from None


def _result_of(error: ContainerError) -> Result:
    match error:
        case PermanentError():
            return Result.PERMANENT
        case ResourceExhaustedError():
            return Result.RESOURCE_EXHAUSTED
        case NodeUnreachableError():
            return Result.UNREACHABLE
        case _:
            return Result.FAILED
