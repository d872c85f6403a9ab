"""The runners: processes in which models generate, one request at a time each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from weakref import WeakValueDictionary

from provisioning.simulator import ollama
from provisioning.simulator.completion import AnswerWriter, Work, cold_ns, work_for
from provisioning.simulator.endpoints import (
    EMBEDDING,
    GENERATING,
    NS_PER_S,
    ModelJob,
    Operation,
    RequestError,
    check_options,
    encode_json,
    read_job,
)
from provisioning.simulator.faults import Kind
from provisioning.simulator.fleet import Fleet, InstanceState
from provisioning.simulator.fleet_api import Endpoint
from provisioning.simulator.instance import Counters, Loaded, ModelStore, canonical
from provisioning.simulator.spec import Model
from provisioning.simulator.wire import JSON, NDJSON, Request, Response, chunk, encode, head

LOADING_KINDS = frozenset({Kind.LOADING, Kind.OOM_RESTART})
CHECK_S = 0.1
"""How often a request that waits looks whether a fault has begun or ended."""


class LoadFailedError(Exception):
    """The runner was killed while it loaded the model."""


class RunnerLostError(Exception):
    """The runner was killed while it worked."""


@dataclass(eq=False, slots=True)
class RunnerProcess:
    """One request's turn at a runner."""

    state: InstanceState
    began_s: float
    """By the loop's clock; later by the time that the runner was frozen."""
    waited_ns: int
    """Before its turn came, without what it waited for the model to be loaded."""
    cold_ns: int
    """What loading the model took, whoever had it loaded."""
    n_killed: int
    """How many runners of the instance had been killed when it began."""

    @property
    def is_frozen(self) -> bool:
        """Say whether its runner does nothing."""
        return _kind(self.state) is Kind.RUNNER_HANG


