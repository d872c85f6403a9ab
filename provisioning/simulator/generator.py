"""Answer what an instance's models are asked for, at the instance's speed.

In:   whole Requests. Out: whole answers, written piece by piece as the tokens come.
Every request counts in its instance's own counters, one whose client left with what was done.
A request fails at the instance's error ratio, as its believed load does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from provisioning.simulator import store
from provisioning.simulator.asking import (
    EMBEDDING,
    GENERATING,
    Ask,
    Deed,
    RefusedError,
    check_options,
    read_ask,
)
from provisioning.simulator.fleet import Fleet, InstanceState
from provisioning.simulator.generate import Answers, Work, work_for
from provisioning.simulator.golang import NS_PER_S, encode_json
from provisioning.simulator.pages import Endpoint
from provisioning.simulator.runner import LoadFailedError, Run, RunnerLostError, Runners
from provisioning.simulator.spec import Model
from provisioning.simulator.values import Counters
from provisioning.simulator.wire import JSON, NDJSON, Request, Response, chunk, encode, head

BUSY = "server busy, please try again.  maximum pending requests exceeded"
FAILED = "timed out waiting for llama runner to start"
LOST = "an error was encountered while running the model: unexpected EOF"
"""Of a runner that was killed in a stream: measured on a real server."""
KILLED = "llama runner process has terminated: signal: killed"
"""Of a runner that was killed while it loaded: Ollama's llm/server.go, and users' reports of it."""
NO_EMBEDDING = "this model does not support embeddings"
"""Of a runner whose model is not made for that; the status is measured, the words are reported."""
ERROR = HTTPStatus.INTERNAL_SERVER_ERROR
Write = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class _Call:
    """A request, and where its answer goes."""

    request: Request
    ask: Ask
    answers: Answers
    state: InstanceState
    write: Write

    def refusal(self, status: HTTPStatus, message: str) -> RefusedError:
        return RefusedError(self.answers.failure(status, message))


@dataclass(slots=True)
class _Progress:
    """How much of a Work is done."""

    work: Work
    run: Run
    n_tokens: int = 0
    is_begun: bool = False
    """True once a piece of the answer has been written."""

    def done(self) -> Counters:
        """Return what the instance's counters grow by."""
        generating_s = self.n_tokens * self.work.token_ns / NS_PER_S
        reading_s = (self.run.waited_ns + self.work.due_ns(0)) / NS_PER_S
        return Counters(
            requests=1,
            duration_s=reading_s + generating_s,
            generating_s=generating_s,
            generated_tokens=self.n_tokens,
            prompt_tokens=self.work.n_prompt_tokens,
        )


