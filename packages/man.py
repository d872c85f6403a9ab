"""Write the man pages, from what `--help` says: `python man.py FOLDER`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from ollama_fleet.cli import COMMANDS, MissingExtraError, main
from ollama_fleet.version import VERSION

NAME = "ollama-fleet"
KEPT = "\b\n"
"""What click has at the begin of a paragraph whose lines stay as they are."""


def escaped(text: str) -> str:
    """Return a text that troff shows as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def bold(text: str) -> str:
    """Return a text in bold type."""
    return f"\\fB{escaped(text)}\\fR"


class Roff(click.HelpFormatter):
    """What click writes help texts with, for troff."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write how a command is called."""
        self.write(f".PP\n{bold(prog)} {escaped(args)}\n")

    def write_heading(self, heading: str) -> None:
        """Begin a section of a command."""
        self.write(f".SS {escaped(heading)}\n")

    def write_paragraph(self) -> None:
        """Separate nothing: each text begins a paragraph."""

    def write_text(self, text: str) -> None:
        """Write paragraphs, and as they are those that must not be wrapped."""
        for paragraph in re.split(r"\n\s*\n", text):
            kept = paragraph.startswith(KEPT)
            lines = escaped("\n".join(map(str.strip, paragraph.removeprefix(KEPT).split("\n"))))
            self.write(f".PP\n.nf\n{lines}\n.fi\n" if kept else f".PP\n{lines}\n")

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write options or commands, each with its text."""
        for term, text in rows:
            self.write(f".TP\n{bold(term)}\n{escaped(text)}\n")


class PageContext(click.Context):
    """The context of a command that is written."""

    formatter_class = Roff


def sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield a command's section, and those of the commands below it."""
    formatter = Roff()
    command.format_help(context, formatter)
    yield f'.SH "{escaped(context.command_path)}"\n{formatter.getvalue()}'
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if below := command.get_command(context, name):
                yield from sections(
                    below,
                    PageContext(below, info_name=name, parent=context, **below.context_settings),
                )


def page(title: str, summary: str, body: str) -> str:
    """Return a page that `man` finds by its title."""
    top = f'.TH {escaped(title.upper())} 1 "" "{NAME} {VERSION}" "User Commands"\n'
    return f"{top}.SH NAME\n{escaped(title)} \\- {escaped(summary.rstrip('.'))}\n{body}"


def pages() -> Iterator[tuple[str, str]]:
    """Yield name and text of the pages of all commands whose packages are installed."""
    root = PageContext(main, info_name=NAME, **main.context_settings)
    formatter = Roff()
    main.format_help(root, formatter)
    yield NAME, page(NAME, str(main.help), f".SH DESCRIPTION\n{formatter.getvalue()}")
    for name, part in COMMANDS.items():
        try:
            command = main.get_command(root, name)
        except MissingExtraError:
            continue
        if command is not None:
            context = PageContext(command, info_name=name, parent=root, **command.context_settings)
            title = f"{NAME}-{name}"
            yield title, page(title, part.summary, "".join(sections(command, context)))


if __name__ == "__main__":
    for title, text in pages():
        Path(sys.argv[1], f"{title}.1").write_text(text, encoding="utf-8")
