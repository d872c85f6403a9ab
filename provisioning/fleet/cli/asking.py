"""Ask a person whether something may be done.

In:   a question, on a terminal.
Out:  nothing, where it may.
Fails with click's errors: nobody can be asked, or the answer is no.
"""

from __future__ import annotations

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
    click.confirm(question, abort=True, err=True)
