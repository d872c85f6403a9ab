"""The command `ollama-fleet provisioner nodes`: how each node is, over the API only."""

from __future__ import annotations

import click
import msgspec

from provisioning.cli.connection import json_option, with_client
from provisioning.cli.nodes_text import nodes_text
from provisioning.client.client import Client
from provisioning.clock import SystemClock


@click.command(short_help="Show how each node is, and what it holds.")
@json_option
@with_client
def nodes(*, client: Client, is_json: bool) -> None:
    """Show how each node is: whether it answers, since when not and why, and what it holds.

    Only the provisioner that leads knows; where there are several, name them all.
    """
    found = client.nodes()
    words = nodes_text(found, now_s=SystemClock().unix_s())
    click.echo(msgspec.json.encode(found) if is_json else words)
