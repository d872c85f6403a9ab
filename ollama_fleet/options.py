"""What options of all commands have in common: suggestions for choices, and groups in `--help`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from ollama_fleet.durations import duration_text, parse_duration_s
from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.urls import host_port

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
json_option = click.option("--json", "is_json", is_flag=True, help="Print JSON.")
prometheus_option = click.option(
    "--prometheus.url", "url", required=True, metavar="URL", help="The live Prometheus."
)
T = TypeVar("T")


class Choice(click.Choice[str]):
    """One of some words; a refusal says which one was probably meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return what is wrong with a word, the known ones, and the closest of them."""
        near = did_you_mean(str(value), map(str, self.choices))
        return super().get_invalid_choice_message(value, ctx).rstrip(".") + near


class Parsed(click.ParamType[T], Generic[T]):
    """A text that a function reads; one that it refuses is a wrong option."""

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        """Take what `--help` calls the value, and what reads it or raises a ValueError."""
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Return what the text means; a default may be that already."""
        if not isinstance(value, str):
            read: T = value
            return read
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Duration(Parsed[float]):
    """A duration such as `90s` or `1h30m`, within bounds, in seconds."""

    def __init__(
        self, least_s: float = 0.001, most_s: float = math.inf, *, is_whole: bool = False
    ) -> None:
        """Take the bounds, and whether it has to be whole seconds."""
        super().__init__("duration", self._seconds)
        self._least_s = least_s
        self._most_s = most_s
        self._is_whole = is_whole

    def _seconds(self, text: str) -> float:
        duration_s = parse_duration_s(text)
        if fault := self._fault(duration_s):
            raise ValueError(f"must be {fault}, got {text}")
        return duration_s

    def _fault(self, duration_s: float) -> str:
        if duration_s < self._least_s:
            return f"at least {duration_text(self._least_s)}"
        if duration_s > self._most_s:
            return f"at most {duration_text(self._most_s)}"
        return "whole seconds" if self._is_whole and duration_s % 1 else ""


class GroupedCommand(click.Command):
    """A command whose `--help` shows options such as `--web.…` together, below the others."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section for each group."""
        records = defaultdict[str, list[tuple[str, str]]](list)
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                records[_group_of(param)].append(record)
        for name in [name for name, listed in records.items() if len(listed) == 1]:
            records[""] += records.pop(name) if name else []
        for name in sorted(records):
            with formatter.section(f"{name.capitalize()} options" if name else "Options"):
                formatter.write_dl(records[name])


class GroupedCommands(GroupedCommand, click.Group):
    """A command with grouped options that does something itself, and has others below it."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _group_of(param: click.Parameter) -> str:
    """Return `web` of `--web.listen-address`; empty: it has no group."""
    group, dot, _ = param.opts[0].partition(".")
    return group.lstrip("-") if dot else ""


class Group(click.Group):
    """Commands with grouped options."""

    command_class = GroupedCommand
    group_class = type


class CannotAskError(click.ClickException):
    """A server gave no answer, which is no verdict on anything."""

    exit_code = 2


class FailingGroup(click.Group):
    """Commands whose errors are messages; their help shows the defaults of options."""

    def __init__(
        self,
        *args: Any,
        failures: Sequence[type[Exception]],
        unasked: type[Exception] | None = None,
        **settings: Any,
    ) -> None:
        """Take the errors that end a command with status 1, and the one that ends it with 2."""
        super().__init__(*args, **settings)
        self.context_settings.setdefault("show_default", True)
        self._failures = tuple(failures)
        self._unasked = unasked

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except self._failures as error:
            is_unasked = self._unasked is not None and isinstance(error, self._unasked)
            kind = CannotAskError if is_unasked else click.ClickException
            raise kind(str(error)) from error


class Address(Parsed[tuple[str, int]]):
    """`host:port` as a pair, for a server that listens where it is named only."""

    def __init__(self, example: str) -> None:
        """Take the address that messages give as an example."""
        super().__init__("host:port", partial(_address, example=example))


def _address(text: str, *, example: str) -> tuple[str, int]:
    host, port = host_port(text, example=example)
    if not host:
        raise ValueError(
            f"{text!r} names no host: write 127.0.0.1:{port} for this machine only, "
            f"0.0.0.0:{port} for every address"
        )
    return host, port
