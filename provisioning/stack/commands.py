"""The commands of the local programs, as pure functions from the plan of a run.

In:   a Plan: where each program listens and keeps its files.
Out:  ChildSpecs for `processes`, their environment, and the inventory of the real LLM servers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from provisioning.stack import programs, prometheus
from provisioning.stack.ports import LOOPBACK
from provisioning.stack.processes import ChildSpec
from provisioning.stack.prometheus import PrometheusSettings
from provisioning.stack.rundir import RunDir

# With -P, folders of the present directory never pass for our packages.
PYTHON_MODULE = (sys.executable, "-P", "-m")
REAL_NODE = "demo-host"
HEALTH_TIMEOUT_MS = 2_000
METRICS_TIMEOUT_MS = 5_000
OUR_VARIABLES = "OLLAMA_FLEET_"
FIRST_CYCLE_S = 90.0
"""What the exporter may take beyond one interval to have polled every instance."""


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
    exporter_port: int
    prometheus_port: int
    prometheus_binary: Path
    poll_interval_s: int

    @property
    def control_url(self) -> str:
        """Return the simulated fleet's control API."""
        return _url(self.control_port)

    @property
    def llama_urls(self) -> tuple[str, ...]:
        """Return the real servers."""
        return tuple(map(_url, self.llama_ports))

    @property
    def exporter_url(self) -> str:
        """Return the exporter's landing page, without a slash at its end."""
        return _url(self.exporter_port)

    @property
    def prometheus_url(self) -> str:
        """Return Prometheus, without a slash at its end."""
        return _url(self.prometheus_port)

    @property
    def prometheus(self) -> PrometheusSettings:
        """Return Prometheus' settings."""
        return PrometheusSettings(
            exporter_address=f"{LOOPBACK}:{self.exporter_port}",
            address=f"{LOOPBACK}:{self.prometheus_port}",
            interval_s=self.poll_interval_s,
        )


def simulated_fleet(plan: Plan) -> ChildSpec:
    """Return the process of all simulated instances."""
    command = _ollama_fleet(
        "simulate",
        f"--instances={plan.n_simulated}",
        f"--listen-port={plan.simulated_port}",
        f"--control.listen-address={LOOPBACK}:{plan.control_port}",
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
                *PYTHON_MODULE,
                "provisioning.stack.llama",
                f"--model={plan.model_file}",
                f"--port={port}",
                f"--alias={plan.model}",
            ),
            f"{_url(port)}/health",
            ready_within_s=60.0,
        )
        for port in plan.llama_ports
    )


def exporter(plan: Plan) -> ChildSpec:
    """Return the exporter; ready once it has polled every instance."""
    # A poll must end before the next one is due, which short intervals do not leave time for.
    poll_limit_ms = plan.poll_interval_s * 1000 * 4 // 5
    command = _ollama_fleet(
        "exporter",
        f"--inventory={plan.run_dir.simulated_inventory}",
        f"--inventory={plan.run_dir.real_inventory}",
        f"--web.listen-address={LOOPBACK}:{plan.exporter_port}",
        f"--poll.interval={plan.poll_interval_s}s",
        f"--poll.health-timeout={min(HEALTH_TIMEOUT_MS, poll_limit_ms)}ms",
        f"--poll.metrics-timeout={min(METRICS_TIMEOUT_MS, poll_limit_ms)}ms",
    )
    ready_within_s = plan.poll_interval_s + FIRST_CYCLE_S
    return ChildSpec("exporter", command, f"{plan.exporter_url}/-/ready", ready_within_s)


def prometheus_server(plan: Plan) -> ChildSpec:
    """Return Prometheus, scraping the exporter."""
    command = prometheus.command(
        plan.prometheus_binary,
        config=plan.run_dir.prometheus_config,
        data_dir=plan.run_dir.prometheus_data,
        settings=plan.prometheus,
    )
    return ChildSpec("prometheus", command, f"{plan.prometheus_url}/-/ready")


def child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without options for our commands: the plan alone decides those."""
    return {
        name: value
        for name, value in environ.items()
        if not name.startswith(OUR_VARIABLES) or name == programs.DIR_VARIABLE
    }


def real_inventory(plan: Plan) -> str:
    """Return the YAML list of the real LLM servers for the exporter."""
    entries = [
        {
            "id": f"llama-server-{port}",
            "url": _url(port),
            "node": REAL_NODE,
            "model": plan.model,
            "engine": "llamacpp",
        }
        for port in plan.llama_ports
    ]
    return yaml.safe_dump(entries, sort_keys=False)


def _ollama_fleet(*arguments: str) -> tuple[str, ...]:
    return (*PYTHON_MODULE, "ollama_fleet", *arguments)


def _url(port: int) -> str:
    return f"http://{LOOPBACK}:{port}"
