"""Trying, cleaning up, waiting, trying again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from provisioning.errors import (
    ContainerError,
    NodeUnreachableError,
    NotAskedError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.executor import Executor
from provisioning.lifecycle import Outcome, Result
from provisioning.model import ContainerSpec, Limits, ObservedContainer, Probe, RequestsPage, WarmUp
from provisioning.spec_index import StartRequest
from provisioning.state import KILLED_WORDS
from provisioning.workload import container_spec
from tests.provisioning.making import CHAT, found, instance, node, pool
from tests.provisioning.virtual import EPOCH_S, VirtualClock, virtual_run

LIMITS = Limits(tries=3, start_timeout_s=30.0, backoff_base_s=1.0, backoff_cap_s=30.0)
CONTAINER = container_spec("test", pool(), node(), instance())
ORDER = StartRequest("n1", CONTAINER, CHAT)
NAME = CONTAINER.name


class Scripted:
    """A runtime and prober that do what a test has written down; keeps what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.starts: list[ContainerError | Exception | None] = []
        """How the next starts end; then they go well."""
        self.removals: list[ContainerError | None] = []
        self.answers: list[str | NotAskedError] = []
        """What the next questions for health are answered; then they are answered well."""
        self.warm_ups: list[ContainerError] = []
        self.start_s = 0.0
        self.remove_s = 0.0
        self.log = ""
        self.found: tuple[ObservedContainer, ...] | None = ()
        """On the node; None: it does not answer."""

    async def start(self, container: ContainerSpec) -> None:
        self.calls.append("start")
        await VirtualClock().sleep(self.start_s)
        if self.starts and (error := self.starts.pop(0)):
            raise error

    async def remove(self, name: str, *, grace_s: float) -> None:
        self.calls.append(f"remove {name} {grace_s:g}")
        await VirtualClock().sleep(self.remove_s)
        if self.removals and (error := self.removals.pop(0)):
            raise error

    async def containers(self) -> tuple[ObservedContainer, ...]:
        if self.found is None:
            raise NodeUnreachableError("n1 does not answer")
        return self.found

    def log_of(self, instance_id: str) -> str:
        return self.log and f"{self.log}/{instance_id}.log"

    async def is_idle(self, host: str, port: int, page: RequestsPage) -> bool:
        raise NotImplementedError

    async def probe(self, host: str, port: int, probe: Probe) -> str:
        self.calls.append(f"probe {host}:{port}{probe.path}")
        answer = self.answers.pop(0) if self.answers else ""
        if isinstance(answer, NotAskedError):
            raise answer
        return answer

    async def warm_up(
        self, host: str, port: int, requests: Sequence[WarmUp], *, store: str = ""
    ) -> None:
        self.calls.append(f"warm up {len(requests)}")
        if self.warm_ups:
            raise self.warm_ups.pop(0)


def executor(
    script: Scripted,
    dice: Callable[[], float] = lambda: 1.0,
    leads: Callable[[], bool] = lambda: True,
) -> Executor:
    return Executor(lambda _: script, lambda _: script, VirtualClock(), jitter=dice, leads=leads)  # type: ignore[arg-type, return-value]


def run(work: Callable[[], Coroutine[Any, Any, Outcome]]) -> tuple[Outcome, float]:
    """Return what became of an operation, and how long it took."""

    async def scene() -> tuple[Outcome, float]:
        outcome = await work()
        return outcome, VirtualClock().monotonic_s()

    return virtual_run(scene())


def start(script: Scripted, limits: Limits = LIMITS, **arguments: Any) -> tuple[Outcome, float]:
    return run(lambda: executor(script, **arguments).start(ORDER, limits))


def test_a_start_makes_the_container_waits_for_health_and_warms_it_up() -> None:
    script = Scripted()
    script.answers = ["status 503"]

    outcome, _ = start(script)

    probe = f"probe 127.0.0.1:{CONTAINER.port}/health"
    assert ["start", probe, probe, "warm up 0"] == script.calls
    assert (Result.DONE, "", 1) == (outcome.result, outcome.fault, outcome.n_tries)


