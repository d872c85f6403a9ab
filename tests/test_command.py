from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from ollama_fleet.cli import COMMANDS, main

HEAVY = ("aiohttp", "uvloop", "httptools", "prometheus_client", "yaml", "grafanalib")

LIST_MODULES = """
import sys
from ollama_fleet.cli import main
main({arguments!r}, standalone_mode=False)
print(*(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ollama_fleet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def summaries(help_text: str) -> dict[str, str]:
    """Return what a list of commands says of each."""
    listed = help_text.partition("Commands:\n")[2]
    found = re.findall(r"^  (\S+) +(.*(?:\n {3,}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_asking_for_help_imports_no_part(arguments: list[str]) -> None:
    """It stays quick, and works where only some parts' extras are installed."""
    source = LIST_MODULES.format(arguments=arguments, heavy=HEAVY)

    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=100, check=True
    )

    assert "" == done.stderr.strip()
    assert done.stdout


def test_help_lists_every_command_with_what_it_does() -> None:
    done = run("--help")

    described = summaries(done.stdout)
    assert 0 == done.returncode
    assert sorted(COMMANDS) == list(described)
    assert all(text.endswith(".") for text in described.values())


def test_an_unknown_command_says_which_one_was_meant() -> None:
    assert "Did you mean 'instances'?" in run("instnces", "list").stderr
    assert "No such command 'xyz'.\n" in run("xyz").stderr


URLS_OF_SETTINGS = ("--ui.prometheus-url", "--web.external-url", "--s3.endpoint-url")
"""URLs that are one of several settings of a part."""


def options(command: click.Command, name: str) -> Iterator[tuple[str, click.Option]]:
    """Yield each option of a command and of those below it, after the command's name."""
    yield from ((name, one) for one in command.params if isinstance(one, click.Option))
    if isinstance(command, click.Group):
        for inner in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), inner)
            assert found is not None
            yield from options(found, f"{name} {inner}")


def test_options_of_all_commands_are_spelled_alike() -> None:
    """A file is a file, a time has its unit, and what is the same has the same words.

    What another program or a settings file is, is spelled as by Prometheus' programs and amtool:
    `--prometheus.url`, `--config.file`. Nothing is spelled with a dot here and a dash there.
    """
    begins = {"--json": "Print JSON", "--yes": "Do not ask before"}
    odd, spelled = [], {"--config-file": "--config.file"}
    for name, option in options(main, ""):
        opt, words = max(option.opts, key=len), option.help or ""
        metavar = option.make_metavar(click.Context(main))
        if not words.startswith(begins.get(opt, "")) or words[-1:] not in ".]":
            odd.append(f"{name} {opt}: {words}")
        if "SECONDS" in metavar or "econds" in words.split(" ")[0]:
            odd.append(f"{name} {opt} is no duration")
        if ("URL" == metavar) is not opt.endswith(".url") and opt not in URLS_OF_SETTINGS:
            odd.append(f"{name} {opt} {metavar}: the URL of a program is --PROGRAM.url")
        if opt != spelled.setdefault(opt.replace(".", "-"), opt):
            odd.append(f"{name} {opt} is {spelled[opt.replace('.', '-')]} elsewhere")
        if opt.endswith("url") and "URL" not in metavar:
            odd.append(f"{name} {opt} {metavar} is no URL")
        if opt.endswith("-file") and "FILE" not in metavar.upper():
            odd.append(f"{name} {opt} {metavar} is no file")
        if opt.endswith("-dir") and "DIR" not in metavar.upper():
            odd.append(f"{name} {opt} {metavar} is no folder")

    assert [] == odd


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_imported_and_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])

    assert 0 == result.exit_code
    assert f" {name} [OPTIONS]" in result.stdout.splitlines()[0]
    assert "Options:" in result.stdout
    assert "\\b" not in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_the_same_of_itself_as_the_list_of_commands(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None

    # click cuts what does not fit into a line, and then ends it with dots.
    begin = summaries(CliRunner().invoke(main, ["--help"]).stdout)[name].rstrip(".")

    assert command.get_short_help_str(limit=200).startswith(begin)


def test_an_unknown_command_is_an_error_of_usage() -> None:
    done = run("exporterr")

    assert (2, "") == (done.returncode, done.stdout)
    assert "No such command 'exporterr'" in done.stderr


def test_no_command_at_all_shows_the_help() -> None:
    done = run()

    assert 2 == done.returncode
    assert "Commands:" in done.stderr
