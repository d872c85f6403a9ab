"""The command `ollama-fleet provisioner scale`: another number of instances, and nothing else."""

from __future__ import annotations

import click
import msgspec

from provisioning.fleet.api.forms import MAX_COUNT
from provisioning.fleet.cli.asking import yes_option
from provisioning.fleet.cli.awaiting import wait_for
from provisioning.fleet.cli.changing import agree, fleet_in_force, waiting_options
from provisioning.fleet.cli.connection import json_option, with_client
from provisioning.fleet.client.client import Client
from provisioning.fleet.fleet import Fleet


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
    scaled = _scaled(fleet_in_force(client), pool, count)
    agree(client.plan(scaled), is_agreed=is_agreed, is_json=is_json)
    client.scale(pool, count)
    if is_waiting:
        wait_for(client, fleet_in_force(client), timeout_s)


def _scaled(fleet: Fleet, name: str, count: int) -> Fleet:
    names = [pool.name for pool in fleet.pools]
    if name not in names:
        raise click.ClickException(f"there is no pool {name!r}; there are {', '.join(names)}")
    pools = tuple(
        msgspec.structs.replace(pool, count=count) if pool.name == name else pool
        for pool in fleet.pools
    )
    return msgspec.structs.replace(fleet, pools=pools)
