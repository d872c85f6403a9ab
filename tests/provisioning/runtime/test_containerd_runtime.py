"""Containers keep the promises of every runtime; and what is special about them.

On a real containerd with a real crun.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from provisioning.errors import (
    NodeUnreachableError,
    PermanentError,
    TransientError,
)
from provisioning.model import ContainerSpec, ContainerState, ObservedContainer
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd.client import Daemon
from provisioning.runtime.containerd.containers import Settings
from provisioning.runtime.containerd.runtime import ContainerdRuntime, namespace_of
from tests.containerd import is_second_version, running_containerd
from tests.provisioning.runtime.containers import READY, ContainerdLab, Line
from tests.provisioning.runtime.contract import (
    FLEET,
    Behaviour,
    Lab,
    RuntimeContract,
    has_exited,
    running,
)
from tests.waiting import eventually

LIMITS_OF_FIRST_VERSION = {
    "memory.limit_in_bytes": str(32 * 2**20),
    "memory.memsw.limit_in_bytes": str(32 * 2**20),
    "cpu.cfs_quota_us": "50000",
    "cpu.cfs_period_us": "100000",
    "cpu.shares": "512",
}
LIMITS_OF_SECOND_VERSION = {
    "memory.max": str(32 * 2**20),
    "cpu.max": "50000 100000",
}
END = "the-end"
SECRET = "s3cret"  # noqa: S105 # of this test alone


@pytest.fixture
def lab(containerd_lab: ContainerdLab) -> ContainerdLab:
    return containerd_lab


@pytest.fixture
async def second_lab(tmp_path: Path, busybox: Path) -> AsyncIterator[ContainerdLab]:
    """Another node of the same fleet."""
    with running_containerd(tmp_path / "second") as daemon:
        lab = ContainerdLab(daemon, busybox, node="node-2")
        await lab.prepare(FLEET)
        yield lab
        await lab.close()


class TestContainerdRuntime(RuntimeContract):
    """Containers keep the promises of every runtime."""

    async def test_a_container_that_ends_when_asked_is_removed_long_before_the_grace_is_over(
        self, lab: Lab
    ) -> None:
        """Process 1 of a container is asked in vain before it handles the signal."""
        assert isinstance(lab, ContainerdLab)
        runtime, container = lab.open(), lab.container()
        await runtime.start(container)
        await eventually(lambda: lab.is_ready(container))

        async with asyncio.timeout(100):
            await runtime.remove(container.name, grace_s=3600)

        assert () == await runtime.containers()


def running_command(lab: ContainerdLab, *command: str, **changes: Any) -> ContainerSpec:
    return msgspec.structs.replace(lab.container(), command=command, **changes)


async def output(
    lab: ContainerdLab, container: ContainerSpec, settings: Settings | None = None
) -> str:
    """Return all that a container's command writes; see `ContainerdLab.said` for why it stays."""
    runtime = lab.open(settings=settings)
    command = ("sh", "-c", f'"$@"; echo {END}; exec sleep 1000', "sh", *container.command)
    await runtime.start(msgspec.structs.replace(container, command=command))
    await eventually(lambda: END in lab.said(container))
    await runtime.remove(container.name, grace_s=0.1)
    return lab.said(container).removesuffix(f"{END}\n")


async def one(runtime: ContainerdRuntime) -> ObservedContainer:
    (found,) = await runtime.containers()
    return found


async def test_a_container_has_the_containers_limits(lab: ContainerdLab) -> None:
    container = msgspec.structs.replace(lab.container(), cpus=0.5, memory_bytes=32 * 2**20)
    await lab.open().start(container)

    expected = LIMITS_OF_SECOND_VERSION if is_second_version() else LIMITS_OF_FIRST_VERSION
    seen = {name: limit(lab, container, name) for name in expected}

    assert expected == seen


def limit(lab: ContainerdLab, container: ContainerSpec, name: str) -> str:
    """Return what the kernel has of a container's limits."""
    group = lab.containerd.group(f"{FLEET}.{container.name}", name.partition(".")[0])
    return (group / name).read_text().strip()


