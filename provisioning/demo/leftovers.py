"""Processes of a fleet, which outlive its provisioner by design, end with the run that made them.

In:   the folders of a run. Out: a block before which, and after which, none of them runs.
Fails with LeftoverError. What a killed run has left behind is found by its records, and removed
when the next one begins in the same folder.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from provisioning.demo.errors import LeftoverError
from provisioning.demo.rundir import RunDir
from provisioning.errors import ProvisionerError
from provisioning.model import ContainerState
from provisioning.runtime import cgroups
from provisioning.runtime.process import ProcessRuntime

GRACE_S = 3.0


@asynccontextmanager
async def no_leftovers(run_dir: RunDir, *, is_kept: bool) -> AsyncIterator[None]:
    """Forget the fleet of the run before, and leave no process of this one's.

    With `is_kept` neither is done: the run goes on with what is there, and leaves it there.

    Raises:
        LeftoverError: A process does not end.
    """
    if is_kept:
        yield
        return
    await remove_processes(run_dir.provisioner_containers)
    shutil.rmtree(run_dir.provisioner_state, ignore_errors=True)
    try:
        yield
    finally:
        await _finished(run_dir.provisioner_containers)


async def n_processes(containers_dir: Path) -> int:
    """Return how many processes that a provisioner has recorded in the folder are running."""
    n = 0
    for folder in _folders(containers_dir):
        async with _runtime(containers_dir, folder) as runtime:
            containers = await runtime.containers()
        n += sum(container.state is ContainerState.RUNNING for container in containers)
    return n


async def remove_processes(containers_dir: Path) -> None:
    """End every process that a provisioner has recorded in the folder, of any fleet and node.

    Raises:
        LeftoverError: One does not end.
    """
    try:
        for folder in _folders(containers_dir):
            async with _runtime(containers_dir, folder) as runtime:
                containers = await runtime.containers()
                await asyncio.gather(
                    *(runtime.remove(container.name, grace_s=GRACE_S) for container in containers)
                )
    except ProvisionerError as error:
        raise LeftoverError(f"cannot end what {containers_dir} has a record of: {error}") from error


def _folders(containers_dir: Path) -> list[Path]:
    """Return the folder of each node of each fleet."""
    return [path for path in sorted(containers_dir.glob("*/*")) if path.is_dir()]


@asynccontextmanager
async def _runtime(containers_dir: Path, folder: Path) -> AsyncIterator[ProcessRuntime]:
    """Give the runtime whose records are in the folder of a fleet's node."""
    fleet, node = folder.parent.name, folder.name
    runtime = ProcessRuntime(
        fleet, node, state_dir=containers_dir, environ={}, groups=cgroups.find()
    )
    try:
        yield runtime
    finally:
        await runtime.close()


async def _finished(containers_dir: Path) -> None:
    """Remove all to the end, however often Ctrl-C would have it otherwise.

    Raises:
        LeftoverError: A process does not end.
    """
    removing = asyncio.create_task(remove_processes(containers_dir))
    cancelled: asyncio.CancelledError | None = None
    while not removing.done():
        try:
            await asyncio.shield(removing)
        except asyncio.CancelledError as error:
            cancelled = error
    removing.result()  # what is left behind is told, rather than that all was stopped
    if cancelled is not None:
        raise cancelled
