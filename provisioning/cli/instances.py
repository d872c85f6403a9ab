"""The commands `ollama-fleet instances …`: list, show and change single instances."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import click
import msgspec

from ollama_fleet.colours import red
from ollama_fleet.options import Choice, Group, json_option
from provisioning.api.routes import Details, EventDocument, InstanceDocument
from provisioning.cli.common import ended_by_ctrl_c, with_client
from provisioning.cli.completion import completing
from provisioning.cli.instance_logs import log_file, print_log
from provisioning.cli.listing import SORTS, event_text, list_text, moment, show_text
from provisioning.cli.selection import (
    check_names,
    choice_options,
    chosen,
    developer_option,
    id_argument,
    model_option,
    node_option,
    phase_option,
    pool_option,
    state_option,
)
from provisioning.client import UNAUTHORIZED, Client, RequestRefusedError

WATCH_S = 2.0
N_OTHER_LINES = 4
"""On the screen of `--watch`: the head, how many more there are, the summary, the cursor's."""
HOME, CLEAR_REST, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
NO_WRAP, WRAP = "\x1b[?7l", "\x1b[?7h"
follow_option = click.option(
    "-f", "--follow", "is_following", is_flag=True, help="Print what is added, until Ctrl-C."
)


@click.group(
    cls=Group,
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
@developer_option
@model_option
@node_option
@phase_option
@pool_option
@state_option
@click.option(
    "--sort",
    "order",
    type=Choice([*SORTS]),
    default="id",
    show_default=True,
    help="Column to sort by; phase: failed ones first, for: latest change first.",
)
@click.option("-q", "--quiet", "is_quiet", is_flag=True, help="Print IDs only.")
@click.option(
    "-w", "--watch", "is_watching", is_flag=True, help="Refresh the list every 2 s until Ctrl-C."
)
@json_option
@with_client
def list_(
    *,
    client: Client,
    order: str,
    is_quiet: bool,
    is_watching: bool,
    is_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """List instances, with their phase and how long they have been in it.

    A terminal shows the beginning of a long note; `show` shows all of it.
    """
    if is_quiet + is_watching + is_json > 1:
        raise click.UsageError("give one of --quiet, --watch and --json")
    if is_watching:
        _watch(lambda: sorted(client.instances(filters), key=SORTS[order]))
    found = sorted(client.instances(filters), key=SORTS[order])
    if not found:
        check_names(client, filters)
    if is_quiet:
        click.echo("".join(f"{one.id}\n" for one in found), nl=False)
        return
    words = list_text(found, now_s=time.time(), is_cut=sys.stdout.isatty(), paint=red)
    _print(found, words, is_json=is_json)


def _watch(ask: Callable[[], Sequence[Details]]) -> NoReturn:
    """Show the list until Ctrl-C, as much of it as the screen has room for."""
    if not sys.stdout.isatty():
        raise click.UsageError("--watch needs a terminal; without one, run it repeatedly")
    with ended_by_ctrl_c():
        while True:
            found, size = ask(), shutil.get_terminal_size()
            most = max(1, size.lines - N_OTHER_LINES)
            words = list_text(found, now_s=time.time(), is_cut=True, most=most, paint=red)
            lines = "".join(f"{line}{CLEAR_REST}\n" for line in words.splitlines())
            click.echo(f"{NO_WRAP}{HOME}{lines}{CLEAR_BELOW}{WRAP}", nl=False)
            time.sleep(WATCH_S)
    raise AssertionError


@instances.command(short_help="Show an instance and its history.")
@id_argument
@json_option
@with_client
def show(*, client: Client, id_: str, is_json: bool) -> None:
    """Show all facts about an instance, and its history."""
    found = client.instance(id_)
    _print(found, show_text(found, now_s=time.time(), paint=red), is_json=is_json)


@instances.command(short_help="Print what an instance writes.")
@id_argument
@click.option(
    "-n",
    "--tail",
    "n_lines",
    type=click.IntRange(0, 1_000_000),
    default=100,
    show_default=True,
    help="Begin with this many of the last lines.",
)
@follow_option
@with_client
def logs(*, client: Client, id_: str, n_lines: int, is_following: bool) -> None:
    """Print the end of an instance's log, where its node is this machine.

    Elsewhere it says where the log is: nodes run no program of ours that could send it. What was
    rotated is in the file beside it, with `.1` at its end.
    """
    path = log_file(client.instance(id_))
    with ended_by_ctrl_c():
        print_log(path, n_lines=n_lines, is_following=is_following)


@instances.command(short_help="List what has happened to instances.")
@node_option
@pool_option
@follow_option
@json_option
@with_client
def events(
    *, client: Client, is_following: bool, is_json: bool, **filters: tuple[str, ...]
) -> None:
    """List the latest 1,000 events of instances: starts, ends, failures, replacements, why.

    The events of one instance are in its `show`. With --follow, --json prints an object a line.
    """
    found = client.events(filters)
    if not found:
        check_names(client, filters)
    if is_json and not is_following:
        click.echo(msgspec.json.encode(found))
        return
    with ended_by_ctrl_c():
        for event in following(client, filters, found) if is_following else found:
            click.echo(msgspec.json.encode(event) if is_json else event_line(event))


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
@id_argument
@click.argument("developer", shell_complete=completing("developer"))
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


FOLLOW_S = 1.0
LATE_S = 60.0
"""An event is written this long after it has happened, at most: another may be there before it."""


def following(
    client: Client, filters: Mapping[str, Sequence[str]], known: Sequence[EventDocument]
) -> Iterator[EventDocument]:
    """Yield the known events, then each that is new, without an end."""
    yield from known
    while True:
        time.sleep(FOLLOW_S)
        newest_s = max((event.at_s for event in known), default=0.0)
        found = client.events(filters, since_s=max(0.0, newest_s - LATE_S))
        seen = set(known)
        yield from (event for event in found if event not in seen)
        known = found or known


def event_line(event: EventDocument) -> str:
    """Return an event on one line: time, instance, what has happened."""
    return f"{moment(event.at_s)}  {event.id}  {event_text(event)}"
