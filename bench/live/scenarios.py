"""The scenarios: what is broken, who must be told of it, and what the messages must say. Data."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bench.live.lab import Lab

Deed = Callable[[Lab], Awaitable[None]]

SLOW_NODE = "node-018"
HEALTHY_LOW = "OllamaFleetHealthyInstancesLow"
EXPORTER_DOWN = "OllamaFleetExporterDown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing that goes wrong."""

    name: str
    title: str
    fault: Deed
    heal: Deed
    page: str = ""
    """The alert that must page; empty where nobody must be woken."""
    ticket: str = ""
    """The alert that must make a ticket; other tickets are told, and no fault."""
    may_page: tuple[str, ...] = ()
    """Alerts that may page too."""
    max_pages: int = 1
    """Of notifications for the pager until the fault is healed and told to be over."""
    says: tuple[str, ...] = ()
    """What the message must hold."""
    counts: Callable[[int], tuple[str, ...]] = lambda _: ()
    """What it must hold of a fleet of so many instances."""
    node: str = ""
    """The node that every alert in such messages must be about."""
    is_graced: bool = False
    """Whether the exporter first calls the failures recent, which delays the message."""
    extra_s: Callable[[Lab], float] = lambda _: 0.0
    """Seconds until the fault can be seen, beside the polls, scrapes and evaluations."""
    shipped_stay_s: float = 0.0
    """How long the fault stays after the page, with the shipped windows."""
    shipped_watch_s: float = 0.0
    """How long the pager is watched after the fault at least, with the shipped windows."""

    @property
    def alert(self) -> str:
        """Return the alert that is waited for."""
        return self.page or self.ticket


async def _kill_two_in_a_hundred(lab: Lab) -> None:
    await lab.inject("kill", share=0.02)


async def _kill_half(lab: Lab) -> None:
    await lab.inject("kill", share=0.5)


async def _slow_twentieth(lab: Lab) -> None:
    await lab.inject("slow", share=0.05, factor=0.5)


async def _slow_all(lab: Lab) -> None:
    await lab.inject("slow", share=1.0, factor=0.9)


async def _slow_node(lab: Lab) -> None:
    await lab.inject("slow", node=SLOW_NODE, factor=0.7)


async def _heal_fleet(lab: Lab) -> None:
    await lab.heal_fleet()


async def _kill_exporter(lab: Lab) -> None:
    lab.exporter.signal(signal.SIGKILL)


async def _restart_exporter(lab: Lab) -> None:
    await lab.exporter.stop()
    await lab.exporter.start()


async def _hang_exporter(lab: Lab) -> None:
    lab.exporter.signal(signal.SIGSTOP)


async def _resume_exporter(lab: Lab) -> None:
    lab.exporter.signal(signal.SIGCONT)


async def _break_path(lab: Lab) -> None:
    lab.path.break_off()


async def _mend_path(lab: Lab) -> None:
    lab.path.mend()


async def _empty_inventory(lab: Lab) -> None:
    lab.replace_inventory("[]")


async def _restore_inventory(lab: Lab) -> None:
    lab.restore_inventory()


def _scrape_timeout(lab: Lab) -> float:
    return lab.pace.scrape_timeout_s


def _refresh(lab: Lab) -> float:
    return lab.pace.refresh_s


def _thousands(number: float) -> str:
    """Return a count as far as it is known before the last instance is gone: `9,8`."""
    return f"{number:,.0f}"[:3]


def _two_digits(number: float) -> str:
    return f"{number:.0f}"[:2]


_ALL = (
    Scenario(
        name="count",
        title="2 % of the instances die",
        fault=_kill_two_in_a_hundred,
        heal=_heal_fleet,
        page=HEALTHY_LOW,
        # Of 10,000 between 9,800 and 9,899: short windows do not wait for the last one's death.
        counts=lambda n: (
            _thousands(0.98 * n),
            f" of {n:,}, floor {0.99 * n:,.0f} (99%).",
        ),
        is_graced=True,
    ),
    Scenario(
        name="p99",
        title="5 % of the instances become slow",
        fault=_slow_twentieth,
        heal=_heal_fleet,
        page="OllamaFleetLatencyP99High",
        says=("One request in a hundred takes longer than 18", "the limit is 150ms"),
    ),
    Scenario(
        name="throughput",
        title="every node slows down by 10 %",
        fault=_slow_all,
        heal=_heal_fleet,
        page="OllamaFleetTokenThroughputLow",
        counts=lambda n: (f"The healthy instances can generate {_two_digits(37.5 * n)}",),
        says=("(40 per instance)",),
    ),
    Scenario(
        name="node",
        title="one node slows down by 30 %",
        fault=_slow_node,
        heal=_heal_fleet,
        ticket="OllamaNodeSlowerThanFleet",
        max_pages=0,
        node=SLOW_NODE,
        says=(f"Node {SLOW_NODE} generates at 70", "llama3.1:8b", f"var-node={SLOW_NODE}"),
    ),
    Scenario(
        name="exporter-killed",
        title="the exporter is killed",
        fault=_kill_exporter,
        heal=_restart_exporter,
        page=EXPORTER_DOWN,
        says=("Prometheus reaches no exporter",),
    ),
    Scenario(
        name="exporter-hangs",
        title="the exporter hangs (SIGSTOP)",
        fault=_hang_exporter,
        heal=_resume_exporter,
        page=EXPORTER_DOWN,
        says=("Prometheus reaches no exporter",),
        extra_s=_scrape_timeout,
    ),
    Scenario(
        name="path-broken",
        title="Prometheus' path to the exporter is broken",
        fault=_break_path,
        heal=_mend_path,
        page=EXPORTER_DOWN,
        says=("Prometheus reaches no exporter",),
        extra_s=_scrape_timeout,
    ),
    Scenario(
        name="inventory-empty",
        title="the inventory is empty",
        fault=_empty_inventory,
        heal=_restore_inventory,
        page="OllamaFleetInventoryLost",
        says=("Instances listed: ",),
        extra_s=_refresh,
    ),
    Scenario(
        name="storm",
        title="half of the fleet is gone at once",
        fault=_kill_half,
        heal=_heal_fleet,
        page=HEALTHY_LOW,
        says=("Instances healthy: ", ", floor "),
        is_graced=True,
        shipped_stay_s=120.0,
        shipped_watch_s=1500.0,
    ),
)
SCENARIOS: Mapping[str, Scenario] = MappingProxyType({one.name: one for one in _ALL})

LABS: tuple[tuple[str, ...], ...] = (
    ("storm",),
    ("node",),
    ("exporter-killed", "p99", "throughput"),
    ("exporter-hangs", "inventory-empty"),
    ("path-broken", "count"),
)
"""Which scenarios share a lab, one after the other; none takes longer than 50 minutes as shipped.

No two with the same alert: Prometheus repeats for 15 minutes that an alert is over, which keeps its
group alive in Alertmanager, and what fires again meanwhile waits for `group_interval` instead of
`group_wait`.
"""
