"""What is special about containers that are processes."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import uvloop

from provisioning.errors import (
    ContainerError,
    PermanentError,
    ResourceExhaustedError,
    TransientError,
)
from provisioning.model import ContainerSpec, ContainerState, ObservedContainer
from provisioning.runtime import launch, process, procfs
from provisioning.runtime.process import ProcessRuntime
from provisioning.runtime.procfs import Identity
from provisioning.runtime.records import Records
from tests.provisioning.runtime.contract import FLEET, Behaviour, has_exited
from tests.provisioning.runtime.processes import (
    NODE,
    ProcessLab,
    children,
    no_descriptors,
)
from tests.waiting import eventually

GRACE_S = 5.0
LIMITED = (
    sys.executable,
    "-c",
    "import os, resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))\n"
    "os.execv(sys.argv[1], sys.argv[1:])",
)
"""Runs what follows with room for 20 bytes in each file."""
NAMELESS = """
import ctypes, os, pathlib, signal, sys, time
if os.fork():
    time.sleep(1000)
fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
start, end = int(fields[47]), int(fields[48])
ctypes.memset(start, 0, end - start)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
draft = pathlib.Path(sys.argv[1] + ".draft")
draft.write_text(str(os.getpid()))
draft.rename(sys.argv[1])
time.sleep(1000)
"""
"""A container with a worker that writes over its environment.