class Runners:
    """The runners of all instances."""

    def __init__(self, fleet: Fleet, *, time_scale: float) -> None:
        self._fleet = fleet
        self._clock = fleet.clock
        self._time_scale = time_scale
        self._locks: WeakValueDictionary[tuple[int, str], asyncio.Lock] = WeakValueDictionary()
        """By instance and model, for as long as a request holds it or waits for it."""

    async def serving(self, state: InstanceState) -> None:
        """Wait while an instance is loading after its start, as its own clock says."""
        while (trouble := self._fleet.trouble_of(state, self._clock())) is not None:
            if trouble.fault.kind not in LOADING_KINDS:
                break
            await _wait(CHECK_S)

    async def load(self, state: InstanceState, model: Model, keep_alive_s: float | None) -> None:
        """Have a model loaded, and let it stay for a time."""
        loaded = self._fleet.models_of(state).find_loaded(model, self._clock())
        if state.runner is not None or loaded is None:
            async with self.turn(state, model, keep_alive_s):
                return
        with loaded.using(keep_alive_s, self._clock):
            pass

    @asynccontextmanager
    async def turn(
        self, state: InstanceState, model: Model, keep_alive_s: float | None
    ) -> AsyncIterator[RunnerProcess]:
        """Wait for the requests before this one, then be the one that runs.

        Raises:
            LoadFailedError: The model cannot be loaded.
        """
        asked_s = self._loop_s()
        async with self._locked(state, model):
            await self._others_come_first(state)
            began_s = self._loop_s()
            loaded = self._fleet.models_of(state).find_loaded(model, self._clock())
            loaded_s = asked_s if loaded is None else max(asked_s, loaded.loaded_s)
            waited_ns = self._simulated_ns(began_s - loaded_s)
            load_ns = self._simulated_ns(loaded_s - asked_s)
            if loaded is None or state.runner is not None:
                loaded, took_ns = await self._load(state, model, began_s)
                load_ns += took_ns
            run = RunnerProcess(state, began_s, waited_ns, load_ns, state.n_runners_killed)
            with loaded.using(keep_alive_s, self._clock):
                yield run

    async def until(self, run: RunnerProcess, due_ns: int) -> None:
        """Wait until `due_ns` of simulated time of a turn have passed; none passes in a frozen one.

        Raises:
            RunnerLostError: The runner was killed meanwhile.
        """
        while run.n_killed == run.state.n_runners_killed:
            left_s, was_frozen = self._left_s(run.began_s, due_ns), run.is_frozen
            if left_s <= 0 and not was_frozen:
                return
            before_s = self._loop_s()
            await _wait(CHECK_S if was_frozen else left_s)
            if was_frozen:
                run.began_s += self._loop_s() - before_s
        raise RunnerLostError

    async def _load(self, state: InstanceState, model: Model, began_s: float) -> tuple[Loaded, int]:
        """Start a runner where there is none, or a bad one; return how long that took, in ns."""
        took_ns = 0
        if state.runner is not None and state.runner.fault.kind is Kind.RUNNER_HANG:
            took_ns = int(state.runner.fault.seconds * NS_PER_S)
            await self._until(began_s, took_ns)
        models, took_ns = self._fleet.models_of(state), took_ns + cold_ns(model)
        loaded = await self._reserve(state, models, model)
        try:
            await self._until(began_s, took_ns)
            if _kind(state) is Kind.RUNNER_OOM:
                raise LoadFailedError
        except BaseException:
            models.take(model)
            raise
        loaded.is_loading, loaded.loaded_s = False, self._loop_s()
        if state.runner is not None:
            self._fleet.runner_was_renewed(state)
        return loaded, took_ns

    async def _reserve(self, state: InstanceState, models: ModelStore, model: Model) -> Loaded:
        """Unload models until one more may be loaded; one that works ends its work first."""
        while (loaded := models.reserve(model, self._clock())) is None:
            victim = models.victim()
            async with self._lock_of(state, victim):
                models.take(victim)
        return loaded

    async def _others_come_first(self, state: InstanceState) -> None:
        """Wait while other clients' requests keep the runner busy, as a fault has it."""
        since_s = self._loop_s()
        while state.busy_s and (left_s := self._left_s(since_s, int(state.busy_s * NS_PER_S))) > 0:
            await _wait(left_s)

    @asynccontextmanager
    async def _locked(self, state: InstanceState, model: Model) -> AsyncIterator[None]:
        lock = self._lock_of(state, model)
        state.n_waiting += 1
        try:
            await lock.acquire()
        finally:
            state.n_waiting -= 1
        state.n_generating += 1
        try:
            yield
        finally:
            state.n_generating -= 1
            lock.release()

    def _lock_of(self, state: InstanceState, model: Model) -> asyncio.Lock:
        key = state.instance.index, canonical(model.name)
        return self._locks.setdefault(key, asyncio.Lock())

    async def _until(self, began_s: float, due_ns: int) -> None:
        while (left_s := self._left_s(began_s, due_ns)) > 0:
            await _wait(left_s)

    def _left_s(self, began_s: float, due_ns: int) -> float:
        """Return how long it takes until `due_ns` of simulated time have passed."""
        return began_s + due_ns / NS_PER_S * self._time_scale - self._loop_s()

    def _simulated_ns(self, duration_s: float) -> int:
        return int(duration_s / self._time_scale * NS_PER_S) if self._time_scale else 0

    def _loop_s(self) -> float:
        return asyncio.get_running_loop().time()


async def _wait(most_s: float) -> None:
    """Wait, though not for so long that a fault would go unseen."""
    await asyncio.sleep(min(most_s, CHECK_S))


def _kind(state: InstanceState) -> Kind | None:
    return None if state.runner is None else state.runner.fault.kind


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
    job: ModelJob
    answers: AnswerWriter
    state: InstanceState
    write: Write

    def refusal(self, status: HTTPStatus, message: str) -> RequestError:
        return RequestError(self.answers.failure(status, message))


