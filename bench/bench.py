"""What all parts of the benchmark share: sizes, a folder, ports, and running other processes.

Every process ends with the block that started it, on Ctrl-C and failures too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import procfs
from bench.procfs import Cpu
from provisioning.demo.ports import Ports, Wanted
from tests.ports import BENCHED

FIRST_PORT = BENCHED[0]
MAX_WARM_CYCLES = 4
"""How many intervals a process may take until it has seen the whole fleet."""


class BenchError(Exception):
    """The benchmark cannot go on; says what was tried and what was seen."""


@dataclass(frozen=True, slots=True)
class Bench:
    """One run."""

    n_instances: int
    n_cycles: int
    interval_s: int
    run_dir: Path
    ports: Ports
    say: Callable[[str], None]
    """Takes words of progress."""
    soak_s: float = 600.0
    """For how long ill instances are polled."""
    n_ill: int = 15
    """Instances of each kind of fault."""

    @property
    def n_short_cycles(self) -> int:
        """Return how many cycles side questions get."""
        return min(2, self.n_cycles)

    @property
    def warm_s(self) -> float:
        """Return how long a process may take until it has seen the whole fleet."""
        return MAX_WARM_CYCLES * self.interval_s + 10.0

    def port(self, what: str) -> int:
        """Return a port that is free now."""
        return self.ports.take(Wanted(what, FIRST_PORT))


def python(*arguments: str) -> tuple[str, ...]:
    """Return the command that runs this interpreter on a module."""
    return (sys.executable, "-m", *arguments)


async def output_of(command: tuple[str, ...], *, within_s: float) -> bytes:
    """Run a command to its end and return its standard output.

    Raises:
        BenchError: It fails, or takes too long.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    words = " ".join(command)
    try:
        async with asyncio.timeout(within_s):
            output, errors = await process.communicate()
    except TimeoutError:
        raise BenchError(f"`{words}` did not end within {within_s:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        tail = "\n".join(errors.decode(errors="replace").splitlines()[-12:])
        raise BenchError(f"`{words}` failed with status {process.returncode}:\n{tail}")
    return output


async def cpu_by_cycle(pid: int, *, n_cycles: int, interval_s: float) -> list[Cpu]:
    """ScrapeTarget a process for whole cycles; return the CPU time of each.

    Its work is spread evenly over the interval, so it does not matter where in one we begin.
    """
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    readings = [procfs.cpu(pid)]
    for number in range(1, n_cycles + 1):
        await asyncio.sleep(started_s + number * interval_s - loop.time())
        readings.append(procfs.cpu(pid))
    return [after - before for before, after in itertools.pairwise(readings)]
