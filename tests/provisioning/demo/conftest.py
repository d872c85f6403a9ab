from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.demo import fleet
from provisioning.demo.fleet import Demo
from provisioning.demo.observers import Observers
from provisioning.demo.plan import Plan
from provisioning.demo.rundir import RunDir
from provisioning.demo.traffic import Gateway
from provisioning.gateway.nginx import Nginx
from provisioning.spec.document import read_fleet
from tests import ports
from tests.conftest import program


@pytest.fixture
def free_port() -> int:
    return ports.free_port()


@pytest.fixture(scope="session")
def alertmanager_binary() -> Path:
    return program("alertmanager")


@pytest.fixture
def plan() -> Plan:
    run_dir = RunDir(Path("/runs/my demo"))
    made = Demo(
        n_simulated=10_000,
        n_llama_servers=2,
        control_port=11_451,
        container_ports=range(20_000, 20_000 + fleet.n_container_ports(10_000)),
        llama_ports=range(11_460, 11_520),
        model="gemma3:270m",
        model_file=Path("/cache/model.gguf"),
        programs_dir=Path("/cache/programs"),
        owner=17,
    )
    text = fleet.specification(made, run_dir.spec)
    return Plan(
        run_dir=run_dir,
        spec=run_dir.spec,
        fleet=read_fleet(text, source="fleet.yml", folder=run_dir.path),
        demo=made,
        gateway=Gateway(
            run_dir=run_dir,
            nginx=Nginx(Path("/usr/sbin/nginx"), (), (), ()),
            exporter_url="http://127.0.0.1:11440",
            port=11_430,
            ops_port=11_431,
        ),
        on_call_port=11_452,
        provisioner_port=8_080,
        observers=Observers(
            run_dir=run_dir,
            inventories=("http://127.0.0.1:8080/instances",),
            exporter_port=11_440,
            prometheus_port=9_090,
            alertmanager_port=9_093,
            prometheus_binary=Path("/usr/bin/prometheus"),
            alertmanager_binary=Path("/usr/bin/prometheus-alertmanager"),
            provisioner_address="127.0.0.1:8080",
        ),
    )
