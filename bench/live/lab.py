"""A fleet and everything that watches it, each part real and breakable.

fleet ◄── exporter ◄── path ◄── Prometheus ──► Alertmanager ──► inbox
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from bench.live import messages, parts
from bench.live import path as paths
from bench.live.messages import Inbox
from bench.live.pace import Pace
from bench.live.parts import Plan, Rules
from provisioning.demo import processes
from provisioning.demo.ports import address_of, url_of
from provisioning.demo.processes import Children
from tests import history
from tests.history import Past

T = TypeVar("T")

GAP_S = 60
"""Between the end of the past and now; rules bridge more."""
WATCHDOG = "Watchdog"


class LabError(Exception):
    """A part of the lab refuses what it is asked."""


@dataclass(frozen=True, slots=True)
class Active:
    """An alert as Prometheus has it."""

    name: str
    state: str
    severity: str


class Exporter:
    """The exporter, apart from the other parts: it may die and be started again."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._children = self._none()

    def _none(self) -> Children:
        return Children(self._plan.run_dir.path, environ=processes.our_environ(os.environ))

    async def start(self) -> None:
        """Start it; return once it has polled the whole fleet."""
        await self._children.start(parts.exporter(self._plan))

    async def stop(self) -> None:
        """Clear up after it, dead or alive."""
        await self._children.__aexit__(None, None, None)
        self._children = self._none()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        (pid,) = self._children.pids.values()
        os.kill(pid, number)


@dataclass(frozen=True, slots=True)
class Lab:
    """Everything that runs; the methods break and mend it."""

    plan: Plan
    rules: Rules
    inbox: Inbox
    path: paths.Path
    exporter: Exporter
    children: Children
    session: aiohttp.ClientSession

    @property
    def pace(self) -> Pace:
        """Return how fast everything goes."""
        return self.plan.pace

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, if all but the exporter live as long.

        Raises:
            ChildError: One of them has ended by itself.
        """
        return await self.children.guard(work)

    async def inject(self, kind: str, **parameters: object) -> None:
        """Let a fault befall instances; `share=1.0` is the whole fleet."""
        await self._control("POST", {"kind": kind, **parameters})

    async def heal_fleet(self) -> None:
        """End all faults of instances."""
        await self._control("DELETE", None)

    async def _control(self, method: str, fault: object) -> None:
        url = f"{url_of(self.plan.ports.control)}/faults"
        headers = {"Authorization": f"Bearer {self.plan.run_dir.token.read_text().strip()}"}
        async with self.session.request(method, url, json=fault, headers=headers) as answer:
            if not answer.ok:
                raise LabError(f"{method} {url}: {answer.status}, {await answer.text()}")

    def replace_inventory(self, text: str) -> None:
        """Give the exporter another inventory, whole at any moment."""
        fresh = self.plan.inventory.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, self.plan.inventory)

    def restore_inventory(self) -> None:
        """Give the exporter the whole fleet's inventory."""
        self.replace_inventory(self.plan.whole_inventory.read_text())

    async def active(self) -> list[Active]:
        """Return the alerts that are pending or firing, but for Watchdog."""
        url = f"{url_of(self.plan.ports.prometheus)}/api/v1/alerts"
        async with self.session.get(url) as answer:
            listed = (await answer.json())["data"]["alerts"]
        seen = [_active(one["labels"], one["state"]) for one in listed]
        return [alert for alert in seen if alert.name != WATCHDOG]

    def hold_s(self, alert: str) -> float:
        """Return how long an alert's condition must hold; the shortest where it has several."""
        return min(float(rule["for_seconds"]) for rule in self.rules if rule["name"] == alert)

    def keep_s(self, alert: str) -> float:
        """Return how long an alert fires on; the longest where it has several."""
        keeps = [rule["keep_firing_for_seconds"] for rule in self.rules if rule["name"] == alert]
        return max(map(float, keeps))


def _active(labels: Mapping[str, str], state: str) -> Active:
    return Active(labels["alertname"], state, labels["severity"])


@asynccontextmanager
async def lab(plan: Plan) -> AsyncIterator[Lab]:
    """Run a lab until the block ends; begins once every instance was polled."""
    ports, exporter = plan.ports, Exporter(plan)
    children = Children(plan.run_dir.path, environ=processes.our_environ(os.environ))
    async with (
        messages.inbox(ports.web, ports.mail) as inbox,
        paths.path(ports.path, ports.exporter) as path,
        aiohttp.ClientSession() as session,
        children,
    ):
        routing = inbox.routing(switch_s=plan.pace.switch_s)
        rules = await asyncio.to_thread(parts.prepare, plan, routing=routing)
        made = Lab(plan, rules, inbox, path, exporter, children, session)
        await children.start(parts.fleet(plan), parts.alertmanager_server(plan))
        made.restore_inventory()
        try:
            await exporter.start()
            await asyncio.to_thread(_write_past, plan)
            await children.start(parts.prometheus_server(plan))
            yield made
        finally:
            await exporter.stop()


def _write_past(plan: Plan) -> None:
    values = history.of_a_healthy_fleet(plan.n_instances, address_of(plan.ports.path))
    past = Past(end_s=time.time() - GAP_S, step_s=plan.pace.evaluation_s)
    history.write(plan.run_dir.prometheus_data, values, past, promtool=plan.programs.promtool)