As for a title, and ignores SIGTERM.
"""
SECRET = "s3cret-token"  # noqa: S105 # of this test alone


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    with subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True) as popen:
        yield popen
        popen.kill()


def running_command(lab: ProcessLab, *command: str, number: int = 1) -> ContainerSpec:
    return msgspec.structs.replace(lab.container(number=number), command=command)


async def one(runtime: ProcessRuntime) -> ObservedContainer:
    (found,) = await runtime.containers()
    return found


async def test_a_number_that_is_a_strangers_by_now_is_never_signalled(
    process_lab: ProcessLab, stranger: subprocess.Popen[bytes]
) -> None:
    runtime, container = process_lab.open(), process_lab.container()
    await runtime.start(container)
    identity = process_lab.identity(container)
    process_file = process_lab.state_dir / FLEET / NODE / "units" / container.name / "process"
    stat = procfs.read_stat(stranger.pid)
    assert stat is not None
    fields = Path(f"/proc/{stranger.pid}/stat").read_text().split()
    fields[21] = str(stat.start_ticks - 1)
    process_file.write_text(" ".join(fields))
    successor = process_lab.open()

    assert ContainerState.EXITED == (await one(successor)).state
    await successor.remove(container.name, grace_s=0.1)

    assert stranger.poll() is None
    os.kill(identity.pid, signal.SIGKILL)


async def test_a_session_number_that_is_a_strangers_by_now_is_never_signalled(
    process_lab: ProcessLab, stranger: subprocess.Popen[bytes]
) -> None:
    found = procfs.session_members(Identity(stranger.pid, 1), b"OLLAMA_FLEET_UNIT=pool-1.1:0")

    assert [] == list(found)


async def test_what_ran_before_the_machines_last_boot_has_exited(
    process_lab: ProcessLab, stranger: subprocess.Popen[bytes]
) -> None:
    container = process_lab.container()
    records = process_lab.records()
    stat = Path(f"/proc/{stranger.pid}/stat").read_bytes()
    runtime = process_lab.open()
    await runtime.start(container)
    pid = process_lab.identity(container).pid
    record = records.read(container.name)
    assert record is not None
    folder = process_lab.state_dir / FLEET / NODE / "units" / container.name
    (folder / "process").write_bytes(stat)
    earlier = msgspec.structs.replace(record, boot="an earlier boot", cgroup="")
    (folder / "record.json").write_bytes(msgspec.json.encode(earlier))
    os.kill(pid, signal.SIGKILL)

    assert ContainerState.EXITED == (await one(runtime)).state
    await runtime.remove(container.name, grace_s=0.1)

    assert stranger.poll() is None
    assert () == await runtime.containers()


async def test_the_whole_session_ends_with_the_container(process_lab: ProcessLab) -> None:
    runtime = process_lab.open()
    container = running_command(process_lab, "sh", "-c", "sleep 1000 & (sleep 1000 & wait) & wait")
    await runtime.start(container)
    await eventually(lambda: 4 == len(process_lab.processes(container)))

    await runtime.remove(container.name, grace_s=GRACE_S)

    assert [] == process_lab.processes(container)


@pytest.mark.parametrize("has_groups", [True, False])
async def test_children_that_a_dead_container_left_are_ended_by_its_removal(
    process_lab: ProcessLab, has_groups: bool
) -> None:
    process_lab.groups = process_lab.groups if has_groups else None
    runtime = process_lab.open()
    container = running_command(process_lab, "sh", "-c", "trap '' TERM; sleep 1000 & exit 0")
    await runtime.start(container)
    await eventually(lambda: has_exited(runtime, container))
    await eventually(lambda: 1 == len(process_lab.processes(container)))

    await runtime.remove(container.name, grace_s=0.1)

    assert [] == process_lab.processes(container)
    assert not process_lab.group(container).exists()


@pytest.mark.parametrize("grace_s", [0.0, GRACE_S])
async def test_a_worker_that_wrote_over_its_environment_ends_with_its_container(
    process_lab: ProcessLab, tmp_path: Path, grace_s: float
) -> None:
    """Also where its leader, asked to end, does so first and no cgroup tells of it."""
    process_lab.groups = None
    runtime, said = process_lab.open(), tmp_path / "worker"
    container = running_command(process_lab, sys.executable, "-c", NAMELESS, str(said))
    await runtime.start(container)
    await eventually(said.exists)
    stat = procfs.read_stat(int(said.read_text()))
    assert stat is not None
    worker = Identity(stat.pid, stat.start_ticks)
    assert procfs.is_alive(worker)

    await runtime.remove(container.name, grace_s=grace_s)

    was_left = procfs.is_alive(worker)
    procfs.send_signal(worker, signal.SIGKILL)
    assert not was_left
    assert ({}, {}) == (runtime._processes._seen, runtime._processes._children)


async def test_a_container_is_not_told_as_exited_because_the_kernel_cannot_be_asked(
    process_lab: ProcessLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, container = process_lab.open(), process_lab.container()
    await runtime.start(container)
    read_text = Path.read_text

    def refuse_proc(path: Path, **options: str) -> str:
        if path.is_relative_to(procfs.PROC):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read_text(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse_proc)
        with pytest.raises(TransientError, match=r"Too many open files.*`ulimit -n`"):
            await runtime.containers()

    assert ContainerState.RUNNING == (await one(runtime)).state


async def test_without_file_descriptors_nothing_is_told_and_nothing_is_ended(
    process_lab: ProcessLab,
) -> None:
    runtime, container = process_lab.open(), process_lab.container()
    await runtime.start(container)

    for call in (
        runtime.containers,
        lambda: runtime.remove(container.name, grace_s=0.1),
        lambda: runtime.start(container),
        process_lab.open().containers,
    ):
        with no_descriptors(), pytest.raises(TransientError):
            await call()

    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        process_lab.records().names()
    assert ContainerState.RUNNING == (await one(runtime)).state


@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        (None, "the launcher of sleep ended before it ran it; see its log, {log}"),
        ("import os; os.write(0, b'launch 28')", "cannot start sleep: No space left on device"),
    ],
)
async def test_a_launcher_that_ends_before_it_says_who_it_is_is_told_and_leaves_nothing(
    process_lab: ProcessLab,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    launcher: str | None,
    said: str,
) -> None:
    """As when the package is replaced under a provisioner that runs."""
    path = tmp_path / "launch.py"
    if launcher:
        path.write_text(launcher)
    runtime, container, before = process_lab.open(), process_lab.container(), children()
    with monkeypatch.context() as patch:
        patch.setattr(process, "LAUNCHER", path)
        with pytest.raises(ContainerError) as caught:
            await runtime.start(container)

    log = process_lab.records().log(container.instance_id)
    assert said.format(log=log) in str(caught.value)
    assert not isinstance(caught.value, PermanentError)
    assert launcher or f"can't open file '{path}'" in log.read_text()
    assert before == children()
    assert () == await runtime.containers()
    await runtime.start(container)


async def test_a_container_is_asked_before_it_is_killed(
    process_lab: ProcessLab, tmp_path: Path
) -> None:
    runtime, ready, saved = process_lab.open(), tmp_path / "ready", tmp_path / "saved"
    script = f"trap 'touch {saved}; exit 0' TERM; touch {ready}; while :; do sleep 0.05; done"
    await runtime.start(running_command(process_lab, "sh", "-c", script))
    await eventually(ready.exists)

    await runtime.remove(process_lab.container().name, grace_s=GRACE_S)

    assert saved.exists()


async def test_a_container_gets_nothing_of_the_provisioners_environment_but_a_few_variables(
    process_lab: ProcessLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_FLEET_PROVISIONER_TOKEN", SECRET)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/lib")
    runtime = process_lab.open()
    container = msgspec.structs.replace(process_lab.container(), environment=(("HOME", "/own"),))

    await runtime.start(container)

    seen = dict(await process_lab.environment(container))
    seen.pop("OLLAMA_FLEET_UNIT")
    assert "/cache" == seen.pop("XDG_CACHE_HOME")
    assert "/own" == seen.pop("HOME")
    assert "/lib" == seen.pop("LD_LIBRARY_PATH")
    assert {"PATH", "LANG", "XDG_RUNTIME_DIR"} >= set(seen)


async def test_no_secret_of_a_container_is_written_to_disk_or_to_a_command_line(
    process_lab: ProcessLab,
) -> None:
    runtime = process_lab.open()
    container = msgspec.structs.replace(process_lab.container(), environment=(("TOKEN", SECRET),))

    await runtime.start(container)

    files = [path for path in process_lab.state_dir.rglob("*") if path.is_file()]
    assert [] == [path for path in files if SECRET.encode() in path.read_bytes()]
    pid = process_lab.identity(container).pid
    assert SECRET not in Path(f"/proc/{pid}/cmdline").read_text()


async def test_what_is_kept_is_for_its_owner_alone(process_lab: ProcessLab) -> None:
    container = process_lab.container()
    await process_lab.open().start(container)

    folder = process_lab.state_dir / FLEET / NODE

    assert 0o700 == folder.stat().st_mode & 0o777
    assert 0o600 == process_lab.records().log(container.instance_id).stat().st_mode & 0o777


async def test_the_log_outlives_the_container_until_the_next_one_of_its_instance(
    process_lab: ProcessLab,
) -> None:
    runtime, log = process_lab.open(), process_lab.records().log("pool-1")
    container = running_command(process_lab, "sh", "-c", "echo out; echo err >&2")
    await runtime.start(container)
    await eventually(lambda: has_exited(runtime, container))

    await runtime.remove(container.name, grace_s=GRACE_S)
    assert str(log) == runtime.log_of("pool-1")
    assert "out\nerr\n" == log.read_text()

    await runtime.start(process_lab.container())
    assert "" == log.read_text()


async def test_a_chatty_containers_log_stays_within_bounds(process_lab: ProcessLab) -> None:
    """Also while nobody asks for its containers."""
    limit = 10_000
    tasks = asyncio.all_tasks()
    runtime = ProcessRuntime(
        FLEET,
        NODE,
        state_dir=process_lab.state_dir,
        environ=os.environ,
        groups=None,
        max_log_bytes=limit,
    )
    log = process_lab.records().log("pool-1")
    loop = "n=0; while :; do n=$((n+1)); echo line $n of a chatty container; done"
    await runtime.start(running_command(process_lab, "sh", "-c", loop))
    await eventually(lambda: log.stat().st_size > 3 * limit)

    await runtime.containers()

    older = log.with_name("pool-1.log.1")
    for _ in range(2):
        await eventually(older.exists)
        assert (limit, 0o600) == (older.stat().st_size, older.stat().st_mode & 0o777)
        older.unlink()
    await runtime.remove(process_lab.container().name, grace_s=0.1)
    assert b"\0" not in log.read_bytes()  # the writer goes on at the new end
    await runtime.close()
    assert tasks == asyncio.all_tasks()


async def test_a_container_reads_nothing_and_is_told_of_broken_pipes(
    process_lab: ProcessLab,
) -> None:
    """It has nothing open of the provisioner's, not even what that lets its children have."""
    runtime, container = process_lab.open(), process_lab.container()
    inheritable = fcntl.fcntl(2, fcntl.F_DUPFD, 200)

    await runtime.start(container)

    os.close(inheritable)
    folder = Path(f"/proc/{process_lab.identity(container).pid}")
    assert "/dev/null" == os.readlink(folder / "fd/0")
    # The program itself opens files while it begins: its libraries, its language.
    await eventually(lambda: {"0", "1", "2"} == set(os.listdir(folder / "fd")))
    ignored = (folder / "status").read_text().partition("SigIgn:")[2].split()[0]
    assert 0 == int(ignored, 16)


