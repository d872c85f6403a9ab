"""Leaders that are processes of their own."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.provisioning.store.examples import PATIENCE_S
from tests.waiting import eventually

MODULE = "tests.provisioning.store.leader_process"


@dataclass
class Leader:
    """A running `leader_process`."""

    process: asyncio.subprocess.Process
    said: list[str] = field(default_factory=list)
    n_heard: int = 0
    """Lines that `says` has returned or passed by."""

    async def says(self, word: str) -> str:
        """Return the next line that begins with a word; fail where none comes in time."""
        await eventually(lambda: self._next(word) is not None, within_s=PATIENCE_S)
        place = self._next(word)
        assert place is not None
        self.n_heard = place + 1
        return self.said[place]

    async def ended(self) -> dict[str, int]:
        """Kill it and return the versions, by id, of all writes that were acknowledged to it."""
        self.signal(signal.SIGKILL)
        await self.process.wait()
        await eventually(lambda: self.is_silent, within_s=PATIENCE_S)
        writes = [line.split() for line in self.said if line.startswith("wrote ")]
        return {name: int(version) for _, name, version in writes}

    @property
    def is_silent(self) -> bool:
        """Say whether all that it said was read."""
        return self.process.stdout is None or self.process.stdout.at_eof()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.process.returncode is None:
            self.process.send_signal(number)

    async def listen(self) -> None:
        """Take down what it says, until it ends."""
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            # A line that death has cut off was never said.
            self.said.extend([line.rstrip()] if line.endswith("\n") else [])

    def _next(self, word: str) -> int | None:
        lines = range(self.n_heard, len(self.said))
        return next((n for n in lines if self.said[n].split()[0] == word), None)


@asynccontextmanager
async def leader(url: str, fleet: str, holder: str, *, lease_s: int = 2) -> AsyncIterator[Leader]:
    """Run a leader until the block ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", MODULE, url, fleet, holder, str(lease_s)),
        stdout=asyncio.subprocess.PIPE,
    )
    running = Leader(process)
    listening = asyncio.create_task(running.listen())
    try:
        yield running
    finally:
        await running.ended()
        await listening
