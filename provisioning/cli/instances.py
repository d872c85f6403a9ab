"""The commands `ollama-fleet instances …`: list, show and change single instances."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from ollama_fleet.clock import SystemClock
from provisioning.api.routes import InstanceDocument, State
from provisioning.cli.common import json_option, with_client
from provisioning.cli.listing import list_text, show_text
from provisioning.cli.selection import (
    check_names,
    choice_options,
    chosen,
    node_option,
    phase_option,
    pool_option,
)
from provisioning.client import UNAUTHORIZED, Client, RequestRefusedError


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
    help="Only instances in this state of the exporter's inventory; repeatable.",
)
@json_option
@with_client
def list_(*, client: Client, is_json: bool, **filters: tuple[str, ...]) -> None:
    """List instances, with their phase and how long they have been in it.

    A terminal shows the beginning of a long note; `show` shows all of it.
    """
    found = client.instances(filters)
    if not found:
        check_names(client, filters)
    words = list_text(found, now_s=SystemClock().unix_s(), is_cut=sys.stdout.isatty())
    _print(found, words, is_json=is_json)


@instances.command(short_help="Show an instance and its history.")
@click.argument("id_", metavar="ID")
@json_option
@with_client
def show(*, client: Client, id_: str, is_json: bool) -> None:
    """Show all facts about an instance, and its history."""
    found = client.instance(id_)
    _print(found, show_text(found, now_s=SystemClock().unix_s()), is_json=is_json)


@instances.command(short_help="Drain and replace instances now.")
@choice_options
@json_option
@with_client
def drain(*, client: Client, is_json: bool, **choice: Any) -> None:
    """Let instances finish their requests, now; fresh ones take their places.

    This ignores the fleet's limits; `replace` keeps to them. With --node, --phase or --pool it
    shows what it chooses, and asks.
    """
    _for_each(_ids(client, "drain", **choice), client.drain, is_json=is_json)


@instances.command(short_help="Replace instances when limits allow it.")
@choice_options
@json_option
@with_client
def replace(*, client: Client, is_json: bool, **choice: Any) -> None:
    """Replace instances by fresh ones, as soon as the fleet's limits allow it.

    With --node, --phase or --pool it shows what it chooses, and asks.
    """
    _for_each(_ids(client, "replace", **choice), client.replace, is_json=is_json)


@instances.command(short_help="Give an instance to a developer.")
@click.argument("id_", metavar="ID")
@click.argument("developer")
@json_option
@with_client
def assign(*, client: Client, id_: str, developer: str, is_json: bool) -> None:
    """Give an instance to a developer, in exchange for the one that they have in the pool.

    This adds them to the pool's developers: add them to your specification as well, or the next
    `apply` removes them again.
    """
    _for_each((id_,), lambda one: client.assign(one, developer), is_json=is_json)


@instances.command(short_help="Take instances from their developers.")
@choice_options
@json_option
@with_client
def release(*, client: Client, is_json: bool, **choice: Any) -> None:
    """Take instances from their developers.

    This removes them from the pool's developers: remove them from your specification as well, or
    the next `apply` adds them again. With --node, --phase or --pool it shows what it chooses, and
    asks.
    """
    _for_each(_ids(client, "release", **choice), client.release, is_json=is_json)


def _ids(
    client: Client, name: str, *, ids: Sequence[str], is_agreed: bool, **filters: Sequence[str]
) -> Sequence[str]:
    return chosen(client, ids, filters, name=name, is_agreed=is_agreed)


def _for_each(
    ids: Sequence[str], change: Callable[[str], InstanceDocument], *, is_json: bool
) -> None:
    """Change each instance; one that is refused does not stop the others."""
    done: list[InstanceDocument] = []
    try:
        for answer in filter(None, (_changed(id_, change) for id_ in ids)):
            done.append(answer)
            if not is_json:
                click.echo(_line(answer))
    finally:  # print what is done, whatever stops the rest
        if is_json:
            click.echo(msgspec.json.encode(done).decode())
    if len(done) < len(ids):
        raise click.exceptions.Exit(1)


def _changed(id_: str, change: Callable[[str], InstanceDocument]) -> InstanceDocument | None:
    """Return the changed instance; None: the provisioner refused, and the reason is printed."""
    try:
        return change(id_)
    except RequestRefusedError as error:
        if error.status == UNAUTHORIZED:
            raise  # it would refuse the others too
        click.echo(f"Error: {error}", err=True)
        return None


def _line(instance: InstanceDocument) -> str:
    requested = ", replacement requested" if instance.is_replace_asked else ""
    developer = f", developer {instance.developer}" if instance.developer else ""
    return f"{instance.id}: {instance.phase}{requested}{developer}"


def _print(value: Any, words: str, *, is_json: bool) -> None:
    click.echo(msgspec.json.encode(value).decode() if is_json else words)
