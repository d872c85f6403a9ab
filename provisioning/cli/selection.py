"""Which instances a command is for: IDs, or filters that must each match an instance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from ollama_fleet.options import Choice
from ollama_fleet.suggestions import did_you_mean
from provisioning.api.routes import Details, State
from provisioning.cli.common import ask, yes_option
from provisioning.cli.completion import completing
from provisioning.cli.listing import summary
from provisioning.client import Client
from provisioning.model import Phase

NAMES = ("developer", "model", "node", "pool")
"""Filters whose values are names: one that no instance has was probably misspelt."""
Command = Callable[..., Any]


def _option(name: str, meaning: str, choices: Sequence[str] = ()) -> Callable[[Command], Command]:
    return click.option(
        f"--{name}",
        multiple=True,
        type=Choice(choices) if choices else str,
        help=f"Only instances {meaning}; repeatable.",
        shell_complete=None if choices else completing(name),
    )


developer_option = _option("developer", "of this developer")
model_option = _option("model", "with this model")
node_option = _option("node", "on this node")
phase_option = _option("phase", "in this phase", [*map(str, Phase)])
pool_option = _option("pool", "of this pool")
state_option = _option("state", "in this state of the exporter's inventory", [*map(str, State)])
id_argument = click.argument("id_", metavar="ID", shell_complete=completing("id"))


def choice_options(command: Command) -> Command:
    """Give a command ids, the filters instead of them, and `--yes`."""
    ids = click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=completing("id"))
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

    Raises:
        click.UsageError: Neither ids nor filters are there, or both.
        click.ClickException: No instance matches, or there is no terminal to ask on.
        click.Abort: The answer is no.
    """
    has_filters = any(filters.values())
    if ids and has_filters:
        raise click.UsageError("give IDs or filters such as --node, not both")
    if not ids and not has_filters:
        raise click.UsageError(
            "Missing argument 'ID...'; or choose instances with --node, --phase or --pool"
        )
    if ids:
        return ids
    found = client.instances(filters)
    if not found:
        check_names(client, filters)
        raise click.ClickException("no instance matches the filters")
    if not is_agreed:
        ask(f"{name} {summary(found)}. Go on?", what=f"this would {name} {summary(found)}")
    return [instance.id for instance in found]


def check_names(client: Client, filters: Mapping[str, Sequence[str]]) -> None:
    """Refuse names that no instance has, where filters match nothing.

    Raises:
        click.ClickException: There are such names.
    """
    if not any(filters.get(name) for name in NAMES):
        return
    if faults := list(_unknown(client.instances(), filters)):
        raise click.ClickException("\n".join(faults))


def _unknown(listed: Sequence[Details], filters: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name in NAMES:
        known = {getattr(one, name) for one in listed}
        for value in filters.get(name, ()):
            if value not in known:
                near = did_you_mean(value, known)
                yield f"there is no {name} {value!r} that has instances{near}"
