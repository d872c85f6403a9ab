"""Complete pools, nodes, models, developers and ids: a shell waits, so it is soon, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem

from provisioning.api.routes import Details
from provisioning.cli.common import DEFAULT_URL
from provisioning.client import Client, Limits
from provisioning.errors import ProvisionerError

SHORT = Limits(
    connect_s=0.3,
    failover_s=0.5,
    silence_s=0.5,
    answer_s=1.0,
    unreachable_s=0.0,
    deadline_s=0.0,
    pause_s=0.01,
    body_bytes=32 * 2**20,
)
MAX_ITEMS = 1_000
Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]


def completing(field: str) -> Completer:
    """Return what completes the values of a field of instances."""

    def complete(
        context: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        found = {getattr(one, field): one for one in _instances(context)}
        values = sorted(value for value in found if value and value.startswith(incomplete))
        return [
            CompletionItem(value, help=_help(found[value]) if field == "id" else None)
            for value in values[:MAX_ITEMS]
        ]

    return complete


def _help(instance: Details) -> str:
    return f"{instance.phase} on {instance.node}"


def _instances(context: click.Context) -> Sequence[Details]:
    """Return the instances of the provisioner that the line names; none where none answers soon."""
    urls, ca_file = context.params.get("urls"), context.params.get("ca_file")
    try:
        with Client(urls or (DEFAULT_URL,), lambda: "", ca_file=ca_file, limits=SHORT) as client:
            return client.instances()
    except (ProvisionerError, OSError):
        return []
