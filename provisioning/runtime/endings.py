"""Hear of it when processes end, without asking again and again.

In:   Identities of processes, children or not.
Out:  a call on the event loop soon after one has ended: the kernel makes its pidfd readable.
Fails with OSError where a process cannot be watched, as without a file descriptor to spare; one
that is gone already is told like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator

from provisioning.runtime import procfs
from provisioning.runtime.procfs import Identity


class Endings:
    """The processes that are watched, by the names of their containers."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        """Call `ended` with the name of each process that has ended, once."""
        self._ended = ended
        self._watched: dict[str, tuple[Identity, int]] = {}
        self._is_closed = False

    def watch(self, name: str, identity: Identity) -> None:
        """Watch a process in place of the one that had the name before; none once closed."""
        if self._is_closed:
            return  # whoever looked meanwhile would leave a descriptor open
        if name in self._watched and self._watched[name][0] == identity:
            return
        self.forget(name)
        descriptor = procfs.open_process(identity)
        if descriptor is None:
            self._ended(name)
            return
        self._watched[name] = identity, descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._on_readable, name)

    def forget(self, name: str) -> None:
        """Watch the name's process no more."""
        if watched := self._watched.pop(name, None):
            _, descriptor = watched
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Forget all, and watch nothing from now on."""
        self._is_closed = True
        for name in tuple(self._watched):
            self.forget(name)

    def _on_readable(self, name: str) -> None:
        self.forget(name)
        self._ended(name)


class News:
    """Names that are told to everyone who listens at the time."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[str | None]] = set()

    def tell(self, name: str) -> None:
        """Tell everyone who listens."""
        for listener in self._listeners:
            listener.put_nowait(name)

    def close(self) -> None:
        """Tell everyone that nothing follows."""
        for listener in self._listeners:
            listener.put_nowait(None)

    @contextlib.contextmanager
    def listening(self) -> Iterator[asyncio.Queue[str | None]]:
        """Give a queue of what is told during the block; None: nothing follows."""
        names: asyncio.Queue[str | None] = asyncio.Queue()
        self._listeners.add(names)
        try:
            yield names
        finally:
            self._listeners.discard(names)


async def until_ended(identity: Identity, timeout_s: float) -> bool:
    """Return when the process has ended, or after the time; say whether it has."""
    descriptor = procfs.open_process(identity)
    if descriptor is None:
        return True
    try:
        await until_readable(descriptor, timeout_s)
    except TimeoutError:
        return False
    finally:
        os.close(descriptor)
    return True


async def until_readable(descriptor: int, timeout_s: float | None = None) -> None:
    """Return when something can be read from the descriptor, or its other end is closed.

    Raises:
        TimeoutError: Nothing could for so long.
    """
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(descriptor, _settle, readable)
    try:
        async with asyncio.timeout(timeout_s):
            await readable
    finally:
        loop.remove_reader(descriptor)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
