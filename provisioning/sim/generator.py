"""Answer requests to generate text, one at a time per instance, at the instance's speed.

In:   whole Requests. Out: whole answers, written piece by piece as the tokens come.
Every request counts in its instance's own counters, one whose client left with what was done.
A request fails at the instance's error ratio, as its believed load does.
`time_scale` stretches the waiting, never the numbers: they are the simulated instance's.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from provisioning.sim.fleet import Fleet, InstanceState
from provisioning.sim.generate import (
    CHAT_PATH,
    GENERATE_PATH,
    NS_PER_S,
    Ask,
    RefusedError,
    Work,
    last_line,
    load_line,
    piece_line,
    read_ask,
    work_for,
)
from provisioning.sim.values import Counters
from provisioning.sim.wire import JSON_UTF8, NDJSON, Request, Response, chunk, encode, head

BUSY = "server busy, please try again.  maximum pending requests exceeded"
FAILED = "timed out waiting for llama runner to start"
Write = Callable[[bytes], None]


class TextGenerator:
    """All instances' generating."""

    def __init__(self, fleet: Fleet, *, time_scale: float) -> None:
        self._fleet = fleet
        self._clock = fleet.clock
        self._time_scale = time_scale
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def takes(self, request: Request) -> bool:
        """Say whether the request is one to generate text."""
        return request.method == "POST" and request.path in {GENERATE_PATH, CHAT_PATH}

    async def answer(self, request: Request, state: InstanceState, write: Write) -> None:
        """Write the whole answer, head included; an error of the request is an answer too."""
        try:
            ask = read_ask(request, state.instance)
            if ask.prompt:
                self._admit(state)
                await self._work(request, ask, state, write)
            else:
                self._write_whole(request, load_line(ask, now_s=self._clock()), write)
        except RefusedError as refused:
            write(encode(request, refused.response, now_s=self._clock()))

    def _admit(self, state: InstanceState) -> None:
        """Refuse what the queue has no place for, and the share of requests that fails."""
        max_queue = state.instance.release.max_queue
        if max_queue is not None and state.n_waiting >= max_queue:
            self._fleet.record(state, Counters(requests=1, overloaded=1))
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, BUSY)
        state.n_asked += 1
        ratio = state.life.error_ratio
        if int(state.n_asked * ratio) > int((state.n_asked - 1) * ratio):
            self._fleet.record(state, Counters(requests=1, timeouts=1))
            raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, FAILED)

    async def _work(self, request: Request, ask: Ask, state: InstanceState, write: Write) -> None:
        asked_s = self._loop_s()
        async with self._turn(state):
            work = work_for(ask, state.instance, state.life)
            start_s = state.life.start_s
            waited_ns = self._simulated_ns(self._loop_s() - asked_s)
            progress = _Progress(work)
            try:
                if ask.is_stream:
                    await self._stream(request, ask, progress, waited_ns, write)
                else:
                    await self._whole(request, ask, progress, waited_ns, write)
            finally:
                # A process that was started meanwhile has not done this work.
                if start_s == state.life.start_s:
                    self._fleet.record(state, progress.done(waited_ns))

    async def _stream(
        self, request: Request, ask: Ask, progress: _Progress, waited_ns: int, write: Write
    ) -> None:
        work, began_s = progress.work, self._loop_s()
        frame = chunk if request.version == "1.1" else bytes
        response = Response(HTTPStatus.OK, NDJSON, b"")
        write(head(request, response, now_s=self._clock()))
        for token in work.tokens:
            due_ns = work.first_token_ns + progress.n_tokens * work.token_ns
            await self._until(began_s, due_ns)
            write(frame(piece_line(ask, token, now_s=self._clock()) + b"\n"))
            progress.n_tokens += 1
        last = last_line(ask, work, "", waited_ns=waited_ns, now_s=self._clock())
        write(frame(last + b"\n"))
        if request.version == "1.1":
            write(chunk(b""))

    async def _whole(
        self, request: Request, ask: Ask, progress: _Progress, waited_ns: int, write: Write
    ) -> None:
        work = progress.work
        await self._until(self._loop_s(), work.total_ns)
        progress.n_tokens = len(work.tokens)
        text = "".join(work.tokens)
        line = last_line(ask, work, text, waited_ns=waited_ns, now_s=self._clock())
        self._write_whole(request, line, write)

    def _write_whole(self, request: Request, line: bytes, write: Write) -> None:
        write(encode(request, Response(HTTPStatus.OK, JSON_UTF8, line), now_s=self._clock()))

    @asynccontextmanager
    async def _turn(self, state: InstanceState) -> AsyncIterator[None]:
        """Wait for the requests before this one, then be the one that runs."""
        turn = self._turns[state.instance.index]
        state.n_waiting += 1
        try:
            await turn.acquire()
        finally:
            state.n_waiting -= 1
        state.n_generating += 1
        try:
            yield
        finally:
            state.n_generating -= 1
            turn.release()

    async def _until(self, began_s: float, due_ns: int) -> None:
        """Wait until so much simulated time has passed since `began_s`."""
        left_s = began_s + due_ns / NS_PER_S * self._time_scale - self._loop_s()
        if left_s > 0:
            await asyncio.sleep(left_s)

    def _simulated_ns(self, duration_s: float) -> int:
        return int(duration_s / self._time_scale * NS_PER_S) if self._time_scale else 0

    def _loop_s(self) -> float:
        return asyncio.get_running_loop().time()


class _Progress:
    """How much of a Work is done."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.n_tokens = 0

    def done(self, waited_ns: int) -> Counters:
        """Return what the instance's counters grow by."""
        generating_s = self.n_tokens * self.work.token_ns / NS_PER_S
        reading_s = (waited_ns + self.work.load_ns + self.work.prompt_ns) / NS_PER_S
        return Counters(
            requests=1,
            duration_s=reading_s + generating_s,
            generating_s=generating_s,
            generated_tokens=self.n_tokens,
            prompt_tokens=self.work.n_prompt_tokens,
        )
