"""Build the exporter's parts, start them, and stop them in reverse order."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.canary import MAX_PATIENT, CanaryScheduler
from exporter.config import assign, changed, restarts
from exporter.connection import Bounds
from exporter.counters import FleetCounters, TrafficCounters
from exporter.descriptors import (
    client_connections,
    descriptor_shortage,
    instance_connections,
)
from exporter.errors import InputError
from exporter.fleet_log import log_fleet
from exporter.gateway import GatewayReader
from exporter.instance_client import TransportConfig
from exporter.inventory import Change, Inventory
from exporter.landing import Landing
from exporter.operations import Operations
from exporter.options import (
    canary_options_of,
    guard_of,
    inventory_of,
    poll_options_of,
    sources_of,
    tls_context_of,
    tokens_of,
    ui_config_of,
)
from exporter.poller import Poller
from exporter.probe import Prober
from exporter.publisher import Publisher
from exporter.resolver import Resolver
from exporter.responses import ResponseSender
from exporter.runbooks import Runbooks
from exporter.scrape_target import failure_lines
from exporter.selfmetrics import SelfMetrics
from exporter.tasks import Tasks
from exporter.ui import handlers
from exporter.ui.handlers import FleetUi
from exporter.ui.prometheus import Prometheus
from exporter.ui.recent import RecentHistory
from exporter.ui.revisions import Revisions, ViewBuilder
from exporter.ui.summary import Summariser
from exporter.upstreams import Upstreams
from exporter.web import Web
from ollama_fleet import logs, systemd
from ollama_fleet.clock import SystemClock
from ollama_fleet.descriptors import raise_limit
from ollama_fleet.durations import duration_text
from ollama_fleet.problems import Problem
from ollama_fleet.tokens import TokenFileError
from ollama_fleet.urls import host_port_text
from ollama_fleet.version import VERSION, revision

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from exporter.config import Config
    from ollama_fleet.clock import Clock


log = logging.getLogger("exporter")

WHEEL_LAG_S = 5.0
"""Beyond the watchdog's period: polls of long intervals start seldom, but more often than this."""
STATIC_FOLDER = Path(__file__).parent / "ui" / "static"
MAX_SOURCES = 10
"""That the log names at the start."""


