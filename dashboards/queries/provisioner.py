"""What the provisioners say of themselves and of the fleet that they keep.

They have a scrape job of their own, which the dashboard's job and instance do not choose. Of what
only a leader knows, the leader counts.
"""

from __future__ import annotations

from alerts import series
from dashboards.queries.select import Ask
from exporter.catalogue import Series

PROVISIONER = ("job", "instance")


def _of_leader(ask: Ask, wanted: Series, *matchers: str) -> str:
    leads = f"{ask.series(series.LEADER)} == 1"
    return f"max {ask.by()} ({ask.series(wanted, *matchers)} and {ask.on_exporter} {leads})"


def leaders(ask: Ask) -> str:
    """Return whether each provisioner leads."""
    return f"max {ask.by(*PROVISIONER)} ({ask.series(series.LEADER)})"


def wanted(ask: Ask) -> str:
    """Return how many instances the specifications ask for."""
    return f"sum({_of_leader(ask, series.WANTED_INSTANCES)})"


def as_wanted(ask: Ask) -> str:
    """Return how many of them run, are healthy and up to date."""
    return f"sum({_of_leader(ask, series.INSTANCES_AS_WANTED)})"


def failed(ask: Ask) -> str:
    """Return how many instances cannot be started."""
    of_leader = _of_leader(ask, series.INSTANCES, 'phase="failed"')
    return f"sum({of_leader})"


def unreachable_nodes(ask: Ask) -> str:
    """Return how many nodes the leaders do not reach."""
    return f"sum({_of_leader(ask, series.UNREACHABLE_NODES)})"


def pass_age(ask: Ask) -> str:
    """Return how long ago the leaders ended their last pass; of several the worst."""
    return f"max(time() - ({_of_leader(ask, series.LAST_PASS)} > 0))"


def view_age(ask: Ask) -> str:
    """Return how old the view is that each provisioner has of its store."""
    views = ask.series(series.VIEW_TIMESTAMP)
    return f"time() - max {ask.by(*PROVISIONER)} ({views} > 0)"
