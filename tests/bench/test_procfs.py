from __future__ import annotations

import os
import time

import pytest

from tests.bench import procfs
from tests.bench.procfs import Cpu


def test_cpu_time_is_read_behind_a_name_with_blanks_and_brackets() -> None:
    stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 75 1 2 20 0 1 0 99"

    assert Cpu(2.5, 0.75) == procfs.parse_cpu(stat, ticks_per_s=100)


def test_cpu_times_are_added_and_subtracted_field_by_field() -> None:
    used = Cpu(2.5, 0.75) - Cpu(1.0, 0.5)

    assert Cpu(1.5, 0.25) == used
    assert 1.75 == used.total_s


def test_resident_memory_is_in_bytes() -> None:
    assert 2048 == procfs.parse_resident_bytes("VmHWM:\t 9 kB\nVmRSS:\t 2 kB\n")


def test_a_process_without_memory_has_ended() -> None:
    with pytest.raises(ValueError, match="has ended"):
        procfs.parse_resident_bytes("Name:\tpython\nState:\tZ (zombie)\n")


def test_waiting_for_a_processor_is_the_second_figure() -> None:
    assert 1.5 == procfs.parse_waited_s("632140586 1500000000 200\n")


def test_the_processor_has_a_name_or_none() -> None:
    assert "Abacus 9" == procfs.parse_cpu_model("processor\t: 0\nmodel name\t: Abacus 9\n")
    assert "" == procfs.parse_cpu_model("processor\t: 0\n")


def test_work_of_this_process_is_seen() -> None:
    before = procfs.cpu(os.getpid())
    end_s = time.process_time() + 0.05
    while time.process_time() < end_s:
        pass

    assert (procfs.cpu(os.getpid()) - before).total_s > 0
    assert procfs.resident_bytes(os.getpid()) > 1_000_000
    assert procfs.waited_s() >= 0
