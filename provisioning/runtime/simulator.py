"""Nodes of runtime `simulated`: in a process of `ollama-fleet simulate`, or in memory alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError

from ollama_fleet.canary_outcome import CanaryOutcome
from provisioning.errors import (
    ContainerError,
    NodeUnreachableError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.model import (
    Canary,
    ContainerSpec,
    ContainerState,
    ObservedContainer,
    Probe,
    RequestsPage,
    WarmUp,
)
from provisioning.runtime.base import CanaryResult

TIMEOUT_S = 10.0
UNANSWERED = (aiohttp.ClientError, HttpProcessingError, TimeoutError, ValueError)
"""aiohttp raises the second or the last, by version, for a line without end."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)


class Memory:
    """The containers of all nodes that are in this process's memory alone: none ever ends."""

    def __init__(self) -> None:
        self.by_node: dict[str, dict[str, ContainerSpec]] = {}
        self.addresses: set[tuple[str, int]] = set()
        """Where they would listen."""


class MemoryRuntime:
    """See `base.Runtime`; to try a specification without anything to run it on."""

    def __init__(self, memory: Memory, node: str) -> None:
        self._addresses = memory.addresses
        self._containers = memory.by_node.setdefault(node, {})

    async def start(self, container: ContainerSpec) -> None:
        """Take note of the container."""
        self._containers[container.name] = container
        self._addresses.add((container.host, container.port))

    async def remove(self, name: str, *, grace_s: float) -> None:
        """Forget the container."""
        if container := self._containers.pop(name, None):
            self._addresses.discard((container.host, container.port))

    async def containers(self) -> tuple[ObservedContainer, ...]:
        """Return all containers of the node, sorted by name."""
        return tuple(
            ObservedContainer(name, one.instance_id, one.generation, ContainerState.RUNNING)
            for name, one in sorted(self._containers.items())
        )

    async def changes(self) -> AsyncIterator[str]:
        """Yield nothing, for ever: none ever ends."""
        await asyncio.Event().wait()
        yield ""

    def log_of(self, _instance_id: str) -> str:
        """Return nothing: they write no log."""
        return ""

    async def close(self) -> None:
        """Do nothing: they are there as long as this process."""


class MemoryProber:
    """See `base.Prober`; what is in memory answers at once."""

    def __init__(self, memory: Memory) -> None:
        self._addresses = memory.addresses

    async def probe(self, host: str, port: int, probe: Probe) -> str:
        """Return an empty text where a container has the address."""
        if (host, port) in self._addresses:
            return ""
        return f"GET http://{host}:{port}{probe.path}: connection refused (simulated)"

    async def generate(
        self, host: str, port: int, canary: Canary, *, engine: str, model: str
    ) -> CanaryResult:
        """Say that it was not asked: these have no model."""
        return CanaryResult(CanaryOutcome.SKIPPED_NOT_LOADED)

    async def is_idle(self, host: str, port: int, page: RequestsPage) -> bool:
        """Say no: these take no requests, and so count none."""
        return False

    async def warm_up(
        self, host: str, port: int, requests: Sequence[WarmUp], *, store: str = ""
    ) -> None:
        """Do nothing: there is no model to load."""


