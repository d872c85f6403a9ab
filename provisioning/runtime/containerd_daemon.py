"""Talk to one node's containerd.

In:   an endpoint, `unix:///path` or `https://host:port`, the latter with a client certificate.
Out:  replies to the methods of containerd_api.py, in one of the daemon's namespaces.
Fails with NodeUnreachableError (it does not answer), or RefusedError (it answers, with a code).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import msgspec

from provisioning.errors import LastingError, NodeUnreachableError, TransientError, UnitError
from provisioning.runtime.containerd_api import Method, Reply, Request

DEADLINE_S = 10.0
MAX_MESSAGE_BYTES = 64 * 2**20
UNREACHABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A node that comes back is found within a second, and one that stays away is not hammered.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Pings, as seldom as the daemon bears; with them comes the kernel's limit on bytes that nobody
    # acknowledges, so that the connection to a node that vanished ends after ten seconds.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Nodes are reached directly, whatever proxy the environment names.
    ("grpc.enable_http_proxy", 0),
    # Daemons of one address may follow one another in one process: each has its own connection.
    ("grpc.use_local_subchannel_pool", 1),
)


class Certificates(msgspec.Struct, frozen=True):
    """Files by which we and a node know each other; see nodeconfig.py."""

    authority: Path
    certificate: Path
    key: Path


class RefusedError(TransientError):
    """The daemon answered, and did not do it."""

    def __init__(self, what: str, code: grpc.StatusCode, details: str) -> None:
        self.code = code
        self.details = details
        super().__init__(f"{what}: containerd says {code.name}: {details}")


class Daemon:
    """A connection to one namespace of one containerd; it is made at the first call."""

    def __init__(
        self, endpoint: str, namespace: str, certificates: Certificates | None = None
    ) -> None:
        """Refuse with LastingError an endpoint, or files, that cannot be right."""
        self.endpoint = endpoint
        self.deadline_s = DEADLINE_S
        self._metadata = (("containerd-namespace", namespace),)
        self._open = _opener(endpoint, certificates)
        self._opened: grpc.aio.Channel | None = None

    async def call(
        self, method: Method[Request, Reply], request: Request, *, deadline_s: float | None = None
    ) -> Reply:
        """Return the reply to one request; None: `self.deadline_s` at the latest.

        Raises:
            NodeUnreachableError: No reply within the deadline; it may have been done or not.
            RefusedError: See its code.
        """
        call = self._channel.unary_unary(
            method.path, request_serializer=method.serialise, response_deserializer=method.parse
        )
        with self._translated(method.path):
            reply: Reply = await call(
                request, metadata=self._metadata, timeout=deadline_s or self.deadline_s
            )
            return reply

    async def stream(
        self,
        method: Method[Request, Reply],
        request: Request,
        *,
        deadline_s: float,
    ) -> AsyncIterator[Reply]:
        """Yield the replies to one request, which is sent when the first one is asked for."""
        async with self.begun(method, request, deadline_s=deadline_s) as replies:
            async for reply in replies:
                yield reply

    @contextlib.asynccontextmanager
    async def begun(
        self,
        method: Method[Request, Reply],
        request: Request,
        *,
        deadline_s: float | None = None,
    ) -> AsyncIterator[AsyncIterable[Reply]]:
        """Send one request, and give its replies for the block; they wait until they are read.

        None: they come as long as the connection holds.
        """
        call = self._channel.unary_stream(
            method.path, request_serializer=method.serialise, response_deserializer=method.parse
        )
        replies = call(request, metadata=self._metadata, timeout=deadline_s)
        try:
            with self._translated(method.path):
                yield replies
        finally:
            replies.cancel()

    @contextlib.asynccontextmanager
    async def conversation(
        self, method: Method[Request, Reply]
    ) -> AsyncIterator[grpc.aio.StreamStreamCall[Request, Reply]]:
        """Give a stream in both directions, for the block."""
        call = self._channel.stream_stream(
            method.path, request_serializer=method.serialise, response_deserializer=method.parse
        )
        talk = call(metadata=self._metadata)
        try:
            with self._translated(method.path):
                yield talk
        finally:
            talk.cancel()

    async def close(self) -> None:
        """Close the connection; calls that are under way are cancelled."""
        if self._opened is not None:
            await self._opened.close()

    @property
    def _channel(self) -> grpc.aio.Channel:
        """Return the channel, which belongs to the event loop of the first call."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    @contextlib.contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise self._error(path, error.code(), error.details() or "") from error

    def _error(self, path: str, code: grpc.StatusCode, details: str) -> UnitError:
        what = f"{path.rpartition('.')[2]} on {self.endpoint}"
        if code in UNREACHABLE:
            return NodeUnreachableError(
                f"{what}: {code.name}: {details}; see whether containerd runs there and can be "
                "reached"
            )
        return RefusedError(what, code, details)


def _opener(endpoint: str, certificates: Certificates | None) -> Callable[[], grpc.aio.Channel]:
    """Return what opens a channel, once everything about it is known to be right."""
    parts = urlsplit(endpoint)
    if parts.scheme == "unix" and parts.path:
        target = f"unix:{parts.path}"
        return functools.partial(grpc.aio.insecure_channel, target, options=OPTIONS)
    if parts.scheme == "https" and parts.hostname and parts.port:
        credentials = _credentials(endpoint, certificates)
        return functools.partial(grpc.aio.secure_channel, parts.netloc, credentials, OPTIONS)
    raise LastingError(
        f"{endpoint!r} is no endpoint of containerd; write unix:///run/containerd/containerd.sock "
        "or https://host:port"
    )


def _credentials(endpoint: str, certificates: Certificates | None) -> grpc.ChannelCredentials:
    if certificates is None:
        raise LastingError(f"{endpoint} asks for a client certificate, and none is set")
    try:
        return grpc.ssl_channel_credentials(
            root_certificates=certificates.authority.read_bytes(),
            private_key=certificates.key.read_bytes(),
            certificate_chain=certificates.certificate.read_bytes(),
        )
    except OSError as error:
        raise LastingError(
            f"cannot read {error.filename} for {endpoint}: {error.strerror}; see who may read it"
        ) from error
