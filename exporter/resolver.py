"""Resolve host names, once for all instances of a host.

The system's resolver may hang for longer than the process has to end, so it is called in daemon
threads. c-ares would need none, but does not know mDNS and other modules of nsswitch.conf.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import zlib
from collections import OrderedDict, deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from exporter.errors import PollError
from exporter.model import Outcome

if TYPE_CHECKING:
    from ollama_fleet.clock import Clock


Addresses = tuple[str, ...]
Found = Addresses | str
"""A failure is handed on in words: a future that raises it is held by the failure's own frames,
and such a ring waits for the garbage collector, which hardly ever comes."""

TTL_S = 60.0
"""When addresses are looked up again; the system's resolver does not tell a record's own time."""
RETRY_S = 5.0
"""When a host is looked up again after that failed once; then in ever longer steps."""
MAX_RETRY_S = 40.0
"""The longest step. With what `retry_s` adds, a host that comes back is found within a minute."""
FORGET_S = 10 * TTL_S
"""After how long a host that nobody asked for is forgotten."""
MAX_ADDRESSES = 8
MAX_THREADS = 512
"""Look-ups at once of hosts that are new, or were found last time. Most take milliseconds; one that
hangs keeps a thread (some 50 kB) for as long as the timeouts in resolv.conf let it."""
MAX_RETRY_THREADS = 64
"""Look-ups at once of hosts that were not found last time: others never wait behind those."""
STARTS_AT_ONCE = 8
"""Threads started before the event loop turns: a start takes up to a millisecond."""


@dataclass(slots=True)
class _Entry:
    """What is known of one host."""

    addresses: Addresses = ()
    """Empty until a look-up has succeeded."""
    failure: str = ""
    """Why the last look-up found none."""
    n_failures: int = 0
    """Since one found some."""
    due_s: float = float("-inf")
    """When it is to be looked up next."""
    asked_s: float = 0.0
    look_up: asyncio.Future[Found] | None = None
    """The one under way."""


class Resolver:
    """Resolves host names and remembers their addresses.

    Thousands of instances live on a few hosts: one look-up serves all of a host's, also the ones
    that ask while it is under way. Addresses older than a minute are looked up again while the old
    ones stay in use, until the new ones are there: a name server that fails takes no host away.
    In the same way a host that was not found counts as such until a look-up finds it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        """The host that was asked for longest ago comes first."""
        self._look_ups = _LookUps(MAX_THREADS)
        self._retries = _LookUps(MAX_RETRY_THREADS)

    def __repr__(self) -> str:
        n_hosts = len(self._entries)
        return f"<Resolver: {n_hosts} hosts known, {self._look_ups!r}; retries: {self._retries!r}>"

    async def resolve(self, host: str, deadline_s: float) -> Addresses:
        """Return one to eight addresses of a host that is given by name, IPv4 first.

        Args:
            host: A name; an address is returned as it is.
            deadline_s: On the event loop's clock.

        Raises:
            PollError: UNRESOLVED, where the name has no address or none was found in time; at once
                where the last look-up found none.
        """
        entry = self._entry(host)
        look_up = self._look_up_if_due(host, entry)
        if entry.addresses:
            return entry.addresses
        if look_up is None or entry.failure:
            raise _unresolved(host, entry.failure)
        try:
            async with asyncio.timeout_at(deadline_s):
                # One poll that runs out of time must not end the look-up for the others.
                found = await asyncio.shield(look_up)
        except TimeoutError as error:
            raise _unresolved(host, "the system's resolver gave no answer in time") from error
        if isinstance(found, str):
            raise _unresolved(host, found)
        return found

    def known(self, host: str) -> str | None:
        """Return the address that polls use now; None, and look it up, where none is known."""
        entry = self._entry(host)
        self._look_up_if_due(host, entry)
        return entry.addresses[0] if entry.addresses else None

    async def close(self) -> None:
        """Give up the look-ups under way; threads that hang are left behind."""
        self._look_ups.drop_waiting()
        self._retries.drop_waiting()
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
        if entry.look_up is None and entry.due_s <= self._clock.monotonic_s():
            look_ups = self._retries if entry.failure else self._look_ups
            entry.look_up = look_ups.start(host)
            entry.look_up.add_done_callback(partial(self._take, host, entry))
        return entry.look_up

    def _take(self, host: str, entry: _Entry, look_up: asyncio.Future[Found]) -> None:
        """Remember what a look-up found; those who wait for it are woken after this."""
        entry.look_up = None
        if look_up.cancelled():
            return
        found = look_up.result()
        if isinstance(found, str):
            entry.failure, entry.n_failures = found, entry.n_failures + 1
            wait_s = retry_s(host, entry.n_failures)
        else:
            entry.addresses, entry.failure, entry.n_failures = found, "", 0
            wait_s = TTL_S
        entry.due_s = self._clock.monotonic_s() + wait_s