@dataclass(slots=True)
class _Progress:
    """How much of a Work is done."""

    work: Work
    run: RunnerProcess
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
            job = _read(request, endpoint)
            await self._runners.serving(state)
            await self._answer(_Call(request, job, endpoint.answers, state, write))
        except RequestError as refused:
            write(encode(request, refused.response, now_s=self._clock()))

    async def _answer(self, call: _Call) -> None:
        job, models = call.job, self._fleet.models_of(call.state)
        if job.deed is Operation.PULL:
            self._pull(call)
            return
        model = ollama.find_model(models, job, call.answers)
        if job.deed not in GENERATING | EMBEDDING:
            self._write(call, ollama.respond(job, model, models, call.state, call.answers))
            return
        check_options(job, call.answers)
        try:
            await self._use(call, model)
        except LoadFailedError:
            self._fleet.record(call.state, Counters(requests=1, out_of_memory=1))
            raise call.refusal(ERROR, KILLED) from None

    async def _use(self, call: _Call, model: Model) -> None:
        job = call.job
        if job.deed in GENERATING and not job.prompt:
            await self._only_load(call, model)
            return
        self._admit(call)
        if job.deed in EMBEDDING and not call.state.instance.release.embeds_with_any_model:
            await self._runners.load(call.state, model, job.keep_alive_s)
            is_new = job.deed is Operation.EMBED
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
        job = call.job
        if job.keep_alive_s == 0:
            self._fleet.models_of(call.state).expire(model)
            reason = "unload"
        else:
            await self._runners.load(call.state, model, job.keep_alive_s)
            reason = "load"
        self._write_whole(call, Work((), reason), waited_ns=0)

    async def _work(self, call: _Call, model: Model) -> None:
        state = call.state
        async with self._runners.turn(state, model, call.job.keep_alive_s) as run:
            start_s = state.life.start_s
            work = work_for(call.job, state.instance, state.life, cold_ns=run.cold_ns)
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
        if call.job.is_stream and call.job.deed in GENERATING:
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
            self._write_piece(call, progress, answers.piece(call.job, text, now_s=self._clock()))
            progress.n_tokens += 1
        last = answers.end(call.job, work, waited_ns=run.waited_ns, now_s=self._clock())
        self._write_piece(call, progress, last)
        self._end(call)

    def _break_off(self, call: _Call, progress: _Progress) -> None:
        """Answer with an error; in a stream that has begun it is the last piece."""
        if not progress.is_begun:
            raise call.refusal(ERROR, LOST)
        self._write_piece(call, progress, call.answers.broken(call.job, LOST, now_s=self._clock()))
        self._end(call)

    def _pull(self, call: _Call) -> None:
        *lines, last = ollama.pull(call.job, self._fleet.models_of(call.state))
        if call.job.is_stream:
            self._write_head(call, NDJSON)
            for line in (*lines, last):
                call.write(_framed(call, encode_json(line) + b"\n"))
            self._end(call)
        else:
            status = ERROR if "error" in last else HTTPStatus.OK
            self._write(call, Response(status, JSON, encode_json(last)))

    def _write_whole(self, call: _Call, work: Work, *, waited_ns: int) -> None:
        job, answers, now_s = call.job, call.answers, self._clock()
        if job.deed in EMBEDDING:
            body = answers.embedded(job, work, waited_ns=waited_ns)
        else:
            body = answers.whole(job, work, waited_ns=waited_ns, now_s=now_s)
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


def _read(request: Request, endpoint: Endpoint) -> ModelJob:
    """Read what is wanted; a GET names the model in its path."""
    answers, deed = endpoint.answers, endpoint.deed
    if request.method == "GET":
        return ModelJob(deed, request.path.rpartition("/")[2])
    return read_job(request.body, deed, answers, is_openai=answers.is_openai)


def _framed(call: _Call, piece: bytes) -> bytes:
    return chunk(piece) if call.request.version == "1.1" else piece
