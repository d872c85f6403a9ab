"""Which instances a command is for: named by id, or chosen as `list` chooses.

In:   ids, or filters, which one request to the API turns into ids.
Out:  ids; a person has agreed to what filters have chosen.
Fails with click's errors, and as the Client does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from provisioning.cli.asking import ask, yes_option
from provisioning.cli.instances_text import summary
from provisioning.client.client import Client
from provisioning.model import Phase

Command = Callable[..., Any]


def _option(name: str, meaning: str, choices: Sequence[str] = ()) -> Callable[[Command], Command]:
    return click.option(
        f"--{name}",
        multiple=True,
        type=click.Choice(choices) if choices else str,
        help=f"Only instances {meaning}; repeatable.",
    )


node_option = _option("node", "on this node")
phase_option = _option("phase", "in this phase", [*map(str, Phase)])
pool_option = _option("pool", "of this pool")


def choice_options(command: Command) -> Command:
    """Give a command ids, the filters instead of them, and `--yes`."""
    ids = click.argument("ids", nargs=-1, metavar="[ID]...")
    for add in (yes_option, pool_option, phase_option, node_option, ids):
        command = add(command)
    return command


def chosen(
    client: Client,
    ids: Sequence[str],
    filters: Mapping[str, Sequence[str]],
    *,
    name: str,
    is_agreed: bool,
) -> Sequence[str]:
    """Return the ids of the instances that a command is for.

    Args:
        client: Lists instances.
        ids: As they were named.
        filters: The wanted values, by filter; several values mean any of them.
        name: What is done with them: `drain`.
        is_agreed: Nobody is to be asked.

    Raises:
        click.UsageError: Neither ids nor filters are there, or both.
        click.ClickException: Nobody can be asked.
        click.Abort: A person does not want it.
    """
    has_filters = any(filters.values())
    if ids and has_filters:
        raise click.UsageError("name instances by ID, or choose them by --node, …, not both")
    if not ids and not has_filters:
        raise click.UsageError(
            "Missing argument 'ID...'; or choose instances by --node, --phase or --pool"
        )
    if ids:
        return ids
    found = client.instances(filters)
    if not found:
        click.echo("no instances", err=True)
    elif not is_agreed:
        ask(f"{name} {summary(found)}. Go on?", what=f"this would {name} {summary(found)}")
    return [instance.id for instance in found]
