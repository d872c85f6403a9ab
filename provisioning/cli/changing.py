"""What commands that change a specification share: their options, the plan, the question.

In:   a Client, a Plan.
Out:  on stdout the plan; nothing else, where a person agrees. Fails with click's errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click
import msgspec

from provisioning.cli.asking import ask
from provisioning.client.client import Client, SpecInForce
from provisioning.plan import Plan, in_use_text, plan_text


def waiting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--wait`, `--no-wait` and `--timeout`."""
    timeout = click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=math.inf,
        metavar="SECONDS",
        show_default="as long as it takes",
        help="How long to wait; then it exits with 1.",
    )
    wait = click.option(
        "--wait/--no-wait",
        "is_waiting",
        default=True,
        show_default=True,
        help="Until all instances are ready, or what is missing cannot start.",
    )
    return wait(timeout(command))


def agree(planned: Plan, *, is_agreed: bool, is_json: bool) -> None:
    """Show what would change; ask where instances would be ended.

    Raises:
        click.ClickException: It drops nodes that are in use or makes other machines of them, or
            nobody agrees.
    """
    show_plan(planned, is_json=is_json)
    if planned.nodes_in_use:
        # The provisioner would refuse it too, unless they move away just now: then unasked.
        raise click.ClickException(in_use_text(planned.nodes_in_use))
    if planned.is_ending_some and not is_agreed:
        ask("Put this in force?", what="this ends instances")


def show_plan(planned: Plan, *, is_json: bool) -> None:
    """Print what would change."""
    click.echo(msgspec.json.encode(planned) if is_json else plan_text(planned))


def spec_in_force(client: Client) -> SpecInForce:
    """Return the specification in force, and its tag.

    Raises:
        click.ClickException: There is none.
    """
    in_force = client.spec()
    if in_force is None:
        raise click.ClickException(
            "no specification is in force; put one there with: ollama-fleet provisioner apply SPEC"
        )
    return in_force