def retry_s(host: str, n_failures: int) -> float:
    """Return after how long to look a host up again after n failed look-ups in a row.

    Up to a half is added, so that many hosts do not come all at once. How much comes from the name,
    not from a dice roll, as the phases of polls do.
    """
    share = zlib.crc32(f"{n_failures} {host}".encode()) / 2**32
    doublings = min(n_failures - 1, 10)
    return min(RETRY_S * 2.0**doublings, MAX_RETRY_S) * (1.0 + 0.5 * share)


class _LookUps:
    """Asks the system's resolver for some names at once; further names wait in order."""

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._waiting: deque[tuple[str, asyncio.Future[Found]]] = deque()
        self._n_threads = 0
        self._is_starting = False

    def __repr__(self) -> str:
        return f"{self._n_threads} look-ups under way, {len(self._waiting)} waiting"

    def start(self, host: str) -> asyncio.Future[Found]:
        """Return what there will be: addresses, or why there are none."""
        found: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((host, found))
        self._start_soon()
        return found

    def drop_waiting(self) -> None:
        """Forget the names that no thread has taken up yet."""
        self._waiting.clear()

    def _start_soon(self) -> None:
        if not self._is_starting and self._waiting and self._n_threads < self._max_threads:
            self._is_starting = True
            asyncio.get_running_loop().call_soon(self._start_some)

    def _start_some(self) -> None:
        self._is_starting = False
        for _ in range(
            min(STARTS_AT_ONCE, len(self._waiting), self._max_threads - self._n_threads)
        ):
            self._start_thread(*self._waiting.popleft())
        self._start_soon()

    def _start_thread(self, host: str, found: asyncio.Future[Found]) -> None:
        thread = threading.Thread(
            target=self._run, args=(host, found), name="resolver", daemon=True
        )
        self._n_threads += 1
        try:
            thread.start()
        except RuntimeError as error:
            why = f"{error} (raise the limit: ulimit -u, pids.max)"
            found.get_loop().call_soon(self._hand_over, found, why)

    def _run(self, host: str, found: asyncio.Future[Found]) -> None:
        """Look one name up; runs in a thread of its own."""
        result: Found
        try:
            result = _look_up(host)
        except OSError as error:
            result = error.strerror or str(error)
        except ValueError as error:  # such as a label that is empty or longer than 63 characters
            result = str(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            found.get_loop().call_soon_threadsafe(self._hand_over, found, result)

    def _hand_over(self, found: asyncio.Future[Found], result: Found) -> None:
        self._n_threads -= 1
        self._start_soon()
        if not found.done():  # else cancelled by `close`
            found.set_result(result)


def _unresolved(host: str, why: str) -> PollError:
    return PollError(Outcome.UNRESOLVED, f"cannot resolve {host}: {why}")


def _look_up(host: str) -> Addresses:
    """Ask the system's resolver; blocks for as long as that takes."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(str(address[0]) for *_, address in found)
    # IPv4 first: Ollama listens on 127.0.0.1 only, while `localhost` often gives ::1 first.
    return tuple(sorted(addresses, key=_is_ipv6))[:MAX_ADDRESSES]


def _is_ipv6(address: str) -> bool:
    return ":" in address