def test_what_may_go_well_the_next_time_is_cleaned_up_and_tried_again() -> None:
    script = Scripted()
    script.starts = [TransientError("bad luck"), TransientError("bad luck")]

    outcome, took_s = start(script)

    remove = f"remove {NAME} 10"
    assert ["start", remove, "start", remove, "start"] == script.calls[:5]
    assert (Result.DONE, 3) == (outcome.result, outcome.n_tries)
    assert 1.0 + 2.0 == took_s


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (PermanentError("no image"), Result.PERMANENT),
        (ResourceExhaustedError("no memory"), Result.RESOURCE_EXHAUSTED),
    ],
)
def test_what_will_not_heal_is_not_tried_again(error: ContainerError, result: Result) -> None:
    script = Scripted()
    script.starts = [error] * 3

    outcome, _ = start(script)

    assert Outcome(result, str(error), 0.0, 1) == outcome
    assert ["start", f"remove {NAME} 10"] == script.calls


def test_on_a_node_that_does_not_answer_nothing_is_cleaned_up() -> None:
    script = Scripted()
    script.starts = [NodeUnreachableError("silent")] * 3

    outcome, _ = start(script)

    assert Result.UNREACHABLE is outcome.result
    assert ["start"] * 3 == script.calls


def test_a_fault_of_ours_is_an_outcome_too(caplog: pytest.LogCaptureFixture) -> None:
    script = Scripted()
    script.starts = [ZeroDivisionError("oops")] * 3

    outcome, _ = start(script)

    assert (Result.FAILED, "ZeroDivisionError: oops") == (outcome.result, outcome.fault)
    assert "bug in an operation" in caplog.text


def test_what_is_not_healthy_in_time_is_tried_again_and_says_what_was_seen() -> None:
    script = Scripted()
    script.answers = ["status 503"] * 100_000

    outcome, took_s = start(script, Limits(tries=2, start_timeout_s=30.0))

    assert 30.0 + 1.0 + 30.0 == took_s
    assert (Result.FAILED, 2) == (outcome.result, outcome.n_tries)
    for words in (NAME, "n1", "30 s", "(limits.start_timeout)", "status 503"):
        assert words in outcome.fault


def test_what_is_not_healthy_in_time_is_reported_with_the_place_of_its_log() -> None:
    script = Scripted()
    script.answers, script.log = ["status 503"] * 100_000, "/logs"

    outcome, _ = start(script, Limits(tries=1, start_timeout_s=30.0))

    where = f"see its log, /logs/{CONTAINER.instance_id}.log on n1"
    assert outcome.fault.endswith(f"last seen: status 503; {where}")


def test_a_start_goes_on_where_it_could_not_be_asked() -> None:
    script = Scripted()
    script.answers = [NotAskedError("too many open files")]

    outcome, _ = start(script)

    assert (Result.DONE, 1) == (outcome.result, outcome.n_tries)


def test_a_runtime_that_hangs_is_given_up_after_the_same_time() -> None:
    script = Scripted()
    script.start_s = 1e6

    outcome, took_s = start(script, Limits(tries=1))

    assert 30.0 == took_s
    assert "not asked yet" in outcome.fault


def test_a_start_that_waits_in_vain_for_what_goes_on_without_it_says_for_what() -> None:
    script = Scripted()
    script.log = "/logs"

    async def held_up(container: ContainerSpec) -> None:
        try:
            await VirtualClock().sleep(1e6)
        except asyncio.CancelledError as error:
            error.add_note("its image 'llm:1' is still being brought to n1")
            raise

    script.start = held_up  # type: ignore[method-assign]

    outcome, took_s = start(script, Limits(tries=1))

    assert (Result.FAILED, 30.0) == (outcome.result, took_s)
    words = "within 30 s (limits.start_timeout); its image 'llm:1' is still being brought to n1"
    assert outcome.fault.endswith(words)


def test_health_is_looked_at_often_first_and_every_second_later() -> None:
    script = Scripted()
    script.answers = ["status 503"] * 100_000

    start(script, Limits(tries=1, start_timeout_s=30.0))

    n_asked = sum(call.startswith("probe") for call in script.calls)
    assert 30 <= n_asked <= 45


