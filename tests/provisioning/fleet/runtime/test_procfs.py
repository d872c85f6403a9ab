from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.fleet.runtime import procfs
from provisioning.fleet.runtime.procfs import Identity, Stat

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
