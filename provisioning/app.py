"""One provisioner: build its parts, start them, and stop them in reverse."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ollama_fleet import descriptors, systemd
from ollama_fleet.clock import SystemClock
from ollama_fleet.tokens import Tokens
from ollama_fleet.version import VERSION, revision
from provisioning.api.auth import SERVER_OPTION
from provisioning.api.commands import Commands
from provisioning.api.server import (
    LOOPBACK_BY_WILDCARD,
    MAX_CONNECTIONS,
    Api,
    bound,
    serving,
    url_of,
)
from provisioning.cache import Cache
from provisioning.controller import Controller, ReconcileLoop
from provisioning.errors import ListenError, ProvisionerError
from provisioning.metrics import Metrics, TimedStore
from provisioning.reload import OwnFiles
from provisioning.runtime.factory import NodeRuntimes, RuntimePaths
from provisioning.spec.document import decode_fleet
from provisioning.store.base import Leadership, Store
from provisioning.store.etcd.access import Credentials
from provisioning.store.factory import open_store

log = logging.getLogger("provisioning")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person chooses for a provisioner."""

    fleet: str
    store_url: str
    host: str
    port: int
    token_file: Path
    paths: RuntimePaths
    audit_file: Path | None = None
    advertised_url: str = ""
    """Where other provisioners' clients find us; empty: as we listen."""
    credentials: Credentials = field(default_factory=Credentials)
    lease_s: int = 10
    max_connections: int = MAX_CONNECTIONS
    """Of clients of the API; a low limit of open files lowers it."""

    @property
    def fixed_files(self) -> Mapping[str, Path | None]:
        """Return the files that are read once, by their options."""
        return {
            "store.ca-file": self.credentials.ca_file,
            "store.certificate-file": self.credentials.certificate_file,
            "store.key-file": self.credentials.key_file,
            "nodes.ca-file": self.paths.authority_file,
            "nodes.certificate-file": self.paths.certificate_file,
            "nodes.key-file": self.paths.key_file,
        }


@asynccontextmanager
async def running(settings: Settings, hangups: asyncio.Event | None = None) -> AsyncIterator[str]:
    """Run a provisioner until the block ends; gives the URL of its API.

    It reads its files again each time that `hangups` is set.

    Raises:
        ProvisionerError: The state folder, store, token file or address cannot be used.
    """
    descriptors.raise_limit()  # each node, container and client of the API takes some
    _make(settings.paths.state_dir)
    clock = SystemClock()
    metrics = Metrics(clock)
    tokens = _tokens(settings.token_file)
    files = OwnFiles(tokens, settings.fixed_files, metrics)
    async with AsyncExitStack() as stack:
        sockets = stack.enter_context(_sockets(settings))
        holder = settings.advertised_url or url_of(sockets)
        opened, leadership = _open(settings, clock, holder)
        store = TimedStore(opened, metrics)
        stack.push_async_callback(store.close)
        runtimes = NodeRuntimes(settings.fleet, settings.paths, clock)
        stack.push_async_callback(runtimes.close)
        cache = Cache(store, clock)
        loop = _loop(store, cache, runtimes, metrics, clock)
        controller = Controller(leadership, loop, clock)
        _publish(loop, metrics)
        commands = Commands(store, cache, loop, leader=leadership.leader, fleet=settings.fleet)
        api = Api(
            cache,
            commands,
            tokens,
            metrics,
            clock,
            fleet=settings.fleet,
            version=VERSION,
            audit_path=settings.audit_file,
            own_names=_own_names(settings),
            log_of=runtimes.log_of,
            reload=files.reload,
        )
        most = descriptors.share(settings.max_connections)
        url = await stack.enter_async_context(serving(api, sockets, max_connections=most))
        beside = [files.follow(hangups or asyncio.Event())]
        if period_s := systemd.watchdog_s():
            beside.append(systemd.feed_watchdog(period_s))
        await stack.enter_async_context(_going_on(cache, controller, beside))
        log.info(
            "provisioner started version=%s revision=%s fleet=%s store=%s url=%s",
            VERSION,
            revision(),
            settings.fleet,
            settings.store_url,
            url,
        )
        yield url


@contextmanager
def _sockets(settings: Settings) -> Iterator[Sequence[socket.socket]]:
    """Give the sockets that systemd opened, or else those of our address."""
    try:
        passed: Sequence[socket.socket] = systemd.listening_sockets()
    except systemd.SocketError as error:
        raise ListenError(str(error)) from error
    with ExitStack() as stack:
        sockets = passed or stack.enter_context(bound(settings.host, settings.port))
        for one in passed:
            stack.enter_context(one)
        yield sockets


def _tokens(path: Path) -> Tokens:
    tokens = Tokens(path, option=SERVER_OPTION)
    if tokens.is_new:
        log.info("API token created file=%s", tokens.path)
    return tokens


def _publish(loop: ReconcileLoop, metrics: Metrics) -> None:
    """Have the metrics read what the loop knows."""
    metrics.is_leader.set_function(lambda: loop.term is not None)
    metrics.unreachable_nodes.set_function(
        lambda: sum(not report.is_reachable for report in loop.reports.values())
    )
    metrics.orphans.set_function(lambda: len(loop.orphans or ()))


def _own_names(settings: Settings) -> frozenset[str]:
    """Return the names that clients know our API by."""
    external = urlsplit(settings.advertised_url).hostname
    return frozenset(name.lower() for name in (settings.host, external) if name)


def _make(state_dir: Path) -> None:
    """Make the folder now.

    Not before the first container would be late to hear that it cannot be.
    """
    try:
        for folder in (state_dir.parent, state_dir):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ProvisionerError(
            f"cannot make the folder {state_dir} for containers that are processes: "
            f"{error.strerror}; "
            "choose another with --state-dir"
        ) from error


def is_everywhere(host: str) -> bool:
    """Say whether to listen there is to listen at all of a machine's addresses."""
    return host in LOOPBACK_BY_WILDCARD


def _open(settings: Settings, clock: SystemClock, holder: str) -> tuple[Store, Leadership]:
    return open_store(
        settings.store_url,
        settings.fleet,
        clock=clock,
        holder=holder,
        credentials=settings.credentials,
        lease_s=settings.lease_s,
    )


def _loop(
    store: Store, cache: Cache, runtimes: NodeRuntimes, metrics: Metrics, clock: SystemClock
) -> ReconcileLoop:
    return ReconcileLoop(
        store=store,
        cache=cache,
        open_runtime=runtimes.open,
        prober_of=runtimes.prober,
        clock=clock,
        read_spec=decode_fleet,
        jitter=random.SystemRandom().random,
        listener=metrics,
    )


@asynccontextmanager
async def _going_on(
    cache: Cache, controller: Controller, beside: Iterable[Coroutine[None, None, None]]
) -> AsyncIterator[None]:
    """Follow the store and reconcile until the block ends; what breaks there ends the block.

    A store that will not do is known before the block begins, and before anybody tries to lead.

    Raises:
        ProvisionerError: One of them cannot go on, now or ever.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (cache.follow(), *beside)]
            await cache.tried()
            tasks.append(group.create_task(controller.run()))
            yield
            for task in tasks:
                task.cancel()
    except ExceptionGroup as errors:
        raise _first(errors) from errors


def _first(error: Exception) -> Exception:
    """Return the first of the errors that a group is made of."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
