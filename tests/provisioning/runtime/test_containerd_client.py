"""How we talk to a daemon, and what its lists and refusals mean."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.message import Message

from ollama_fleet.clock import Clock
from provisioning.errors import (
    ContainerError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.model import ContainerState, ObservedContainer
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd import containers
from provisioning.runtime.containerd.client import RefusedError, meaning_of
from provisioning.runtime.containerd.runtime import Events
from tests.provisioning.runtime.test_oci_spec import CONTAINER

ACTIVE, COMMITTED = 2, 3


def record(name: str, **labels: str) -> messages.Container:
    return messages.Container(
        id=name, labels={f"ollama-fleet/{key}": labels[key] for key in labels}
    )


def snapshot(name: str, kind: int, fleet: str = "llms") -> messages.Snapshot:
    return messages.Snapshot(name=name, kind=kind, labels={containers.FLEET: fleet})


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (3, 3), (128, 128), (137, -9)])
def test_a_signal_is_a_negative_status(status: int, expected: int) -> None:
    assert expected == containers.exit_status(status)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (messages.CREATED, ContainerState.CREATED),
        (messages.RUNNING, ContainerState.RUNNING),
        (messages.PAUSED, ContainerState.RUNNING),
        (messages.STOPPED, ContainerState.EXITED),
        (messages.UNKNOWN, ContainerState.RUNNING),
    ],
)
def test_a_tasks_state_is_the_containers(status: messages.Status, expected: ContainerState) -> None:
    ours = record("pool-7.2", fleet="llms", instance="pool-7", generation="2")
    task = messages.Task(id="pool-7.2", status=status, exit_status=3)

    (found,) = containers.found_containers("llms", [ours], [task], [])

    assert expected == found.state
    assert (3 if expected is ContainerState.EXITED else None) == found.exit_status


def test_whatever_is_left_of_a_container_is_found() -> None:
    records = [
        record("a.1", fleet="llms"),
        record("other.1", fleet="others"),
        record("stranger"),
    ]
    tasks = [
        messages.Task(id="b.1", status=messages.RUNNING),
        messages.Task(id="stranger", status=messages.RUNNING),
    ]
    snapshots = [
        snapshot("c.1", ACTIVE),
        snapshot("d.1", COMMITTED),
        snapshot("e.1", ACTIVE, fleet="others"),
        snapshot("a.1", ACTIVE),
    ]

    found = containers.found_containers("llms", records, tasks, snapshots)

    assert (
        ObservedContainer("a.1", "a", 1, ContainerState.EXITED),
        ObservedContainer("b.1", "b", 1, ContainerState.RUNNING),
        ObservedContainer("c.1", "c", 1, ContainerState.CREATED),
    ) == found


@pytest.mark.parametrize(
    ("kind", "figures"),
    [
        ("v1", messages.MetricsOfV1(memory_oom_control=messages.OomControl(oom_kill=3))),
        ("v2", messages.MetricsOfV2(memory_events=messages.MemoryEvents(oom_kill=3))),
    ],
)
def test_kills_are_counted_by_both_versions_of_cgroups(kind: str, figures: Message) -> None:
    data = api.wrapped(f"io.containerd.cgroups.{kind}.Metrics", figures)

    assert 3 == containers.oom_kills(messages.Metric(id="a.1", data=data))


class Sleeps(Clock):
    """A clock that notes how long is slept, and that ends it all at the twelfth time."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []

    async def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        if len(self.slept_s) == 12:
            raise asyncio.CancelledError

    def monotonic_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return 0.0


class Ending:
    """A daemon that has nothing to tell."""

    endpoint = "unix:///nowhere"

    @contextlib.asynccontextmanager
    async def begun(self, *_: object) -> AsyncIterator[AsyncIterator[messages.Envelope]]:
        yield self._nothing()

    async def _nothing(self) -> AsyncIterator[messages.Envelope]:
        nothing: tuple[messages.Envelope, ...] = ()
        for envelope in nothing:
            yield envelope


async def test_a_daemon_that_is_down_is_asked_ever_more_seldom_until_it_has_been_back() -> None:
    clock, n_tries = Sleeps(), 0

    async def look() -> None:
        nonlocal n_tries
        n_tries += 1
        if n_tries != 10:
            raise TransientError("down")

    async def heard(topic: str, name: str) -> None: ...

    daemon: Any = Ending()
    events = Events(daemon, "lab", clock, look=look, heard=heard)
    events.listen()
    assert events._listening is not None
    await asyncio.wait([events._listening])

    down_s = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert [*down_s, 0.1, 0.2, 0.4] == clock.slept_s


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ("failed to write: No space left on device", ResourceExhaustedError),
        ("OCI runtime create failed: fork: Cannot allocate memory", ResourceExhaustedError),
        ("OCI runtime create failed: exec `serve`: No such file or directory", PermanentError),
        ("parent snapshot sha256:1 does not exist: not found", PermanentError),
        ("OCI runtime create failed: the shim went away", TransientError),
        (
            "OCI runtime create failed: creating cgroup directory "
            "`/sys/fs/cgroup/pids/ollama-fleet.n1/lab.pool-1.1`: No such file or directory",
            TransientError,
        ),
        ("lease not found", TransientError),
        ("OCI runtime create failed: mount_setattr `/x`: Function not implemented", PermanentError),
    ],
)
def test_a_refusal_is_taken_for_what_the_caller_can_do(
    details: str, kind: type[ContainerError]
) -> None:
    error = RefusedError("Create on n1", grpc.StatusCode.UNKNOWN, details)

    assert kind is type(meaning_of(CONTAINER, error))


def test_a_kernel_that_cannot_keep_a_mount_read_only_is_told_of_and_never_got_round() -> None:
    details = "OCI runtime create failed: mount_setattr `/models`: Function not implemented"
    error = RefusedError("Create on n1", grpc.StatusCode.UNKNOWN, details)
    bare = msgspec.structs.replace(CONTAINER, mounts=())

    assert "from Linux 5.12 on" in str(meaning_of(CONTAINER, error))
    assert TransientError is type(meaning_of(bare, error))
