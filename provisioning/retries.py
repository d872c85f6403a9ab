"""Whose turn it is to be tried again, of all that could not be started.

In:   the failed instances of all pools that may be started anew now.
Out:  the same, those in front whose turn it is. Pure; never fails.

They share few operations, and each may hang until its time is up: whoever has waited for longest
comes first, whatever its pool. So none waits for longer than one round of all others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from provisioning.model import Instance, Reason
from provisioning.spec_model import Limits, Pool

MOST_NODES_TRIED = 3
"""A start that fails for good on so many nodes fails by the workload's fault."""


class Retry(NamedTuple):
    """A failed instance that may be started anew."""

    instance: Instance
    pool: Pool
    reason: Reason | None
    """Why it need not wait until it is due; None: it is due."""


def why_anew(instance: Instance, digest: str) -> Reason | None:
    """Return why a failed instance need not wait until it is due; None: it has to.

    The digest is that of the workload which it is to have.
    """
    if instance.workload != digest:
        return Reason.CHANGED
    return Reason.REPLACED if instance.is_replace_asked else None


def is_due(
    instance: Instance,
    limits: Limits,
    *,
    suitable: frozenset[str],
    serving: frozenset[str],
    now_s: float,
) -> bool:
    """Say whether a failed instance's time has come, given the nodes that suit it and serve.

    One that has failed for good is due as long as that may be its nodes' fault.
    """
    if not instance.retry_at_s:
        tried = {*instance.failed_on, instance.node} & suitable
        return len(tried) < MOST_NODES_TRIED and bool(serving - tried)
    # No wait is longer than the longest: then the clock was set back.
    return not 0 < instance.retry_at_s - now_s <= max(1.0, limits.retry_failed_s)


def in_turn(retries: Iterable[Retry], *, now_s: float) -> list[Retry]:
    """Return them in their turn: before all others those that somebody changed or asked for.

    None of these is one of them any more once it was tried, so they keep nobody waiting for ever.
    """
    return sorted(
        retries,
        key=lambda one: (one.reason is None, _due_s(one.instance, now_s), one.instance.id),
    )


def _due_s(instance: Instance, now_s: float) -> float:
    """Return since when an instance may be tried again."""
    due_s = instance.retry_at_s or instance.since_s
    # Later than now: the clock was set back since, which makes it older than all others.
    return due_s if due_s <= now_s else 0.0
