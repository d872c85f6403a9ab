"""Watch each node: what runs there, and whether it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Set
from contextlib import suppress

import msgspec

from ollama_fleet.clock import Clock, wait_at_most
from provisioning.errors import ContainerError, NodeUnreachableError
from provisioning.eventlog import EventLog
from provisioning.health import HealthMonitor
from provisioning.model import Node, NodeReport, ObservedContainer, Phase
from provisioning.plan import is_reached_otherwise
from provisioning.runtime.base import ProberOf, Runtime
from provisioning.spec_index import SpecIndex
from provisioning.store.base import StoredInstance

log = logging.getLogger("provisioning.nodes")

INTERVAL_S = 5.0
"""From answer to question; the runtime's changes report what ends in between."""
DEADLINE_S = 10.0
SHORTEST_GAP_S = 0.2
"""However many changes a node reports."""
OnReport = Callable[[NodeReport, bool], None]
"""Called with each report, and whether it differs from the one before."""


class NodeHandle:
    """One node, its runtime, and the tasks that watch it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.runtime: Runtime | None = None
        """None: it could not be opened yet; see the report's fault."""
        self.report = NodeReport(node.name, 0.0)
        self.removed: set[str] = set()
        """Containers removed since it was asked last: the answer may still tell of them."""
        self.has_changed = asyncio.Event()
        self.tasks: tuple[asyncio.Task[None], ...] = ()


