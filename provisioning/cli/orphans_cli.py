"""The commands `ollama-fleet provisioner orphans …`, over the API only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import click
import msgspec

from provisioning.api.forms import OrphanDocument
from provisioning.cli.asking import ask
from provisioning.cli.connection import json_option, with_client
from provisioning.cli.instances_text import shown
from provisioning.client.client import Client
from provisioning.model import UnitState
from provisioning.plan import table
from provisioning.spec.amounts import count_text
from provisioning.state import LIST_COMMAND

HEAD = ("NODE", "ORPHANS", "RUNNING", "FOR EXAMPLE")


@click.group(short_help="List and delete what runs without a record.")
def orphans() -> None:
    """List and delete orphans: containers and processes of the fleet without a record in the store.

    Many orphans mean that the store is the wrong one, empty, or an old backup: restore the right
    store. Delete orphans only if nobody needs them.
    """


@orphans.command("list", short_help="Count the orphans of each node.")
@json_option
@with_client
def list_(*, client: Client, is_json: bool) -> None:
    """Count the orphans of each node; with --json, list every one."""
    found = client.orphans()
    click.echo(msgspec.json.encode(found).decode() if is_json else orphans_text(found))


@orphans.command(short_help="Delete all orphans.")
@click.option("--yes", "is_agreed", is_flag=True, help="Do not ask before orphans are deleted.")
@with_client
def delete(*, client: Client, is_agreed: bool) -> None:
    """Delete all orphans: show how many each node has, ask, and have the provisioner delete them.

    If their number changes before the answer, nothing is deleted. Those on a node that does not
    answer are deleted once it does, as long as the same provisioner leads.
    """
    found = client.orphans()
    click.echo(orphans_text(found))
    if not found:
        return
    counted = count_text(len(found), "orphan")
    if not is_agreed:
        ask(f"Delete {counted}?", what="this ends what runs without a record")
    client.delete_orphans(len(found))
    click.echo(f"the provisioner deletes {counted}; see what is left: {LIST_COMMAND}", err=True)


def orphans_text(found: Sequence[OrphanDocument]) -> str:
    """Return a table with a row for each node, and how many there are."""
    if not found:
        return "no orphans"
    rows = table(HEAD, _rows(found))
    return f"{rows}\n{count_text(len(found), 'orphan')}"


def _rows(found: Sequence[OrphanDocument]) -> Iterator[tuple[str, ...]]:
    counted = Counter(one.node for one in found)
    running = Counter(one.node for one in found if one.state is UnitState.RUNNING)
    example = {one.node: one.name for one in reversed(found)}
    for node in sorted(counted):
        yield node, f"{counted[node]:,}", f"{running[node]:,}", shown(example[node])
