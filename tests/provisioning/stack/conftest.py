from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.stack.commands import Plan
from provisioning.stack.observers import Observers
from provisioning.stack.rundir import RunDir
from tests.conftest import program
from tests.ports import free_ports


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def alertmanager_binary() -> Path:
    return program("alertmanager")


@pytest.fixture
def plan() -> Plan:
    run_dir = RunDir(Path("/runs/my demo"))
    return Plan(
        run_dir=run_dir,
        n_simulated=10_000,
        simulated_port=11_450,
        control_port=11_451,
        llama_ports=(11_460, 11_461),
        model="gemma3:270m",
        model_file=Path("/cache/model.gguf"),
        observers=Observers(
            run_dir=run_dir,
            inventories=(run_dir.simulated_inventory, run_dir.real_inventory),
            exporter_port=11_440,
            prometheus_port=9_090,
            alertmanager_port=9_093,
            prometheus_binary=Path("/usr/bin/prometheus"),
            alertmanager_binary=Path("/usr/bin/prometheus-alertmanager"),
        ),
    )
