"""Ask a person whether something may be done.

In:   a question, on a terminal.
Out:  nothing, where it may.
Fails with click's errors: nobody can be asked, or the answer is no.
"""

from __future__ import annotations

import os
import select
import signal
import sys

import click

yes_option = click.option(
    "--yes", "is_agreed", is_flag=True, help="Do not ask before instances are ended or changed."
)


def ask(question: str, *, what: str) -> None:
    """Return if a person says yes.

    Args:
        question: Such as `Put this in force?`.
        what: It does, for a message where there is no person: `this ends instances`.

    Raises:
        click.ClickException: Standard input is no terminal.
        click.Abort: The answer is no, or Ctrl-C.
    """
    if not sys.stdin.isatty():
        raise click.ClickException(
            f"{what}, and nobody can be asked here whether it may; if it may, say so with --yes"
        )
    try:
        while not (answer := _answer(f"{question} [y/N]: ")):
            click.echo("Error: invalid input", err=True)
    except KeyboardInterrupt:
        raise click.Abort from None
    if answer != "yes":
        raise click.Abort


def _answer(prompt: str) -> str:
    """Return `yes` or `no`; nothing where a person typed something else."""
    click.echo(prompt, err=True, nl=False)
    wait_for_line()
    typed = sys.stdin.readline()
    known = {"y": "yes", "yes": "yes", "n": "no", "no": "no", "": "no"}
    return known.get(typed.strip().lower(), "")


def wait_for_line() -> None:
    """Return once a line can be read, or a signal has come; its handler runs then.

    A Ctrl-C that comes between Python's last look at signals and a read that waits does not end
    the read. What a signal writes to the wake-up descriptor stays until it is seen.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        select.select([sys.stdin, reader], [], [])
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
