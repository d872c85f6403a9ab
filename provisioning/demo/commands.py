"""The plan of a run of `up`, and the command of the process that hosts simulated instances.

In:   a Plan: what the fleet is to be, where each program listens and keeps its files.
Out:  a ChildSpec for `processes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioning.demo import ourselves
from provisioning.demo.demo import Demo
from provisioning.demo.observers import Observers
from provisioning.demo.ports import address_of, url_of
from provisioning.demo.processes import ChildSpec
from provisioning.demo.rundir import RunDir
from provisioning.model import Fleet, RuntimeKind

LOAD_S = 1.0
"""How long a simulated instance loads its model."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run needs to know before its first process starts."""

    run_dir: RunDir
    spec: Path
    """The file that says what the fleet is to be."""
    fleet: Fleet
    """What it says."""
    demo: Demo | None
    """What it was made from; None: it is a person's own."""
    provisioner_port: int
    observers: Observers
    is_kept: bool = False
    """Instances that are processes go on after the run."""

    @property
    def has_containers(self) -> bool:
        """Say whether some instances are containers, which go on after any run."""
        return any(node.runtime is RuntimeKind.CONTAINERD for node in self.fleet.nodes)

    @property
    def provisioner_url(self) -> str:
        """Return the provisioner's API."""
        return url_of(self.provisioner_port)


def simulated_fleet(plan: Plan, demo: Demo) -> ChildSpec:
    """Return the process of all simulated instances; there are none until they are ordered."""
    ports = demo.unit_ports
    command = ourselves.our_command(
        "simulate",
        f"--host-units={ports[0]}-{ports[-1]}",
        f"--load-seconds={LOAD_S:g}",
        f"--control.listen-address={address_of(demo.control_port)}",
        f"--control.token-file={plan.run_dir.token}",
    )
    return ChildSpec("simulated-fleet", command, f"{demo.control_url}/-/healthy")
