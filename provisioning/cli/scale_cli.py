"""The command `ollama-fleet provisioner scale`: another number of instances, and nothing else."""

from __future__ import annotations

import click
import msgspec

from provisioning.api.forms import MAX_COUNT
from provisioning.cli.asking import yes_option
from provisioning.cli.awaiting import wait_for
from provisioning.cli.changing import agree, spec_in_force, waiting_options
from provisioning.cli.connection import json_option, with_client
from provisioning.client.client import Client, SpecInForce, etag_of
from provisioning.model import Fleet
from provisioning.plan import Plan


@click.command(short_help="Change how many instances a pool has.")
@click.argument("pool")
@click.argument("count", type=click.IntRange(0, MAX_COUNT))
@yes_option
@waiting_options
@json_option
@with_client
def scale(
    *,
    client: Client,
    pool: str,
    count: int,
    is_agreed: bool,
    is_waiting: bool,
    timeout_s: float,
    is_json: bool,
) -> None:
    """Change how many instances POOL has to COUNT, and show how the fleet gets there.

    Where instances are removed, it asks first; where nobody can be asked, it needs --yes. Change
    your specification as well, or the next `apply` sets the number back.
    """
    in_force = spec_in_force(client)
    scaled = _scaled(in_force.fleet, pool, count)
    planned = client.plan(scaled)
    _check_same(in_force, planned)
    agree(planned, is_agreed=is_agreed, is_json=is_json)
    client.scale(pool, count, etag=in_force.etag)
    if is_waiting:
        # Read again, it might come from a provisioner that does not know of the change yet.
        wait_for(client, scaled, timeout_s)


def _check_same(in_force: SpecInForce, planned: Plan) -> None:
    """Refuse a plan that is not made against what was read: it would show what else differs."""
    read, base = in_force.etag.removeprefix("W/"), etag_of(planned)
    if read != base:
        raise click.ClickException(
            f"the plan is against version {base} of the specification, and {read or 'another'} was "
            "read: it was changed in between, or a provisioner does not reach its store; try again"
        )


def _scaled(fleet: Fleet, name: str, count: int) -> Fleet:
    names = [pool.name for pool in fleet.pools]
    if name not in names:
        raise click.ClickException(f"there is no pool {name!r}; there are {', '.join(names)}")
    pools = tuple(
        msgspec.structs.replace(pool, count=count) if pool.name == name else pool
        for pool in fleet.pools
    )
    return msgspec.structs.replace(fleet, pools=pools)
