"""What the provisioner asks of a node's runtime.

Every implementation passes tests/provisioning/runtime/contract.py. Calls may be cancelled at any
moment and made again: each is idempotent, and what a cancelled `start` leaves is listed by
`containers` and removed by `remove`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from ollama_fleet.canary_outcome import CanaryOutcome
from provisioning.model import (
    Canary,
    ContainerSpec,
    ObservedContainer,
    Probe,
    RequestsPage,
    WarmUp,
)


class Runtime(Protocol):
    """Starts and removes the containers of one fleet on one node.

    Every method may raise ContainerError. A container of the process runtime is a process.
    """

    async def start(self, container: ContainerSpec) -> None:
        """Start the container; do nothing if it runs already.

        Returns once its process runs, healthy or not. If it is cancelled while something goes on
        without it, such as an image pull, a note of the CancelledError says what.

        Raises:
            PermanentError: Its image, command or limits can never work here.
            ResourceExhaustedError: The node lacks memory, or another program has the port.
            TransientError: The next try may succeed.
        """
        ...

    async def remove(self, name: str, *, grace_s: float) -> None:
        """Send SIGTERM, after `grace_s` SIGKILL, and remove all but the log.

        Do nothing if there is no such container. The log stays until the next container of its
        instance starts.
        """
        ...

    async def containers(self) -> tuple[ObservedContainer, ...]:
        """Return all containers of this fleet, whoever started them, sorted by name."""
        ...

    def changes(self) -> AsyncIterator[str]:
        """Yield the name of each container that ends or runs out of memory, soon after.

        A hint to call `containers` early; it may miss some.
        """
        ...

    def log_of(self, instance_id: str, /) -> str:
        """Return the path on the node of an instance's log; empty: it has none."""
        ...

    async def close(self) -> None:
        """Close connections; the containers keep running."""
        ...


ProberOf = Callable[[str], "Prober"]
"""Gives what reaches the instances of a node, by its name."""


class CanaryResult(NamedTuple):
    """How one canary ended."""

    outcome: CanaryOutcome
    fault: str = ""
    """What is wrong with the instance, in words; empty: nothing, or nothing is known."""


class Prober(Protocol):
    """Sends probes and warm-up requests to instances."""

    async def probe(self, host: str, port: int, probe: Probe) -> str:
        """Return why an instance is not healthy, in words; empty: it is.

        Raises:
            NotAskedError: This machine lacks what sending a probe takes.
        """
        ...

    async def generate(
        self, host: str, port: int, canary: Canary, *, engine: str, model: str
    ) -> CanaryResult:
        """Return whether an instance generates.

        Raises:
            NotAskedError: This machine lacks what sending a canary takes.
        """
        ...

    async def is_idle(self, host: str, port: int, page: RequestsPage) -> bool:
        """Say whether it is certain that no request runs or waits there."""
        ...

    async def warm_up(
        self, host: str, port: int, requests: Sequence[WarmUp], *, store: str = ""
    ) -> None:
        """Send the requests one after the other, so that the model is loaded.

        Instances with the same `store` share a folder of models. If it is cancelled, a note of the
        CancelledError says what it waited for.

        Raises:
            TransientError: A request was not answered with 200 in time.
        """
        ...


class Broadcast:
    """Names that are sent to everyone who listens at the time."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[str | None]] = set()

    def send(self, name: str) -> None:
        """Send a name to everyone who listens."""
        for listener in self._listeners:
            listener.put_nowait(name)

    def close(self) -> None:
        """Tell everyone who listens that nothing follows."""
        for listener in self._listeners:
            listener.put_nowait(None)

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Queue[str | None]]:
        """Give a queue of what is sent during the block; None: nothing follows."""
        names: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.add(names)
        try:
            yield names
        finally:
            self._listeners.discard(names)
