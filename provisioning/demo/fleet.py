"""The demonstration's fleet: the specification that `up` writes when nobody names one."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from provisioning.demo import processes, programs
from provisioning.demo.ports import url_of
from provisioning.simulator.spec import INSTANCES_PER_NODE, MODELS, Hardware, Model, address_of
from provisioning.workload import instance_id

FLEET = "demo"
STOCK_POOL = "ollama"
REAL_NODE = "demo-host"
REAL_POOL = "llama-server"
REAL_HARDWARE = "this-machine"
LEAST_NODES = 2
"""So that one may go, and the other takes over."""
SPARE_PORTS = 10
N_REAL_PORTS = 60
REAL_MEMORY_MIB = 1024
HEALTH = {"interval": "5s", "timeout": "2s", "failures": 3}
ROTATION = {"every": "7d", "at_once": 20, "drain": "10s"}
STOCK_PART = 3
"""One in this many simulated instances is stock Ollama."""
LIMITS = {
    # Simulated ones cost next to nothing to start.
    "operations": 500,
    "start_timeout": "60s",
    # Long enough to see the alert that a lost node brings, before its instances are moved.
    "node_grace": "5m",
    "stop_grace": "3s",
}


@dataclass(frozen=True, slots=True)
class Demo:
    """What differs from one demonstration to the next."""

    n_simulated: int
    n_llama_servers: int
    control_port: int
    """Of the process that hosts the simulated instances."""
    container_ports: range
    """Of each simulated node."""
    llama_ports: range
    """Of the real servers, which may be asked for up to 50; some may be taken by others."""
    model: str
    """Name of the real servers' model."""
    model_file: Path | None
    """Its GGUF file; None where no real server runs."""
    programs_dir: Path
    """Where the real servers find a library that a bare system lacks."""
    owner: int | None
    """Id of the process that the real servers do not outlive; None: they outlive every one."""

    @property
    def control_url(self) -> str:
        """Return the control API of the process that hosts the simulated instances."""
        return url_of(self.control_port)

    @property
    def n_stock(self) -> int:
        """Return how many simulated instances are stock Ollama."""
        return self.n_simulated // STOCK_PART

    @property
    def first_stock(self) -> str:
        """Return the id of a stock Ollama; empty where there is none."""
        return instance_id(STOCK_POOL, 1) if self.n_stock else ""

    @property
    def last_node(self) -> str:
        """Return the name of a node to break."""
        return f"node-{n_nodes(self.n_simulated):03}"


def n_nodes(n_simulated: int) -> int:
    """Return on how many nodes the simulated instances are."""
    return min(n_simulated, max(LEAST_NODES, math.ceil(n_simulated / INSTANCES_PER_NODE)))


def n_container_ports(n_simulated: int) -> int:
    """Return how many ports a node needs for its own share and that of a node that is gone."""
    n = n_nodes(n_simulated)
    return math.ceil(n_simulated / max(1, n - 1)) + SPARE_PORTS


def counts(n_simulated: int) -> dict[Model, int]:
    """Return how many instances each model has; the shares are met as closely as they can be."""
    count_by_model = {model: int(model.share * n_simulated) for model in MODELS}
    rests = sorted(MODELS, key=lambda model: model.share * n_simulated % 1, reverse=True)
    for model in rests[: n_simulated - sum(count_by_model.values())]:
        count_by_model[model] += 1
    return {model: count for model, count in count_by_model.items() if count}


def specification(demo: Demo, path: Path) -> str:
    """Return the YAML that is written to `path`."""
    nodes, pools = [*_simulated_nodes(demo)], [*_simulated_pools(demo)]
    if demo.n_llama_servers:
        nodes.append(_real_node(demo))
        pools.append(_real_pool(demo))
    document = {"name": FLEET, "nodes": nodes, "pools": pools, "limits": LIMITS}
    return f"""\
# The fleet of this demonstration. Change it while the demonstration runs, then:
#   ollama-fleet provisioner apply {shlex.quote(str(path))}
# with the two variables set that the demonstration has printed. The next run overwrites this file.
{yaml.safe_dump(document, sort_keys=False, width=100, default_flow_style=None)}"""


def _simulated_nodes(demo: Demo) -> Iterator[dict[str, Any]]:
    """Yield an entry for each run of nodes whose addresses differ in the last number only."""
    numbers = range(n_nodes(demo.n_simulated))
    for block, run in groupby(numbers, lambda number: address_of(number).rpartition(".")[0]):
        run_numbers = list(run)
        first, last = run_numbers[0], run_numbers[-1]
        yield {
            "name": f"node-{{{first + 1:03}..{last + 1:03}}}",
            "runtime": "simulated",
            "endpoint": demo.control_url,
            "address": f"{block}.{{{_last_part(first)}..{_last_part(last)}}}",
            "cpus": 192,
            "memory": "768GiB",
            "first_port": demo.container_ports[0],
            "last_port": demo.container_ports[-1],
            "labels": {"hardware": str(Hardware.EPYC_9654)},
        }


def _last_part(number: int) -> str:
    return address_of(number).rpartition(".")[2]


def _simulated_pools(demo: Demo) -> Iterator[dict[str, Any]]:
    count_by_model = counts(demo.n_simulated)
    usual = MODELS[0]
    count_by_model[usual] -= demo.n_stock
    for model, count in count_by_model.items():
        yield _simulated_pool(model.name.replace(":", "-"), model, count, "fleet")
    if demo.n_stock:
        # A request that pins the model is its warm-up, as for a real one whose store has it.
        yield _simulated_pool(STOCK_POOL, usual, demo.n_stock, "ollama") | {"warm_up": "load"}


def _simulated_pool(name: str, model: Model, count: int, engine: str) -> dict[str, Any]:
    return {
        "name": name,
        "model": model.name,
        "engine": engine,
        "count": count,
        "cpus": 1,
        "memory": "4GiB",
        "health": dict(HEALTH),
        "rotation": dict(ROTATION),
        "placement": {"selector": {"hardware": str(Hardware.EPYC_9654)}},
        "developers": {"count": count},
    }


def _real_node(demo: Demo) -> dict[str, Any]:
    return {
        "name": REAL_NODE,
        "runtime": "process",
        "cpus": demo.n_llama_servers,
        "memory": f"{demo.n_llama_servers * REAL_MEMORY_MIB}MiB",
        "first_port": demo.llama_ports[0],
        "last_port": demo.llama_ports[-1],
        "labels": {"hardware": REAL_HARDWARE},
    }


def _real_pool(demo: Demo) -> dict[str, Any]:
    return {
        "name": REAL_POOL,
        "model": demo.model,
        "engine": "llamacpp",
        "count": demo.n_llama_servers,
        "command": list(_llama_command(demo)),
        "environment": {programs.DIR_VARIABLE: _literal(str(demo.programs_dir))},
        "cpus": 1,
        "memory": f"{REAL_MEMORY_MIB}MiB",
        "health": dict(HEALTH),
        "rotation": dict(ROTATION),
        "placement": {"selector": {"hardware": REAL_HARDWARE}},
    }


def _llama_command(demo: Demo) -> Iterator[str]:
    yield from processes.our_command("llama-server")
    yield f"--model={_literal(str(demo.model_file))}"
    yield from ("--host={host}", "--port={port}", "--alias={model}")
    if demo.owner is not None:
        yield f"--ends-with={demo.owner}"


def _literal(text: str) -> str:
    """Return a text in which braces are no placeholders."""
    return text.replace("{", "{{").replace("}", "}}")
