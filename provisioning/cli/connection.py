"""How a command finds the provisioner: options that all of them share.

In:   `--provisioner.url`, `--provisioner.token-file` and their environment variables.
Out:  a Client for the command's function.
Fails with click's errors, made of ours; Ctrl-C ends it with 130, and says what became of a change.
At a question Ctrl-C is a no, which click ends with 1.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from provisioning.api.token import first_token
from provisioning.cli.awaiting import CLEARED, STOPPED
from provisioning.cli.places import STATE, token_file
from provisioning.client.client import Client
from provisioning.client.errors import ChangeInterruptedError
from provisioning.client.transport import Transport
from provisioning.errors import ProvisionerError

DEFAULT_URL = "http://127.0.0.1:8080"
TOKEN_OPTION = "--provisioner.token-file"  # noqa: S105 - names a file that holds one
PREFIX = "OLLAMA_FLEET_INSTANCES_"

json_option = click.option("--json", "is_json", is_flag=True, help="JSON instead of words.")


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options, and give the command a `client` instead of them."""

    @click.option(
        "--provisioner.url",
        "urls",
        multiple=True,
        default=(DEFAULT_URL,),
        show_default=DEFAULT_URL,
        envvar=f"{PREFIX}PROVISIONER_URL",
        metavar="URL",
        help="Where a provisioner answers; repeat it for the others of the fleet. "
        f"[env: {PREFIX}PROVISIONER_URL, parted by spaces]",
    )
    @click.option(
        TOKEN_OPTION,
        "token_path",
        type=click.Path(dir_okay=False, path_type=Path),
        default=token_file,
        show_default=f"{STATE}/provisioner.token",
        envvar=f"{PREFIX}PROVISIONER_TOKEN_FILE",
        help="Holds the token for changes and `provisioner show`: the file that the provisioner's "
        f"--web.token-file names. [env: {PREFIX}PROVISIONER_TOKEN_FILE]",
    )
    @functools.wraps(command)
    def run(*, urls: tuple[str, ...], token_path: Path, **others: Any) -> None:
        def token() -> str:
            return first_token(token_path, option=TOKEN_OPTION)

        try:
            with Transport(urls, token, tell=_tell, warn=_warn) as transport:
                command(client=Client(transport), **others)
        except ProvisionerError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            click.echo(f"\n{_stopped_text(error)}", err=True)
            raise SystemExit(STOPPED) from None

    return run


def _stopped_text(error: KeyboardInterrupt) -> str:
    if not isinstance(error, ChangeInterruptedError):
        return "stopped; no change was on its way"
    return (
        "stopped while a change was on its way: whether it was made cannot be told from here; see "
        "`ollama-fleet provisioner show` or `ollama-fleet instances list` before you try again"
    )


def _warn(line: str) -> None:
    cleared = CLEARED if sys.stderr.isatty() else ""
    click.echo(f"{cleared}{line}", err=True)


def _tell(line: str) -> None:
    """Say why nothing happens yet, to a person who looks on."""
    if sys.stderr.isatty():
        click.echo(f"{CLEARED}{line}", err=True)
