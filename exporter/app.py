"""Build the exporter's parts, start them, and stop them in reverse order."""

from __future__ import annotations

import asyncio
import logging
import resource
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.canary import MAX_PATIENT, CanaryOptions, CanaryScheduler
from exporter.connection import Bounds
from exporter.counters import FleetCounters
from exporter.engines.auto import all_engines
from exporter.errors import SourceError
from exporter.fleet_log import log_fleet
from exporter.instance_client import TransportConfig
from exporter.inventory import Change, Inventory, SourceSettings, sources_for
from exporter.landing import Landing
from exporter.poller import Poller
from exporter.publisher import Publisher
from exporter.resolver import Resolver
from exporter.responses import ResponseSender
from exporter.runbooks import Runbooks
from exporter.scrape_target import PollOptions, failure_lines
from exporter.selfmetrics import SelfMetrics
from exporter.ui import handlers
from exporter.ui.handlers import FleetUi
from exporter.ui.prometheus import Prometheus
from exporter.ui.recent import RecentHistory
from exporter.ui.revisions import Revisions, ViewBuilder
from exporter.ui.summary import Limits, Summariser, UiConfig
from exporter.web import Web
from exporter.websecurity import Guard
from ollama_fleet.clock import SystemClock
from ollama_fleet.durations import duration_text
from ollama_fleet.version import VERSION, revision

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from exporter.config import Config
    from ollama_fleet.clock import Clock


log = logging.getLogger("exporter")

STATIC_FOLDER = Path(__file__).parent / "ui" / "static"
MAX_SOURCES = 10
"""That the log names at the start."""
MIN_REFRESH_S = 1.0
REFRESHES_PER_POLL = 5
"""Refreshes of the web UI per poll interval."""


