"""Fleets that real observers watch: an exporter for each, one Prometheus, maybe Alertmanager."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from provisioning.demo import observers, processes, programs, traffic
from provisioning.demo.observers import EXPORTER_JOB, GATEWAY_JOB, PROVISIONER_JOB, Observers
from provisioning.demo.ports import address_of, url_of
from provisioning.demo.processes import Children, ChildSpec
from provisioning.demo.rundir import RunDir
from provisioning.demo.traffic import Gateway
from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.spec import MODELS, FleetSpec
from tests import keeper
from tests.ports import free_ports


@dataclass(frozen=True, slots=True)
class Polled:
    """What an exporter polls, and its further options."""

    inventory: Sequence[Mapping[str, Any]]
    options: tuple[str, ...] = ()


@asynccontextmanager
async def watched_fleet(
    tmp_path: Path, binary: Path, spec: FleetSpec
) -> AsyncIterator[tuple[RunningFleet, str]]:
    """Run a fleet, the exporter and Prometheus, a second apart; give fleet and Prometheus' URL."""
    async with (
        running_fleet(spec) as fleet,
        watched(tmp_path, binary, {"": Polled(fleet.inventory)}) as url,
    ):
        yield fleet, url


@asynccontextmanager
async def watched(
    tmp_path: Path,
    binary: Path,
    fleets: Mapping[str, Polled],
    *,
    alertmanager_binary: Path | None = None,
    alert_options: tuple[str, ...] = (),
    provisioner_of: str | None = None,
    gateway_of: str | None = None,
) -> AsyncIterator[str]:
    """Run an exporter for each fleet and one Prometheus; give its URL.

    Args:
        tmp_path: Where their files are.
        binary: Prometheus.
        fleets: By cluster; the empty one has no such label.
        alertmanager_binary: It runs as well where its program is given.
        alert_options: Further ones of `alerts build`.
        provisioner_of: A cluster for which a provisioner runs, which has made nothing of this.
        gateway_of: A cluster that has a gateway, and users who ask it for text.
    """
    port, alertmanager_port, provisioner_port, traffic_port, ops_port, *ports = free_ports(
        5 + len(fleets)
    )
    watch = Observers(
        run_dir=RunDir(tmp_path),
        inventories=(),
        exporter_port=ports[0],
        prometheus_port=port,
        alertmanager_port=alertmanager_port,
        prometheus_binary=binary,
        alertmanager_binary=alertmanager_binary or binary,
        interval_s=1,
        provisioner_address=None if provisioner_of is None else address_of(provisioner_port),
        gateway_address=None if gateway_of is None else address_of(ops_port),
    )
    observers.build_rules(watch.run_dir, interval_s=watch.interval_s, options=alert_options)
    _write_config(watch, dict(zip(ports, fleets, strict=True)), provisioner_of, gateway_of)
    specs = [
        _exporter(watch, cluster, polled, exporter_port)
        for exporter_port, (cluster, polled) in zip(ports, fleets.items(), strict=True)
    ]
    if alertmanager_binary is not None:
        specs.append(observers.alertmanager_server(watch))
    async with Children(tmp_path) as children:
        await children.start(*specs, observers.prometheus_server(watch))
        if watch.provisioner_address is not None:
            await keeper.start(children, tmp_path, watch.provisioner_address)
        if gateway_of is not None:
            exporter_port = dict(zip(fleets, ports, strict=True))[gateway_of]
            await _start_gateway(watch, children, exporter_port, traffic_port, ops_port)
        yield watch.prometheus_url


async def _start_gateway(
    watch: Observers, children: Children, exporter_port: int, port: int, ops_port: int
) -> None:
    gateway = Gateway(
        run_dir=watch.run_dir,
        nginx=programs.locate_gateway(programs.default_dir(os.environ), say=print),
        exporter_url=url_of(exporter_port),
        port=port,
        ops_port=ops_port,
    )
    traffic.write_config(gateway)
    await children.start(traffic.server(gateway))
    models = [f"--model={model.name}" for model in MODELS]
    users = ("--stream", "--tokens=2", "--users=4", "--run-time=1h", *models)
    load = processes.our_command("load", f"--gateway.url={gateway.url}", *users)
    await children.start(ChildSpec("users", load))


def _exporter(watch: Observers, cluster: str, polled: Polled, port: int) -> ChildSpec:
    inventory = watch.run_dir.path / f"fleet{cluster}.json"
    inventory.write_text(json.dumps(list(polled.inventory)))
    spec = observers.exporter(
        replace(watch, exporter_port=port, inventories=(inventory,), gateway_address=None)
    )
    # As late as it goes: the servers live in a process that tests keep busy.
    late = ("--poll.health-timeout", "950ms", "--poll.metrics-timeout", "980ms")
    options = (*late, "--poll.grace-period", "1s", *polled.options)
    return replace(spec, name=f"exporter{cluster}", command=(*spec.command, *options))


def _write_config(
    watch: Observers,
    clusters: Mapping[int, str],
    of_provisioner: str | None,
    of_gateway: str | None,
) -> None:
    """Write Prometheus' configuration, each exporter's series with the label of its cluster."""
    config = yaml.safe_load(observers.prometheus_config(watch.prometheus))
    targets: dict[str, dict[str | None, str | None]] = {
        EXPORTER_JOB: {address_of(port): cluster for port, cluster in clusters.items()},
        PROVISIONER_JOB: {watch.provisioner_address: of_provisioner},
        GATEWAY_JOB: {watch.gateway_address: of_gateway},
    }
    for job in config["scrape_configs"]:
        if job["job_name"] in targets:
            job["static_configs"] = [
                {"targets": [address], "labels": {"cluster": cluster or ""}}
                for address, cluster in targets[job["job_name"]].items()
            ]
    watch.run_dir.prometheus_config.write_text(yaml.safe_dump(config, sort_keys=False))