def test_a_warm_up_may_take_longer_than_a_start() -> None:
    script = Scripted()

    script.warm_up = lasting(200.0)  # type: ignore[method-assign]

    outcome, _ = start(script)

    assert (Result.DONE, 200.0) == (outcome.result, outcome.duration_s)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((found(instance(), is_out_of_memory=True),), "500; " + KILLED_WORDS),
        ((found(instance(2), is_out_of_memory=True), found(instance())), "500"),
        (None, "500"),
    ],
    ids=["this", "another", "no answer"],
)
def test_a_warm_up_that_failed_as_memory_was_short_says_so(
    found: tuple[ObservedContainer, ...] | None, words: str
) -> None:
    """Ollama's runner is killed while it loads the model; the server lives and answers 500."""
    script = Scripted()
    script.found = found
    script.warm_ups = [TransientError("the warm-up was answered with 500")]

    outcome, _ = start(script, Limits(tries=1))

    assert (Result.FAILED, f"the warm-up was answered with {words}") == (
        outcome.result,
        outcome.fault,
    )


def test_a_warm_up_that_hangs_is_a_failed_try_once_its_time_is_up() -> None:
    """As of a registry that takes the connection and never answers."""
    script = Scripted()
    script.log = "/logs"
    script.warm_up = lasting(1e6)  # type: ignore[method-assign]

    outcome, took_s = start(script, Limits(tries=2, warm_up_timeout_s=100.0))

    assert (Result.FAILED, 2, 100.0 + 1.0 + 100.0) == (outcome.result, outcome.n_tries, took_s)
    seen = "not loaded within 100 s (limits.warm_up_timeout); the pull is not answered; see its log"
    assert seen in outcome.fault


