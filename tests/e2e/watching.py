"""A simulated fleet that real observers watch: the exporter, Prometheus, maybe Alertmanager."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from provisioning.demo import observers
from provisioning.demo.observers import Observers
from provisioning.demo.processes import Children
from provisioning.demo.rundir import RunDir
from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.spec import FleetSpec
from tests import keeper
from tests.ports import free_ports


@asynccontextmanager
async def watched_fleet(
    tmp_path: Path,
    binary: Path,
    spec: FleetSpec,
    *,
    alertmanager_binary: Path | None = None,
    alert_options: tuple[str, ...] = (),
    has_provisioner: bool = False,
) -> AsyncIterator[tuple[RunningFleet, str]]:
    """Run a fleet, the exporter and Prometheus, a second apart; give fleet and Prometheus' URL.

    Alertmanager runs as well where its program is given, and a provisioner, which has made nothing
    of this, if it is asked for.
    """
    async with running_fleet(spec) as fleet:
        inventory = tmp_path / "fleet.json"
        inventory.write_text(json.dumps(list(fleet.inventory)))
        ports = free_ports(4)
        watch = Observers(
            run_dir=RunDir(tmp_path),
            inventories=(inventory,),
            exporter_port=ports[0],
            prometheus_port=ports[1],
            alertmanager_port=ports[2],
            prometheus_binary=binary,
            alertmanager_binary=alertmanager_binary or binary,
            interval_s=1,
            provisioner_address=f"127.0.0.1:{ports[3]}" if has_provisioner else None,
        )
        observers.build_rules(watch.run_dir, interval_s=watch.interval_s, options=alert_options)
        observers.write_config(watch)
        specs = [observers.exporter(watch), observers.prometheus_server(watch)]
        if alertmanager_binary is not None:
            specs.insert(1, observers.alertmanager_server(watch))
        async with Children(tmp_path) as children:
            await children.start(*specs)
            if watch.provisioner_address is not None:
                await keeper.start(children, tmp_path, watch.provisioner_address)
            yield fleet, watch.prometheus_url
