"""A process that runs stand-ins until it is stopped, to be killed by a test.

python -m tests.provisioning.demo.runner RUN_DIR MODE PORT...
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path

from provisioning.demo.processes import Children
from tests.provisioning.demo.standin import Mode, child
from tests.waiting import eventually


async def main(run_dir: Path, mode: Mode, ports: list[int]) -> None:
    running = asyncio.create_task(_run(run_dir, mode, ports))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _run(run_dir: Path, mode: Mode, ports: list[int]) -> None:
    async with Children(run_dir) as children:
        starting = asyncio.create_task(
            children.start(*(child(f"one-{port}", port, mode) for port in ports))
        )
        await eventually(lambda: len(children.pids) == len(ports))
        # What is awaited still: with UNREADY stand-ins this is in the middle of the start.
        sys.stdout.write(json.dumps(children.pids) + "\n")
        sys.stdout.flush()
        await starting
        await children.guard(asyncio.sleep(600))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Mode(sys.argv[2]), [int(text) for text in sys.argv[3:]]))
