"""The commands `ollama-fleet gateway keys …` and `gateway usage`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from ollama_fleet.tables import count_text, table
from provisioning.gateway import usage
from provisioning.gateway.errors import KeysError
from provisioning.gateway.keys import Key, Keys, make, read, without, write

FILE_VARIABLE = "OLLAMA_FLEET_GATEWAY_KEYS_FILE"
DEFAULT_OPS_URL = "http://127.0.0.1:11431"
KEYS_HEAD = ("ID", "DEVELOPER", "CREATED", "TOKENS A DAY", "REQUESTS A DAY")
USAGE_HEAD = ("DEVELOPER", "REQUESTS", "TOKENS")

file_option = click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    envvar=FILE_VARIABLE,
    help=f"File of the keys, as `keys.file` of the settings names it. [env: {FILE_VARIABLE}]",
)
count = click.IntRange(min=0)


@click.group("keys", short_help="Give developers API keys, and take them away.")
def keys_group() -> None:
    """Give developers API keys, and take them away; the gateway notices within seconds."""


@keys_group.command("add")
@file_option
@click.argument("developer")
@click.option("--tokens-per-day", type=count, help="Limit; default: that of the settings.")
@click.option("--requests-per-day", type=count, help="Limit; default: that of the settings.")
def add_command(
    path: Path, developer: str, tokens_per_day: int | None, requests_per_day: int | None
) -> None:
    """Make a key for a developer and print it: it is shown only once."""
    secret, key = make(developer, tokens_per_day=tokens_per_day, requests_per_day=requests_per_day)
    with _locked(path):
        write(path, Keys(keys=(*read(path).keys, key)))
    click.echo(secret)
    click.echo(f"key {key.id} of {developer} is in {path}; only its hash is kept", err=True)


@keys_group.command("list")
@file_option
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def list_command(path: Path, is_json: bool) -> None:
    """List the keys: whose they are, and their limits."""
    found = sorted(read(path).keys, key=lambda key: (key.developer, key.created, key.id))
    if is_json:
        click.echo(msgspec.json.encode([{"id": key.id, **_public(key)} for key in found]))
    else:
        click.echo(table(KEYS_HEAD, [_row(key) for key in found]))


@keys_group.command("remove")
@file_option
@click.argument("name", metavar="DEVELOPER|ID")
def remove_command(path: Path, name: str) -> None:
    """Remove all keys of a developer, or the one with this id."""
    with _locked(path):
        rest, removed = without(read(path), name)
        write(path, rest)
    click.echo(f"removed {count_text(len(removed), 'key')}", err=True)


@click.command("usage")
@click.option(
    "--gateway.url",
    "url",
    default=DEFAULT_OPS_URL,
    show_default=True,
    metavar="URL",
    help="Base URL of the gateway's address for operators.",
)
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
def usage_command(url: str, is_json: bool) -> None:
    """Show what each developer used today; days begin at midnight UTC."""
    today = usage.fetch(url)
    if is_json:
        click.echo(msgspec.json.encode(today))
        return
    rows = sorted(today.developers.items(), key=lambda item: (-item[1].tokens, item[0]))
    lines = [(name, f"{used.requests:,}", f"{used.tokens:,}") for name, used in rows]
    click.echo(f"{today.day} (UTC)\n{table(USAGE_HEAD, lines)}")


def _public(key: Key) -> dict[str, object]:
    shown = msgspec.to_builtins(key)
    del shown["sha256"]
    return dict(shown)


def _row(key: Key) -> tuple[str, ...]:
    limits = (key.tokens_per_day, key.requests_per_day)
    return key.id, key.developer, key.created, *("-" if n is None else f"{n:,}" for n in limits)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one command at a time change the file, which each writes as a whole."""
    try:
        folder = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise KeysError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
