"""The fleet of a run: its provisioner, the host of simulated instances, requests to real ones."""

from __future__ import annotations

import asyncio

import aiohttp

from ollama_fleet.durations import duration_text
from ollama_fleet.tokens import TokenFileError, first_token
from provisioning.client import Client
from provisioning.demo import processes
from provisioning.demo.errors import DemoError
from provisioning.demo.fleet import REAL_POOL, Demo
from provisioning.demo.plan import Plan
from provisioning.demo.ports import address_of
from provisioning.demo.processes import ChildSpec
from provisioning.errors import ProvisionerError

RUNNING = "running"
LOAD_S = 1.0
"""How long a simulated instance loads its model."""


def server(plan: Plan) -> ChildSpec:
    """Return the provisioner; ready once it knows what it kept before."""
    run_dir = plan.run_dir
    simulation = () if plan.demo is None else (f"--simulation.token-file={run_dir.token}",)
    command = processes.our_command(
        *("provisioner", "run", f"--fleet={plan.fleet.name}"),
        f"--store.url=sqlite:{run_dir.provisioner_store}",
        f"--state-dir={run_dir.provisioner_state}",
        f"--web.listen-address={address_of(plan.provisioner_port)}",
        f"--web.token-file={run_dir.provisioner_token}",
        f"--web.audit-file={run_dir.provisioner_audit}",
        *simulation,
    )
    return ChildSpec("provisioner", command, f"{plan.provisioner_url}/-/ready")


def simulated_fleet(plan: Plan, demo: Demo) -> ChildSpec:
    """Return the process that hosts all simulated instances."""
    ports = demo.container_ports
    command = processes.our_command(
        "simulate",
        f"--host-containers={ports[0]}-{ports[-1]}",
        f"--load-time={duration_text(LOAD_S)}",
        # The p99 is of requests then; of a few canaries it would be that of the real servers.
        "--request-histogram",
        f"--control.listen-address={address_of(demo.control_port)}",
        f"--control.token-file={plan.run_dir.token}",
    )
    return ChildSpec("simulated-fleet", command, f"{demo.control_url}/-/healthy")


async def apply(plan: Plan) -> None:
    """Apply the specification of the plan; do not wait for the fleet.

    Raises:
        DemoError: The provisioner refuses it, or does not answer.
    """
    try:
        await asyncio.to_thread(_apply, plan)
    except (ProvisionerError, TokenFileError) as error:
        raise DemoError(
            f"cannot apply {plan.spec}: {error}; see {plan.run_dir.path}/provisioner.log"
        ) from error


def _apply(plan: Plan) -> None:
    def token() -> str:
        return first_token(plan.run_dir.provisioner_token, option="--run-dir")

    with Client([plan.provisioner_url], token) as client:
        client.apply(plan.fleet, plan=client.plan(plan.fleet))


async def llama_urls(session: aiohttp.ClientSession, plan: Plan) -> list[str]:
    """Return the real servers that run now; none if the provisioner does not answer."""
    url = f"{plan.provisioner_url}/instances"
    filters = {"pool": REAL_POOL, "state": RUNNING}
    try:
        async with session.get(url, params=filters, raise_for_status=True) as answer:
            return [entry["url"] for entry in await answer.json()]
    except (aiohttp.ClientError, TimeoutError):
        return []