class Exporter:
    """One running exporter; use it with `async with`.

    Raises on entry:
        InputError: An inventory file or the web configuration is bad.
        ExporterError: The address to listen on is taken.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        *,
        read_config: Callable[[], Config] | None = None,
        hangups: asyncio.Event | None = None,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self._sockets = sockets
        self._config = config
        self._read_config = read_config or (lambda: self._config)
        self._hangups = hangups or asyncio.Event()
        """Set at each SIGHUP."""
        self._clock = clock or SystemClock()
        self._stack = AsyncExitStack()
        self._tasks = Tasks()
        self._changing = asyncio.Lock()
        """Held while the inventory or the settings change."""
        self._rereading = asyncio.Lock()
        self._rereads: set[asyncio.Task[str]] = set()
        self._inventory: Inventory
        self._canary: CanaryScheduler | None = None
        self._prometheus: Prometheus | None = None
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
        await self._tasks.wait()

    async def _start(self) -> None:
        config = self._config
        self._limit = raise_limit()
        self._n_clients = client_connections(config.web_max_connections, self._limit)
        self._guard = guard_of(config)
        self._tokens = tokens_of(config)
        await self._load_inventory()
        self._metrics = SelfMetrics(
            shard=config.shard, poll_interval_s=config.poll_interval, clock=self._clock
        )
        fleet_counters = self._fleet_counters = FleetCounters()
        self._transport = self._transport_config()
        self._poll_options = poll_options_of(config, self._transport, self._clock)
        self._poller = Poller(
            config.poll_interval, self._poll_options, fleet_counters, self._metrics
        )
        self._gateways = self._gateway_reader(fleet_counters)
        self._note_inventory()
        if not self._poller.knows_whole_fleet:
            log.warning(
                "not ready: an inventory source was not read yet; see --inventory.allow-partial"
            )
        self._stack.push_async_callback(self._poller.close)
        publisher = self._publisher = Publisher(
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
        await self._tasks.run(recent.run(), "recent past")
        await self._run_scheduled()
        await self._run_canary()
        await self._tasks.run(self._reread_at_hangups(), "hangups")
        if period_s := systemd.watchdog_s():
            feeding = systemd.feed_watchdog(period_s, partial(self._polls_go_on, period_s))
            await self._tasks.run(feeding, "watchdog")

    async def _reread_at_hangups(self) -> None:
        while True:
            await self._hangups.wait()
            self._hangups.clear()
            try:
                await self.reread()
            except InputError:
                continue  # which is logged already
            except Exception:  # SIGHUP ends no exporter
                log.exception("bug in a reload")

    def _polls_go_on(self, period_s: float) -> bool:
        """Return whether polls were started in a watchdog's period, or wait for an inventory."""
        ticked_s = self._poller.ticked_s
        return ticked_s is None or self._clock.monotonic_s() - ticked_s < period_s + WHEEL_LAG_S

    async def reread(self) -> str:
        """Read the configuration again and take it over, also if the caller leaves meanwhile.

        Raises:
            InputError: All that is wrong; then everything stays as it was.
        """
        task = asyncio.create_task(self._reread())
        self._rereads.add(task)
        task.add_done_callback(self._rereads.discard)
        return await asyncio.shield(task)

    async def _reread(self) -> str:
        async with self._rereading:
            systemd.notify(*systemd.reloading())
            try:
                with self._metrics.reloading():
                    done = await self.reload(await asyncio.to_thread(self._read_config))
            except InputError as error:
                problems = "; ".join(map(str, error.problems))
                log.error("reload refused, the settings in force stay: %s", problems)
                raise
            finally:
                systemd.notify("READY=1")
            log.info(f"reloaded {done}")
            return done

    async def _run_scheduled(self) -> None:
        """Start, or start again, what the settings give an interval."""
        interval_s = self._config.poll_interval
        await self._tasks.run(self._poll(), "poller")
        await self._tasks.run(self._publisher.run(interval_s), "publisher")
        if self._gateways is not None:
            await self._tasks.run(self._gateways.run(interval_s), "gateways")
        await self._tasks.run(self._refresh_inventory(), "inventory")
        await self._tasks.run(self._log_failures(), "failure log")
        fleet_log = log_fleet(self._poller, self._clock, self._config.log_window)
        await self._tasks.run(fleet_log, "fleet log")

    async def _run_canary(self) -> None:
        """Start what sends canaries, in place of one that runs, if they are switched on."""
        await self._tasks.stop("canary")
        await self._close_canary()
        options = canary_options_of(self._config)
        if options is None:
            return
        self._canary = CanaryScheduler(
            options, self._poller, self._fleet_counters, self._transport, self._clock
        )
        await self._tasks.run(self._canary.run(), "canary")

    async def _close_canary(self) -> None:
        if self._canary is not None:
            await self._canary.close()
        self._canary = self._poller.canary_wheel = None

    async def reload(self, config: Config) -> str:
        """Take over other settings, and read inventories and secrets again; say what changed.

        Raises:
            InputError: All that is wrong; then everything stays as it was.
        """
        async with self._changing:
            settings = changed(self._config, config)
            tls = await asyncio.to_thread(tls_context_of, config)
            inventory, change = await self._checked(config, restarts(settings))
            old, self._inventory = self._inventory, inventory
            await old.close()
            self._config = config
            self._note_inventory()
            self._fit()
            await self._poller.update(change)
            self._transport.tls = tls
            await self._take_settings({setting.name for setting in settings})
        names = ",".join(setting.name for setting in settings) or "none"
        return f"settings={names} instances={len(inventory.targets)} {change}"

    async def _checked(self, config: Config, problems: list[Problem]) -> tuple[Inventory, Change]:
        """Return the inventory of new settings, and how it differs, if nothing is wrong."""
        inventory, change = None, Change()
        try:
            if self._guard is not None:
                self._guard.check()
            if self._tokens is not None:
                self._tokens.refresh()
        except InputError as error:
            problems += error.problems
        except TokenFileError as error:
            problems.append(Problem("web.token-file", str(error)))
        try:
            inventory = self._inventory.successor(sources_of(config, self._clock))
            change = await inventory.load()
        except InputError as error:
            problems += error.problems
        if inventory is not None and not problems:
            return inventory, change
        if inventory is not None:
            await inventory.close()
        raise InputError("the new configuration", problems)

    async def _take_settings(self, names: set[str]) -> None:
        """Give the running parts the settings, where these changed."""
        config = self._config
        options = poll_options_of(config, self._transport, self._clock)
        assign(self._poll_options, options, keep=("engines", "models_on_gpu"))
        if not names and not config.poll_ca_file:
            return
        if names & {"log.level", "log.format"}:
            logs.configure(config.log_level, config.log_format)
        self._metrics.poll_interval_s.set(config.poll_interval)
        self._publisher.per_instance = config.metrics_per_instance
        self._publisher.hardware_label = config.metrics_hardware_label
        self._publisher.grace_period_s = config.poll_grace_period
        self._web.allow(config.web_allowed_hosts)
        await self._take_ui_settings(is_prometheus_new="ui.prometheus-url" in names)
        await self._run_canary()
        await self._poller.retake(config.poll_interval)
        await self._run_scheduled()

    async def _take_ui_settings(self, *, is_prometheus_new: bool) -> None:
        ui_config = ui_config_of(self._config, VERSION)
        assign(self._ui_config, ui_config)
        self._revisions.refresh_s = ui_config.refresh_s
        self._view_builder.poll_interval_s = ui_config.poll_interval_s
        if is_prometheus_new:
            await self._close_prometheus()
            self._prometheus = self._summariser.prometheus = self._new_prometheus()
            self._landing.prometheus_url = self._config.ui_prometheus_url
        elif self._prometheus is not None:
            self._prometheus.refresh_s = ui_config.refresh_s

    def _gateway_reader(self, fleet_counters: FleetCounters) -> GatewayReader | None:
        """Return what reads the gateways; one shard does, and the others count no requests."""
        urls, shard = [*filter(None, self._config.gateway_url)], self._config.shard
        if not urls:
            return None
        counters = fleet_counters.gateways = TrafficCounters()
        if shard.index:
            return None
        poller = self._poller
        return GatewayReader(
            urls,
            counters,
            self._metrics,
            self._clock,
            nodes=lambda: {one.target.node for one in poller.scrape_targets.values()},
        )

    async def _load_inventory(self) -> None:
        self._inventory = inventory_of(self._config, self._clock)
        self._stack.push_async_callback(self._close_inventory)
        self._log_start()
        await self._inventory.load()

    async def _close_inventory(self) -> None:
        await self._inventory.close()

    def _log_start(self) -> None:
        sources = [state.source for state in self._inventory.states]
        log.info(
            "exporter starts version=%s revision=%s sources=%s poll_interval=%s listen_address=%s",
            VERSION,
            revision(),
            ", ".join([*sources[:MAX_SOURCES], *(["…"] if len(sources) > MAX_SOURCES else [])]),
            duration_text(self._config.poll_interval),
            ", ".join(starmap(host_port_text, self._config.web_listen_address)),
        )

    def _new_prometheus(self) -> Prometheus | None:
        url = self._config.ui_prometheus_url
        refresh_s = self._ui_config.refresh_s
        return Prometheus(url, self._clock, refresh_s=refresh_s) if url else None

    async def _close_prometheus(self) -> None:
        if self._prometheus is not None:
            await self._prometheus.close()

    def _fleet_ui(self, recent: RecentHistory, sender: ResponseSender) -> FleetUi:
        config, clock = self._config, self._clock
        ui_config = self._ui_config = ui_config_of(config, VERSION)
        self._prometheus = self._new_prometheus()
        self._stack.push_async_callback(self._close_prometheus)
        view_builder = self._view_builder = ViewBuilder(
            self._poller, recent, clock, poll_interval_s=config.poll_interval
        )
        revisions = self._revisions = Revisions(
            view_builder.build, clock, refresh_s=ui_config.refresh_s
        )
        self._stack.push_async_callback(revisions.close)
        summariser = self._summariser = Summariser(
            ui_config,
            self._poller,
            self._metrics,
            lambda: self._inventory.states,
            self._prometheus,
            clock,
        )
        self._landing = Landing(
            ui_config,
            self._poller,
            lambda: self._inventory.states,
            clock,
            prometheus_url=config.ui_prometheus_url,
            telemetry_path=config.web_telemetry_path,
        )
        files = handlers.read(STATIC_FOLDER)
        return FleetUi(files, revisions, summariser, self._poller, ui_config, clock, sender)

    def _sender(self) -> ResponseSender:
        return ResponseSender(self._metrics, timeout_s=self._config.web_write_timeout)

    async def _listen(
        self, publisher: Publisher, fleet_ui: FleetUi, sender: ResponseSender
    ) -> None:
        guard = self._guard
        web = self._web = Web(
            self._poller,
            publisher,
            self._metrics,
            self._clock,
            fleet_ui,
            sender,
            self._sender(),
            sources=lambda: self._inventory.states,
            landing=self._landing,
            runbooks=Runbooks(),
            guard=guard,
            allowed_hosts=self._config.web_allowed_hosts,
            max_connections=self._n_clients,
            telemetry_path=self._config.web_telemetry_path,
            others=(
                Operations(self.reread, lambda: self._config, tokens=self._tokens, guard=guard),
                Prober(self._poller, self._clock),
                Upstreams(
                    self._poller,
                    self._transport.resolver,
                    self._metrics,
                    self._clock,
                    sender,
                    max_age_s=lambda: self._config.poll_interval,
                ),
            ),
        )
        self._stack.push_async_callback(web.close)
        addresses = await web.start(self._config.web_listen_address, self._sockets)
        self.port = addresses[0][1]
        scheme = "http" if guard is None or guard.context is None else "https"
        for host, port in addresses:
            log.info("listening url=%s://%s", scheme, host_port_text(host or "*", port))

    def _transport_config(self) -> TransportConfig:
        resolver = Resolver(self._clock)
        self._stack.push_async_callback(resolver.close)
        return TransportConfig(
            resolver,
            tls_context_of(self._config),
            Bounds(body_bytes=self._config.poll_max_body_bytes),
            user_agent=f"ollama-fleet/{VERSION}",
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
            async with self._changing:
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

    async def _stop_tasks(self) -> None:
        await self._tasks.close()
        await asyncio.gather(*self._rereads, return_exceptions=True)
        await self._close_canary()
