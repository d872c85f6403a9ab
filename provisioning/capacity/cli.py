"""The commands `ollama-fleet capacity …`.

Data goes to stdout, words to stderr. Exit status: 0 all well; 1 the given nodes are too few, or
the data or the history lack what is asked; 2 wrong options, or a Prometheus that cannot be asked.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import click

from ollama_fleet.levels import parse_positive_share
from ollama_fleet.options import (
    FILE,
    Duration,
    FailingGroup,
    Parsed,
    json_option,
    prometheus_option,
)
from ollama_fleet.sizes import parse_size_bytes
from provisioning.capacity import data, live, report, sizing
from provisioning.capacity.data import Hardware, Quantisation
from provisioning.capacity.errors import CannotAskError, CapacityError, UnknownError
from provisioning.capacity.sizing import Demand, Instance, Node, Question

LEAST, MOST = 1e-6, 1e12
COUNT = click.IntRange(1, 100_000_000)


class Amount(click.FloatRange):
    """A number above 0; nan, which is none, is refused as well."""

    def __init__(self, least: float = LEAST) -> None:
        super().__init__(least, MOST)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if number != number:
            self.fail("must be a number, got nan", param, ctx)
        return number


def positive_size(text: str) -> int:
    """Return a size above 0.

    Raises:
        ValueError: It is none.
    """
    if size_bytes := parse_size_bytes(text):
        return size_bytes
    raise ValueError(f"must be above 0B, got {text!r}")


SIZE = Parsed("size", positive_size)
SHARE = Parsed("share", parse_positive_share)


def label_name(text: str) -> str:
    """Return the name of a label.

    Raises:
        ValueError: It is none.
    """
    if not re.fullmatch(r"[a-zA-Z_]\w*", text, re.ASCII):
        raise ValueError(f"must be the name of a label, got {text!r}")
    return text


@click.group(
    cls=FailingGroup,
    failures=(CapacityError,),
    unasked=CannotAskError,
    short_help="Plan the capacity and the costs of a fleet.",
)
def capacity() -> None:
    """Plan the capacity and the costs of a fleet.

    \b
    Examples:
      ollama-fleet capacity plan --hardware epyc-9654 --model llama3.1:8b --instances 10000
      ollama-fleet capacity live --prometheus.url http://127.0.0.1:9090
      ollama-fleet capacity plan --hardware epyc-9654 --model llama3.1:8b \\
        --developers 1200 --requests-per-day 12 --tokens-per-request 500 --spare-nodes 1
    """  # noqa: D301 - click keeps the lines after a backspace as they are


@capacity.command("plan")
@click.option("--hardware", "hardware_name", metavar="NAME", help="Kind of node in the data.")
@click.option("--cores", type=Amount(), help="Cores of a node.")
@click.option("--memory", type=SIZE, help="Memory of a node, such as 768GB.")
@click.option(
    "--reserved-memory",
    type=Parsed("size", parse_size_bytes),
    default="8GB",
    help="Memory of a node that instances do not get.",
)
@click.option(
    "--memory-bandwidth", type=SIZE, help="What a node's memory moves each second, such as 921.6GB."
)
@click.option("--price-per-month", type=Amount(), help="Price of a node, in dollars.")
@click.option("--model", "model_name", metavar="NAME", help="Model in the data.")
@click.option("--quantisation", default="q4_0", help="Quantisation of the model.")
@click.option(
    "--tokens-per-second", type=Amount(), help="Speed of an instance that generates alone."
)
@click.option("--memory-per-instance", type=SIZE, help="Memory of an instance with its model.")
@click.option("--weights", type=SIZE, help="Size of the model's weights.")
@click.option(
    "--cores-per-instance",
    type=Amount(),
    help="Cores that are kept for each instance. Without it all instances share all cores.",
)
@click.option("--instances", "n_instances", type=COUNT, help="Wanted instances.")
@click.option("--developers", type=Amount(), help="Demand: how many developers.")
@click.option("--requests-per-day", type=Amount(), help="Demand: requests of each developer.")
@click.option("--tokens-per-request", type=Amount(), help="Demand: generated tokens of a request.")
@click.option(
    "--peak-factor",
    type=Amount(1),
    default=3.0,
    help="Demand: rate at peak, divided by the mean rate of the day.",
)
@click.option(
    "--time-to-first-token",
    "wait_s",
    type=Duration(0.0),
    default="0s",
    help="Demand: how long an instance is busy before it generates.",
)
@click.option(
    "--max-refused",
    type=SHARE,
    default="0.1%",
    help="Demand: share of the requests at peak that may find no free instance.",
)
@click.option(
    "--spare-nodes",
    type=click.IntRange(0, 1_000_000),
    default=0,
    help="Nodes that may be lost.",
)
@click.option("--nodes", "given_nodes", type=COUNT, help="Judge this number of nodes.")
@click.option(
    "--api-price", type=Amount(), help="Price of a million tokens at a hosted API, in dollars."
)
@click.option(
    "--data",
    "file",
    type=FILE,
    help="YAML file with further hardware and models.",
)
@json_option
def plan(*, is_json: bool, file: Path | None, **given: Any) -> None:
    """Compute how many nodes a fleet needs, what binds, and what it costs.

    Give a number of instances, a demand, or both. Hardware and model come from built-in data, whose
    values other options replace. Every step of the arithmetic is shown.

    Exit status: 0 all is well; 1 the nodes of --nodes are too few, or the data lack a value.
    """
    known = data.load(file)
    hardware = known.node(name) if (name := given["hardware_name"]) else Hardware(source="")
    model = Quantisation(source="")
    if name := given["model_name"]:
        model = known.model(name, given["quantisation"])
    found = sizing.plan(_question(given, hardware, model))
    if is_json:
        click.echo(json.dumps(report.plan_json(found, hardware, model), indent=2))
    else:
        click.echo(report.plan_text(found, hardware, model))
    if not found.is_enough:
        click.get_current_context().exit(1)


def _question(given: dict[str, Any], hardware: Hardware, model: Quantisation) -> Question:
    demand = _demand(given)
    if demand is None and not given["n_instances"]:
        raise click.UsageError(
            "say what the fleet is for: --instances, or --developers with --requests-per-day and "
            "--tokens-per-request"
        )
    speed = model.tokens_per_second.get(given["hardware_name"] or "")
    cores = given["cores"] or hardware.cores
    if given["cores_per_instance"]:
        cores = _needed("cores of a node", "--cores", given["cores"], hardware.cores)
    return Question(
        node=Node(
            memory_bytes=_needed("memory of a node", "--memory", given["memory"], hardware.memory),
            reserved_bytes=given["reserved_memory"],
            cores=cores,
            bandwidth_bytes=given["memory_bandwidth"] or hardware.memory_bandwidth,
            price_per_month=given["price_per_month"] or hardware.price_per_month,
        ),
        instance=Instance(
            memory_bytes=_needed(
                "memory of an instance", "--memory-per-instance",
                given["memory_per_instance"], model.memory,
            ),
            tokens_per_second=_needed(
                "speed of an instance on this hardware", "--tokens-per-second",
                given["tokens_per_second"], speed,
            ),
            cores=given["cores_per_instance"] or 0.0,
            weights_bytes=given["weights"] or model.weights,
        ),
        n_instances=given["n_instances"] or 0,
        demand=demand,
        spare_nodes=given["spare_nodes"],
        given_nodes=given["given_nodes"],
        api_price=given["api_price"],
    )  # fmt: skip


def _needed(what: str, option: str, given: float | None, known: float | None) -> float:
    if value := given or known:
        return value
    raise UnknownError(f"the data do not say the {what}; state it by {option}")


def _demand(given: dict[str, Any]) -> Demand | None:
    needed = ("developers", "requests_per_day", "tokens_per_request")
    missing = [f"--{name.replace('_', '-')}" for name in needed if given[name] is None]
    if len(missing) == len(needed):
        return None
    if missing:
        raise click.UsageError(f"a demand takes {' and '.join(missing)} as well")
    return Demand(
        **{name: given[name] for name in needed},
        peak_factor=given["peak_factor"],
        wait_s=given["wait_s"],
        max_refused=given["max_refused"],
    )


@capacity.command("live")
@prometheus_option
@click.option(
    "--since",
    "since_s",
    type=Duration(live.LEAST_SINCE_S, live.MOST_SINCE_S),
    default="28d",
    help="How far back to look: at most 84d; a trend takes 22d.",
)
@click.option("--cluster", metavar="NAME", help="Which fleet, where Prometheus has several.")
@click.option(
    "--cluster-label",
    type=Parsed("label", label_name),
    default="cluster",
    help="Label that tells fleets apart.",
)
@json_option
def live_command(
    *, url: str, since_s: float, cluster: str | None, cluster_label: str, is_json: bool
) -> None:
    """Say what a live fleet has, uses at peak, and when that runs out.

    Reads what the loaded rules record. Capacity is what instances generate one by one; on nodes
    whose memory bandwidth they share it is less: see `capacity plan`.

    Exit status: 0 all well; 1 Prometheus lacks what it takes; 2 it cannot be asked.
    """
    now_s, fleet = time.time(), live.Fleet(cluster_label, cluster)
    found = asyncio.run(live.ask(url, fleet, since_s=since_s, now_s=now_s))
    if is_json:
        click.echo(json.dumps(report.live_json(found, now_s=now_s), indent=2))
    else:
        click.echo(report.live_text(found, now_s=now_s))
