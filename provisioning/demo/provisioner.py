"""The provisioner of a run: its process, and what the run wants of it.

In:   the Plan of the run. Out: a ChildSpec; a specification put in force; addresses of instances.
Fails with FleetError.
"""

from __future__ import annotations

import asyncio

import aiohttp

from ollama_fleet.tokens import TokenFileError, first_token
from provisioning.client import Client
from provisioning.demo import ourselves
from provisioning.demo.commands import Plan
from provisioning.demo.demo import REAL_POOL
from provisioning.demo.errors import FleetError
from provisioning.demo.ports import address_of
from provisioning.demo.processes import ChildSpec
from provisioning.errors import ProvisionerError

RUNNING = "running"


def server(plan: Plan) -> ChildSpec:
    """Return the provisioner; ready once it knows what it kept before."""
    run_dir = plan.run_dir
    simulation = () if plan.demo is None else (f"--simulation.token-file={run_dir.token}",)
    command = ourselves.our_command(
        *("provisioner", "run", f"--fleet={plan.fleet.name}"),
        f"--store.url=sqlite:{run_dir.provisioner_store}",
        f"--state-dir={run_dir.provisioner_state}",
        f"--web.listen-address={address_of(plan.provisioner_port)}",
        f"--web.token-file={run_dir.provisioner_token}",
        f"--web.audit-file={run_dir.provisioner_audit}",
        *simulation,
    )
    return ChildSpec("provisioner", command, f"{plan.provisioner_url}/-/ready")


async def apply(plan: Plan) -> None:
    """Put the fleet of the plan in force; do not wait until it is there.

    Raises:
        FleetError: The provisioner refuses it, or does not answer.
    """
    try:
        await asyncio.to_thread(_apply, plan)
    except (ProvisionerError, TokenFileError) as error:
        raise FleetError(
            f"cannot put {plan.spec} in force: {error}; see {plan.run_dir.path}/provisioner.log"
        ) from error


def _apply(plan: Plan) -> None:
    def token() -> str:
        return first_token(plan.run_dir.provisioner_token, option="--run-dir")

    with Client([plan.provisioner_url], token) as client:
        client.apply(plan.fleet, plan=client.plan(plan.fleet))


async def llama_urls(session: aiohttp.ClientSession, plan: Plan) -> list[str]:
    """Return the demonstration's real servers that run now; none where that cannot be said."""
    url = f"{plan.provisioner_url}/instances"
    filters = {"pool": REAL_POOL, "state": RUNNING}
    try:
        async with session.get(url, params=filters, raise_for_status=True) as answer:
            return [entry["url"] for entry in await answer.json()]
    except (aiohttp.ClientError, TimeoutError):
        return []