class Nodes:
    """The runtimes of a fleet's nodes, and what they say."""

    def __init__(
        self,
        open_runtime: Callable[[Node], Runtime],
        clock: Clock,
        *,
        on_report: OnReport,
    ) -> None:
        self._open_runtime = open_runtime
        self._clock = clock
        self._on_report = on_report
        self._handles: dict[str, NodeHandle] = {}

    def __repr__(self) -> str:
        n_silent = sum(bool(handle.report.fault) for handle in self._handles.values())
        return f"<Nodes: {len(self._handles)}, {n_silent} of them silent>"

    @property
    def reports(self) -> Mapping[str, NodeReport]:
        """Return what was last heard of each node, by its name."""
        return {name: handle.report for name, handle in self._handles.items()}

    def runtime(self, node: str) -> Runtime:
        """Return the runtime of a node.

        Raises:
            NodeUnreachableError: The node is not one of ours, or could not be opened yet.
        """
        handle = self._handles.get(node)
        if handle is None:
            raise NodeUnreachableError(f"node {node} is not in the specification")
        if handle.runtime is None:
            raise NodeUnreachableError(
                f"the runtime of node {node} cannot be opened: {handle.report.fault}"
            )
        return handle.runtime

    async def update(self, nodes: Iterable[Node], *, used: Collection[str]) -> None:
        """Ask these nodes, and others while records use them or they answer with containers."""
        listed = {node.name: node for node in nodes}
        for name, handle in tuple(self._handles.items()):
            node = listed.get(name)
            has_containers = handle.report.is_reachable and bool(handle.report.containers)
            is_retired = node is None and name not in used and not has_containers
            if is_retired or (node is not None and is_reached_otherwise(handle.node, node)):
                await self._close(name)
        for name, node in listed.items():
            if name not in self._handles:
                self._open(node)

    def forget_container(self, node: str, container: str) -> None:
        """Take a container that has just been removed out of its node's report."""
        if handle := self._handles.get(node):
            handle.removed.add(container)
            left = _without(handle.report.containers, {container})
            handle.report = msgspec.structs.replace(handle.report, containers=left)

    async def close(self) -> None:
        """Ask nobody any more; the containers go on."""
        for name in tuple(self._handles):
            await self._close(name)

    def _open(self, node: Node) -> None:
        handle = self._handles[node.name] = NodeHandle(node)
        with suppress(Exception):  # the first poll, which follows at once, tries it again
            self._opened(handle)
        loop = asyncio.get_running_loop()
        handle.tasks = (
            loop.create_task(self._poll_forever(handle)),
            loop.create_task(self._listen(handle)),
        )

    def _opened(self, handle: NodeHandle) -> Runtime:
        if handle.runtime is None:
            handle.runtime = self._open_runtime(handle.node)
        return handle.runtime

    async def _close(self, name: str) -> None:
        handle = self._handles.pop(name)
        for task in handle.tasks:
            task.cancel()
        for ended in await asyncio.gather(*handle.tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                log.error("node monitor failed node=%s", name, exc_info=ended)
        if handle.runtime is None:
            return
        try:
            await handle.runtime.close()
        except Exception:
            log.exception("runtime close failed node=%s", name)

    async def _poll_forever(self, handle: NodeHandle) -> None:
        while True:
            handle.has_changed.clear()
            await self._poll(handle)
            await self._clock.sleep(SHORTEST_GAP_S)
            await wait_at_most(handle.has_changed, self._clock, INTERVAL_S)

    async def _poll(self, handle: NodeHandle) -> None:
        before = handle.report
        handle.report = await self._polled(handle)
        is_news = (before.containers, bool(before.fault), before.at_s > 0) != (
            handle.report.containers,
            bool(handle.report.fault),
            handle.report.at_s > 0,
        )
        self._on_report(handle.report, is_news)

    async def _polled(self, handle: NodeHandle) -> NodeReport:
        name, begun_s = handle.node.name, self._clock.unix_s()
        handle.removed.clear()
        try:
            async with asyncio.timeout(DEADLINE_S):
                containers = await self._opened(handle).containers()
        except TimeoutError:
            fault = f"containers of node {name}: no answer within {DEADLINE_S:g} s"
        except ContainerError as error:
            fault = str(error)
        except Exception as error:
            log.exception("listing containers failed node=%s", name)
            fault = f"{error!r}"
        else:
            # As of the question: what was made since may be missing in the answer.
            return NodeReport(name, begun_s, _without(containers, handle.removed))
        return msgspec.structs.replace(handle.report, fault=fault)

    async def _listen(self, handle: NodeHandle) -> None:
        while True:
            try:
                async for _ in self.runtime(handle.node.name).changes():
                    handle.has_changed.set()
            except ContainerError as error:
                log.debug("changes of node %s: %s", handle.node.name, error)
            except Exception:
                log.exception("watching containers failed node=%s", handle.node.name)
            await self._clock.sleep(INTERVAL_S)


def _without(
    containers: Iterable[ObservedContainer], removed: Set[str]
) -> tuple[ObservedContainer, ...]:
    return tuple(container for container in containers if container.name not in removed)


class NodeMonitor:
    """Watches the nodes and instances of the active specification."""

    def __init__(
        self,
        open_runtime: Callable[[Node], Runtime],
        prober_of: ProberOf,
        clock: Clock,
        *,
        on_report: Callable[[NodeReport], None],
        on_news: Callable[[], None],
    ) -> None:
        self.nodes = Nodes(open_runtime, clock, on_report=self._take_report)
        self.health = HealthMonitor(prober_of, clock, on_change=on_news)
        self._events = EventLog(log, clock)
        self._on_report = on_report
        self._on_news = on_news
        self._spec_index: SpecIndex | None = None

    async def follow(self, spec_index: SpecIndex, stored: Mapping[str, StoredInstance]) -> None:
        """Ask the nodes of a specification, other nodes that records use, and the instances."""
        used = frozenset(
            one.instance.node
            for one in stored.values()
            if one.instance.phase is not Phase.FAILED  # that has no container
        )
        await self.nodes.update(spec_index.fleet.nodes, used=used)
        if spec_index is not self._spec_index:  # after the nodes: they tell how to ask instances
            self._spec_index = spec_index
            for id_, one in stored.items():
                self.take_record(id_, one)
        self._events.keep_only(frozenset(self.nodes.reports))

    def take_record(self, id_: str, stored: StoredInstance | None) -> None:
        """Ask an instance for its health while it runs."""
        index = self._spec_index
        target = index.probe_target(stored.instance) if index and stored else None
        if target:
            self.health.watch(id_, target)
        else:
            self.health.unwatch(id_)

    async def close(self) -> None:
        """Ask nobody any more, and know nothing."""
        await self.nodes.close()
        self.health.clear()
        self._events.forget()
        self._spec_index = None

    def _take_report(self, report: NodeReport, is_news: bool) -> None:
        self._on_report(report)
        if not report.is_reachable:
            message = f"node does not answer node={report.node}"
            self._events.failed(report.node, message, report.fault)
        elif self._events.succeeded(report.node, f"node answers again node={report.node}"):
            self.health.reset_failures(report.node)
        if is_news:
            self._on_news()
