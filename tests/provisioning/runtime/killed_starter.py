"""Start a container and be killed at a chosen step; a step is a thing done to the system.

    python -m tests.provisioning.runtime.killed_starter STATE_DIR STEP CONTAINER_JSON

Prints `done` where it came to the end alive.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from itertools import count
from pathlib import Path

import msgspec

from provisioning.model import ContainerSpec
from provisioning.runtime import cgroups
from provisioning.runtime.process import ProcessRuntime

STEPS = ("open", "os.", "socket.")
"""Audit events whose names begin like this count as steps."""


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
    await runtime.start(container)
    await runtime.close()


if __name__ == "__main__":
    main()