class TextGenerator:
    """What all instances' models do."""

    def __init__(self, fleet: Fleet, *, time_scale: float) -> None:
        self._fleet = fleet
        self._clock = fleet.clock
        self._runners = Runners(fleet, time_scale=time_scale)

    async def answer(
        self, request: Request, endpoint: Endpoint, state: InstanceState, write: Write
    ) -> None:
        """Write the whole answer, head included; an error of the request is an answer too."""
        try:
            ask = _read(request, endpoint)
            await self._runners.serving(state)
            await self._answer(_Call(request, ask, endpoint.answers, state, write))
        except RefusedError as refused:
            write(encode(request, refused.response, now_s=self._clock()))

    async def _answer(self, call: _Call) -> None:
        ask, models = call.ask, self._fleet.models_of(call.state)
        if ask.deed is Deed.PULL:
            self._pull(call)
            return
        model = store.find_model(models, ask, call.answers)
        if ask.deed not in GENERATING | EMBEDDING:
            self._write(call, store.respond(ask, model, models, call.state, call.answers))
            return
        check_options(ask, call.answers)
        try:
            await self._use(call, model)
        except LoadFailedError:
            self._fleet.record(call.state, Counters(requests=1, out_of_memory=1))
            raise call.refusal(ERROR, KILLED) from None

    async def _use(self, call: _Call, model: Model) -> None:
        ask = call.ask
        if ask.deed in GENERATING and not ask.prompt:
            await self._only_load(call, model)
            return
        self._admit(call)
        if ask.deed in EMBEDDING and not call.state.instance.release.embeds_with_any_model:
            await self._runners.load(call.state, model, ask.keep_alive_s)
            is_new = ask.deed is Deed.EMBED
            raise call.refusal(HTTPStatus.NOT_IMPLEMENTED if is_new else ERROR, NO_EMBEDDING)
        await self._work(call, model)

    def _admit(self, call: _Call) -> None:
        """Refuse what the queue has no place for, and the share of requests that fails."""
        state = call.state
        max_queue = state.instance.release.max_queue
        if max_queue is not None and state.n_waiting >= max_queue:
            self._fleet.record(state, Counters(requests=1, overloaded=1))
            raise call.refusal(HTTPStatus.SERVICE_UNAVAILABLE, BUSY)
        state.n_asked += 1
        ratio = state.life.error_ratio
        if int(state.n_asked * ratio) > int((state.n_asked - 1) * ratio):
            self._fleet.record(state, Counters(requests=1, timeouts=1))
            raise call.refusal(ERROR, FAILED)

    async def _only_load(self, call: _Call, model: Model) -> None:
        """Load a model, or unload it as soon as nobody uses it."""
        ask = call.ask
        if ask.keep_alive_s == 0:
            self._fleet.models_of(call.state).expire(model)
            reason = "unload"
        else:
            await self._runners.load(call.state, model, ask.keep_alive_s)
            reason = "load"
        self._write_whole(call, Work((), reason), waited_ns=0)

    async def _work(self, call: _Call, model: Model) -> None:
        state = call.state
        async with self._runners.turn(state, model, call.ask.keep_alive_s) as run:
            start_s = state.life.start_s
            work = work_for(call.ask, state.instance, state.life, cold_ns=run.cold_ns)
            progress = _Progress(work, run)
            try:
                await self._write_work(call, progress)
            except RunnerLostError:
                self._break_off(call, progress)
            finally:
                # A process that was started meanwhile has not done this work.
                if start_s == state.life.start_s:
                    self._fleet.record(state, progress.done())

    async def _write_work(self, call: _Call, progress: _Progress) -> None:
        """Answer with a Work as its time passes."""
        work, run = progress.work, progress.run
        if call.ask.is_stream and call.ask.deed in GENERATING:
            await self._stream(call, progress)
            return
        await self._runners.until(run, work.total_ns)
        progress.n_tokens = len(work.tokens)
        self._write_whole(call, work, waited_ns=run.waited_ns)

    async def _stream(self, call: _Call, progress: _Progress) -> None:
        work, run, answers = progress.work, progress.run, call.answers
        while progress.n_tokens < len(work.tokens):
            await self._runners.until(run, work.due_ns(progress.n_tokens + 1))
            text = work.tokens[progress.n_tokens]
            self._write_piece(call, progress, answers.piece(call.ask, text, now_s=self._clock()))
            progress.n_tokens += 1
        last = answers.end(call.ask, work, waited_ns=run.waited_ns, now_s=self._clock())
        self._write_piece(call, progress, last)
        self._end(call)

    def _break_off(self, call: _Call, progress: _Progress) -> None:
        """Answer with an error; in a stream that has begun it is the last piece."""
        if not progress.is_begun:
            raise call.refusal(ERROR, LOST)
        self._write_piece(call, progress, call.answers.broken(call.ask, LOST, now_s=self._clock()))
        self._end(call)

    def _pull(self, call: _Call) -> None:
        *lines, last = store.pull(call.ask, self._fleet.models_of(call.state))
        if call.ask.is_stream:
            self._write_head(call, NDJSON)
            for line in (*lines, last):
                call.write(_framed(call, encode_json(line) + b"\n"))
            self._end(call)
        else:
            status = ERROR if "error" in last else HTTPStatus.OK
            self._write(call, Response(status, JSON, encode_json(last)))

    def _write_whole(self, call: _Call, work: Work, *, waited_ns: int) -> None:
        ask, answers, now_s = call.ask, call.answers, self._clock()
        if ask.deed in EMBEDDING:
            body = answers.embedded(ask, work, waited_ns=waited_ns)
        else:
            body = answers.whole(ask, work, waited_ns=waited_ns, now_s=now_s)
        self._write(call, Response(HTTPStatus.OK, answers.whole_type, body))

    def _write(self, call: _Call, response: Response) -> None:
        call.write(encode(call.request, response, now_s=self._clock()))

    def _write_piece(self, call: _Call, progress: _Progress, piece: bytes) -> None:
        if not progress.is_begun:
            progress.is_begun = True
            self._write_head(call, call.answers.stream_type)
        call.write(_framed(call, piece))

    def _write_head(self, call: _Call, content_type: str) -> None:
        response = Response(HTTPStatus.OK, content_type, b"")
        call.write(head(call.request, response, now_s=self._clock()))

    def _end(self, call: _Call) -> None:
        if call.request.version == "1.1":
            call.write(chunk(b""))


def _read(request: Request, endpoint: Endpoint) -> Ask:
    """Read what is wanted; a GET names the model in its path."""
    answers, deed = endpoint.answers, endpoint.deed
    if request.method == "GET":
        return Ask(deed, request.path.rpartition("/")[2])
    return read_ask(request.body, deed, answers, is_openai=answers.is_openai)


def _framed(call: _Call, piece: bytes) -> bytes:
    return chunk(piece) if call.request.version == "1.1" else piece
