"""The parts of a lab: their configuration, and how each is started."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.live import pace as paces
from bench.live.pace import Pace
from provisioning.demo import observers, processes
from provisioning.demo.observers import PrometheusSettings
from provisioning.demo.ports import EVERY_ADDRESS, LOOPBACK, Ports, Wanted, address_of, url_of
from provisioning.demo.processes import ChildSpec
from provisioning.demo.rundir import RunDir
from tests.ports import LABS

PORTS_OF_PROCESS = 100
FIRST_PORT = LABS[os.getpid() * PORTS_OF_PROCESS % len(LABS)]
"""Another for each process, as two may run. Below the ports that outgoing connections take: the
exporters' alone are more than there are."""
READY_WITHIN_S = 90.0

Rules = Sequence[Mapping[str, Any]]
"""What `ollama-fleet alerts list --json` says of them."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The real programs."""

    prometheus: Path
    promtool: Path
    alertmanager: Path


@dataclass(frozen=True, slots=True)
class PortPlan:
    """Where each part listens."""

    fleet: int
    control: int
    exporter: int
    path: int
    prometheus: int
    alertmanager: int
    web: int
    mail: int

    @classmethod
    def take(cls, ports: Ports) -> PortPlan:
        """Take free ports, none of which another lab of this process has."""
        hosts = [EVERY_ADDRESS, *([LOOPBACK] * 7)]
        return cls(*(ports.take(Wanted("a lab", FIRST_PORT, host=host)) for host in hosts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is decided before a lab starts."""

    pace: Pace
    n_instances: int
    run_dir: RunDir
    ports: PortPlan
    programs: Programs
    fleet_options: tuple[str, ...] = ()
    """Further ones of `ollama-fleet simulate`, and of the exporter."""
    exporter_options: tuple[str, ...] = ()
    profile: str = ""
    """Of the alerts' settings; the defaults where empty."""

    @property
    def alert_options(self) -> tuple[str, ...]:
        """Return the options that name the profile."""
        return (f"--profile={self.profile}",) if self.profile else ()

    @property
    def inventory(self) -> Path:
        """Return the inventory that the exporter reads: a copy of the fleet's own."""
        return self.run_dir.path / "inventory.json"

    @property
    def whole_inventory(self) -> Path:
        """Return the inventory that the simulated fleet writes."""
        return self.run_dir.path / "simulated.json"

    @property
    def prometheus(self) -> PrometheusSettings:
        """Return Prometheus' settings; it scrapes the exporter through the path."""
        return PrometheusSettings(
            exporter_address=address_of(self.ports.path),
            address=address_of(self.ports.prometheus),
            interval_s=self.pace.scrape_s,
            rule_files=(self.run_dir.rule_files,),
            alertmanager_address=address_of(self.ports.alertmanager),
        )


def prepare(plan: Plan, *, routing: Mapping[str, Any]) -> Rules:
    """Build the rules and write all configuration; return the rules as they are told."""
    run_dir = plan.run_dir
    config = run_dir.path / "alerts.yml"
    profile = plan.alert_options
    shipped = json.loads(_output("alerts", "list", "--json", *profile))
    config.write_text(yaml.safe_dump(paces.settings(plan.pace, shipped, routing=routing)))
    options = (*profile, f"--config.file={config}")
    observers.build_alerts(
        processes.our_command("alerts", "build", f"--output-dir={run_dir.alerts}", *options)
    )
    run_dir.prometheus_config.write_text(_prometheus_config(plan))
    told: Rules = json.loads(_output("alerts", "list", "--json", *options))
    return told


def _output(*words: str) -> str:
    return subprocess.run(
        processes.our_command(*words),
        env=processes.our_environ(os.environ),
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def _prometheus_config(plan: Plan) -> str:
    document = yaml.safe_load(observers.prometheus_config(plan.prometheus))
    document["global"] |= {
        "scrape_timeout": f"{plan.pace.scrape_timeout_s}s",
        "evaluation_interval": f"{plan.pace.evaluation_s}s",
    }
    return yaml.safe_dump(document)


def fleet(plan: Plan) -> ChildSpec:
    """Return the simulated fleet."""
    control = plan.ports.control
    command = processes.our_command(
        "simulate",
        f"--instances={plan.n_instances}",
        f"--listen-port={plan.ports.fleet}",
        f"--control.listen-address={address_of(control)}",
        f"--control.token-file={plan.run_dir.token}",
        f"--inventory={plan.whole_inventory}",
        *plan.fleet_options,
    )
    return ChildSpec("fleet", command, f"{url_of(control)}/-/healthy", READY_WITHIN_S)


def exporter(plan: Plan) -> ChildSpec:
    """Return the exporter; ready once it has polled every instance."""
    poll_s, port = plan.pace.poll_s, plan.ports.exporter
    command = processes.our_command(
        "exporter",
        f"--inventory={plan.inventory}",
        f"--inventory.refresh-interval={plan.pace.refresh_s}s",
        f"--web.listen-address={address_of(port)}",
        f"--poll.interval={poll_s}s",
        f"--poll.grace-period={plan.pace.grace_s}s",
        # A poll must end before the next one is due.
        f"--poll.health-timeout={min(2000, 500 * poll_s)}ms",
        f"--poll.metrics-timeout={min(5000, 800 * poll_s)}ms",
        *plan.exporter_options,
    )
    return ChildSpec("exporter", command, f"{url_of(port)}/-/ready", READY_WITHIN_S)


def prometheus_server(plan: Plan) -> ChildSpec:
    """Return Prometheus."""
    command = observers.prometheus_command(
        plan.programs.prometheus,
        config=plan.run_dir.prometheus_config,
        data_dir=plan.run_dir.prometheus_data,
        settings=plan.prometheus,
    )
    url = url_of(plan.ports.prometheus)
    return ChildSpec("prometheus", command, f"{url}/-/ready", READY_WITHIN_S)


def alertmanager_server(plan: Plan) -> ChildSpec:
    """Return Alertmanager."""
    port = plan.ports.alertmanager
    command = observers.alertmanager_command(
        plan.programs.alertmanager,
        config=plan.run_dir.alertmanager_config,
        data_dir=plan.run_dir.alertmanager_data,
        address=address_of(port),
    )
    return ChildSpec("alertmanager", command, f"{url_of(port)}/-/ready")
