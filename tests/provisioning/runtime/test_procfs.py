from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.runtime import procfs
from provisioning.runtime.procfs import Identity, Stat
from tests.provisioning.runtime.processes import no_descriptors

REST = "1 42 42 0 -1 4194560 100 0 0 0 0 0 0 0 20 0 1 0 {start} 8192 100"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True) as process:
        yield process
        process.kill()


def identity_of(pid: int) -> Identity:
    stat = procfs.read_stat(pid)
    assert stat is not None
    return Identity(pid, stat.start_ticks)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=15))
def test_a_programs_name_does_not_confuse(name: str) -> None:
    line = f"17 ({name}) S {REST.format(start=990)}\n"

    assert Stat(17, "S", 42, 990) == procfs.parse_stat(line)


def test_a_process_is_known_by_its_start(child: subprocess.Popen[bytes]) -> None:
    identity = identity_of(child.pid)
    other = Identity(identity.pid, identity.start_ticks - 1)

    assert procfs.is_alive(identity)
    assert not procfs.is_alive(other)
    assert procfs.open_process(other) is None


def test_a_signal_reaches_the_process_and_not_another_of_its_number(
    child: subprocess.Popen[bytes],
) -> None:
    identity = identity_of(child.pid)

    procfs.send_signal(Identity(identity.pid, identity.start_ticks + 1), signal.SIGKILL)
    assert child.poll() is None

    procfs.send_signal(identity, signal.SIGTERM)
    assert -signal.SIGTERM == child.wait(10.0)
    procfs.send_signal(identity, signal.SIGTERM)


def test_no_descriptor_is_left_open(child: subprocess.Popen[bytes]) -> None:
    identity = identity_of(child.pid)
    before = os.listdir("/proc/self/fd")

    procfs.send_signal(identity, signal.SIGCONT)
    assert procfs.open_process(Identity(identity.pid, identity.start_ticks + 1)) is None

    assert before == os.listdir("/proc/self/fd")


@pytest.mark.parametrize(
    "ask",
    [
        lambda identity: procfs.read_stat(identity.pid),
        procfs.is_alive,
        procfs.open_process,
        procfs.reap,
        lambda identity: procfs.send_signal(identity, signal.SIGCONT),
        lambda identity: list(procfs.session_members(identity, b"")),
        lambda identity: list(procfs.identities(iter([identity.pid]))),
    ],
)
def test_nobody_is_said_to_be_gone_for_want_of_file_descriptors(
    child: subprocess.Popen[bytes], ask: Callable[[Identity], object]
) -> None:
    identity = identity_of(child.pid)

    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        ask(identity)

    assert procfs.is_alive(identity)


def test_a_process_that_cannot_be_read_when_it_was_opened_leaves_no_descriptor(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = identity_of(child.pid)
    before = os.listdir("/proc/self/fd")

    monkeypatch.setattr(procfs, "read_stat", refusing(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files"):
        procfs.open_process(identity)

    assert before == os.listdir("/proc/self/fd")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM])
def test_a_process_that_has_ended_or_is_hidden_from_us_is_nobody(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """/proc may be mounted with hidepid; then those of other users cannot be read."""
    monkeypatch.setattr(Path, "read_text", refusing(number))

    assert procfs.read_stat(child.pid) is None


def refusing(number: int) -> Callable[..., str]:
    """Return what fails as the kernel does."""

    def refuse(*_: object, **__: object) -> str:
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_number_that_is_a_threads_by_now_is_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This kernel says so in its own way; others say EINVAL."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    number = thread.native_id
    assert number is not None

    thread_identity = identity_of(number)
    opened = procfs.open_process(thread_identity)
    monkeypatch.setattr(os, "pidfd_open", refusing(errno.EINVAL))
    elsewhere = procfs.open_process(thread_identity)

    done.set()
    thread.join()
    assert (None, None) == (opened, elsewhere)


def test_whoever_is_in_a_session_counts_while_its_leader_is_there(
    child: subprocess.Popen[bytes],
) -> None:
    """Dead or alive: its number is nobody else's as long as it is not reaped."""
    leader = identity_of(child.pid)

    assert [leader] == list(procfs.session_members(leader, b"no mark"))

    script = ("/bin/sh", "-c", "sleep 1000 <&- >&- 2>&- & echo $!")
    with subprocess.Popen(script, start_new_session=True, stdout=subprocess.PIPE) as dead:
        assert dead.stdout is not None
        member = identity_of(int(dead.stdout.readline()))
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
        leader = identity_of(dead.pid)
        assert [member] == list(procfs.session_members(leader, b"no mark"))
    assert [] == list(procfs.session_members(leader, b"no mark"))
    procfs.send_signal(member, signal.SIGKILL)


def test_the_status_of_a_child_is_told_once_and_of_a_living_one_never() -> None:
    pid = os.posix_spawnp("sleep", ["sleep", "1000"], {})
    identity = identity_of(pid)
    assert procfs.reap(identity) is None

    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    assert not procfs.is_alive(identity)
    assert -signal.SIGKILL == procfs.reap(identity)
    assert procfs.reap(identity) is None


def test_one_boot_has_one_name() -> None:
    assert procfs.boot() == procfs.boot() != ""