async def test_nothing_is_left_on_the_machine_of_a_removed_container(lab: ContainerdLab) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    pid = await lab.pid(container)
    await eventually(lambda: 1 == len(lab.containerd.shims()))

    await runtime.remove(container.name, grace_s=0.1)

    assert not Path(f"/proc/{pid}").exists()
    await eventually(lambda: [] == lab.containerd.shims())
    left = [group.name for group in lab.containerd.groups()]
    assert {lab.containerd.cgroup} >= set(left)
    assert [] == list((lab.containerd.folder / "runtime").glob("*/*"))
    daemon = lab.daemon()
    snapshots = daemon.stream(
        api.LIST_SNAPSHOTS,
        messages.ListSnapshotsRequest(snapshotter="overlayfs"),
        deadline_s=100.0,
    )
    kinds = [snapshot.kind async for reply in snapshots for snapshot in reply.info]
    assert {3} == set(kinds)  # the image's layers alone
    await daemon.close()


async def test_a_container_has_no_privileges_and_nothing_of_the_nodes_processes(
    lab: ContainerdLab,
) -> None:
    script = "cat /proc/self/status; ls -d /proc/[0-9]*; id -u"
    text = await output(lab, running_command(lab, "sh", "-c", script))

    assert "CapEff:\t0000000000000000" in text
    assert "CapBnd:\t0000000000000000" in text
    assert "NoNewPrivs:\t1" in text
    assert text.count("/proc/") <= 3


