"""What a person chooses for a run of `up`, and the plan that follows."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from provisioning.demo import llama, programs, rundir
from provisioning.demo.errors import DemoError
from provisioning.demo.fleet import N_REAL_PORTS, Demo, n_container_ports, specification
from provisioning.demo.observers import Observers
from provisioning.demo.ports import EVERY_ADDRESS, Ports, Wanted, address_of, url_of
from provisioning.demo.rundir import RunDir
from provisioning.demo.traffic import Gateway
from provisioning.gateway.nginx import Nginx
from provisioning.model import Fleet, RuntimeKind
from provisioning.spec.document import load_fleet

CONTROL_PORT = 11_451
LLAMA_PORT = 11_460
OPS = Wanted("the gateway for operators", 11_431)
ON_CALL = Wanted("on-call", 11_452)
CONTAINER_PORT = 20_000


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run needs to know before its first process starts."""

    run_dir: RunDir
    spec: Path
    """The file that says what the fleet is to be."""
    fleet: Fleet
    """What it says."""
    demo: Demo | None
    """What it was made from; None: --spec gave it."""
    provisioner_port: int
    observers: Observers
    gateway: Gateway
    on_call_port: int
    """Where `up` itself receives pages."""
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


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person chooses for a run."""

    spec: Path | None
    """None: the demonstration's fleet, of the next two."""
    n_simulated: int
    n_llama_servers: int
    is_kept: bool
    """Whether processes of the fleet go on after the run, and the next run goes on with them."""
    run_dir: Path | None
    provisioner: Wanted
    gateway: Wanted
    exporter: Wanted
    prometheus: Wanted
    alertmanager: Wanted
    poll_interval_s: int
    duration_s: float | None
    """How long to run once all is ready; None: until cancelled."""
    is_json: bool
    has_break: bool = False
    """Whether to take a node away until on-call is paged."""

    @property
    def listeners(self) -> tuple[Wanted, ...]:
        """Return the ports that options can give."""
        return (self.provisioner, self.gateway, self.exporter, self.prometheus, self.alertmanager)


@dataclass(frozen=True, slots=True)
class Supplies:
    """What a run needs that no port is needed for; getting it may take minutes."""

    own_fleet: Fleet | None
    """What --spec says; None: it was not given."""
    programs_dir: Path
    prometheus: Path
    alertmanager: Path
    nginx: Nginx
    model_file: Path | None
    """Of the demonstration's real servers; None where none runs."""


def gather(settings: Settings, *, say: Callable[[str], None]) -> Supplies:
    """Read --spec, find or fetch the programs, assemble the model.

    Raises:
        DemoError: One of these is missing.
        SpecError: The specification describes no fleet that can be.
    """
    own_fleet = None if settings.spec is None else pollable(load_fleet(settings.spec.resolve()))
    has_model = own_fleet is None and settings.n_llama_servers > 0
    programs_dir = programs.default_dir(os.environ)
    return Supplies(
        own_fleet=own_fleet,
        programs_dir=programs_dir,
        prometheus=programs.locate("prometheus", programs_dir, say=say),
        alertmanager=programs.locate("alertmanager", programs_dir, say=say),
        nginx=programs.locate_gateway(programs_dir, say=say),
        model_file=llama.model_file(os.environ) if has_model else None,
    )


def make_plan(settings: Settings, supplies: Supplies, run_dir: RunDir, ports: Ports) -> Plan:
    """Choose the ports; write the specification of the demonstration, where it is to run.

    Raises:
        DemoError: One of these cannot be done.
    """
    provisioner_port = ports.take(settings.provisioner)
    spec = (settings.spec or run_dir.spec).resolve()
    made, fleet = None, supplies.own_fleet
    if fleet is None:
        made = make_demo(settings, supplies, ports)
        rundir.write(spec, specification(made, spec))
        fleet = load_fleet(spec)
    exporter_port, ops_port = ports.take(settings.exporter), ports.take(OPS)
    return Plan(
        run_dir=run_dir,
        spec=spec,
        fleet=fleet,
        demo=made,
        provisioner_port=provisioner_port,
        observers=Observers(
            run_dir=run_dir,
            inventories=(f"{url_of(provisioner_port)}/instances",),
            exporter_port=exporter_port,
            prometheus_port=ports.take(settings.prometheus),
            alertmanager_port=ports.take(settings.alertmanager),
            prometheus_binary=supplies.prometheus,
            alertmanager_binary=supplies.alertmanager,
            interval_s=settings.poll_interval_s,
            provisioner_address=address_of(provisioner_port),
            # Somebody's own servers are not made to work unless they say so.
            has_canary=made is not None,
            gateway_address=address_of(ops_port),
        ),
        gateway=Gateway(
            run_dir=run_dir,
            nginx=supplies.nginx,
            exporter_url=url_of(exporter_port),
            port=ports.take(settings.gateway),
            ops_port=ops_port,
        ),
        on_call_port=ports.take(ON_CALL),
        is_kept=settings.is_kept,
    )


def make_demo(settings: Settings, supplies: Supplies, ports: Ports) -> Demo:
    """Choose the instances' ports.

    Raises:
        PortError: There are not enough.
    """
    containers = Wanted("the simulated fleet", CONTAINER_PORT, host=EVERY_ADDRESS)
    return Demo(
        n_simulated=settings.n_simulated,
        n_llama_servers=settings.n_llama_servers,
        control_port=ports.take(Wanted("the fleet's control API", CONTROL_PORT)),
        container_ports=ports.take_range(containers, n_container_ports(settings.n_simulated)),
        llama_ports=ports.take_range(Wanted("llama-server", LLAMA_PORT), N_REAL_PORTS),
        model=llama.MODEL_NAME,
        model_file=supplies.model_file,
        programs_dir=supplies.programs_dir,
        owner=None if settings.is_kept else os.getpid(),
    )


def pollable(fleet: Fleet) -> Fleet:
    """Return the fleet, if all its instances will be there to be polled.

    Raises:
        DemoError: Some are simulated in the provisioner's memory.
    """
    unreal = [
        node.name
        for node in fleet.nodes
        if node.runtime is RuntimeKind.SIMULATED and not node.endpoint
    ]
    if unreal:
        others = f" and {len(unreal) - 1:,} more" if len(unreal) > 1 else ""
        raise DemoError(
            f"node {unreal[0]}{others}: instances would be simulated in the provisioner's memory, "
            "where no exporter can poll them; run "
            "`ollama-fleet simulate --host-containers 20000-20199` "
            "and give each such node `endpoint: http://127.0.0.1:11451`, these ports, and an "
            "`address` of its own from 127.1.0.1 on"
        )
    return fleet
