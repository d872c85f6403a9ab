"""Read what the kernel counts for a process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
BYTES_PER_KB = 1024
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time of a process and all its threads, in seconds."""

    user_s: float
    system_s: float

    @property
    def total_s(self) -> float:
        """Return both together."""
        return self.user_s + self.system_s

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user_s - other.user_s, self.system_s - other.system_s)


def parse_cpu(stat: str, *, ticks_per_s: int) -> Cpu:
    """Return the CPU time in the text of /proc/PID/stat."""
    # The program's name, in brackets, may hold blanks and brackets itself.
    fields = stat.rpartition(")")[2].split()
    return Cpu(int(fields[11]) / ticks_per_s, int(fields[12]) / ticks_per_s)


def parse_resident_bytes(status: str) -> int:
    """Return the resident memory in the text of /proc/PID/status.

    Raises:
        ValueError: It says nothing about memory, as for a process that has ended.
    """
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "VmRSS":
            return int(value.split()[0]) * BYTES_PER_KB
    raise ValueError("no VmRSS in the status: the process has ended")


def parse_waited_s(schedstat: str) -> float:
    """Return how long a thread was ready to run but had no processor, from its schedstat."""
    return int(schedstat.split()[1]) / NS_PER_S


def parse_cpu_model(cpuinfo: str) -> str:
    """Return what the processor is called in the text of /proc/cpuinfo; empty where it is not."""
    names = (line.partition(":") for line in cpuinfo.splitlines())
    return next((value.strip() for name, _, value in names if name.strip() == "model name"), "")


def cpu(pid: int) -> Cpu:
    """Return the CPU time that a process has used since its start."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return parse_cpu((PROC / str(pid) / "stat").read_text(), ticks_per_s=ticks_per_s)


def cpu_model() -> str:
    """Return what this machine's processor is called."""
    return parse_cpu_model((PROC / "cpuinfo").read_text())


def waited_s() -> float:
    """Return how long the current thread has waited for a processor since its start.

    0 where the kernel does not count it.
    """
    schedstat = PROC / "thread-self" / "schedstat"
    return parse_waited_s(schedstat.read_text()) if schedstat.exists() else 0.0


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds now."""
    return parse_resident_bytes((PROC / str(pid) / "status").read_text())