@pytest.mark.parametrize("garbage", ["1234 (py", "\0\0\0", "x", "17 (sh) S 1 42"])
async def test_a_container_whose_record_is_broken_hides_no_other(
    process_lab: ProcessLab, garbage: str
) -> None:
    runtime, broken = process_lab.open(), process_lab.container()
    whole = process_lab.container(number=2)
    await runtime.start(broken)
    await runtime.start(whole)
    await process_lab.kill(broken)
    folder = process_lab.state_dir / FLEET / NODE / "units" / broken.name
    (folder / "process").write_text(garbage)
    successor = process_lab.open()

    found = {one.name: one.state for one in await successor.containers()}

    assert {broken.name: ContainerState.EXITED, whole.name: ContainerState.RUNNING} == found
    await successor.remove(broken.name, grace_s=0.1)
    assert [whole.name] == [one.name for one in await successor.containers()]


async def test_an_end_is_told_though_the_disk_is_full(
    process_lab: ProcessLab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel tells the status once, so it is kept until there is room."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Records, "write_status", full)
    runtime, container = process_lab.open(), process_lab.container()
    await runtime.start(container)
    changes = runtime.changes()
    first = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    await process_lab.kill(container)

    assert container.name == await asyncio.wait_for(first, 30.0)
    await changes.aclose()  # type: ignore[attr-defined]

    assert [-signal.SIGKILL] * 2 == [(await one(runtime)).exit_status for _ in range(2)]
    assert 1 == caplog.text.count("cannot write how")
    await runtime.remove(container.name, grace_s=0.1)
    assert {} == runtime._processes._unwritten


async def test_a_killed_containers_status_is_the_signal(process_lab: ProcessLab) -> None:
    runtime, container = process_lab.open(), process_lab.container()
    await runtime.start(container)

    await process_lab.kill(container)

    await eventually(lambda: has_exited(runtime, container))
    assert -signal.SIGKILL == (await one(runtime)).exit_status
    assert -signal.SIGKILL == (await one(process_lab.open())).exit_status


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../escape.1"},
        {"instance_id": "a/b"},
        {"name": ""},
        {"command": ()},
        {"command": ("sleep", "a\0b")},
        {"command": ("/etc/hostname",)},
        {"command": ("/",)},
        {"command": ("sleep", "x" * 200_000)},
        {"environment": (("A=B", SECRET),)},
        {"environment": (("", SECRET),)},
        {"environment": (("A", f"{SECRET}\0"),)},
    ],
)
async def test_what_can_never_run_is_refused_for_good_without_telling_secrets(
    process_lab: ProcessLab, change: dict[str, object]
) -> None:
    runtime = process_lab.open()

    with pytest.raises(PermanentError) as caught:
        await runtime.start(msgspec.structs.replace(process_lab.container(), **change))

    assert SECRET not in str(caught.value)
    assert () == await runtime.containers()
    assert [] == process_lab.processes(process_lab.container())


