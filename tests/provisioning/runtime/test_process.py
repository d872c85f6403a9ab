"""Processes keep the promises of every runtime; and what is special about processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import uvloop

from provisioning.errors import PermanentError, ResourceExhaustedError, TransientError
from provisioning.model import ContainerSpec, ContainerState, ObservedContainer
from provisioning.runtime import launch, process
from provisioning.runtime.process import ProcessRuntime, Record, inherited
from provisioning.runtime.procfs import Process
from tests.ports import free_port
from tests.provisioning.runtime.contract import FLEET, Behaviour, RuntimeContract, has_exited
from tests.provisioning.runtime.processes import NODE, ProcessLab, no_descriptors
from tests.waiting import eventually

GRACE_S = 5.0
SECRET = "s3cret-token"  # noqa: S105 # of this test alone
STARTER = "tests.provisioning.runtime.killed_starter"
MANY_STEPS = 100


@pytest.fixture
def lab(process_lab: ProcessLab) -> ProcessLab:
    return process_lab


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    with subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True) as popen:
        yield popen
        popen.kill()


class TestProcessRuntime(RuntimeContract):
    """Processes of this machine keep the promises of every runtime."""


def running_command(lab: ProcessLab, *command: str) -> ContainerSpec:
    return msgspec.structs.replace(lab.container(), command=command)


async def one(runtime: ProcessRuntime) -> ObservedContainer:
    (found,) = await runtime.containers()
    return found


@pytest.mark.parametrize("has_groups", [True, False])
async def test_all_that_a_process_has_started_ends_with_it(
    lab: ProcessLab, has_groups: bool
) -> None:
    lab.groups = lab.groups if has_groups else None
    runtime = lab.open()
    container = running_command(lab, "sh", "-c", "sleep 1000 & (sleep 1000 & wait) & wait")
    await runtime.start(container)
    await eventually(lambda: 4 == len(lab.processes(container)))

    await runtime.remove(container.name, grace_s=GRACE_S)

    assert [] == lab.processes(container)
    assert not lab.group(container).exists()


@pytest.mark.parametrize("has_groups", [True, False])
async def test_children_of_a_process_that_has_ended_end_at_its_removal(
    lab: ProcessLab, has_groups: bool
) -> None:
    lab.groups = lab.groups if has_groups else None
    runtime = lab.open()
    container = running_command(lab, "sh", "-c", "trap '' TERM; sleep 1000 & exit 0")
    await runtime.start(container)
    await eventually(lambda: has_exited(runtime, container))
    await eventually(lambda: 1 == len(lab.processes(container)))

    await runtime.remove(container.name, grace_s=0.1)

    assert [] == lab.processes(container)
    assert not lab.group(container).exists()


async def test_a_process_is_asked_to_end_before_it_is_killed(
    lab: ProcessLab, tmp_path: Path
) -> None:
    runtime, ready, saved = lab.open(), tmp_path / "ready", tmp_path / "saved"
    script = f"trap 'touch {saved}; exit 0' TERM; touch {ready}; while :; do sleep 0.05; done"
    await runtime.start(running_command(lab, "sh", "-c", script))
    await eventually(ready.exists)

    await runtime.remove(lab.container().name, grace_s=100.0)

    assert saved.exists()


@pytest.mark.parametrize("boot", ["this boot", "an earlier boot"])
async def test_a_process_id_that_is_a_strangers_by_now_is_never_signalled(
    lab: ProcessLab, stranger: subprocess.Popen[bytes], boot: str
) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    path, pid = lab.record_path(container), lab.pid(container)
    record = msgspec.json.decode(path.read_bytes(), type=Record)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: has_exited(runtime, container))
    theirs = msgspec.structs.replace(record, process=Process(stranger.pid, 1))
    if boot != "this boot":
        theirs = msgspec.structs.replace(theirs, boot=boot)
    path.write_bytes(msgspec.json.encode(theirs))

    assert ContainerState.EXITED == (await one(runtime)).state
    await runtime.remove(container.name, grace_s=0.1)

    assert stranger.poll() is None
    assert () == await runtime.containers()


async def test_without_file_descriptors_nothing_is_said_and_nothing_is_ended(
    lab: ProcessLab,
) -> None:
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)

    for call in (
        runtime.containers,
        lambda: runtime.remove(container.name, grace_s=0.1),
        lambda: runtime.start(container),
        lab.open().containers,
    ):
        with no_descriptors(), pytest.raises(TransientError, match=r"`ulimit -n`"):
            await call()

    assert ContainerState.RUNNING == (await one(runtime)).state


async def test_a_process_gets_few_variables_of_the_provisioners_environment(
    lab: ProcessLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_FLEET_PROVISIONER_TOKEN", SECRET)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/lib")
    runtime = lab.open()
    container = msgspec.structs.replace(lab.container(), environment=(("HOME", "/own"),))

    await runtime.start(container)

    seen = dict(await lab.environment(container))
    assert "/cache" == seen.pop("XDG_CACHE_HOME")
    assert "/own" == seen.pop("HOME")
    assert "/lib" == seen.pop("LD_LIBRARY_PATH")
    assert {"PATH", "LANG", "XDG_RUNTIME_DIR"} >= set(seen)


def test_a_process_gets_the_variables_that_a_setting_names() -> None:
    ours = {"OLLAMA_MODELS": "/srv", "TOKEN": SECRET, "PATH": "/bin"}

    assert {"OLLAMA_MODELS": "/srv", "PATH": "/bin"} == inherited(ours, ["OLLAMA_MODELS", "NONE"])


async def test_no_secret_is_written_to_disk_or_to_a_command_line(lab: ProcessLab) -> None:
    container = msgspec.structs.replace(lab.container(), environment=(("TOKEN", SECRET),))

    await lab.open().start(container)

    files = [path for path in lab.state_dir.rglob("*") if path.is_file()]
    assert [] == [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in Path(f"/proc/{lab.pid(container)}/cmdline").read_text()


async def test_records_and_logs_are_for_their_owner_alone(lab: ProcessLab) -> None:
    container = lab.container()
    await lab.open().start(container)

    assert 0o700 == (lab.state_dir / FLEET / NODE).stat().st_mode & 0o777
    assert 0o600 == lab.log(container).stat().st_mode & 0o777


async def test_the_log_outlives_the_process_until_the_next_one_of_its_instance(
    lab: ProcessLab,
) -> None:
    runtime, container = lab.open(), running_command(lab, "sh", "-c", "echo out; echo err >&2")
    await runtime.start(container)
    await eventually(lambda: has_exited(runtime, container))

    await runtime.remove(container.name, grace_s=GRACE_S)
    assert str(lab.log(container)) == runtime.log_of(container.instance_id)
    assert "out\nerr\n" == lab.log(container).read_text()

    await runtime.start(lab.container())
    assert "" == lab.log(container).read_text()


async def test_a_process_reads_nothing_and_ends_by_a_broken_pipe(lab: ProcessLab) -> None:
    container = lab.container()

    await lab.open().start(container)

    folder = Path(f"/proc/{lab.pid(container)}")
    assert "/dev/null" == os.readlink(folder / "fd/0")
    # The program itself opens files while it begins: its libraries, its language.
    await eventually(lambda: {"0", "1", "2"} == set(os.listdir(folder / "fd")))
    ignored = (folder / "status").read_text().partition("SigIgn:")[2].split()[0]
    assert 0 == int(ignored, 16)


async def test_a_record_that_a_power_failure_destroyed_hides_no_other(lab: ProcessLab) -> None:
    runtime, broken, whole = lab.open(), lab.container(), lab.container(number=2)
    await runtime.start(broken)
    await runtime.start(whole)
    await lab.kill(broken)
    lab.record_path(broken).write_bytes(b"")

    assert [whole.name] == [found.name for found in await lab.open().containers()]
    await runtime.start(msgspec.structs.replace(broken, port=free_port()))
    assert 2 == len(await runtime.containers())


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
        {"environment": (("A", f"{SECRET}\0"),)},
    ],
)
async def test_what_can_never_run_is_refused_for_good_without_telling_secrets(
    lab: ProcessLab, change: dict[str, object]
) -> None:
    runtime = lab.open()

    with pytest.raises(PermanentError) as caught:
        await runtime.start(msgspec.structs.replace(lab.container(), **change))

    assert SECRET not in str(caught.value)
    assert () == await runtime.containers()
    assert [] == lab.processes(lab.container())


async def test_no_name_leads_out_of_the_folder(lab: ProcessLab, tmp_path: Path) -> None:
    (tmp_path / "kept.json").touch()

    with pytest.raises(PermanentError, match="cannot name"):
        await lab.open().remove("../../../kept", grace_s=0.1)
    for fleet, node in (("../x", "here"), ("x", "a/b"), ("", "here")):
        with pytest.raises(PermanentError, match="cannot name"):
            ProcessRuntime(fleet, node, state_dir=tmp_path, environ={}, groups=None)

    assert (tmp_path / "kept.json").exists()


async def test_an_address_of_another_machine_is_refused(lab: ProcessLab) -> None:
    container = msgspec.structs.replace(lab.container(), host="192.0.2.1")

    with pytest.raises(ResourceExhaustedError, match=r"192\.0\.2\.1"):
        await lab.open().start(container)


async def test_a_launcher_that_is_missing_is_said_and_leaves_nothing(
    lab: ProcessLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the package is replaced under a provisioner that runs."""
    runtime, container = lab.open(), lab.container()
    with monkeypatch.context() as patch:
        patch.setattr(launch, "__file__", "/nonexistent/launch.py")
        with pytest.raises(TransientError, match="launcher of sleep"):
            await runtime.start(container)

    assert "/nonexistent/launch.py" in lab.log(container).read_text()
    assert () == await runtime.containers()
    await runtime.start(container)