async def test_a_mount_is_seen_and_cannot_be_written(lab: ContainerdLab, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("weights")
    script = "cat /models/model; touch /models/new || echo refused; touch /own && echo own"

    text = await output(
        lab, running_command(lab, "sh", "-c", script, mounts=((str(tmp_path), "/models"),))
    )

    assert "weights" in text
    assert "refused" in text
    assert "own" in text
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("program", ["crun", "runc"])
async def test_what_is_mounted_below_a_mount_cannot_be_written_either(
    lab: ContainerdLab, tmp_path: Path, program: str
) -> None:
    below = tmp_path / "below"
    below.mkdir()
    await lab.containerd.mount_memory(below)
    settings = msgspec.structs.replace(
        lab.containerd.settings, runtime=str(lab.containerd.binaries / program)
    )
    script = "ls -d /models/below; touch /models/below/new || echo refused"

    text = await output(
        lab,
        running_command(lab, "sh", "-c", script, mounts=((str(tmp_path), "/models"),)),
        settings,
    )

    assert "/models/below" in text
    assert "refused" in text


async def test_no_secret_is_on_a_command_line_or_in_a_label(lab: ContainerdLab) -> None:
    container = msgspec.structs.replace(lab.container(), environment=(("TOKEN", SECRET),))
    await lab.open().start(container)

    command_lines = [path for path in Path("/proc").glob("[0-9]*/cmdline") if holds_secret(path)]

    assert [] == command_lines


def holds_secret(path: Path) -> bool:
    try:
        return f"TOKEN={SECRET}".encode() in path.read_bytes()
    except OSError:
        return False


async def test_the_log_outlives_the_container_until_the_next_one_of_its_instance(
    lab: ContainerdLab,
) -> None:
    # It goes on: the shim waits two seconds at most for the last words of one that has ended.
    command = "echo out; echo err >&2; exec sleep 1000"
    runtime, container = lab.open(), running_command(lab, "sh", "-c", command)
    await runtime.start(container)
    await eventually(lambda: ["err", "out"] == written(lab, container))

    await runtime.remove(container.name, grace_s=0.1)
    assert ["err", "out"] == written(lab, container)

    await runtime.start(lab.container())
    await eventually(lambda: lab.is_ready(container))
    assert "ready\n" == lab.log(container).read_text()


def written(lab: ContainerdLab, container: ContainerSpec) -> list[str]:
    """Return the words in a container's log, sorted, as its streams follow no order."""
    log = lab.log(container)
    return sorted(log.read_text().split()) if log.exists() else []


async def test_a_cgroup_that_containerd_has_forgotten_is_removed_and_no_other(
    lab: ContainerdLab,
) -> None:
    """As it stays behind where containerd is killed while a container begins or ends."""
    runtime, container, ended = lab.open(), lab.container(), lab.container(Behaviour.ENDS, number=2)
    for started in (container, ended):
        await runtime.start(started)
    await eventually(lambda: has_exited(runtime, ended))
    node = next(iter(Path("/sys/fs/cgroup").glob(f"**/{lab.containerd.cgroup}")))
    recorded = {f"{one.fleet}.{one.name}" for one in (container, ended)}
    forgotten, foreign = node / f"{container.fleet}.gone.1", node / "another-fleet.gone.1"
    forgotten.mkdir()
    foreign.mkdir()

    await runtime.containers()

    assert {*recorded, foreign.name} == {path.name for path in node.glob("*/")}
    foreign.rmdir()


async def test_out_of_memory_is_known_to_later_provisioners_and_forgotten_at_the_next_start(
    lab: ContainerdLab,
) -> None:
    first, container = lab.open(), lab.container(Behaviour.EATS_MEMORY)
    await first.start(container)
    await eventually(lambda: has_exited(first, container))

    async def is_marked() -> bool:
        return (await one(first)).is_out_of_memory

    await eventually(is_marked)
    second = lab.open()
    assert (await one(second)).is_out_of_memory

    await second.start(lab.container(Behaviour.ENDS))
    await eventually(lambda: has_exited(second, container))
    assert not (await one(second)).is_out_of_memory


async def test_a_container_is_given_the_grace_to_end_what_it_has_begun(lab: ContainerdLab) -> None:
    script = f"trap 'sleep 0.5; echo {END}; sleep 1000' TERM; while :; do echo up; sleep 0.05; done"
    runtime, container = lab.open(), running_command(lab, "sh", "-c", script)
    await runtime.start(container)
    await eventually(lambda: "up" in lab.said(container))

    removing = asyncio.create_task(runtime.remove(container.name, grace_s=600.0))

    await eventually(lambda: END in lab.said(container))
    assert not removing.done()
    await lab.kill(container)
    await removing
    assert () == await runtime.containers()


@pytest.mark.parametrize("n_calls", [1, 2, 3])
async def test_a_start_that_breaks_off_after_any_call_leaves_what_is_found_and_removed(
    lab: ContainerdLab, n_calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the snapshot, after the record, after the task."""
    broken, container = lab.open(), lab.container()
    making = (api.PREPARE_SNAPSHOT, api.CREATE_CONTAINER, api.CREATE_TASK, api.START_TASK)
    call = Daemon.call

    async def call_or_die(daemon: Daemon, method: Any, *arguments: Any, **options: Any) -> Any:
        if method is making[n_calls]:
            raise TransientError("the provisioner dies here")
        return await call(daemon, method, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Daemon, "call", call_or_die)
        with pytest.raises(TransientError, match="dies here"):
            await broken.start(container)
    runtime = lab.open()

    expected = {1: ContainerState.CREATED, 2: ContainerState.EXITED, 3: ContainerState.CREATED}
    found = await one(runtime)
    assert (container.name, expected[n_calls]) == (found.name, found.state)
    assert ("pool-1", 1, None) == (found.instance_id, found.generation, found.exit_status)

    await runtime.remove(container.name, grace_s=0.1)
    assert () == await runtime.containers()
    await runtime.start(container)
    assert (running(container),) == await runtime.containers()


async def test_garbage_is_collected_around_a_container_that_is_being_made(
    lab: ContainerdLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot has no record yet, which would make it garbage."""
    runtime, container = lab.open(), lab.container()
    call = Daemon.call

    async def collect_first(daemon: Daemon, method: Any, *arguments: Any, **options: Any) -> Any:
        if method is api.CREATE_CONTAINER:
            await lab.containerd.collect_garbage(namespace_of(FLEET))
        return await call(daemon, method, *arguments, **options)

    monkeypatch.setattr(Daemon, "call", collect_first)
    await runtime.start(container)

    assert (running(container),) == await runtime.containers()


async def test_a_container_without_the_fleets_label_is_left_alone(lab: ContainerdLab) -> None:
    """Somebody made it by hand, in the fleet's namespace."""
    runtime, daemon = lab.open(), lab.daemon()
    foreign = messages.Container(
        id="foreign",
        runtime=messages.Runtime(name="io.containerd.runc.v2"),
        spec=api.wrapped(api.SPEC_TYPE, b"{}"),
    )
    await daemon.call(api.CREATE_CONTAINER, messages.CreateContainerRequest(container=foreign))

    assert () == await runtime.containers()
    await runtime.remove("foreign", grace_s=0.1)

    await daemon.call(api.GET_CONTAINER, messages.ContainerId(id="foreign"))
    await daemon.call(api.DELETE_CONTAINER, messages.ContainerId(id="foreign"))
    await daemon.close()


async def test_a_task_whose_record_somebody_deleted_is_found_and_removed(
    lab: ContainerdLab,
) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    daemon = lab.daemon()
    await daemon.call(api.DELETE_CONTAINER, messages.ContainerId(id=container.name))
    await daemon.close()

    assert (running(container),) == await runtime.containers()
    await runtime.remove(container.name, grace_s=0.1)

    assert () == await runtime.containers()
    await eventually(lambda: [] == lab.containerd.shims())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "nowhere:1"}, "import an archive"),
        ({"image": "Not A Name"}, "Not A Name"),
        ({"command": ("/bin",)}, "cannot start"),
        ({"command": ()}, "says what to run"),
        ({"mounts": (("/nonexistent/models", "/models"),)}, "/nonexistent/models"),
        ({"mounts": (("relative", "/models"),)}, "slash"),
        ({"environment": (("A=B", SECRET),)}, "A=B"),
        ({"environment": (("A", f"{SECRET}\0"),)}, "'A'"),
        ({"name": "not a name.1"}, "not a name"),
        ({"name": "x" * 80}, "x"),
    ],
)
async def test_what_can_never_run_is_refused_for_good_without_telling_secrets(
    lab: ContainerdLab, change: dict[str, object], said: str
) -> None:
    runtime = lab.open()

    with pytest.raises(PermanentError, match=said) as caught:
        await runtime.start(msgspec.structs.replace(lab.container(), **change))

    assert SECRET not in str(caught.value)
    assert () == await runtime.containers()


