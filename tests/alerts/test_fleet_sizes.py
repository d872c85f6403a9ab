"""Fleets of 5 to 200 servers: what happens to one server, or one host, wakes nobody."""

from __future__ import annotations

from pathlib import Path

from alerts import config
from tests.alerts.fleets import Fleet, fired

SIZES = (5, 20, 60, 200)
FLOOR = "OllamaFleetHealthyInstancesLow"
BUDGET = "OllamaFleetAvailabilityBudgetBurn"
BEFORE_MIN = 120


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
