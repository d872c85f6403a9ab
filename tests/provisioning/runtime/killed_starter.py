"""Start a container and be killed by SIGKILL at a chosen step; a step is a thing done to the
system.

    python -m tests.provisioning.runtime.killed_starter STATE_DIR STEP UNIT_JSON

The step AFTER_SPAWN is the moment when the process was made and has not said yet who it is.
Prints `done` where it came to the end alive.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from provisioning.model import ContainerSpec
from provisioning.runtime import cgroups
from provisioning.runtime.process import ProcessRuntime

AFTER_SPAWN = -1
STEPS = ("open", "os.", "fcntl.", "shutil.", "socket.bind")
"""Audit events whose names begin like this count as steps."""
SPAWN = os.posix_spawn


def main() -> None:
    """Start the container, or die."""
    state_dir, step, container_json = sys.argv[1:]
    container = msgspec.json.decode(container_json, type=ContainerSpec)
    asyncio.run(start(Path(state_dir), int(step), container))
    sys.stdout.write("done")


async def start(state_dir: Path, step: int, container: ContainerSpec) -> None:
    """Start the container, counting steps from the call on."""
    runtime = ProcessRuntime(
        container.fleet, "here", state_dir=state_dir, environ=os.environ, groups=cgroups.find()
    )
    steps = count(1)

    def on_event(event: str, _: tuple[object, ...]) -> None:
        if event.startswith(STEPS) and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)
    if step == AFTER_SPAWN:
        os.posix_spawn = spawn_and_die
    await runtime.start(container)
    await runtime.close()


def spawn_and_die(*arguments: Any, **options: Any) -> int:
    """Make the process, and be killed before it could run for long."""
    SPAWN(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


if __name__ == "__main__":
    main()
