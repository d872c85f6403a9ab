"""Serve the API: listen, follow changes while it is served, end both.

In:   an Api, the host and port to listen at.
Out:  `bound` gives sockets, `serving` answers there.
Fails with ListenError. Where as many connections as there may be all follow changes or are being
answered, one more is closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager

from ollama_fleet.http_server import HttpServer, Limits, bind
from provisioning.api.app import Api
from provisioning.api.errors import ListenError
from provisioning.api.requests import http_log
from provisioning.workload import netloc

log = logging.getLogger("provisioning.api.server")

SHUTDOWN_S = 0.5
MAX_CONNECTIONS = 500
"""Most fleets have a few exporters and people; feed.MAX_STREAMS of them follow changes."""
LOOPBACK_BY_WILDCARD = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not listened on here


@asynccontextmanager
async def serving(
    api: Api, sockets: Sequence[socket.socket], *, max_connections: int = MAX_CONNECTIONS
) -> AsyncIterator[str]:
    """Serve the API at what `bound` gave until the context ends; gives its base URL.

    Raises:
        ListenError: Somebody else has begun to listen there.
    """
    server = HttpServer(
        api.application(),
        Limits(max_connections, on_closed=api.metrics.api_closed_connections.inc),
        log=log,
        http_log=http_log,
        shutdown_s=SHUTDOWN_S,
    )
    telling = asyncio.create_task(api.feed.run())
    telling.add_done_callback(_log_fault)
    counting = asyncio.create_task(api.admission.run())
    try:
        try:
            await server.start(sockets)
        except OSError as error:
            host, port = sockets[0].getsockname()[:2]
            raise _listen_error(host, port, error) from error
        yield url_of(sockets)
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        await server.close()
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)


def _log_fault(telling: asyncio.Task[None]) -> None:
    """Log what ended the telling of changes, if it was not us."""
    if not telling.cancelled() and (error := telling.exception()):
        log.error("changes are not told any more: restart the provisioner", exc_info=error)


@contextmanager
def bound(host: str, port: int) -> Iterator[Sequence[socket.socket]]:
    """Give sockets at every address of a host, all with one port; the system's choice for port 0.

    Whose port it is is known before anybody is told of it, and nobody is answered yet.

    Raises:
        ListenError: They cannot be had.
    """
    try:
        sockets = bind(host, port)
    except OSError as error:
        raise _listen_error(host, port, error) from error
    with ExitStack() as stack:
        for one in sockets:
            stack.enter_context(one)
        yield sockets


def url_of(sockets: Sequence[socket.socket]) -> str:
    """Return the URL at which sockets are reached from this machine."""
    host, port = sockets[0].getsockname()[:2]
    return f"http://{netloc(LOOPBACK_BY_WILDCARD.get(host, host), port)}"


def _listen_error(host: str, port: int, error: OSError) -> ListenError:
    return ListenError(
        f"cannot listen on {netloc(host, port)} for the API: {error.strerror}; "
        "choose another with --web.listen-address, port 0 for any"
    )
