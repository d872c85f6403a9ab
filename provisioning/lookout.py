"""Keep an eye on the nodes of a fleet, and on the health of what runs there.

In:   the SpecIndex in force; records as they change.
Out:  reports of nodes, and who is ill; news are told at once. Never fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from provisioning.clock import Clock
from provisioning.health import HealthMonitor
from provisioning.model import NodeReport, Phase
from provisioning.nodes import Nodes
from provisioning.runtime.base import ProberOf, Runtime
from provisioning.silences import Silences
from provisioning.spec_index import SpecIndex
from provisioning.spec_model import Node
from provisioning.store.base import Stored


class Lookout:
    """Asks nodes and instances, from the first spec_index until it is closed; and then anew."""

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
        self.silences = Silences(clock)
        self._on_report = on_report
        self._on_news = on_news
        self._roster: SpecIndex | None = None

    async def follow(self, spec_index: SpecIndex, stored: Mapping[str, Stored]) -> None:
        """Ask the nodes of a spec_index, those that are used besides, and what runs by it."""
        used = frozenset(
            one.instance.node
            for one in stored.values()
            if one.instance.phase is not Phase.FAILED  # that has no unit
        )
        await self.nodes.update(spec_index.fleet.nodes, used=used, gone=self.silences.gone)
        if spec_index is not self._roster:  # only now: how an instance is asked its node decides
            self._roster = spec_index
            for id_, one in stored.items():
                self.take_record(id_, one)
        self.silences.forget(all_but=frozenset(self.nodes.reports))

    def take_record(self, id_: str, stored: Stored | None) -> None:
        """Ask an instance for its health while it runs."""
        subject = self._roster.subject(stored.instance) if self._roster and stored else None
        if subject:
            self.health.watch(id_, subject)
        else:
            self.health.unwatch(id_)

    async def close(self) -> None:
        """Ask nobody any more, and know nothing."""
        await self.nodes.close()
        self.health.clear()
        self.silences.forget()
        self._roster = None

    def _take_report(self, report: NodeReport, is_news: bool) -> None:
        self._on_report(report)
        heard_s = self.silences.heard_s(report.node)
        if self.silences.take_report(report):
            self.health.forgive(report.node, since_s=heard_s)
        if is_news:
            self._on_news()
