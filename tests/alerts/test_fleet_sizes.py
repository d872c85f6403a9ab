"""Fleets of 5 to 200 servers by the profile for their size: one server, or host, wakes nobody."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pytest

from alerts import config, rulebook
from alerts.model import Severity
from alerts.settings import Settings
from tests.alerts import plays
from tests.alerts.fleets import Fleet
from tests.alerts.plays import Play

FLOOR = "OllamaFleetHealthyInstancesLow"
DAY = Play(before=120)
HOSTS = {5: ("small", 5), 20: ("small", 4), 60: ("stock-ollama", 8), 200: ("stock-ollama", 8)}
"""By size: the profile to take, and the servers of one host."""
REBOOT_MIN = 8


def _missing(name: str, size: int, n: int, minutes: int = 0) -> Fleet:
    """Return a fleet that misses some instances for a time, or for good."""
    return DAY.killed(size, n, minutes, cluster=f"{name} of {size}")


def _pages(
    promtool: Path, folder: Path, settings: Settings, fleets: Sequence[Fleet]
) -> Mapping[str, Collection[str]]:
    """Return the alerts that page in a day, by cluster."""
    pages = {
        alert.name
        for group in rulebook.groups(settings)
        for alert in group.alerts
        if alert.severity is Severity.CRITICAL
    }
    fired = plays.fired(promtool, folder, DAY, settings, fleets, names=pages)
    return {cluster: set(each.pages) for cluster, each in fired.items() if each.pages}


@pytest.mark.nightly
@pytest.mark.parametrize("profile", ["small", "stock-ollama"])
def test_no_server_and_no_host_that_reboots_pages_by_the_profile_for_its_size(
    profile: str, promtool_binary: Path, tmp_path: Path
) -> None:
    """Two of 60 that are gone for good are a ticket there; two of 5 page, after a reboot's time."""
    sizes = [size for size, (name, _) in HOSTS.items() if name == profile]
    fleets = [_missing("dead", size, 1) for size in sizes]
    fleets += [_missing("restarting", size, 1, 5) for size in sizes]
    fleets += [_missing("rebooting", size, HOSTS[size][1], REBOOT_MIN) for size in sizes]
    fleets += [_missing("two", 60, 2), _missing("gone", 5, 2)]

    pages = _pages(promtool_binary, tmp_path, config.load(profile=profile), fleets)

    assert {"gone of 5": {FLOOR}} == pages


@pytest.mark.nightly
@pytest.mark.parametrize(("profile", "size"), [("stock-ollama", 60), ("small", 5)])
def test_a_healthy_fleet_of_slow_hardware_is_silent_for_a_day(
    profile: str, size: int, promtool_binary: Path, tmp_path: Path
) -> None:
    """No page and no ticket, with answers that take 40 s at 4 tokens/s."""
    slow = Fleet(cluster="slow", listed=[(1, size)], latency_s=[(1, 40)], speed=4.0)

    fired = plays.fired(promtool_binary, tmp_path, DAY, config.load(profile=profile), [slow])

    assert {} == fired