async def test_whoever_asks_for_a_start_that_goes_on_already_waits_for_it(
    lab: ContainerdLab, caplog: pytest.LogCaptureFixture
) -> None:
    """Of three that ask at once one gives up, and the others get their container all the same."""
    runtime, container = lab.open(), lab.container()
    asking = [asyncio.create_task(runtime.start(container)) for _ in range(3)]
    await asyncio.sleep(0.02)
    asking[0].cancel()

    await asyncio.gather(*asking[1:])

    assert asking[0].cancelled()
    assert (running(container),) == await runtime.containers()
    assert [] == [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]


async def test_a_container_that_is_being_started_is_never_taken_for_one_that_has_exited(
    lab: ContainerdLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is there before its task; whoever saw it as exited would remove it."""
    runtime, container = lab.open(), lab.container()
    call, states = Daemon.call, list[ContainerState]()

    async def look_first(daemon: Daemon, method: Any, *arguments: Any, **options: Any) -> Any:
        if method in (api.CREATE_TASK, api.START_TASK):
            states.extend(found.state for found in await runtime.containers())
        return await call(daemon, method, *arguments, **options)

    monkeypatch.setattr(Daemon, "call", look_first)
    await runtime.start(container)

    assert [ContainerState.CREATED] * 2 == states


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_containers_outlive_a_restart_of_the_daemon_and_are_ours_again(
    lab: ContainerdLab, number: signal.Signals
) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    pid = await lab.pid(container)

    lab.containerd.restart(number)

    await eventually(lambda: answers(runtime))
    assert (running(container),) == await runtime.containers()
    assert pid == await lab.pid(container)
    await runtime.start(container)
    await runtime.remove(container.name, grace_s=0.1)
    assert () == await runtime.containers()


async def test_what_ended_while_the_daemon_was_down_is_told_and_has_exited_somehow(
    lab: ContainerdLab,
) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    pid = await lab.pid(container)
    told = asyncio.ensure_future(anext(runtime.changes()))
    lab.containerd.stop()

    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not Path(f"/proc/{pid}").exists())
    lab.containerd.start()

    assert container.name == await asyncio.wait_for(told, 100.0)
    await eventually(lambda: has_exited(runtime, container))
    (found,) = await runtime.containers()
    assert (ContainerState.EXITED, None) == (found.state, found.exit_status)
    await runtime.start(container)
    assert (running(container),) == await runtime.containers()


async def test_a_child_that_ran_out_of_memory_while_the_node_was_silent_is_seen_later(
    lab: ContainerdLab, tmp_path: Path
) -> None:
    """containerd tells of it once, and nobody heard it."""
    eats = "(x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done); echo eaten"
    script = f"trap '{eats}' USR1; echo {READY}; while :; do sleep 1000 & wait; done"
    line = Line(Path(lab.containerd.endpoint.removeprefix("unix://")), tmp_path / "line")
    await line.connect()
    runtime = lab.open(endpoint=f"unix://{tmp_path}/line")
    container = running_command(lab, "sh", "-c", script)
    await runtime.start(container)
    await eventually(lambda: lab.is_ready(container))
    assert (running(container),) == await runtime.containers()
    line.cut()

    os.kill(await lab.pid(container), signal.SIGUSR1)
    await eventually(lambda: "eaten" in lab.said(container))
    await line.connect()

    async def is_marked() -> bool:
        return await answers(runtime) and (await one(runtime)).is_out_of_memory

    try:
        await eventually(is_marked)
        assert ContainerState.RUNNING is (await one(runtime)).state
    finally:
        line.cut()


async def test_a_daemon_that_is_down_is_an_unreachable_node_at_once(lab: ContainerdLab) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    said = r"containerd\.sock: UNAVAILABLE: .*can be reached"
    lab.containerd.stop()

    async with asyncio.timeout(60.0):
        for asking in (
            runtime.containers(),
            runtime.start(container),
            runtime.remove(container.name, grace_s=0.1),
        ):
            with pytest.raises(NodeUnreachableError, match=said):
                await asking

    lab.containerd.start()
    await eventually(lambda: answers(runtime))
    assert (running(container),) == await runtime.containers()


async def test_a_daemon_that_hangs_is_an_unreachable_node_after_the_deadline(
    lab: ContainerdLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = lab.open()
    await runtime.containers()
    assert lab.containerd.process is not None
    pid = lab.containerd.process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        await eventually(lambda: has_stopped(pid))
        monkeypatch.setattr(api, "DEADLINE_S", 0.3)
        runtime = lab.open()

        with pytest.raises(NodeUnreachableError, match="DEADLINE_EXCEEDED"):
            await runtime.containers()
    finally:
        os.kill(pid, signal.SIGCONT)

    monkeypatch.undo()
    await eventually(lambda: answers(runtime))


def has_stopped(pid: int) -> bool:
    """Say whether a child of ours has stopped: its threads go on for a moment after the signal."""
    return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None


async def test_two_nodes_on_one_machine_have_nothing_in_common(
    lab: ContainerdLab, second_lab: ContainerdLab
) -> None:
    """Both run a container of the same name."""
    first, second = lab.open(), second_lab.open()
    container = lab.container()

    await asyncio.gather(first.start(container), second.start(container))
    assert await lab.pid(container) != await second_lab.pid(container)
    await first.remove(container.name, grace_s=0.1)

    assert () == await first.containers()
    assert (running(container),) == await second.containers()
    lab.containerd.stop(signal.SIGKILL)
    assert (running(container),) == await second.containers()
    lab.containerd.start()


async def answers(runtime: ContainerdRuntime) -> bool:
    """Say whether the runtime's own connection works."""
    try:
        await runtime.containers()
    except NodeUnreachableError:
        return False
    return True
