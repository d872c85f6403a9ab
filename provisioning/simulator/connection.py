"""One client connection to one simulated instance; answers in the order of the requests."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Protocol, cast

from provisioning.simulator.faults import Kind, MetricsFailure
from provisioning.simulator.fleet import ENDS_PROCESS, ActiveFault, Fleet, InstanceState
from provisioning.simulator.fleet_api import Answer, Endpoint, Page, Router, not_found
from provisioning.simulator.spec import Mode
from provisioning.simulator.wire import (
    BROKEN_METRICS,
    NO_HTTP,
    NO_JSON,
    TEXT_UTF8,
    BadRequestError,
    Request,
    RequestReader,
    Response,
    encode,
    half,
)

MAX_QUEUED_REQUESTS = 64
"""On one connection, before it is read no further."""
MAX_QUEUED_BYTES = 1024 * 1024
"""Of their bodies."""
RESET_AT_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: close sends RST."""


class Generator(Protocol):
    """What answers the requests that take time."""

    async def answer(
        self,
        request: Request,
        endpoint: Endpoint,
        state: InstanceState,
        write: Callable[[bytes], None],
    ) -> None:
        """Write the whole answer, head included."""
        ...


class ConnectionLimit(Protocol):
    """The server, as a connection sees it."""

    fleet: Fleet
    routers: Mapping[Mode, Router]
    generator: Generator

    def admit(self, connection: Connection, transport: asyncio.Transport) -> InstanceState | None:
        """Return the instance that was called, or None where nobody answers."""
        ...

    def release(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        ...


class Connection(asyncio.Protocol):
    """The server's side of a connection."""

    __slots__ = (
        "_clock",
        "_gate",
        "_is_backed_up",
        "_is_cut",
        "_is_paused",
        "_known",
        "_life_start_s",
        "_plan",
        "_queue",
        "_reader",
        "_state",
        "_task",
        "_transport",
    )

    def __init__(self, gate: ConnectionLimit) -> None:
        self._gate = gate
        self._clock = gate.fleet.clock
        self._known = b""
        """The last read, where it was nothing but plain GETs of pages."""
        self._plan: tuple[Page, ...] = ()
        """Those pages."""
        self._reader = RequestReader()
        self._queue: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_backed_up = False
        """True while the client does not read its answers."""
        self._is_paused = False
        self._is_cut = False
        """True once the instance froze in the middle of an answer."""
        self._transport: asyncio.Transport
        self._state: InstanceState
        self._life_start_s: float
        """Tells the process that accepted this connection from one started later."""

    @property
    def is_paused(self) -> bool:
        """Say whether it is read no further, as its answers do not leave or its queue is full."""
        return self._is_paused

    @property
    def _router(self) -> Router:
        return self._gate.routers[self._state.instance.mode]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Find out which instance was called; reset where nobody is."""
        self._transport = cast(asyncio.Transport, transport)
        state = self._gate.admit(self, self._transport)
        if state is None:
            self.reset()
        else:
            self._state = state
            self._life_start_s = state.life.start_s

    def data_received(self, data: bytes) -> None:
        """Answer the usual read at once, anything else in order."""
        if data == self._known and self._state.trouble is None:
            state, now_s = self._state, self._clock()
            self._transport.write(b"".join([page.render(state, now_s) for page in self._plan]))
        else:
            self._read(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop what is being answered, and keep nothing for the collector to find."""
        self._queue.clear()
        self._reader.close()
        if self._task is not None:
            self._task.cancel()
        self._gate.release(self)

    def pause_writing(self) -> None:
        """Read no more from a client that does not read its answers."""
        self._is_backed_up = True
        self._pause_or_resume()

    def resume_writing(self) -> None:
        """Read on, the client has caught up."""
        self._is_backed_up = False
        self._pause_or_resume()

    def fault_changed(self) -> None:
        """Take note that the instance's faults are other ones now."""
        trouble = self._state.trouble
        if self._has_ended(trouble):
            self.reset()
        elif _is(trouble, Kind.HANG):
            self._known = b""
            if self._task is not None:
                self._is_cut = True
                self._task.cancel()
        elif self._is_cut:
            self.reset()
        else:
            self._pump()

    def reset(self) -> None:
        """End the connection with RST, as the kernel does for a process that has died."""
        if not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            self._transport.abort()

    def _has_ended(self, trouble: ActiveFault | None) -> bool:
        """Say whether the process that accepted the connection is no more."""
        is_same_life = self._state.life.start_s == self._life_start_s
        return self._state.is_absent or not is_same_life or _is(trouble, *ENDS_PROCESS)

    def _read(self, data: bytes) -> None:
        is_whole = self._reader.is_idle and not self._queue and self._task is None
        try:
            requests = self._reader.feed(data)
        except BadRequestError as error:
            self._refuse(error)
            return
        self._known = b""
        if is_whole and self._reader.is_idle:
            self._remember(data, requests)
        self._queue.extend(requests)
        self._pump()

    def _remember(self, data: bytes, requests: list[Request]) -> None:
        """Keep what these requests are answered with, for a next read of the same bytes."""
        pages = [self._find(request)[1] for request in requests]
        if all(request.is_plain for request in requests):
            self._plan = tuple(page for page in pages if isinstance(page, Page))
            self._known = data if len(self._plan) == len(requests) else b""

    def _refuse(self, error: BadRequestError) -> None:
        refusal = Response(HTTPStatus.BAD_REQUEST, TEXT_UTF8, f"400 Bad Request: {error}".encode())
        request = Request("GET", "", "1.1", host=None, keep_alive=False)
        self._send(request, refusal)

    def _pump(self) -> None:
        """Answer what is waiting, up to a request that takes time."""
        while self._queue and self._task is None:
            trouble = self._gate.fleet.trouble_of(self._state, self._clock())
            if _is(trouble, Kind.HANG) or not self._queue:
                break
            self._answer(self._queue.popleft(), trouble)
        self._pause_or_resume()

    def _answer(self, request: Request, trouble: ActiveFault | None) -> None:
        if trouble is None:
            self._answer_well(request)
        elif trouble.fault.kind is Kind.DELAY:
            self._start(self._answer_late(request, trouble.fault.seconds))
        else:
            self._answer_badly(request, trouble)

    def _answer_well(self, request: Request, *, is_loading: bool = False) -> None:
        request, found = self._find(request, is_loading=is_loading)
        if isinstance(found, Endpoint):
            self._start(self._generate(request, found))
        else:
            self._send(request, found)

    def _find(self, request: Request, *, is_loading: bool = False) -> tuple[Request, Answer]:
        """Return what a request is answered by, and the request as it is to be answered."""
        router = self._router
        admitted = router.admit(request, self._state)
        if isinstance(admitted, Response):
            return request, admitted
        find = router.loading if is_loading else router.find
        return admitted, find(admitted, self._state)

    def _answer_badly(self, request: Request, trouble: ActiveFault) -> None:
        match trouble.fault.kind:
            case Kind.GARBAGE:
                self._send(request, NO_JSON)
            case Kind.MALFORMED:
                self._close_after(NO_HTTP)
            case Kind.CLOSE:
                _, found = self._find(request)
                whole = NO_JSON if isinstance(found, Endpoint) else self._response(found)
                self._close_after(half(request, whole, now_s=self._clock()))
            case Kind.NO_METRICS if request.path == self._router.metrics_path:
                is_broken = trouble.fault.how is MetricsFailure.BROKEN
                self._send(request, BROKEN_METRICS if is_broken else not_found())
            case Kind.LOADING | Kind.OOM_RESTART:
                self._answer_well(request, is_loading=True)
            case _:
                self._answer_well(request)

    async def _answer_late(self, request: Request, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        request, found = self._find(request)
        if isinstance(found, Endpoint):
            await self._generate(request, found)
        else:
            self._send(request, found)

    async def _generate(self, request: Request, endpoint: Endpoint) -> None:
        write = self._transport.write
        await self._gate.generator.answer(request, endpoint, self._state, write)
        if not request.keep_alive:
            self._transport.close()

    def _start(self, answering: Coroutine[None, None, None]) -> None:
        self._known = b""
        self._task = asyncio.get_running_loop().create_task(answering)
        self._task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.result()
            self._pump()

    def _send(self, request: Request, answer: Page | Response) -> None:
        data = encode(request, self._response(answer), now_s=self._clock())
        if request.keep_alive:
            self._transport.write(data)
        else:
            self._close_after(data)

    def _response(self, answer: Page | Response) -> Response:
        if isinstance(answer, Response):
            return answer
        return answer.response(self._state, self._clock())

    def _close_after(self, data: bytes) -> None:
        self._queue.clear()
        self._transport.write(data)
        self._transport.close()

    def _is_queue_full(self) -> bool:
        return (
            len(self._queue) > MAX_QUEUED_REQUESTS
            or sum(len(request.body) for request in self._queue) > MAX_QUEUED_BYTES
        )

    def _pause_or_resume(self) -> None:
        """Read only as fast as answers leave."""
        is_paused = self._is_backed_up or self._is_queue_full()
        if is_paused == self._is_paused or self._transport.is_closing():
            return
        self._is_paused = is_paused
        if is_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


def _is(trouble: ActiveFault | None, *kinds: Kind) -> bool:
    return trouble is not None and trouble.fault.kind in kinds
