"""Options of all commands: groups in `--help`, durations, suggestions; and colours."""

from __future__ import annotations

import io

import click
import pytest
from click.testing import CliRunner

from ollama_fleet.colours import has_colours
from ollama_fleet.options import Choice, Duration, Group


@click.group(cls=Group)
def group() -> None:
    """Have commands."""


@group.command()
@click.option("--web.port", "port", help="Where it listens.")
@click.option("--web.token", "token", help="Who may ask.")
@click.option("--log.level", "level", type=Choice(["debug", "info"]), help="What is logged.")
@click.option("--wait", type=Duration(), default=1.5, help="How long it waits.")
def serve(wait: float, **_: str) -> None:
    """Serve."""
    click.echo(wait)


def run(*words: str) -> str:
    return CliRunner().invoke(group, ["serve", *words]).output


def test_options_with_a_common_prefix_have_a_section_below_the_others() -> None:
    _, plain, web = run("--help").split(":\n")

    assert ["--wait", "--help", "--log.level"] == [
        line.split()[0] for line in plain.splitlines() if line.strip().startswith("--")
    ]
    assert plain.endswith("\n\nWeb options")
    assert ["--web.port", "--web.token"] == [line.split()[0] for line in web.splitlines()]


def test_a_wrong_choice_says_which_one_was_meant() -> None:
    assert "'inf' is not one of 'debug', 'info'; did you mean info?\n" in run("--log.level=inf")
    assert "'x' is not one of 'debug', 'info'\n" in run("--log.level=x")


def test_a_duration_has_its_unit_and_its_bounds() -> None:
    bounded = Duration(2, 60, is_whole=True)

    assert ["90.0\n", "1.5\n"] == [run("--wait=1m30s"), run()]
    assert (2.0, 60.0) == tuple(bounded.convert(text, None, None) for text in ("2s", "1m"))
    for wrong in ("5", "x", "-1s"):
        assert "such as 7d, 1h30m, 15s or 500ms" in run(f"--wait={wrong}")
    assert "must be at least 1ms, got 0" in run("--wait=0")
    for wrong, fault in (("1s", "least 2s"), ("61s", "most 1m"), ("2500ms", "whole seconds")):
        with pytest.raises(click.BadParameter, match=f"{fault}, got {wrong}"):
            bounded.convert(wrong, None, None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_whose_users_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert (True, False) == (has_colours(Terminal()), has_colours(io.StringIO()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colours(Terminal())
    monkeypatch.setenv("NO_COLOR", "")
    assert has_colours(Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not has_colours(Terminal())
