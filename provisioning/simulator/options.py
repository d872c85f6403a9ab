"""The kinds of values that the options of `ollama-fleet simulate` take.

In:   the words of the command line or of an environment variable.
Out:  hardware weights, a Fault, a host and port, a range of ports.
Fails with a usage error that says what cannot be read, and why.
"""

from __future__ import annotations

import click

from provisioning.simulator.errors import FaultError
from provisioning.simulator.faults import Fault, parse_fault
from provisioning.simulator.spec import Hardware


class Weights(click.ParamType[tuple[tuple[Hardware, int], ...]]):
    """`KIND=WEIGHT,...` as pairs of hardware and weight."""

    name = "kind=weight,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[Hardware, int], ...]:
        """Read the pairs, or say which one is wrong."""
        if isinstance(value, tuple):
            return value
        return tuple(self._pair(pair, param, ctx) for pair in str(value).split(","))

    def _pair(
        self, pair: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Hardware, int]:
        kind, _, weight = pair.partition("=")
        try:
            return Hardware(kind.strip()), int(weight or 1)
        except ValueError:
            kinds = ", ".join(Hardware)
            self.fail(f"{pair!r} is no KIND=WEIGHT with one of the kinds {kinds}", param, ctx)


class FaultParam(click.ParamType[Fault]):
    """`kind:key=value,...` as a Fault."""

    name = "kind:key=value,..."

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fault:
        """Read the fault, or say everything that is wrong with it."""
        if isinstance(value, Fault):
            return value
        try:
            return parse_fault(str(value))
        except FaultError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class Address(click.ParamType[tuple[str, int]]):
    """`host:port` as a pair."""

    name = "host:port"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        """Split at the last colon; an IPv6 address stands in brackets."""
        if isinstance(value, tuple):
            return value
        host, _, port = str(value).rpartition(":")
        if not host and port.isdecimal():
            self.fail(
                f"{value!r} names no host: write 127.0.0.1:{port} for this machine only, "
                f"0.0.0.0:{port} for every address (whoever holds the token may write)",
                param,
                ctx,
            )
        if not host or not port.isdecimal() or int(port) > 65_535:
            self.fail(f"{value!r} is no HOST:PORT", param, ctx)
        return host.strip("[]"), int(port)


class Ports(click.ParamType[range]):
    """`first-last` as a range that has both."""

    name = "first-last"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> range:
        """Read the range, or say what is wrong with it."""
        if isinstance(value, range):
            return value
        first, _, last = str(value).partition("-")
        if not first.isdecimal() or not last.isdecimal():
            self.fail(f"{value!r} is no range of ports such as 20000-20099", param, ctx)
        if not 1 <= int(first) <= int(last) <= 65_535:
            self.fail(f"{value!r}: ports go from 1 to 65535, the first one first", param, ctx)
        return range(int(first), int(last) + 1)