async def test_the_record_of_another_provisioners_start_is_not_overwritten(
    lab: ProcessLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that was frozen amid a start goes on with it when its successor has made it."""
    lab.groups = None
    successor, frozen, container = lab.open(), lab.open(), lab.container()
    await successor.start(container)
    path, content = lab.record_path(container), lab.record_path(container).read_bytes()
    path.unlink()
    link = os.link

    def too_late(draft: Path, target: Path) -> None:
        path.write_bytes(content)
        link(draft, target)

    monkeypatch.setattr(os, "link", too_late)

    with pytest.raises(TransientError, match="File exists"):
        await frozen.start(msgspec.structs.replace(container, port=free_port()))

    assert [lab.pid(container)] == lab.processes(container)
    assert ContainerState.RUNNING == (await one(frozen)).state


async def test_a_cgroup_that_cannot_be_removed_does_not_hold_the_process(
    lab: ProcessLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GROUP_LIMIT_S", 0.1)
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    if lab.groups is None:
        pytest.skip("no memory cgroup can be made here")
    inner = lab.group(container) / "made-by-the-process"
    inner.mkdir()

    await runtime.remove(container.name, grace_s=1.0)

    assert () == await runtime.containers()
    inner.rmdir()
    lab.group(container).rmdir()


async def test_fleets_of_one_name_leave_each_others_processes_alone(
    lab: ProcessLab, tmp_path: Path
) -> None:
    """Two provisioners on one machine, each with a state folder of its own, nothing else apart."""
    theirs = ProcessLab(tmp_path / "theirs")
    runtime, container = lab.open(), lab.container()
    await runtime.start(container)
    await theirs.open().start(msgspec.structs.replace(container, port=theirs.container().port))

    await theirs.close()

    assert ContainerState.RUNNING == (await one(runtime)).state


def test_it_works_on_uvloop(lab: ProcessLab) -> None:
    async def live() -> list[object]:
        runtime, container = lab.open(), lab.container(Behaviour.IGNORES_SIGTERM)
        changes = runtime.changes()
        await runtime.start(container)
        seen: list[object] = [(await one(runtime)).state]
        os.kill(lab.pid(container), signal.SIGKILL)
        seen.append(await anext(changes))
        await runtime.remove(container.name, grace_s=0.1)
        await changes.aclose()  # type: ignore[attr-defined]  # it is a generator
        await lab.close()
        return [*seen, await runtime.containers()]

    assert [ContainerState.RUNNING, "pool-1.1", ()] == uvloop.run(live())


async def test_closing_ends_changes_and_lets_go_of_every_descriptor(lab: ProcessLab) -> None:
    """Also where a look is under way that comes back later."""
    await lab.open().start(lab.container())
    before = len(os.listdir("/proc/self/fd"))
    runtime = lab.open()
    names = asyncio.ensure_future(collected(runtime))
    looking = asyncio.create_task(runtime.containers())
    await asyncio.sleep(0)

    await runtime.close()

    assert [] == await asyncio.wait_for(names, 100.0)
    assert [ContainerState.RUNNING] == [found.state for found in await looking]
    assert before == len(os.listdir("/proc/self/fd"))


async def collected(runtime: ProcessRuntime) -> list[str]:
    return [name async for name in runtime.changes()]


def start_and_die(lab: ProcessLab, container: ContainerSpec, *, step: int) -> bool:
    """Start a container in a process that is killed at a step; 0: after all of them.

    Returns whether it came to its end alive.
    """
    command = [sys.executable, "-m", STARTER, str(lab.state_dir), str(step)]
    run = subprocess.run(
        [*command, msgspec.json.encode(container).decode()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode in {0, -9}, run.stderr
    return run.stdout == "done"


@pytest.mark.timeout(600)
async def test_a_start_that_was_killed_at_any_step_leaves_what_is_found_and_removed_or_completed(
    lab: ProcessLab,
) -> None:
    states = set()
    for step in range(1, MANY_STEPS):
        container = lab.container(number=step)
        came_to_end = start_and_die(lab, container, step=step)
        runtime = lab.open()
        found = await runtime.containers()
        assert [container.name][: len(found)] == [one.name for one in found], step
        states |= {one.state for one in found}

        if step % 3 == 0:
            # Its launcher may just be ending, as its starter is dead.
            await eventually(lambda: not any(map(is_launcher, lab.processes(container))))  # noqa: B023
            await runtime.start(container)
            assert ContainerState.RUNNING == (await one(runtime)).state, step
        await runtime.remove(container.name, grace_s=0.1)

        assert () == await runtime.containers(), step
        await eventually(lambda: [] == lab.processes(container))  # noqa: B023
        assert not lab.group(container).exists(), step
        if came_to_end:
            break
    assert came_to_end
    assert ContainerState.RUNNING in states


def is_launcher(pid: int) -> bool:
    try:
        return launch.__file__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


async def test_a_process_of_a_dead_provisioner_is_adopted_with_its_end_and_its_kills(
    lab: ProcessLab,
) -> None:
    container, hungry = lab.container(), lab.container(Behaviour.EATS_MEMORY, number=2)
    assert start_and_die(lab, container, step=0)
    assert start_and_die(lab, hungry, step=0)
    runtime = lab.open()
    assert ContainerState.RUNNING == (await runtime.containers())[0].state
    changes = runtime.changes()
    told = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0.1)

    await lab.kill(container)

    assert await told in {container.name, hungry.name}
    await eventually(lambda: has_exited(runtime, container))
    await eventually(lambda: has_exited(runtime, hungry))
    ended, starved = await runtime.containers()
    assert (None, False) == (ended.exit_status, ended.is_out_of_memory)
    assert starved.is_out_of_memory or lab.groups is None
