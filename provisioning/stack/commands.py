"""The plan of a run of `up`, and the commands of the servers that it watches, as pure functions.

In:   a Plan: where each program listens and keeps its files.
Out:  ChildSpecs for `processes`, and the inventory of the real LLM servers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from provisioning.stack import ourselves
from provisioning.stack.observers import Observers
from provisioning.stack.ports import address_of, url_of
from provisioning.stack.processes import ChildSpec
from provisioning.stack.rundir import RunDir

REAL_NODE = "demo-host"


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a run needs to know before its first process starts."""

    run_dir: RunDir
    n_simulated: int
    simulated_port: int
    control_port: int
    llama_ports: tuple[int, ...]
    model: str
    """Name of the real servers' model."""
    model_file: Path | None
    """Its GGUF file; None where no real server runs."""
    observers: Observers

    @property
    def control_url(self) -> str:
        """Return the simulated fleet's control API."""
        return url_of(self.control_port)

    @property
    def llama_urls(self) -> tuple[str, ...]:
        """Return the real servers."""
        return tuple(map(url_of, self.llama_ports))


def simulated_fleet(plan: Plan) -> ChildSpec:
    """Return the process of all simulated instances."""
    command = ourselves.command(
        "simulate",
        f"--instances={plan.n_simulated}",
        f"--listen-port={plan.simulated_port}",
        f"--control.listen-address={address_of(plan.control_port)}",
        f"--control.token-file={plan.run_dir.token}",
        f"--inventory={plan.run_dir.simulated_inventory}",
    )
    return ChildSpec("simulated-fleet", command, f"{plan.control_url}/-/healthy")


def llama_servers(plan: Plan) -> tuple[ChildSpec, ...]:
    """Return one process per real LLM server; ready once its model is loaded."""
    return tuple(
        ChildSpec(
            f"llama-server-{port}",
            (
                *ourselves.PYTHON_MODULE,
                "provisioning.stack.llama",
                f"--model={plan.model_file}",
                f"--port={port}",
                f"--alias={plan.model}",
            ),
            f"{url_of(port)}/health",
            ready_within_s=60.0,
        )
        for port in plan.llama_ports
    )


def real_inventory(plan: Plan) -> str:
    """Return the YAML list of the real LLM servers for the exporter."""
    entries = [
        {
            "id": f"llama-server-{port}",
            "url": url_of(port),
            "node": REAL_NODE,
            "model": plan.model,
            "engine": "llamacpp",
        }
        for port in plan.llama_ports
    ]
    return yaml.safe_dump(entries, sort_keys=False)
