"""Provisioners over two containerd daemons, which stand for nodes, and real crun; needs root."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.model import container_name
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd.client import Daemon
from provisioning.runtime.containerd.containers import ACTIVE, Settings
from provisioning.runtime.containerd.runtime import namespace_of
from tests.containerd import IMAGE, Containerd, busybox_archive, running_containerd
from tests.e2e.provisioner import (
    InstanceProcess,
    Lab,
    command_lines,
    loopback_of,
    parent_of,
    words_of,
)
from tests.ports import CONTAINER_PORTS

NODE_GRACE_S = 6
SERVE = 'echo ok >/tmp/health; exec "$@"'
"""A shell's script: what follows it is the server's command."""


@dataclass
class Node:
    """A containerd that stands for a node."""

    name: str
    address: str
    containerd: Containerd
    endpoint: str = ""
    """Where provisioners reach it; empty: at its socket."""

    @property
    def entry(self) -> dict[str, Any]:
        """Return the node as a specification has it."""
        return {
            "name": self.name,
            "runtime": "containerd",
            "endpoint": self.endpoint or self.containerd.endpoint,
            "address": self.address,
            "cpus": 4,
            "memory": "4GiB",
            "first_port": CONTAINER_PORTS[0],
            "last_port": CONTAINER_PORTS[99],
        }

    def clean_up(self) -> None:
        """Remove what the runtime and the kernel keep."""
        shutil.rmtree(f"/run/ollama-fleet/{self.name}", ignore_errors=True)
        for group in list(Path("/sys/fs/cgroup").glob(f"*/ollama-fleet.{self.name}")):
            with suppress(OSError):  # some hierarchies have two names: it may be gone already
                for inner in list(group.glob("*/")):
                    inner.rmdir()
                group.rmdir()


class ContainerLab(Lab):
    """A Lab whose instances are containers."""

    nodes: Sequence[Node] = ()
    archive: Path
    """Of the image, on this machine."""

    @property
    def realm(self) -> str:
        """Return what begins a word of each instance's command line, and of no other process's."""
        return f"{self.fleet}/"

    def containers(self, count: int) -> Path:
        """Write a specification of so many web servers on both nodes."""
        httpd = ["httpd", "-f", "-p", "{host}:{port}", "-h", "/tmp", "-r", self.realm + "{id}"]  # noqa: S108 - the container's
        pool = {
            "image": IMAGE,
            "archive": str(self.archive),
            "engine": "auto",
            "command": ["sh", "-c", SERVE, "sh", *httpd],
            "memory": "24MiB",
            "health": {"path": "/health", "interval": "500ms", "timeout": "6s", "failures": 3},
        }
        return self.spec(
            count,
            pool=pool,
            nodes=[node.entry for node in self.nodes],
            limits={"node_grace": f"{NODE_GRACE_S}s"},
        )

    def processes(self) -> list[InstanceProcess]:
        mark = self.realm.encode()
        found = {
            pid: _process_of(pid, words, mark)
            for pid, words in command_lines()
            if any(word.startswith(mark) for word in words)
        }
        # The server forks for each request: such a child is none, nor one that has ended.
        parents = {pid: parent_of(pid) for pid in found}
        return [found[pid] for pid, parent in parents.items() if parent and parent not in found]

    async def orphans(self, instances: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what nodes have that is no part of an instance, and what they lack of one."""
        found = []
        for node in self.nodes:
            here = [one for one in instances if one["node"] == node.name]
            wanted = {container_name(one["id"], one["generation"]) for one in here}
            for kind, there in (await remains(node, self.fleet)).items():
                found += [f"{kind} of {name} too many on {node.name}" for name in there - wanted]
                found += [f"{kind} of {name} missing on {node.name}" for name in wanted - there]
        return found

    def doubled(self) -> dict[str, int]:
        """Return the instances that have several processes, with how many."""
        counted = Counter(process.instance_id for process in self.processes())
        return {id_: n for id_, n in counted.items() if n > 1}


async def remains(node: Node, fleet: str) -> dict[str, set[str]]:
    """Return the instances of which something is on a node, by the kind of thing."""
    containerd, namespace = node.containerd, namespace_of(fleet)
    bundles = containerd.folder / "state/io.containerd.runtime.v2.task" / namespace
    groups = Path("/sys/fs/cgroup").glob(f"*/ollama-fleet.{node.name}/{fleet}.*/")
    states = Path(f"/run/ollama-fleet/{node.name}").glob("*/*/")
    return {
        **await _known_to(containerd.endpoint, namespace),
        "shim": {_word_after(b"-id", pid) for pid in containerd.shims()} - {""},
        "bundle": {path.name for path in bundles.glob("*/")},
        "runtime's state": {path.name for path in states},
        "cgroup": {path.name.removeprefix(f"{fleet}.") for path in groups},
    }


async def _known_to(endpoint: str, namespace: str) -> dict[str, set[str]]:
    """Return the instances that a daemon itself tells of."""
    daemon = Daemon(endpoint, namespace)
    try:
        records = await daemon.call(api.LIST_CONTAINERS, messages.ListContainersRequest())
        tasks = await daemon.call(api.LIST_TASKS, messages.Empty())
        request = messages.ListSnapshotsRequest(snapshotter=Settings().snapshotter)
        replies = daemon.stream(api.LIST_SNAPSHOTS, request, deadline_s=daemon.deadline_s)
        snapshots = [snapshot async for reply in replies for snapshot in reply.info]
    finally:
        await daemon.close()
    return {
        "record": {record.id for record in records.containers},
        "task": {task.id for task in tasks.tasks},
        "snapshot": {one.name for one in snapshots if one.kind == ACTIVE},
    }


def _word_after(option: bytes, pid: int) -> str:
    """Return what a process's command line has after an option; empty once it has ended."""
    words = words_of(pid)
    return words[words.index(option) + 1].decode() if option in words else ""


def _process_of(pid: int, words: Sequence[bytes], mark: bytes) -> InstanceProcess:
    realm = next(word for word in words if word.startswith(mark))
    host, _, port = words[words.index(b"-p") + 1].decode().rpartition(":")
    return InstanceProcess(pid, realm.removeprefix(mark).decode(), host, int(port))


@contextmanager
def container_lab(folder: Path) -> Iterator[ContainerLab]:
    """Make a ContainerLab of two nodes that lack the image; it is gone after the block."""
    base, pid = loopback_of(folder).rpartition(".")[0], os.getpid()
    made = ContainerLab(folder, f"lab-{pid}")
    made.archive = busybox_archive(folder)
    with running_containerd(folder / "a") as first, running_containerd(folder / "b") as second:
        made.nodes = (
            Node(f"a-{pid}", f"{base}.1", first),
            Node(f"b-{pid}", f"{base}.2", second),
        )
        try:
            yield made
        finally:
            made.clean_up()
            shutil.rmtree(f"/var/log/ollama-fleet/{made.fleet}", ignore_errors=True)
            for node in made.nodes:
                node.containerd.clean_up()
                node.clean_up()
