"""Speak with the members of an etcd cluster, one at a time.

In:   a Method and its request.
Out:  the response of the first member that answers in time.
Fails with StoreUnavailableError where no member answers, else with StoreError; no gRPC error
leaves the clients of this module but through `translated`.

Each member has a channel of its own: a channel with several addresses stays with a member that
hangs, and would never come back from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from provisioning.errors import StoreError, StoreUnavailableError
from provisioning.store.etcd.access import Access
from provisioning.store.etcd.channels import channel
from provisioning.store.etcd.messages_pb2 import AuthenticateRequest
from provisioning.store.etcd.methods import AUTHENTICATE, Method, Request, Response
from provisioning.store.etcd.refusals import PASSING, is_login_forgotten, meaning_of

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

    def __repr__(self) -> str:
        return f"<etcd client of {', '.join(self.access.members)}, at {self.member}>"

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
