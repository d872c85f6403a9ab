"""What options of all commands have in common: suggestions for choices, and groups in `--help`."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import click

from ollama_fleet.durations import duration_text, parse_duration_s
from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.urls import host_port


class Choice(click.Choice[str]):
    """One of some words; a refusal says which one was probably meant."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return what is wrong with a word, the known ones, and the closest of them."""
        near = did_you_mean(str(value), map(str, self.choices))
        return super().get_invalid_choice_message(value, ctx).rstrip(".") + near


class Duration(click.ParamType[float]):
    """A duration such as `90s` or `1h30m`, within bounds, in seconds."""

    name = "duration"

    def __init__(
        self, least_s: float = 0.001, most_s: float = math.inf, *, is_whole: bool = False
    ) -> None:
        """Take the bounds, and whether it has to be whole seconds."""
        self._least_s = least_s
        self._most_s = most_s
        self._is_whole = is_whole

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds; a default may be given as a number."""
        if isinstance(value, float):
            return value
        try:
            duration_s = parse_duration_s(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if fault := self._fault(duration_s):
            self.fail(f"must be {fault}, got {value}", param, ctx)
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


class Address(click.ParamType[tuple[str, int]]):
    """`host:port` as a pair, for a server that listens where it is named only."""

    name = "host:port"

    def __init__(self, example: str) -> None:
        """Take the address that messages give as an example."""
        self._example = example

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Return host and port; a host must be named."""
        if isinstance(value, tuple):
            return value
        try:
            host, port = host_port(str(value), example=self._example)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not host:
            self.fail(
                f"{value!r} names no host: write 127.0.0.1:{port} for this machine only, "
                f"0.0.0.0:{port} for every address",
                param,
                ctx,
            )
        return host, port
