"""Fleets of 5 to 200 servers: what happens to one server, or one host, wakes nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from alerts import config, rulebook
from tests.alerts.fleets import Fleet, fired

SIZES = (5, 20, 60, 200)
FLOOR = "OllamaFleetHealthyInstancesLow"
BUDGET = "OllamaFleetAvailabilityBudgetBurn"
BEFORE_MIN = 120


HOSTS = {5: ("small", 5), 20: ("small", 4), 60: ("stock-ollama", 8), 200: ("stock-ollama", 8)}
"""By size: the profile to take, and the servers of one host."""
REBOOT_MIN = 8


def _missing(name: str, size: int, n: int, minutes: int = 1440) -> Fleet:
    """Return a fleet that misses some instances for a time."""
    healthy = [(BEFORE_MIN, size), (minutes, size - n), (1, size)]
    return Fleet(cluster=f"{name} of {size}", listed=[(1, size)], healthy=healthy)


def test_a_single_server_pages_in_no_size_of_fleet_and_more_than_a_hundredth_does(
    promtool_binary: Path, tmp_path: Path
) -> None:
    """By default two of 60 that are gone for good page: it is what the floor of 99% says."""
    silent = [_missing("dead", size, 1) for size in SIZES]
    silent += [_missing("restarting", size, 1, 5) for size in SIZES]
    gone = [_missing("gone", size, n) for size, n in ((5, 2), (60, 2), (200, 3))]
    expected = [{"cluster": fleet.cluster, "alertname": FLOOR} for fleet in gone]
    expected.append({"cluster": "gone of 200", "alertname": BUDGET})

    said = fired(promtool_binary, tmp_path, config.load(), silent + gone, expected=expected)

    assert not said, said


def test_a_server_that_is_dead_for_good_is_a_ticket_in_every_size_of_fleet(
    promtool_binary: Path, tmp_path: Path
) -> None:
    dead = [_missing("dead", size, 1) for size in SIZES]
    expected = [{"cluster": fleet.cluster, "alertname": BUDGET} for fleet in dead]

    said = fired(promtool_binary, tmp_path, config.load(), dead, expected=expected, names={BUDGET})

    assert not said, said


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
    fleets += [_missing("two of", 60, 2), _missing("gone", 5, 2)]
    expected = [{"cluster": "gone of 5", "alertname": FLOOR}]

    settings = config.load(profile=profile)
    said = fired(promtool_binary, tmp_path, settings, fleets, expected=expected)

    assert not said, said


@pytest.mark.nightly
@pytest.mark.parametrize(("profile", "size"), [("stock-ollama", 60), ("small", 5)])
def test_a_healthy_fleet_of_slow_hardware_is_silent_for_a_day(
    profile: str, size: int, promtool_binary: Path, tmp_path: Path
) -> None:
    """No page and no ticket, with answers that take 40 s at 4 tokens/s."""
    listed = [(1, size)]
    slow = Fleet(cluster="slow", listed=listed, healthy=listed, latency_s=40.0, speed=4.0)
    settings = config.load(profile=profile)
    names = {alert.name for group in rulebook.groups(settings) for alert in group.alerts}

    said = fired(promtool_binary, tmp_path, settings, [slow], names=names)

    assert not said, said


@pytest.mark.nightly
def test_laptops_that_close_at_night_page_nobody_in_a_fleet_that_comes_and_goes(
    promtool_binary: Path, tmp_path: Path
) -> None:
    """Half an hour each, down to the last one; those that answer badly still page."""
    settings = config.load(changes=["fleet.comes_and_goes=true"])
    fleets = []
    for size in SIZES:
        evening = [(BEFORE_MIN, size), (30, size // 2), (30, 1), (600, 0), (1, size)]
        fleets.append(Fleet(cluster=f"listed {size}", listed=[(1, size)], healthy=evening))
        fleets.append(Fleet(cluster=f"not listed {size}", listed=evening, healthy=evening))
    bad = [(BEFORE_MIN, 20), (1, 15)]
    fleets.append(Fleet(cluster="bad", listed=[(1, 20)], healthy=bad, failing_as="unhealthy"))
    expected = [{"cluster": "bad", "alertname": FLOOR}]

    said = fired(promtool_binary, tmp_path, settings, fleets, expected=expected)

    assert not said, said
