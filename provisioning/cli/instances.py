"""The commands `ollama-fleet instances …`: list, show and change single instances."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from ollama_fleet.clock import SystemClock
from ollama_fleet.tables import count_text, table
from provisioning.api.routes import Details, InstanceDocument, State
from provisioning.cli.common import age_text, ask, json_option, shown, with_client, yes_option
from provisioning.client import UNAUTHORIZED, Client, RequestRefusedError
from provisioning.model import Phase

HEAD = ("ID", "PHASE", "FOR", "NODE", "MODEL", "DEVELOPER", "GENERATION", "NOTE")
MAX_NOTE_CHARACTERS = 60
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
        ids: As they were given.
        filters: Values by filter; several values mean any of them.
        name: Of the command: `drain`.
        is_agreed: Do not ask.

    Raises:
        click.UsageError: Neither ids nor filters are there, or both.
        click.ClickException: There is no terminal to ask on.
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
        click.echo("no instances", err=True)
    elif not is_agreed:
        ask(f"{name} {summary(found)}. Go on?", what=f"this would {name} {summary(found)}")
    return [instance.id for instance in found]


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


def list_text(instances: Sequence[Details], *, now_s: float, is_cut: bool = False) -> str:
    """Return a table, and the count of each phase.

    Args:
        instances: In this order.
        now_s: For ages.
        is_cut: Whether to shorten long notes.
    """
    if not instances:
        return "no instances"
    rows = table(HEAD, (_row(instance, now_s, is_cut=is_cut) for instance in instances))
    return f"{rows}\n{summary(instances)}"


def summary(instances: Sequence[Details]) -> str:
    """Return `3 instances: 2 running, 1 failed`."""
    n_by_phase = Counter(instance.phase for instance in instances)
    phases = ", ".join(f"{n_by_phase[phase]:,} {phase}" for phase in Phase if n_by_phase[phase])
    return f"{count_text(len(instances), 'instance')}: {phases}"


def show_text(instance: InstanceDocument, *, now_s: float) -> str:
    """Return all facts about an instance, and its history."""
    return "\n".join(_lines(instance, now_s))


def _row(instance: Details, now_s: float, *, is_cut: bool) -> tuple[str, ...]:
    return (
        instance.id,
        instance.phase,
        age_text(now_s - instance.phase_since_s),
        instance.node,
        instance.model or "-",
        instance.developer or "-",
        str(instance.generation),
        _note(instance, is_cut=is_cut),
    )


def _note(instance: Details, *, is_cut: bool) -> str:
    """Return why an instance is where it is, on one line."""
    requested = "replacement requested" if instance.is_replace_asked else ""
    words = "; ".join(filter(None, (instance.reason or "", requested, instance.fault)))
    line = shown(words)
    is_long = len(line) > MAX_NOTE_CHARACTERS
    return f"{line[:MAX_NOTE_CHARACTERS]}…" if is_long and is_cut else line


def _lines(instance: InstanceDocument, now_s: float) -> Iterator[str]:
    facts = {
        "id": instance.id,
        "url": instance.url,
        "phase": f"{instance.phase} for {age_text(now_s - instance.phase_since_s)}",
        "reason": instance.reason or "",
        "fault": shown(instance.fault),
        "next try": _in(instance.retry_at_s, now_s),
        "pool": instance.pool,
        "node": instance.node,
        "model": instance.model,
        "engine": instance.engine,
        "developer": instance.developer,
        "generation": f"{instance.generation}, workload {instance.workload}",
        "log": f"{shown(instance.log)} on {instance.node}" if instance.log else "",
        "healthy since": _moment(instance.started or 0.0),
        "failed starts": str(instance.n_failures or ""),
        "replacement": "requested" if instance.is_replace_asked else "",
    }
    width = max(len(name) for name, text in facts.items() if text)
    for name, text in facts.items():
        if text:
            yield f"{name.ljust(width)}  {text}"
    if instance.history:
        yield "history"
    for event in instance.history:
        what = shown(f"{event.what} {event.detail}")
        yield f"  {_moment(event.at_s)}  {event.generation}  {what}"


def _moment(at_s: float) -> str:
    """Return a time of day as UTC; empty where there was none."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S}Z" if at_s else ""


def _in(at_s: float, now_s: float) -> str:
    return f"in {age_text(at_s - now_s)}" if at_s > now_s else ""