class Exporter:
    """One running exporter; use it with `async with`.

    Raises on entry:
        InputError: An inventory file or the web configuration is bad.
        ExporterError: The address to listen on is taken.
    """

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._limit = 0
        self._has_inventory = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> Exporter:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def wait(self) -> None:
        """Return when a part of the exporter ended by itself, which is always a fault.

        Raises:
            Exception: What ended it.
        """
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _start(self) -> None:
        config = self._config
        self._limit = raise_limit()
        self._n_clients = client_connections(config.web_max_connections, self._limit)
        self._guard = guard_of(config)
        await self._load_inventory()
        self._metrics = SelfMetrics(shard=config.shard, poll_interval_s=config.poll_interval)
        fleet_counters = FleetCounters()
        self._poller = Poller(config.poll_interval, self._options(), fleet_counters, self._metrics)
        self._note_inventory()
        if not self._poller.knows_whole_fleet:
            log.warning(
                "not ready: an inventory source was not read yet; see --inventory.allow-partial"
            )
        self._stack.push_async_callback(self._poller.close)
        canary = self._canary(fleet_counters)
        publisher = Publisher(
            self._poller,
            fleet_counters,
            self._metrics,
            self._clock,
            shard=str(config.shard.index),
            per_instance=config.metrics_per_instance,
            hardware_label=config.metrics_hardware_label,
            grace_period_s=config.poll_grace_period,
        )
        self._stack.push_async_callback(publisher.close)
        recent = RecentHistory(self._poller, fleet_counters, self._clock)
        sender = self._sender()
        await self._listen(publisher, self._fleet_ui(recent, sender), sender)
        self._fit()
        await self._poller.update(Change(added=self._inventory.targets))
        self._stack.push_async_callback(self._stop_tasks)
        self._run(self._poll(), "poller")
        self._run(publisher.run(config.poll_interval), "publisher")
        self._run(recent.run(), "recent past")
        self._run(self._refresh_inventory(), "inventory")
        self._run(self._log_failures(), "failure log")
        self._run(log_fleet(self._poller, self._clock, config.log_window), "fleet log")
        if canary is not None:
            self._run(canary.run(), "canary")

    def _canary(self, fleet_counters: FleetCounters) -> CanaryScheduler | None:
        """Return what sends canaries to the poller's instances, if they are switched on."""
        config = self._config
        if not config.canary_period:
            return None
        options = CanaryOptions(
            period_s=config.canary_period,
            concurrency=config.canary_concurrency,
            timeout_s=config.canary_timeout,
            n_tokens=config.canary_tokens,
            prompt=config.canary_prompt,
            max_tokens_per_second=config.metrics_max_tokens_per_second,
        )
        canary = CanaryScheduler(
            options, self._poller, fleet_counters, self._transport, self._clock
        )
        self._stack.push_async_callback(canary.close)
        return canary

    async def _load_inventory(self) -> None:
        self._inventory = inventory_of(self._config, self._clock)
        self._stack.push_async_callback(self._inventory.close)
        self._log_start()
        await self._inventory.load()

    def _log_start(self) -> None:
        sources = [state.source for state in self._inventory.states]
        host, port = self._config.web_listen_address
        log.info(
            "exporter starts version=%s revision=%s sources=%s poll_interval=%s listen_address=%s",
            VERSION,
            revision(),
            ", ".join([*sources[:MAX_SOURCES], *(["…"] if len(sources) > MAX_SOURCES else [])]),
            duration_text(self._config.poll_interval),
            f"{host}:{port}",
        )

    def _fleet_ui(self, recent: RecentHistory, sender: ResponseSender) -> FleetUi:
        config, clock = self._config, self._clock
        ui_config = ui_config_of(config, VERSION)
        prometheus = None
        if config.ui_prometheus_url:
            url = config.ui_prometheus_url
            prometheus = Prometheus(url, clock, refresh_s=ui_config.refresh_s)
            self._stack.push_async_callback(prometheus.close)
        surveyor = ViewBuilder(self._poller, recent, clock, poll_interval_s=config.poll_interval)
        revisions = Revisions(surveyor.build, clock, refresh_s=ui_config.refresh_s)
        self._stack.push_async_callback(revisions.close)
        summariser = Summariser(
            ui_config,
            self._poller,
            self._metrics,
            lambda: self._inventory.states,
            prometheus,
            clock,
        )
        files = handlers.read(STATIC_FOLDER)
        return FleetUi(files, revisions, summariser, self._poller, ui_config, clock, sender)

    def _landing(self) -> Landing:
        return Landing(
            ui_config_of(self._config, VERSION),
            self._poller,
            lambda: self._inventory.states,
            self._clock,
            prometheus_url=self._config.ui_prometheus_url,
        )

    def _sender(self) -> ResponseSender:
        return ResponseSender(self._metrics, timeout_s=self._config.web_write_timeout)

    async def _listen(
        self, publisher: Publisher, fleet_ui: FleetUi, sender: ResponseSender
    ) -> None:
        guard = self._guard
        web = Web(
            self._poller,
            publisher,
            self._metrics,
            self._clock,
            fleet_ui,
            sender,
            self._sender(),
            sources=lambda: self._inventory.states,
            landing=self._landing(),
            runbooks=Runbooks(),
            guard=guard,
            allowed_hosts=self._config.web_allowed_hosts,
            max_connections=self._n_clients,
        )
        self._stack.push_async_callback(web.close)
        host, port = self._config.web_listen_address
        self.port = await web.start(host, port)
        scheme = "http" if guard is None or guard.context is None else "https"
        where = f"[{host}]" if ":" in host else host or "*"
        log.info("listening on %s://%s:%d", scheme, where, self.port)

    def _options(self) -> PollOptions:
        config = self._config
        resolver = Resolver(self._clock)
        self._stack.push_async_callback(resolver.close)
        self._transport = TransportConfig(
            resolver,
            _tls_context(config),
            Bounds(body_bytes=config.poll_max_body_bytes),
            user_agent=f"ollama-fleet/{VERSION}",
        )
        return PollOptions(
            health_timeout_s=config.poll_health_timeout,
            metrics_timeout_s=config.poll_metrics_timeout,
            identify_interval_s=config.poll_identify_interval,
            loading_timeout_s=config.poll_loading_timeout,
            starting_timeout_s=config.poll_starting_timeout,
            transient=config.inventory_transient,
            max_tokens_per_second=config.metrics_max_tokens_per_second,
            engines=all_engines(latency_unit_s=config.latency_unit_s),
            transport=self._transport,
            clock=self._clock,
        )

    def _fit(self) -> None:
        """Make the fleet fit the limit of open files."""
        n_instances = len(self._inventory.targets)
        config = self._config
        n_canaries = MAX_PATIENT * config.canary_concurrency if config.canary_period else 0
        n_others = self._n_clients + n_canaries
        n_slots = instance_connections(n_instances, self._limit, n_others=n_others)
        if n_slots is None:
            self._transport.slots = None
        elif self._transport.slots is None:
            most = config.web_max_connections + n_canaries
            log.warning("%s", descriptor_shortage(n_instances, self._limit, n_others=most))
            self._transport.slots = asyncio.Semaphore(n_slots)

    async def _poll(self) -> None:
        """Poll what is known as soon as an inventory was read."""
        await self._has_inventory.wait()
        await self._poller.run()

    def _note_inventory(self) -> None:
        states = self._inventory.states
        self._metrics.set_sources(states)
        is_read = [state.last_success_s > 0 for state in states]
        if any(is_read):
            self._has_inventory.set()
        self._poller.knows_whole_fleet = all(is_read) or self._config.inventory_allow_partial

    async def _refresh_inventory(self) -> None:
        while True:
            await self._clock.sleep(self._config.inventory_refresh_interval)
            change = await self._inventory.refresh()
            if change:
                self._fit()
                await self._poller.update(change)
                log.info(f"inventory changed {change}")
            self._note_inventory()

    async def _log_failures(self) -> None:
        window_s = self._config.log_window
        while True:
            await self._clock.sleep(window_s)
            for line in failure_lines(self._poller.scrape_targets.values(), window_s):
                log.warning(*line)

    def _run(self, work: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def inventory_of(config: Config, clock: Clock) -> Inventory:
    """Return the inventory that the settings describe; nothing is read yet.

    Raises:
        InputError: A source is neither a path nor a usable URL.
    """
    settings = SourceSettings(
        timeout_s=config.inventory_timeout,
        token_file=_path(config.inventory_token_file),
        ca_file=_path(config.inventory_ca_file),
    )
    sources = sources_for(config.inventory, settings, clock)
    return Inventory(sources, shard=config.shard, clock=clock)


def ui_config_of(config: Config, version: str) -> UiConfig:
    """Return what the web UI gets once."""
    limits = Limits(
        healthy_instances=config.ui_healthy_instances,
        request_latency_p99_s=config.ui_request_latency_p99,
        tokens_per_second=config.ui_tokens_per_second,
    )
    refresh_s = max(MIN_REFRESH_S, config.poll_interval / REFRESHES_PER_POLL)
    return UiConfig(
        limits,
        config.shard,
        version,
        config.poll_interval,
        refresh_s,
        config.inventory_refresh_interval,
        config.canary_period,
    )


def guard_of(config: Config) -> Guard | None:
    """Return the guard that the web configuration describes, if there is one.

    Raises:
        InputError: The web configuration, or a certificate that it names, is bad.
    """
    path = _path(config.web_config_file)
    return None if path is None else Guard(path)


async def check(config: Config) -> str:
    """Read the web configuration and the inventory once; say what is in the inventory.

    Raises:
        InputError: One of them is bad.
        SourceError: An inventory cannot be read now, which would not keep the exporter from
            starting, but leaves it unchecked.
    """
    guard_of(config)
    inventory = inventory_of(config, SystemClock())
    try:
        await inventory.load()
        for state in inventory.states:
            if state.last_error:
                raise SourceError(f"the inventory is not checked: {state.last_error}")
        parts = ", ".join(f"{state.n_instances:,} in {state.source}" for state in inventory.states)
        return f"{sum(state.n_instances for state in inventory.states):,} instances ({parts})"
    finally:
        await inventory.close()


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _tls_context(config: Config) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.poll_ca_file or None)
    if config.poll_insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


RESERVE = 128
"""For inventories, logs, files and whatever Python opens."""
CLIENTS_SHARE = 4
"""HTTP clients get at most a quarter of a low limit: most is for instances."""


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one; return it.

    The soft limit is low only for the sake of programs that use select(), which this one does not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def client_connections(most: int, limit: int) -> int:
    """Return how many connections HTTP clients may have."""
    return max(1, min(most, limit // CLIENTS_SHARE))


def instance_connections(n_instances: int, limit: int, *, n_others: int) -> int | None:
    """Return how many connections may be open at once; None where every instance can keep one."""
    room = max(1, limit - RESERVE - n_others)
    return None if n_instances <= room else room


def descriptor_shortage(n_instances: int, limit: int, *, n_others: int) -> str:
    """Say what happens to a fleet that does not fit, and what helps."""
    return (
        f"{n_instances:,} instances need more open files than the limit of {limit:,}: connections "
        "are closed after each poll, which costs several times the CPU time; raise the limit "
        f"to {n_instances + RESERVE + n_others:,} (ulimit -n, LimitNOFILE=) or use --shard"
    )
