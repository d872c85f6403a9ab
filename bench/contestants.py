"""Make and remove containers in two ways: by our runtime, and by containerd's own command."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from bench.bench import output_of
from ollama_fleet.clock import SystemClock
from provisioning.errors import ContainerError
from provisioning.model import ContainerSpec, container_name
from provisioning.runtime.containerd.containers import FLEET
from provisioning.runtime.containerd.runtime import ContainerdRuntime, namespace_of
from provisioning.scheduler import OPERATIONS_PER_CPU
from tests.containerd import IMAGE, Containerd
from tests.ports import IDLE_PORT

OURS, CTR = "ours", "ctr"
"""The fleets of the two, whose namespaces keep their containers apart."""
COMMAND = ("sleep", "1000")
CPUS = 1.0
MEMORY_BYTES = 24 * 2**20
LOOP_LIMIT_S = 120.0


class Contestant(Protocol):
    """Makes and removes containers, several at once."""

    async def start(self, names: Sequence[str]) -> None:
        """Return when the processes of all run."""
        ...

    async def remove(self, names: Sequence[str]) -> None:
        """Return when nothing is left of any."""
        ...


@dataclass(frozen=True, slots=True)
class Ours:
    """Our runtime, used as the provisioner does."""

    runtime: ContainerdRuntime

    async def start(self, names: Sequence[str]) -> None:
        await at_once(lambda name: self.runtime.start(new_container(OURS, name)), names)

    async def remove(self, names: Sequence[str]) -> None:
        await removed(self.runtime, names)


@dataclass(frozen=True, slots=True)
class Ctr:
    """A parallel loop in the shell around containerd's own command, with the same limits.

    Its containers are annotation as of a fleet: what an interruption leaves can be told by it.
    """

    daemon: Containerd

    async def start(self, names: Sequence[str]) -> None:
        settings = self.daemon.settings
        await self._loop(
            names,
            f"{self._ctr} run --detach --net-host --runc-binary={settings.runtime}"
            f" --runc-root={settings.runtime_root} --cgroup={settings.cgroup_parent}/@"
            f" --label={FLEET}={CTR} --cpus={CPUS} --memory-limit={MEMORY_BYTES}"
            f" --log-uri=file://{settings.log_dir}/ctr/@.log {IMAGE} @ {' '.join(COMMAND)}",
        )

    async def remove(self, names: Sequence[str]) -> None:
        # By force means: kill, wait for the end, then delete, in one run of the program.
        await self._loop(names, f"{self._ctr} task rm --force @ && {self._ctr} container rm @")

    @property
    def _ctr(self) -> str:
        binary = self.daemon.binaries / "ctr"
        return f"{binary} --address={self.daemon.socket} --namespace={namespace_of(CTR)}"

    async def _loop(self, names: Sequence[str], command: str) -> None:
        """Run the command for each name, which takes the place of the `@` in it."""
        listed = self.daemon.folder / "names"
        listed.write_text("".join(f"{name}\n" for name in names))
        loop = ("xargs", f"--arg-file={listed}", f"--max-procs={operations()}", "-I@")
        await output_of((*loop, "sh", "-c", command), within_s=LOOP_LIMIT_S)


@contextlib.asynccontextmanager
async def opened(
    daemon: Containerd, fleet: str, program: str, archive: Path
) -> AsyncIterator[ContainerdRuntime]:
    """Give a runtime for a fleet that has the image; none of its containers outlives the block."""
    settings = msgspec.structs.replace(
        daemon.settings,
        runtime=str(daemon.binaries / program),
        runtime_root=f"{daemon.settings.runtime_root}-{program}",
    )
    runtime = ContainerdRuntime(
        fleet, "node", endpoint=daemon.endpoint, clock=SystemClock(), settings=settings
    )
    try:
        await runtime.images.import_archive(IMAGE, archive)
        yield runtime
    finally:
        with contextlib.suppress(ContainerError):  # what went wrong before says more
            await removed(runtime, [container.name for container in await runtime.containers()])
        await runtime.close()


def container_names(group: str, n_containers: int) -> list[str]:
    """Return that many names of containers."""
    return [container_name(f"{group}-{number}", 1) for number in range(n_containers)]


def new_container(fleet: str, name: str) -> ContainerSpec:
    """Return a container that does nothing, within limits."""
    return ContainerSpec(
        name=name,
        fleet=fleet,
        instance_id=name.rpartition(".")[0],
        generation=1,
        pool="pool",
        host="127.0.0.1",
        port=IDLE_PORT,
        image=IMAGE,
        command=COMMAND,
        environment=(),
        mounts=(),
        cpus=CPUS,
        memory_bytes=MEMORY_BYTES,
    )


async def removed(runtime: ContainerdRuntime, names: Iterable[str]) -> None:
    """Remove them all, with nothing left when it returns."""
    await at_once(lambda name: runtime.remove(name, grace_s=0.0), names)


async def at_once(call: Callable[[str], Awaitable[None]], names: Iterable[str]) -> None:
    """Call for every name, as many at once as a node bears."""
    left = iter(names)

    async def work() -> None:
        for name in left:
            await call(name)

    await asyncio.gather(*(work() for _ in range(operations())))


def operations() -> int:
    """Return how many containers are made or removed at once, as the provisioner would."""
    return OPERATIONS_PER_CPU * (os.cpu_count() or 1)
