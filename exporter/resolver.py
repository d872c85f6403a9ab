"""Find the addresses of host names, once for all instances of a host.

In:   a host name, a deadline.
Out:  its addresses, IPv4 first. Fails with PollError(UNRESOLVED).
The system's resolver may hang for longer than the process has to end, so it is asked in daemon
threads: unlike the event loop's own, nobody waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from exporter.errors import PollError
from exporter.model import Outcome

if TYPE_CHECKING:
    from exporter.clock import Clock

Addresses = tuple[str, ...]
Found = Addresses | OSError | ValueError
"""A failure is handed on as a value: a future that raises it is held by the failure's own frames,
and such a ring waits for the garbage collector, which hardly ever comes."""

TTL_S = 60.0
"""When addresses are looked up again; the system's resolver does not tell a record's own time."""
RETRY_S = 5.0
"""When they are looked up again after that failed."""
FORGET_S = 10 * TTL_S
"""After how long a host that nobody asked for is forgotten."""
MAX_ADDRESSES = 8
MAX_THREADS = 8


@dataclass(slots=True)
class _Entry:
    """What is known of one host."""

    addresses: Addresses = ()
    """Empty until a look-up has succeeded."""
    due_s: float = 0.0
    """When known addresses are to be looked up again."""
    asked_s: float = 0.0
    look_up: asyncio.Future[Found] | None = None
    """The one under way."""


class Resolver:
    """Resolves host names and remembers their addresses.

    Thousands of instances live on a few hosts: one look-up serves all of a host's, also the ones
    that ask while it is under way. Addresses older than a minute are looked up again while the old
    ones stay in use, until the new ones are there: a name server that fails takes no host away.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        """The host that was asked for longest ago comes first."""
        self._look_ups = _LookUps()

    def __repr__(self) -> str:
        return f"<Resolver: {len(self._entries)} hosts known, {self._look_ups!r}>"

    async def resolve(self, host: str, deadline_s: float) -> Addresses:
        """Return one to eight addresses of a host that is given by name, IPv4 first.

        Args:
            host: A name; an address is returned as it is.
            deadline_s: On the event loop's clock.

        Raises:
            PollError: UNRESOLVED, where the name has no address or none was found in time.
        """
        entry = self._entry(host)
        look_up = self._look_up_if_due(host, entry)
        if look_up is None or entry.addresses:
            return entry.addresses
        try:
            async with asyncio.timeout_at(deadline_s):
                # One poll that runs out of time must not end the look-up for the others.
                found = await asyncio.shield(look_up)
        except TimeoutError as error:
            raise _unresolved(host, "the system's resolver gave no answer in time") from error
        if isinstance(found, OSError):
            raise _unresolved(host, found.strerror)
        if isinstance(found, ValueError):  # such as a label longer than 63 characters
            raise _unresolved(host, str(found))
        return found

    async def close(self) -> None:
        """Give up the look-ups under way; threads that hang are left behind."""
        self._look_ups.drop_waiting()
        for entry in self._entries.values():
            if entry.look_up is not None:
                entry.look_up.cancel()
        self._entries.clear()

    def _entry(self, host: str) -> _Entry:
        """Return the host's entry; a fresh one where it has none or was forgotten."""
        now_s = self._clock.monotonic_s()
        self._forget(before_s=now_s - FORGET_S)
        entry = self._entries.setdefault(host, _Entry())
        entry.asked_s = now_s
        self._entries.move_to_end(host)
        return entry

    def _forget(self, before_s: float) -> None:
        while self._entries:
            host, entry = next(iter(self._entries.items()))
            if entry.asked_s >= before_s:
                return
            del self._entries[host]

    def _look_up_if_due(self, host: str, entry: _Entry) -> asyncio.Future[Found] | None:
        """Return the look-up under way, a new one where it is time for it, or None."""
        is_due = not entry.addresses or entry.due_s <= self._clock.monotonic_s()
        if entry.look_up is None and is_due:
            entry.look_up = self._look_ups.start(host)
            entry.look_up.add_done_callback(partial(self._take, entry))
        return entry.look_up

    def _take(self, entry: _Entry, look_up: asyncio.Future[Found]) -> None:
        """Remember what a look-up found; those who wait for it are woken after this."""
        entry.look_up = None
        if look_up.cancelled():
            return
        found = look_up.result()
        if isinstance(found, Exception):
            entry.due_s = self._clock.monotonic_s() + RETRY_S
        else:
            entry.addresses = found
            entry.due_s = self._clock.monotonic_s() + TTL_S


class _LookUps:
    """Asks the system's resolver for a few names at once; further names wait in order."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, asyncio.Future[Found]]] = deque()
        self._n_threads = 0

    def __repr__(self) -> str:
        return f"{self._n_threads} look-ups under way, {len(self._waiting)} waiting"

    def start(self, host: str) -> asyncio.Future[Found]:
        """Return what there will be: addresses, or why there are none."""
        found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((host, found))
        self._start_threads()
        return found

    def drop_waiting(self) -> None:
        """Forget the names that no thread has taken up yet."""
        self._waiting.clear()

    def _start_threads(self) -> None:
        while self._waiting and self._n_threads < MAX_THREADS:
            host, found = self._waiting.popleft()
            thread = threading.Thread(
                target=self._run, args=(host, found), name="resolver", daemon=True
            )
            self._n_threads += 1
            try:
                thread.start()
            except RuntimeError as error:
                why = OSError(errno.EAGAIN, f"{error} (raise the limit: ulimit -u, pids.max)")
                found.get_loop().call_soon(self._hand_over, found, why)

    def _run(self, host: str, found: asyncio.Future[Found]) -> None:
        """Look one name up; runs in a thread of its own."""
        result: Found
        try:
            result = _look_up(host)
        except (OSError, ValueError) as error:
            result = error.with_traceback(None)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            found.get_loop().call_soon_threadsafe(self._hand_over, found, result)

    def _hand_over(self, found: asyncio.Future[Found], result: Found) -> None:
        self._n_threads -= 1
        self._start_threads()
        if not found.done():  # else cancelled by `close`
            found.set_result(result)


def is_address(host: str) -> bool:
    """Return whether the host is an IPv4 or IPv6 address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _unresolved(host: str, why: str | None) -> PollError:
    return PollError(Outcome.UNRESOLVED, f"cannot resolve {host}: {why}")


def _look_up(host: str) -> Addresses:
    """Ask the system's resolver; blocks for as long as that takes."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    # IPv4 first: Ollama listens on 127.0.0.1 only, while `localhost` often gives ::1 first.
    return tuple(sorted(addresses, key=_is_ipv6))[:MAX_ADDRESSES]


def _is_ipv6(address: str) -> bool:
    return ":" in address
