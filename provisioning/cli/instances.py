"""The commands `ollama-fleet instances …`: list, show and change single instances."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import msgspec

from ollama_fleet.clock import SystemClock
from provisioning.api.routes import InstanceDocument, State
from provisioning.cli.common import (
    ask,
    json_option,
    list_text,
    show_text,
    summary,
    with_client,
    yes_option,
)
from provisioning.client.client import Client
from provisioning.client.errors import RefusedError
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


UNAUTHORIZED = 401


@click.group(
    context_settings={
        "auto_envvar_prefix": "OLLAMA_FLEET_INSTANCES",
        "help_option_names": ["-h", "--help"],
    },
    short_help="See and change the instances of a fleet.",
)
def instances() -> None:
    """See and change the instances of a fleet, through its provisioner.

    An instance's ID is what `list` shows, such as llama-00042.

    \b
    Examples:
      ollama-fleet instances list --phase failed
      ollama-fleet instances replace llama-00042
      ollama-fleet instances replace --pool llama --node n07
      ollama-fleet instances assign llama-00042 ann
    """  # noqa: D301 - click keeps the lines after a backspace as they are


@instances.command("list", short_help="List instances with their phases.")
@click.option("--developer", multiple=True, help="Only instances of this developer; repeatable.")
@click.option("--model", multiple=True, help="Only instances with this model; repeatable.")
@node_option
@phase_option
@pool_option
@click.option(
    "--state",
    multiple=True,
    type=click.Choice([*map(str, State)]),
    help="Only instances in this state, as the exporter is told it; repeatable.",
)
@json_option
@with_client
def list_(*, client: Client, is_json: bool, **filters: tuple[str, ...]) -> None:
    """List instances, with their phase and how long they have been in it.

    On a terminal a long note is cut; elsewhere, and in `show`, it is whole.
    """
    found = client.instances(filters)
    words = list_text(found, now_s=SystemClock().unix_s(), is_cut=sys.stdout.isatty())
    _say(found, words, is_json=is_json)


@instances.command(short_help="Show an instance and its history.")
@click.argument("id_", metavar="ID")
@json_option
@with_client
def show(*, client: Client, id_: str, is_json: bool) -> None:
    """Show everything that is known of an instance, and its history."""
    found = client.instance(id_)
    _say(found, show_text(found, now_s=SystemClock().unix_s()), is_json=is_json)


@instances.command(short_help="Drain instances now; they start afresh.")
@choice_options
@json_option
@with_client
def drain(*, client: Client, is_json: bool, **choice: Any) -> None:
    """Let instances end what they have begun, now; then they start afresh.

    The fleet's limits are not looked at; `replace` keeps to them. What --node, --phase and --pool
    choose is told first, and whether to go on is asked.
    """
    _for_each(_ids(client, "drain", **choice), client.drain, is_json=is_json)


@instances.command(short_help="Replace instances when limits allow it.")
@choice_options
@json_option
@with_client
def replace(*, client: Client, is_json: bool, **choice: Any) -> None:
    """Replace instances by fresh ones, as soon as the fleet's limits allow it.

    What --node, --phase and --pool choose is told first, and whether to go on is asked.
    """
    _for_each(_ids(client, "replace", **choice), client.replace, is_json=is_json)


@instances.command(short_help="Give an instance to a developer.")
@click.argument("id_", metavar="ID")
@click.argument("developer")
@json_option
@with_client
def assign(*, client: Client, id_: str, developer: str, is_json: bool) -> None:
    """Give an instance to a developer; one that they had in the pool goes back.

    The pool lists them from now on: add them to your specification as well, or the next `apply`
    takes them out again.
    """
    _for_each((id_,), lambda one: client.assign(one, developer), is_json=is_json)


@instances.command(short_help="Take instances from their developers.")
@choice_options
@json_option
@with_client
def release(*, client: Client, is_json: bool, **choice: Any) -> None:
    """Take instances from their developers, whom the pool does not list any more.

    Take them out of your specification as well, or the next `apply` brings them back. What --node,
    --phase and --pool choose is told first, and whether to go on is asked.
    """
    _for_each(_ids(client, "release", **choice), client.release, is_json=is_json)


def _ids(
    client: Client, name: str, *, ids: Sequence[str], is_agreed: bool, **filters: Sequence[str]
) -> Sequence[str]:
    return chosen(client, ids, filters, name=name, is_agreed=is_agreed)


def _for_each(
    ids: Sequence[str], order: Callable[[str], InstanceDocument], *, is_json: bool
) -> None:
    """Carry out an order for each instance; what one refuses does not stop the others."""
    done: list[InstanceDocument] = []
    try:
        for answer in filter(None, (_answer(id_, order) for id_ in ids)):
            done.append(answer)
            if not is_json:
                click.echo(_line(answer))
    finally:  # what is done is told, whatever stops the rest
        if is_json:
            click.echo(msgspec.json.encode(done).decode())
    if len(done) < len(ids):
        raise click.exceptions.Exit(1)


def _answer(id_: str, order: Callable[[str], InstanceDocument]) -> InstanceDocument | None:
    """Return what is answered to an order; None: it was refused, which is told."""
    try:
        return order(id_)
    except RefusedError as error:
        if error.status == UNAUTHORIZED:
            raise  # the others would be refused alike
        click.echo(f"Error: {error}", err=True)
        return None


def _line(instance: InstanceDocument) -> str:
    asked = ", replacement asked for" if instance.is_replace_asked else ""
    developer = f", of {instance.developer}" if instance.developer else ""
    return f"{instance.id}: {instance.phase}{asked}{developer}"


def _say(value: Any, words: str, *, is_json: bool) -> None:
    click.echo(msgspec.json.encode(value).decode() if is_json else words)
