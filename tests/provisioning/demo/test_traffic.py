"""The gateway of a run, and the users who ask the fleet through it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning.demo import programs, traffic
from provisioning.demo.errors import DemoError
from provisioning.demo.plan import Plan
from provisioning.demo.processes import Children
from provisioning.demo.rundir import RunDir
from provisioning.demo.traffic import Gateway
from tests.ports import free_ports
from tests.provisioning.gateway.nginx import Listed, Source, upstreams


@pytest.fixture
def gateway(plan: Plan, tmp_path: Path) -> Gateway:
    """A gateway with the programs that `up` finds or fetches, and ports of its own."""
    nginx = programs.locate_gateway(programs.default_dir(os.environ), say=print)
    port, ops_port = free_ports(2)
    return replace(
        plan.gateway, run_dir=RunDir(tmp_path), nginx=nginx, port=port, ops_port=ops_port
    )


async def test_the_gateway_is_ready_once_it_has_the_exporters_list(
    gateway: Gateway, tmp_path: Path
) -> None:
    with Source(upstreams([Listed(1)])) as source:
        ready = replace(gateway, exporter_url=source.url.removesuffix("/upstreams"))
        traffic.write_config(ready)
        async with Children(tmp_path) as children:
            await children.start(traffic.server(ready))

    assert source.n_read


async def test_a_folder_whose_name_nginx_cannot_use_is_refused(gateway: Gateway) -> None:
    with pytest.raises(DemoError, match=r"/my demo': choose one without spaces.*--run-dir"):
        traffic.write_config(replace(gateway, run_dir=RunDir(Path("/runs/my demo"))))


def test_each_model_has_users_of_the_interface_that_its_servers_have(
    plan: Plan, gateway: Gateway
) -> None:
    assert plan.demo is not None
    simulated, real = (spec.command for spec in traffic.users(gateway, plan.demo))

    assert {"--model=llama3.1:8b", f"--gateway.url={gateway.url}"} < {*simulated}
    assert {"--model=gemma3:270m", "--api=openai"} < {*real}
    assert 1 == len([*traffic.users(gateway, replace(plan.demo, n_llama_servers=0))])