class SimulatorRuntime:
    """See `base.Runtime`; over the control API of `ollama-fleet simulate --host-containers`."""

    def __init__(
        self,
        fleet: str,
        node: str,
        *,
        endpoint: str,
        token_path: Path,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._fleet = fleet
        self._node = node
        self._url = f"{endpoint.rstrip('/')}/nodes/{quote(node, safe='')}"
        self._token_path = token_path
        self._timeout_s = timeout_s
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def start(self, container: ContainerSpec) -> None:
        """Order the container; nothing happens where it runs already."""
        what = f"start of {container.name} on {self._node}"
        order = {
            "fleet": container.fleet,
            "instance_id": container.instance_id,
            "generation": container.generation,
            "host": container.host,
            "port": container.port,
            "model": container.model,
            "engine": container.engine,
        }
        await self._write("PUT", container.name, what, body=msgspec.json.encode(order))

    async def remove(self, name: str, *, grace_s: float) -> None:
        """End the container; a simulated one ends as soon as it is asked, whatever the grace."""
        await self._write("DELETE", name, f"removal of {name} on {self._node}")

    async def containers(self) -> tuple[ObservedContainer, ...]:
        """Return all containers of this fleet, whoever made them, sorted by name."""
        what = f"containers of node {self._node}"
        async with self._asked("GET", f"{self._url}/containers?{self._query}", what) as answer:
            body = await answer.read()
        try:
            found = msgspec.json.decode(body, type=tuple[ObservedContainer, ...])
        except UNREADABLE as error:
            raise self._not_ours(what, error) from error
        return tuple(sorted(found, key=lambda container: container.name))

    async def changes(self) -> AsyncGenerator[str, None]:
        """Yield the name of each container that has ended, first of those that have already."""
        what = f"changes of node {self._node}"
        url = f"{self._url}/changes?{self._query}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s)
        async with self._asked("GET", url, what, timeout=timeout) as answer:
            async for line in answer.content:
                yield self._name_in(line, what)
        raise NodeUnreachableError(f"{what}: {self._url} has ended the stream")

    def log_of(self, _instance_id: str) -> str:
        """Return nothing: simulated containers write no log."""
        return ""

    async def close(self) -> None:
        """Let go of connections; the containers go on."""
        await self._session.close()

    @property
    def _query(self) -> str:
        return f"fleet={quote(self._fleet, safe='')}"

    async def _write(self, method: str, name: str, what: str, *, body: bytes = b"") -> None:
        headers = {"Authorization": f"Bearer {self._token(what)}"}
        url = f"{self._url}/containers/{quote(name, safe='')}?{self._query}"
        async with self._asked(method, url, what, headers=headers, body=body):
            return

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        url: str,
        what: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout: aiohttp.ClientTimeout | None = None,  # noqa: ASYNC109 - aiohttp's own kind
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give its answer; every failure becomes a ContainerError."""
        try:
            async with self._session.request(
                method,
                url,
                data=body or None,
                headers=headers,
                timeout=timeout or aiohttp.ClientTimeout(total=self._timeout_s),
            ) as answer:
                if answer.status >= HTTPStatus.BAD_REQUEST:
                    raise _refusal(answer.status, await answer.read(), what)
                yield answer
        except UNANSWERED as error:
            raise NodeUnreachableError(
                f"{what}: {self._url} does not answer: {str(error) or type(error).__name__}; is "
                "`ollama-fleet simulate --host-containers` running there?"
            ) from error

    def _token(self, what: str) -> str:
        """Read the token each time: the simulation may write it after this process starts."""
        try:
            token = self._token_path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            seen = getattr(error, "strerror", None) or "it is no text"
            raise self._no_token(what, seen) from error
        if not token or not token.isprintable():
            raise self._no_token(what, "it holds no token")
        return token

    def _no_token(self, what: str, seen: str) -> TransientError:
        return TransientError(
            f"{what}: cannot use the token file {self._token_path}: {seen}; it is the one of "
            "simulate's --control.token-file"
        )

    def _name_in(self, line: bytes, what: str) -> str:
        try:
            return msgspec.json.decode(line, type=_Change).name
        except UNREADABLE as error:
            raise self._not_ours(what, error) from error

    def _not_ours(self, what: str, error: Exception) -> TransientError:
        return TransientError(
            f"{what}: {self._url} answers something else than containers ({error}); is it the "
            "control "
            "API of `ollama-fleet simulate --host-containers`?"
        )


class _Change(msgspec.Struct):
    name: str


class _Problem(msgspec.Struct):
    detail: str


def _refusal(status: int, body: bytes, what: str) -> ContainerError:
    """Return the error that a status means, in the words of whoever sent it."""
    try:
        detail = msgspec.json.decode(body, type=_Problem).detail
    except UNREADABLE:
        detail = "no problem document came with it"
    message = f"{what}: HTTP {status}: {detail}"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return NodeUnreachableError(message)
    if status == HTTPStatus.CONFLICT:
        return ResourceExhaustedError(message)
    is_request_wrong = status < HTTPStatus.INTERNAL_SERVER_ERROR
    return PermanentError(message) if is_request_wrong else TransientError(message)
