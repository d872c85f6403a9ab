"""Call etcd over gRPC: one channel a member, the next one where one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from provisioning.errors import CompactedError, StoreError, StoreUnavailableError, TooLargeError
from provisioning.store.etcd.access import DEADLINE_S, Access
from provisioning.store.etcd.messages_pb2 import (
    AuthenticateRequest,
    AuthenticateResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseKeepAliveRequest,
    LeaseKeepAliveResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    TxnResponse,
    WatchRequest,
    WatchResponse,
)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """One call."""

    path: str
    request: type[Request]
    response: type[Response]


RANGE = Method("/etcdserverpb.KV/Range", RangeRequest, RangeResponse)
TXN = Method("/etcdserverpb.KV/Txn", TxnRequest, TxnResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", WatchRequest, WatchResponse)
GRANT = Method("/etcdserverpb.Lease/LeaseGrant", LeaseGrantRequest, LeaseGrantResponse)
REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", LeaseRevokeRequest, LeaseRevokeResponse)
KEEP_ALIVE = Method(
    "/etcdserverpb.Lease/LeaseKeepAlive", LeaseKeepAliveRequest, LeaseKeepAliveResponse
)
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", AuthenticateRequest, AuthenticateResponse)


PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.ABORTED,
    }
)
"""Another member, or the same one later, may answer otherwise."""
NO_SPACE = "database space exceeded"
COMPACTED = "required revision has been compacted"
TOO_LARGE = ("request is too large", "received message larger than max")
"""By etcd; and by its gRPC, which reads no more than 0.5 MiB beyond that."""
BUSY = "too many requests"
NO_LEASE = "requested lease not found"
OLD_LOGIN = "revision of auth store is old"
"""Users or roles have changed since the log-in."""


def is_login_forgotten(error: grpc.aio.AioRpcError) -> bool:
    """Say whether it may go well after another log-in."""
    return error.code() is grpc.StatusCode.UNAUTHENTICATED or OLD_LOGIN in (error.details() or "")


def meaning_of(error: grpc.aio.AioRpcError, attempted: str, *, n_bytes: int) -> StoreError:
    """Return an error of ours; `attempted` begins it, `n_bytes` is the size of the request."""
    words = error.details() or ""
    seen = f"{attempted}: {words}"
    if is_login_forgotten(error):
        return StoreUnavailableError(f"{seen}; the next try logs in again")
    if error.code() in PASSING:
        return StoreUnavailableError(
            f"{seen} ({error.code().name}); see that the member runs and that most members reach "
            f"each other"
        )
    if BUSY in words:
        return StoreUnavailableError(f"{seen}; see that its disk and network keep up")
    if NO_LEASE in words:
        return StoreUnavailableError(
            f"{seen}; it ended before it was used: see that this machine and etcd keep up"
        )
    if NO_SPACE in words:
        return StoreUnavailableError(
            f"{seen}; compact and defragment it, then disarm its NOSPACE alarm, or raise "
            f"--quota-backend-bytes"
        )
    if any(one in words for one in TOO_LARGE):
        return TooLargeError(
            f"{seen}; it is {n_bytes / 1e6:,.2f} MB in one piece, and etcd takes 1.5 MiB unless "
            f"all its members are started with a higher --max-request-bytes"
        )
    if COMPACTED in words:
        return CompactedError(f"{seen}; load again")
    return StoreError(f"{seen} ({error.code().name}); see etcd's log and its users' roles")


MAX_MESSAGE_BYTES = 64 * 2**20


def channel(
    member: str, secrets: grpc.ChannelCredentials | None, *, deadline_s: float
) -> grpc.aio.Channel:
    """Return a channel to a member, for calls that have so much time as a rule."""
    if secrets is None:
        return grpc.aio.insecure_channel(member, options=options(deadline_s))
    return grpc.aio.secure_channel(member, secrets, options=options(deadline_s))


def options(deadline_s: float) -> tuple[tuple[str, int], ...]:
    """Return how a channel behaves whose calls have so much time as a rule."""
    # Hasty calls give up before their connection is made; it is then there for later ones.
    connecting_s = max(DEADLINE_S, deadline_s)
    return (
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A member that is back is used again soon, not after two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
        # In spite of its name: how long a connection may take to be made, TLS included.
        ("grpc.min_reconnect_backoff_ms", int(1000 * connecting_s)),
        ("grpc.enable_http_proxy", 0),
        # What is tried again, and where, is decided by our client.
        ("grpc.enable_retries", 0),
        # Clients of one process do not share a connection, nor its back-off.
        ("grpc.use_local_subchannel_pool", 1),
    )


T = TypeVar("T")


class Client:
    """The channels to all members, and which of them is asked now."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._channels: dict[int, grpc.aio.Channel] = {}
        self._current = 0
        self._is_closed = False
        self._token: str | None = None
        self._secrets = (
            grpc.ssl_channel_credentials(*access.credentials.tls()) if access.is_secure else None
        )

    @property
    def member(self) -> str:
        """Return the address of the member that is asked now."""
        return self.access.members[self._current]

    async def read(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        doing: str,
        deadline_s: float | None = None,
    ) -> Response:
        """Ask the members one after the other until one answers, each once.

        For what may be asked twice without harm. `doing` stands in the error: "load", ….

        Raises:
            StoreUnavailableError: None answered; tells of the last one, and names the others.
            StoreError: One refused.
        """
        silent: list[str] = []
        for _ in self.access.members[1:]:
            member = self.member
            try:
                return await self.write(method, request, doing=doing, deadline_s=deadline_s)
            except StoreUnavailableError:
                silent.append(member)
        try:
            return await self.write(method, request, doing=doing, deadline_s=deadline_s)
        except StoreUnavailableError as error:
            if not silent:
                raise
            raise StoreUnavailableError(f"{error}; nor at {', '.join(silent)}") from error

    async def write(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        doing: str,
        deadline_s: float | None = None,
    ) -> Response:
        """Ask one member, once: after an error nobody knows whether it was done.

        Raises:
            StoreUnavailableError: It did not answer; the next call asks the next member.
            StoreError: It refused.
        """
        deadline_s = deadline_s or self.access.deadline_s

        async def ask() -> Response:
            call = self._channel().unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            response: Response = await call(
                request, timeout=deadline_s, metadata=await self._metadata()
            )
            return response

        return await self._authenticated(ask, doing, request)

    async def first_response(
        self,
        method: Method[Request, Response],
        request: Request,
        *,
        doing: str,
        deadline_s: float,
    ) -> Response:
        """Open a stream at one member, send one request, and return the first response.

        Raises:
            StoreUnavailableError: It did not answer; the next call asks the next member.
            StoreError: It refused.
        """

        async def ask() -> Response:
            member = self.member
            call = await self.stream(method, timeout_s=deadline_s)
            try:
                await send(call, request)
                response = await call.read()
            finally:
                call.cancel()
            if isinstance(response, method.response):
                return response
            self.pass_by(member)
            raise StoreUnavailableError(f"cannot {doing} at etcd {member}: it ended the stream")

        return await self._authenticated(ask, doing, request)

    async def stream(
        self,
        method: Method[Any, Any],
        *,
        timeout_s: float | None = None,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> grpc.aio.StreamStreamCall[Any, Any]:
        """Open a stream at the present member; its errors are for `translated`."""
        call = self._channel().stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return call(timeout=timeout_s, metadata=(*await self._metadata(), *metadata))

    def translated(
        self, error: grpc.aio.AioRpcError, *, doing: str, member: str, n_bytes: int = 0
    ) -> StoreError:
        """Return an error of ours, and turn to the next member where that may help."""
        if is_login_forgotten(error):
            self.forget_login()
        elif error.code() in PASSING:
            self.pass_by(member)
        return meaning_of(error, f"cannot {doing} at etcd {member}", n_bytes=n_bytes)

    def pass_by(self, member: str) -> None:
        """Turn to the next member, unless somebody else has turned from this one already."""
        if member == self.member:
            self._current = (self._current + 1) % len(self.access.members)

    def forget_login(self) -> None:
        """Log in again at the next call."""
        self._token = None

    async def close(self) -> None:
        """Close all channels for good; calls that are going on are cancelled."""
        self._is_closed = True
        for one in self._channels.values():
            await one.close()
        self._channels.clear()

    def _channel(self) -> grpc.aio.Channel:
        if self._is_closed:
            raise StoreUnavailableError(f"cannot speak with etcd {self.member}: it was closed")
        if self._current not in self._channels:
            self._channels[self._current] = channel(
                self.member, self._secrets, deadline_s=self.access.deadline_s
            )
        return self._channels[self._current]

    async def _authenticated(
        self, ask: Callable[[], Awaitable[T]], doing: str, request: Message
    ) -> T:
        """Ask, and once again after a new log-in where the token was not known any more."""
        for is_last in (not self._token, True):
            member = self.member
            try:
                return await ask()
            except grpc.aio.AioRpcError as error:
                translated = self.translated(
                    error, doing=doing, member=member, n_bytes=request.ByteSize()
                )
                if is_last or error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise translated from error
        raise AssertionError("the last try returns or raises")

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        credentials = self.access.credentials
        if not credentials.user:
            return ()
        if self._token is None:
            self._token = await self._log_in()
        return (("token", self._token),)

    async def _log_in(self) -> str:
        credentials = self.access.credentials
        password = await asyncio.to_thread(credentials.password)
        call = self._channel().unary_unary(
            AUTHENTICATE.path,
            request_serializer=AuthenticateRequest.SerializeToString,
            response_deserializer=AUTHENTICATE.response.FromString,
        )
        request = AuthenticateRequest(name=credentials.user, password=password)
        response = await call(request, timeout=self.access.deadline_s)
        return str(response.token)


async def send(call: grpc.aio.StreamStreamCall[Any, Any], request: Message) -> None:
    """Send a request on a stream; where the stream has ended, its next `read` says why."""
    with suppress(asyncio.InvalidStateError):
        await call.write(request)
