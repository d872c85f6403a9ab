"""What users see is what gateway, exporter and Prometheus say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import StartLlamaServer
from tests.load.agreement import COUNTS, LEAST_S, Seen, differences, observed, quantile_s
from tests.load.instances import simulated
from tests.load.running import reported, write_instances
from tests.load.stack import stack

USERS = Seen(1000, 10, 50, 8000, 0.4, 0.38, 0.49)
USERS_NAME = "users (Locust)"
SELDOM = {"rate": 0.2, "burst": 1}
"""So few that users on a slow machine are rejected, too."""
LIMIT = {"limits": {"default": {"rate": 1000, "burst": 1000, "concurrency": 1}}}


def test_five_percent_and_one_bucket_are_no_difference() -> None:
    close = replace(USERS, requests=1049, rejected=None, mean_s=0.42, p50_s=0.22, p99_s=0.8)

    assert [] == differences({"users": USERS, "gateway": close})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("requests", 1054),
        ("failed", 12),
        ("rejected", 46),
        ("tokens", 7500),
        ("mean_s", 0.43),
        ("p50_s", 0.19),
        ("p99_s", 1.1),
    ],
)
def test_what_differs_more_is_named(name: str, value: float) -> None:
    (said,) = differences({"users": USERS, "gateway": replace(USERS, **{name: value})})

    assert said.startswith(f"gateway: {name} {value:g}")


def test_quantiles_are_those_of_histogram_quantile() -> None:
    counts = {0.1: 10.0, 0.2: 90.0, 0.5: 100.0, float("inf"): 100.0}

    assert pytest.approx(0.15) == quantile_s(counts, 0.5)
    assert pytest.approx(0.47) == quantile_s(counts, 0.99)


async def test_a_simulated_fleet_behind_the_gateway(tmp_path: Path) -> None:
    async with simulated(tmp_path, n_instances=20) as inventory:
        async with stack(tmp_path, inventory, limits={"default": SELDOM}) as running:
            report = await reported(
                f"--gateway.url={running.gateway_url}",
                "--model=llama3.1:8b",
                "--tokens=16",
                "--users=30",
                "--wait=100ms-500ms",
                "--run-time=10s",
            )
            seen = await observed(running, report)

    assert [] == differences(seen, COUNTS)
    assert report["rejected"] > 0
    observers = {name: one for name, one in seen.items() if name != USERS_NAME}
    assert [] == differences(observers)
    # Users who share a busy processor see more than the gateway does, and never less.
    assert seen["gateway"].mean_s <= seen[USERS_NAME].mean_s + LEAST_S


@pytest.mark.nightly  # p99 of some 30 requests is the slowest one: a busy machine decides
async def test_real_servers_behind_the_gateway(
    start_llama_server: StartLlamaServer, tmp_path: Path
) -> None:
    servers = [await start_llama_server(alias="tiny") for _ in range(2)]
    inventory = write_instances(
        tmp_path / "fleet.json", *(one.url for one in servers), model="tiny", engine="llamacpp"
    )
    async with stack(tmp_path, inventory, **LIMIT) as running:
        report = await reported(
            f"--gateway.url={running.gateway_url}",
            "--model=tiny",
            "--api=openai",
            "--stream",
            "--tokens=400",
            "--users=2",
            "--wait=100ms-500ms",
            "--run-time=6s",
        )
        seen = await observed(running, report)

    assert [] == differences(seen), json.dumps(report)