def lasting(duration_s: float) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return a warm-up that takes so long."""

    async def warm_up(host: str, port: int, requests: Sequence[WarmUp], *, store: str) -> None:
        try:
            await VirtualClock().sleep(duration_s)
        except asyncio.CancelledError as error:
            error.add_note("the pull is not answered")
            raise

    return warm_up


def test_waits_are_random_up_to_twice_as_long_each_time_and_capped() -> None:
    made = executor(Scripted(), dice=lambda: 0.5)

    waits_s = [made.backoff_s(n, LIMITS) for n in range(1, 8)]

    assert [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0] == waits_s


def test_a_clean_up_that_fails_is_reported_with_the_fault() -> None:
    script = Scripted()
    script.starts = [PermanentError("no image")]
    script.removals = [TransientError("busy")]

    outcome, _ = start(script)

    assert Result.PERMANENT is outcome.result
    assert "no image; it could not be removed either: busy" == outcome.fault


@pytest.mark.parametrize("log", ["", "/logs"])
@pytest.mark.parametrize("at_s", [EPOCH_S + 1.0, EPOCH_S + 5.0])
def test_a_container_that_was_seen_to_end_is_not_waited_for(at_s: float, log: str) -> None:
    script = Scripted()
    script.answers, script.log = ["refused"] * 100_000, log

    async def scene() -> Outcome:
        made = executor(script)
        task = asyncio.create_task(made.start(ORDER, Limits(tries=1)))
        await VirtualClock().sleep(2.0)
        made.note_ended(NAME, "its container has exited, status 1", at_s=at_s)
        return await task

    outcome, took_s = run(scene)

    assert 2.0 < took_s < 4.0
    where = f"; see its log, /logs/{CONTAINER.instance_id}.log on n1" if log else ""
    assert outcome.fault.endswith(
        f"its container has exited, status 1 before it was healthy{where}"
    )


def test_a_healthy_answer_where_the_container_has_ended_is_another_processs() -> None:
    script = Scripted()

    async def probe(host: str, port: int, probe: Probe) -> str:
        made.note_ended(NAME, "its container has exited, status 1", at_s=EPOCH_S + 1.0)
        return ""

    script.probe = probe  # type: ignore[method-assign]
    made = executor(script)

    outcome, _ = run(lambda: made.start(ORDER, LIMITS))

    assert (Result.RESOURCE_EXHAUSTED, 1) == (outcome.result, outcome.n_tries)
    seen = f"exited, status 1, but 127.0.0.1:{CONTAINER.port} answers: another process has its port"
    assert seen in outcome.fault
    assert ["start", f"remove {NAME} 10"] == script.calls


def test_an_ending_from_before_the_try_says_nothing() -> None:
    script = Scripted()
    script.answers = ["refused"] * 8

    async def scene() -> Outcome:
        made = executor(script)
        made.note_ended("another.1", "exited", at_s=EPOCH_S + 9.0)
        task = asyncio.create_task(made.start(ORDER, Limits(tries=1)))
        await asyncio.sleep(0)
        made.note_ended(NAME, "its container has exited", at_s=EPOCH_S - 1.0)
        return await task

    outcome, _ = run(scene)

    assert Result.DONE is outcome.result


def test_a_cancelled_start_leaves_everything_as_it_is() -> None:
    async def scene(after_s: float) -> list[str]:
        script = Scripted()
        script.start_s = 1.0
        script.answers = ["status 503"] * 100
        task = asyncio.create_task(executor(script).start(ORDER, LIMITS))
        await VirtualClock().sleep(after_s)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return script.calls

    for after_s in (0.0, 0.5, 2.0):
        assert not any(call.startswith("remove") for call in virtual_run(scene(after_s)))


@pytest.mark.parametrize(
    ("until_s", "expected"),
    [
        (0.0, []),
        (5.0, ["start"]),
        (5.2, ["start", "remove"]),
        (6.2, ["start", "remove", "start"]),
        (20.0, ["start", "remove", "start", "remove", "start", "remove"]),
    ],
    ids=["no try", "no clean-up", "no second try", "no second clean-up", "all"],
)
def test_who_is_not_sure_to_lead_leaves_a_start_before_its_next_act(
    until_s: float, expected: list[str]
) -> None:
    """Each try takes 5 s and fails; then it is removed in 0.5 s, and waited for 0.5 s."""
    script = Scripted()
    script.starts = [TransientError("bad luck")] * 3
    script.start_s, script.remove_s = 5.0, 0.5

    acts = acts_until(script, until_s, lambda made: made.start(ORDER, LIMITS))

    assert expected == acts


@pytest.mark.parametrize(
    ("until_s", "expected"),
    [(0.0, []), (1.0, ["remove"]), (20.0, ["remove", "remove"])],
    ids=["no try", "no second try", "all"],
)
def test_who_is_not_sure_to_lead_removes_nothing(until_s: float, expected: list[str]) -> None:
    script = Scripted()
    script.removals = [TransientError("busy")]
    script.remove_s = 1.0

    acts = acts_until(script, until_s, lambda made: made.remove("n1", NAME, LIMITS))

    assert expected == acts


def acts_until(
    script: Scripted, until_s: float, work: Callable[[Executor], Coroutine[Any, Any, Outcome]]
) -> list[str]:
    """Return what is done to the node where that is allowed until a moment."""

    async def scene() -> bool:
        made = executor(
            script, dice=lambda: 0.5, leads=lambda: VirtualClock().monotonic_s() < until_s
        )
        task = asyncio.create_task(work(made))
        await asyncio.wait({task})
        return task.cancelled()

    is_left = virtual_run(scene())

    acts = [call.split()[0] for call in script.calls]
    assert is_left == (until_s < 20.0)
    return [act for act in acts if act in {"start", "remove"}]


def test_a_removal_is_tried_again_as_well() -> None:
    script = Scripted()
    script.removals = [TransientError("busy")]

    outcome, took_s = run(lambda: executor(script).remove("n1", NAME, LIMITS))

    assert Outcome(Result.DONE, "", 1.0, 2) == outcome
    assert [f"remove {NAME} 10"] * 2 == script.calls
    assert 1.0 == took_s


def test_a_removal_that_hangs_is_given_up() -> None:
    script = Scripted()
    script.remove_s = 1e6

    outcome, took_s = run(lambda: executor(script).remove("n1", NAME, Limits(tries=1)))

    assert 40.0 == took_s
    assert Result.FAILED is outcome.result
    assert NAME in outcome.fault
