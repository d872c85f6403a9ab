"""The man pages: what `--help` says, as `man` shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from ollama_fleet.cli import COMMANDS, main
from packages.man import NAME, Roff, escaped, pages


def commands(command: click.Command, context: click.Context) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, click.Context(below, info_name=name, parent=context))


def shown(text: str) -> str:
    """Return what a reader sees of a page, without line breaks."""
    return " ".join(re.sub(r"\\f[BR]|\\&", "", text).replace("\\-", "-").split())


def test_each_command_has_a_page_with_all_that_its_help_has() -> None:
    written = dict(pages())
    root = click.Context(main, info_name=NAME)

    assert {NAME, *(f"{NAME}-{name}" for name in COMMANDS)} == set(written)
    for name in COMMANDS:
        page = shown(written[f"{NAME}-{name}"])
        top = main.get_command(root, name)
        assert top is not None
        for command in commands(top, click.Context(top, info_name=name, parent=root)):
            options = [one for one in command.params if isinstance(one, click.Option)]
            names = {long for one in options if not one.hidden for long in one.opts}
            assert set() == {one for one in names if one not in page}


def test_a_page_begins_with_the_name_and_what_apropos_finds() -> None:
    for title, text in pages():
        assert re.match(
            rf"\.TH \S+ 1 .*\n\.SH NAME\n{re.escape(escaped(title))} \\- [A-Z].*[^.]\n\.SH", text
        )


def test_what_troff_would_take_for_a_command_is_text() -> None:
    formatter = Roff()
    formatter.write_text(".PP of\nC:\\temp\n'tis --it\n\n\b\n.kept as\n  it is")

    assert (
        ".PP\n\\&.PP of\nC:\\etemp\n\\&'tis \\-\\-it\n.PP\n.nf\n\\&.kept as\nit is\n.fi\n"
        == formatter.getvalue()
    )
