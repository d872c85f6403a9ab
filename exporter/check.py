"""Check settings and inventory, ask each instance once, and show what it says: `--check`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from exporter.conditions import is_on_cpu
from exporter.connection import Bounds
from exporter.counters import speed_now
from exporter.errors import InputError, SourceError
from exporter.fleet_log import FleetSummary
from exporter.instance_client import TransportConfig
from exporter.instances import Filter, engine_of, to_json
from exporter.model import Outcome, Status
from exporter.options import guard_of, inventory_of, poll_options_of, tls_context_of
from exporter.resolver import Resolver
from exporter.scrape_target import PollOptions, ScrapeTarget
from ollama_fleet.http_server import bind
from ollama_fleet.logs import escaped
from ollama_fleet.problems import Problem
from ollama_fleet.tables import count_text, table
from ollama_fleet.urls import host_port_text
from ollama_fleet.version import VERSION

if TYPE_CHECKING:
    from exporter.config import Config
    from exporter.inventory import Inventory
    from exporter.snapshot import Row
    from ollama_fleet.clock import Clock


WITHIN_S = 60.0
"""Instances that were not asked by then are shown as such: 10,000 take a few seconds."""
AT_ONCE = 200
HEAD = ("ID", "URL", "STATUS", "ENGINE", "VERSION", "MODELS", "TOKENS/S", "ERROR")
MAX_MODELS = 3
MAX_CHARACTERS = 60
MAX_ERROR_CHARACTERS = 160


async def read_settings(config: Config, clock: Clock) -> Inventory:
    """Read all that the settings name once; return the inventory, which is closed again.

    Raises:
        InputError: Something is bad.
        SourceError: An inventory cannot be read now, which would not keep the exporter from
            starting, but leaves it unchecked.
    """
    guard_of(config)
    if problems := list(_address_problems(config.web_listen_address)):
        raise InputError("the exporter's configuration", problems)
    inventory = inventory_of(config, clock)
    try:
        await inventory.load(is_check=True)
    finally:
        await inventory.close()
    for state in inventory.states:
        if state.last_error:
            raise SourceError(f"the inventory is not checked: {state.last_error}")
    return inventory


def _address_problems(addresses: Iterable[tuple[str, int]]) -> Iterator[Problem]:
    """Yield a problem for each address that is none of this machine's; its port may be in use."""
    for host, port in addresses:
        if fault := _address_fault(host):
            where = host_port_text(host, port)
            yield Problem("web.listen-address", f"cannot listen on {where}: {fault}")


def _address_fault(host: str) -> str:
    try:
        sockets = bind(host, 0)
    except OSError as error:
        return error.strerror or str(error)
    for one in sockets:
        one.close()
    return "" if sockets else "it has no address that this machine can use"


def inventory_text(inventory: Inventory) -> str:
    """Return how many instances there are, and in which source."""
    parts = ", ".join(f"{state.n_instances:,} in {state.source}" for state in inventory.states)
    n_instances = sum(state.n_instances for state in inventory.states)
    return f"{count_text(n_instances, 'instance')} ({parts})"


class InstanceCheck:
    """Asks each instance once, as a poll does, and shows the results."""

    def __init__(self, inventory: Inventory, config: Config, clock: Clock) -> None:
        self._clock = clock
        self._resolver = Resolver(clock)
        options = self._options(config)
        self._scrape_targets = [ScrapeTarget(target, options) for target in inventory.targets]

    def _options(self, config: Config) -> PollOptions:
        bounds = Bounds(body_bytes=config.poll_max_body_bytes)
        tls = tls_context_of(config)
        agent = f"ollama-fleet/{VERSION}"
        transport = TransportConfig(self._resolver, tls, bounds, user_agent=agent)
        return poll_options_of(config, transport, self._clock)

    async def run(self, on_asked: Callable[[], None], *, within_s: float = WITHIN_S) -> None:
        """Ask all, several at once, as far as that takes no longer than `within_s`."""
        waiting = iter([one for one in self._scrape_targets if one.is_due])
        try:
            async with asyncio.timeout(within_s), asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(_ask(waiting, on_asked))
        except TimeoutError:
            pass
        finally:
            await self._resolver.close()

    def to_json(self) -> str:
        """Return what `/instances` would say."""
        seen = ((one.row, one.last_failure) for one in self._scrape_targets)
        return to_json(seen, Filter(), now_s=self._clock.unix_s()).decode()

    def to_text(self) -> str:
        """Return a table, whose last rows are those that are not healthy, and a summary."""
        rows = [one.row for one in self._scrape_targets]
        rows.sort(key=lambda row: row.status is not Status.HEALTHY)
        summary = FleetSummary()
        summary.add(rows)
        cells = [_cells(row, now_s=self._clock.unix_s()) for row in rows]
        lines = [table(HEAD, cells)] if rows else []
        return "\n".join([*lines, escaped(str(summary))])


async def _ask(waiting: Iterator[ScrapeTarget], on_asked: Callable[[], None]) -> None:
    for scrape_target in waiting:
        try:
            await scrape_target.poll(scrape_target.start_poll())
        finally:
            scrape_target.close()
        on_asked()


def _cells(row: Row, *, now_s: float) -> tuple[str, ...]:
    speed = speed_now(row.counters, row.canary, now_s=now_s) if row.is_up else None
    cells = (
        row.target.id,
        row.target.url,
        row.status,
        engine_of(row),
        row.counters.version or "-",
        _models(row),
    )
    shown = (_clipped(cell, MAX_CHARACTERS) for cell in cells)
    figure = "-" if speed is None else f"{speed:,.1f}"
    return (*shown, figure, _clipped(_error(row), MAX_ERROR_CHARACTERS))


def _models(row: Row) -> str:
    """Return the models in memory; where an instance does not say, the one that it serves."""
    loaded = None if row.reading is None else row.reading.verdict.values.loaded
    if loaded is None:
        return row.counters.model or "-"
    names = [f"{one.name} (CPU)" if is_on_cpu(one) else one.name for one in loaded]
    n_rest = len(names) - MAX_MODELS
    return ", ".join(names[:MAX_MODELS] + [f"{n_rest} more"] * (n_rest > 0)) or "none loaded"


def _error(row: Row) -> str:
    """Return what is wrong with an instance, if anything."""
    if row.reading is None:
        is_unasked = row.status is Status.UNKNOWN
        return f"not asked: --check ends after {WITHIN_S:.0f} s" if is_unasked else ""
    verdict = row.reading.verdict
    if verdict.outcome is not Outcome.OK:
        return f"{verdict.outcome}: {verdict.detail}"
    if verdict.metrics_outcome is not Outcome.OK:
        return f"metrics {verdict.metrics_outcome}: {verdict.metrics_detail}"
    return ", ".join(row.conditions)


def _clipped(text: str, n: int) -> str:
    return escaped(text if len(text) <= n else f"{text[: n - 1]}…")
