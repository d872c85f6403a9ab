"""Write the record by which containerd makes a unit's container.

In:   a Unit, its Image, and the node's Settings.
Out:  the record, which holds the runtime specification.
Pure; fails with LastingError as containerd_spec.py does.
"""

from __future__ import annotations

import posixpath

import msgspec

from provisioning.model import Unit
from provisioning.runtime import containerd_api as api
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime import containerd_spec as spec
from provisioning.runtime import containerd_units as units
from provisioning.runtime import logfiles
from provisioning.runtime.containerd_image import Image

SHIM = "io.containerd.runc.v2"


class Settings(msgspec.Struct, frozen=True):
    """How containers are made on a node."""

    runtime: str = "crun"
    """A program of the node: its name or path."""
    runtime_root: str = "/run/ollama-fleet/{node}"
    """Where the runtime keeps its state: each daemon's own, or two on one machine take each
    other's containers for theirs."""
    cgroup_parent: str = "/ollama-fleet.{node}"
    """Likewise; a container's own group is below it."""
    snapshotter: str = "overlayfs"
    architecture: str = "amd64"
    registries_dir: str = "/etc/containerd/certs.d"
    """How registries are reached, for containerd 2; 1.7 asks them over HTTPS, and trusts those
    whom the node trusts."""
    log_dir: str = logfiles.CONTAINERS_DIR
    max_log_bytes: int = logfiles.MAX_BYTES

    def of(self, node: str) -> Settings:
        """Return the settings with the node's name filled in."""
        return msgspec.structs.replace(
            self,
            runtime_root=self.runtime_root.replace("{node}", node),
            cgroup_parent=self.cgroup_parent.replace("{node}", node),
        )


def cgroup_of(fleet: str, name: str, settings: Settings) -> str:
    """Return a unit's cgroup: fleets share a node's groups, other than namespaces."""
    return posixpath.join(settings.cgroup_parent, f"{fleet}.{name}")


def new_record(unit: Unit, image: Image, settings: Settings) -> messages.Container:
    """Return the record; what the runtime needs to know is read from it at every later step."""
    document = spec.render(unit, image.config, cgroup=cgroup_of(unit.fleet, unit.name, settings))
    options = messages.RuncOptions(binary_name=settings.runtime, root=settings.runtime_root)
    return messages.Container(
        id=unit.name,
        labels=units.labels(unit),
        image=unit.image,
        snapshotter=settings.snapshotter,
        snapshot_key=unit.name,
        runtime=messages.Runtime(name=SHIM, options=api.wrapped(api.RUNC_OPTIONS, options)),
        spec=api.wrapped(api.SPEC_TYPE, msgspec.json.encode(document)),
    )


def bare_record(name: str, fleet: str) -> messages.Container:
    """Return a record that is enough to end a task which has none."""
    return messages.Container(
        id=name,
        labels={units.FLEET: fleet},
        runtime=messages.Runtime(name=SHIM),
        spec=api.wrapped(api.SPEC_TYPE, b"{}"),
    )
