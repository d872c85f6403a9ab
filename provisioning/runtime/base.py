"""What the provisioner asks of a node's runtime.

Every implementation passes tests/provisioning/runtime/contract.py. Calls may be cancelled at any
moment and made again: each is idempotent, and what a cancelled `start` leaves is listed by
`containers` and removed by `remove`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol

from provisioning.model import ContainerSpec, ObservedContainer, Probe, RequestsPage, WarmUp


class Runtime(Protocol):
    """Makes and removes containers of one fleet on one node; all may raise ContainerError."""

    async def start(self, container: ContainerSpec) -> None:
        """Make the container and start it; do nothing where it runs already.

        Returns once its process runs, which says nothing about its health. Cancelled while it waits
        for what goes on without it, it notes on the CancelledError what that is.

        Raises:
            PermanentError: Its image, command or limits can never work here.
            ResourceExhaustedError: The node has too little memory, or its port is taken by a
            stranger. TransientError: It may work the next time.
        """
        ...

    async def remove(self, name: str, *, grace_s: float) -> None:
        """Ask the container to end, kill it after `grace_s`, and remove all that it leaves.

        Do nothing where there is no such container; its log is kept until the next container of
        its instance.
        """
        ...

    async def containers(self) -> tuple[ObservedContainer, ...]:
        """Return all containers of this fleet, whoever made them, sorted by name."""
        ...

    def changes(self) -> AsyncIterator[str]:
        """Yield the name of each container that has ended or run out of memory, soon after it did.

        A hint to look at `containers` earlier than usual: some may be missed, none is promised.
        """
        ...

    def log_of(self, instance_id: str, /) -> str:
        """Return the path, on the node, of what an instance's containers write.

        Empty: it has none.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; the containers go on."""
        ...


ProberOf = Callable[[str], "Prober"]
"""Gives what reaches the instances of a node, by its name."""


class Prober(Protocol):
    """Asks instances over the network whether they serve."""

    async def ask(self, host: str, port: int, probe: Probe) -> str:
        """Return why an instance is not healthy, in words; empty: it is.

        Raises:
            NotAskedError: This machine lacks what a question takes.
        """
        ...

    async def is_idle(self, host: str, port: int, page: RequestsPage) -> bool:
        """Say whether it is certain that no request runs or waits there."""
        ...

    async def warm_up(
        self, host: str, port: int, requests: Sequence[WarmUp], *, store: str = ""
    ) -> None:
        """Send the requests one after the other, so that the model is loaded.

        Those who have the same `store` share a folder of models. Cancelled, it notes on the
        CancelledError what it was waiting for.

        Raises:
            TransientError: One of them was not answered with 200 in time.
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