@pytest.mark.parametrize(("fleet", "node"), [("../x", "here"), ("x", "a/b"), ("", "here")])
def test_a_fleet_or_node_whose_name_is_no_folder_name_is_refused(
    tmp_path: Path, fleet: str, node: str
) -> None:
    with pytest.raises(PermanentError, match="cannot name"):
        ProcessRuntime(fleet, node, state_dir=tmp_path, environ={}, groups=None)


def test_it_works_on_uvloop(process_lab: ProcessLab) -> None:
    async def live() -> list[object]:
        runtime, container = process_lab.open(), process_lab.container(Behaviour.IGNORES_SIGTERM)
        changes = runtime.changes()
        await runtime.start(container)
        seen: list[object] = [(await one(runtime)).state]
        pid = process_lab.identity(container).pid
        os.kill(pid, signal.SIGKILL)
        seen.append(await anext(changes))
        await runtime.remove(container.name, grace_s=0.1)
        await changes.aclose()  # type: ignore[attr-defined]  # it is a generator
        await process_lab.close()
        return [*seen, await runtime.containers()]

    assert [ContainerState.RUNNING, "pool-1.1", ()] == uvloop.run(live())


def test_a_provisioner_in_another_process_sees_the_same(process_lab: ProcessLab) -> None:
    asyncio.run(process_lab.open().start(process_lab.container()))
    script = (
        "import asyncio, sys, pathlib\n"
        "from provisioning.runtime.process import ProcessRuntime\n"
        f"runtime = ProcessRuntime({FLEET!r}, {NODE!r}, state_dir=pathlib.Path(sys.argv[1]), "
        "environ={}, groups=None)\n"
        "for container in asyncio.run(runtime.containers()): print(container.name, "
        "container.state)\n"
    )

    run = subprocess.run(
        [sys.executable, "-c", script, str(process_lab.state_dir)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "pool-1.1 running\n" == run.stdout


async def test_no_name_leads_out_of_the_folder(process_lab: ProcessLab, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()

    with pytest.raises(PermanentError, match="cannot name"):
        await process_lab.open().remove("../../../../kept", grace_s=0.1)

    assert (tmp_path / "kept").exists()


async def test_closing_ends_changes_and_lets_go_of_every_descriptor(
    process_lab: ProcessLab,
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    runtime = process_lab.open()
    await runtime.start(process_lab.container())
    names = asyncio.ensure_future(collected(runtime))
    await asyncio.sleep(0.05)

    await runtime.close()

    assert [] == await asyncio.wait_for(names, 30.0)
    assert before == len(os.listdir("/proc/self/fd"))


async def test_a_look_that_closing_overtakes_leaves_no_descriptor_open(
    process_lab: ProcessLab,
) -> None:
    await process_lab.open().start(process_lab.container())
    before = len(os.listdir("/proc/self/fd"))
    runtime = process_lab.open()
    looking = asyncio.create_task(runtime.containers())
    await asyncio.sleep(0)  # it looks in a thread, and comes back no earlier than the loop goes on

    await runtime.close()

    assert [ContainerState.RUNNING] == [found.state for found in await looking]
    assert before == len(os.listdir("/proc/self/fd"))


async def collected(runtime: ProcessRuntime) -> list[str]:
    return [name async for name in runtime.changes()]


async def test_a_record_that_a_power_failure_destroyed_is_no_container(
    process_lab: ProcessLab,
) -> None:
    runtime, container = process_lab.open(), process_lab.container()
    folder = process_lab.state_dir / FLEET / NODE / "units" / container.name
    folder.mkdir(parents=True)
    (folder / "record.json").touch()

    assert () == await runtime.containers()
    await runtime.start(container)

    assert ContainerState.RUNNING == (await one(runtime)).state


async def test_a_folder_that_cannot_be_written_is_told_and_may_heal(
    process_lab: ProcessLab, tmp_path: Path
) -> None:
    process_lab.state_dir.mkdir()
    (process_lab.state_dir / FLEET).write_text("this is no folder")
    runtime = process_lab.open()

    with pytest.raises(TransientError, match="cannot keep records"):
        await runtime.start(process_lab.container())

    (process_lab.state_dir / FLEET).unlink()
    await runtime.start(process_lab.container())


async def test_a_port_whose_connections_have_just_ended_is_free(process_lab: ProcessLab) -> None:
    container = process_lab.container()
    with socket.create_server((container.host, container.port)) as server:
        with socket.create_connection((container.host, container.port)):
            server.accept()[0].close()  # who closes first keeps the port waiting

    await process_lab.open().start(container)


async def test_an_address_of_another_machine_is_no_room(process_lab: ProcessLab) -> None:
    container = msgspec.structs.replace(process_lab.container(), host="192.0.2.1")

    with pytest.raises(ResourceExhaustedError, match=r"192\.0\.2\.1"):
        await process_lab.open().start(container)


@pytest.mark.parametrize("call", ["start", "remove"])
async def test_a_start_by_another_provisioner_is_waited_for(
    process_lab: ProcessLab, call: str
) -> None:
    runtime, container = process_lab.open(), process_lab.container()
    with process_lab.records().launching(container.name):
        waiting = asyncio.create_task(
            runtime.start(container)
            if call == "start"
            else runtime.remove(container.name, grace_s=0.1)
        )
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert set() == done

    await waiting


async def test_a_start_by_another_provisioner_is_not_waited_for_for_ever(
    process_lab: ProcessLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LAUNCH_LIMIT_S", 0.1)
    runtime, container = process_lab.open(), process_lab.container()

    with process_lab.records().launching(container.name):
        with pytest.raises(TransientError, match="is being started"):
            await runtime.start(container)


async def test_changes_alone_is_enough_to_hear_of_containers_that_are_there(
    process_lab: ProcessLab,
) -> None:
    container = process_lab.container()
    await process_lab.open().start(container)
    runtime = process_lab.open()
    told = asyncio.ensure_future(anext(runtime.changes()))
    await eventually(lambda: runtime._processes._endings._watched)

    await process_lab.kill(container)

    assert container.name == await asyncio.wait_for(told, 30.0)


async def test_changes_tells_of_containers_that_start_later(process_lab: ProcessLab) -> None:
    runtime, container = process_lab.open(), process_lab.container()
    told = asyncio.ensure_future(anext(runtime.changes()))
    await asyncio.sleep(0.1)

    await runtime.start(container)
    await process_lab.kill(container)

    assert container.name == await asyncio.wait_for(told, 30.0)


async def test_a_cgroup_that_cannot_be_removed_does_not_hold_the_container(
    process_lab: ProcessLab,
) -> None:
    runtime, container = process_lab.open(), process_lab.container()
    await runtime.start(container)
    if process_lab.groups is None:
        pytest.skip("no memory cgroup can be made here")
    inner = process_lab.group(container) / "made-by-the-container"
    inner.mkdir()

    await runtime.remove(container.name, grace_s=1.0)

    assert () == await runtime.containers()
    inner.rmdir()
    process_lab.group(container).rmdir()


async def test_fleets_of_one_name_leave_each_others_processes_alone(
    process_lab: ProcessLab, tmp_path: Path
) -> None:
    """Two provisioners on one machine, each with a state folder of its own, nothing else apart."""
    theirs = ProcessLab(tmp_path / "theirs")
    runtime, container = process_lab.open(), process_lab.container()
    await runtime.start(container)
    await theirs.open().start(msgspec.structs.replace(container, port=theirs.container().port))

    await theirs.close()

    assert ContainerState.RUNNING == (await one(runtime)).state


def test_who_a_process_is_stands_in_its_file_whole_or_not_at_all(tmp_path: Path) -> None:
    """Half of its line would be taken for another process; here there is room for 20 bytes."""
    notices, notice = os.pipe()
    with (tmp_path / "process").open("ab") as process_file, (tmp_path / "log").open("ab") as log:
        ended = subprocess.run(
            (*LIMITED, sys.executable, "-I", "-S", launch.__file__, "--", "true"),
            stdin=notice,
            stdout=process_file,
            stderr=log,
            check=False,
        )
    os.close(notice)

    assert (127, b"launch %d" % errno.ENOSPC) == (ended.returncode, os.read(notices, 100))
    assert b"" == (tmp_path / "process").read_bytes()
    os.close(notices)
