"""Child processes that live and end together; the kernel kills them when this process is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

from ollama_fleet.logs import escaped
from provisioning.demo import programs, rundir
from provisioning.demo.errors import ChildError
from provisioning.runtime.procfs import until_readable

READY_POLL_S = 0.1
READY_ANSWER_S = 2.0
"""How long one answer to the readiness question may take."""
TAIL_LINES = 12
TAIL_BYTES = 8_192

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run, and how to see that it is ready."""

    name: str
    command: tuple[str, ...]
    ready_url: str = ""
    """Empty: it is ready when it runs."""
    ready_within_s: float = 120.0
    """A process that takes longer hangs, however slow the machine is."""


@dataclass(frozen=True, slots=True)
class Child:
    """A started process."""

    spec: ChildSpec
    process: subprocess.Popen[bytes]
    log: Path
    ended: asyncio.Task[int]
    """Gives the exit status, negative for a signal."""

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the process and its children, unless it was reaped and its group reused."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def error(self, what: str) -> ChildError:
        """Return an error that says what happened, with the end of the log."""
        return ChildError(f"{self.spec.name} {what}; the end of {self.log}:\n{_tail(self.log)}")


class Children:
    """A set of processes that live and end together; use it with `async with`."""

    def __init__(
        self, run_dir: Path, *, grace_s: float = 5.0, environ: Mapping[str, str] | None = None
    ) -> None:
        """Log into `run_dir`, which exists; kill what has not ended `grace_s` after SIGTERM.

        The children's environment is `environ`; None: this process's own.
        """
        self._run_dir = run_dir
        self._grace_s = grace_s
        self._environ = environ
        self._children: list[Child] = []

    @property
    def pids(self) -> dict[str, int]:
        """Return the process id of each child by its name."""
        return {child.spec.name: child.process.pid for child in self._children}

    async def start(self, *specs: ChildSpec) -> None:
        """Start all of them at once; return when all are ready.

        Raises:
            ChildError: One cannot be run, is not ready in time, or any child has ended.
        """
        started = [self._spawn(spec) for spec in specs]
        await self.guard(_until_all_ready(started))

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, if all children live as long.

        Raises:
            ChildError: A child ended first; the work is cancelled.
        """
        working = asyncio.create_task(work)
        exits = [child.ended for child in self._children]
        try:
            await asyncio.wait([working, *exits], return_when=asyncio.FIRST_COMPLETED)
            self._raise_for_ended()
            return await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def _raise_for_ended(self) -> None:
        for child in self._children:
            if child.ended.done():
                raise child.error(f"ended by itself ({_status_words(child.ended.result())})")

    def _spawn(self, spec: ChildSpec) -> Child:
        log = self._run_dir / f"{spec.name}.log"
        try:
            with rundir.opened(log, "wb") as output:
                process = subprocess.Popen(
                    [*_dying_with_parent(), *spec.command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=self._environ,
                )
            descriptor = os.pidfd_open(process.pid)
        except OSError as error:
            command = " ".join(spec.command)
            raise ChildError(f"cannot run {spec.name} (`{command}`): {error}") from error
        child = Child(spec, process, log, asyncio.create_task(_ended(process, descriptor)))
        self._children.append(child)
        return child

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop all; a cancellation while it waits (a second Ctrl-C) kills them at once."""
        stopping = asyncio.create_task(self._stop())
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            for child in self._children:
                child.signal_group(signal.SIGKILL)
            await stopping
            raise

    async def _stop(self) -> None:
        while self._children:
            await self._stop_one(self._children[-1])
            self._children.pop()

    async def _stop_one(self, child: Child) -> None:
        if not child.ended.done():
            child.signal_group(signal.SIGTERM)
            await asyncio.wait([child.ended], timeout=self._grace_s)
        child.signal_group(signal.SIGKILL)
        await child.ended


async def _ended(process: subprocess.Popen[bytes], descriptor: int) -> int:
    """Return the status of a process that has ended, and end what it has left behind."""
    try:
        await until_readable(descriptor)
    finally:
        os.close(descriptor)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _dying_with_parent() -> tuple[str, ...]:
    """Return the prefix of a command that the kernel kills when we are killed; empty without it."""
    setpriv = shutil.which("setpriv")
    return () if setpriv is None else (setpriv, "--pdeathsig", "KILL", "--")


async def _until_all_ready(children: list[Child]) -> None:
    timeout = aiohttp.ClientTimeout(total=READY_ANSWER_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        # They started together, so waiting for each in turn takes as long as the slowest.
        for child in children:
            await _until_ready(child, session)


async def _until_ready(child: Child, session: aiohttp.ClientSession) -> None:
    spec = child.spec
    if not spec.ready_url:
        return
    try:
        async with asyncio.timeout(spec.ready_within_s):
            while True:
                if await answers_ok(session, spec.ready_url):
                    return
                await asyncio.sleep(READY_POLL_S)
    except TimeoutError:
        message = f"was not ready within {spec.ready_within_s:g} s ({spec.ready_url})"
        raise child.error(message) from None


async def answers_ok(session: aiohttp.ClientSession, url: str) -> bool:
    """Return whether a GET is answered with status 200, where it was redirected to."""
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def _status_words(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(f"  {escaped(line)}" for line in lines[-TAIL_LINES:]) or "  (empty)"


# With -P, folders of the present directory never pass for our packages.
OUR_COMMAND = (sys.executable, "-P", "-m", "ollama_fleet")
OUR_VARIABLES = "OLLAMA_FLEET_"


def our_command(*words: str) -> tuple[str, ...]:
    """Return the command that runs `ollama-fleet` with these words."""
    return (*OUR_COMMAND, *words)


def our_program() -> str:
    """Return the name by which a shell finds `ollama-fleet`, or else its path."""
    name = "ollama-fleet"
    return name if shutil.which(name) else str(Path(sys.executable).with_name(name))


def our_environ(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without options for our commands: their words alone decide those."""
    return {
        name: value
        for name, value in inherited.items()
        if not name.startswith(OUR_VARIABLES) or name == programs.DIR_VARIABLE
    }
