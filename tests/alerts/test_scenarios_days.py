"""What lasts for hours and nights: instances that stay dead, laptops, a drain that is forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from alerts import config
from tests.alerts.fleets import TRANSIENT, Fleet, Steps
from tests.alerts.plays import Play, Scenario, value_of

PLAY = Play(minutes=1020, before=400, evaluation_s=300)
FLOOR, CAPACITY = "OllamaFleetHealthyInstancesLow", "OllamaFleetCapacityLow"
BUDGET = "OllamaFleetAvailabilityBudgetBurn"
LAPTOPS = 40
EVENING: Steps = [(PLAY.before, 0), *[(3, n) for n in range(LAPTOPS)], (400, LAPTOPS), (1, 0)]
"""Laptops that are closed one by one in the evening, and opened in the morning."""
DYING = Fleet(
    listed=[(1, 10_000)],
    statuses={"unreachable": [(PLAY.before, 0), *[(12, 10 * n) for n in range(99)]]},
)


def _open(servers: int = 0) -> Steps:
    return [(minutes, servers + LAPTOPS - (closed or 0)) for minutes, closed in EVENING]


SCENARIOS = [
    *(
        Scenario(f"1 of {size} dead for good", [PLAY.killed(size, 1)], tickets={BUDGET: 600})
        for size in (5, 20, 60, 100)
    ),
    *(
        Scenario(f"{n} of {size} dead for good", [PLAY.killed(size, n)], pages={FLOOR: 10})
        for size, n in ((5, 2), (60, 2), (200, 3))
    ),
    Scenario("0.7% of 10,000 dead for good", [PLAY.killed(10_000, 70)], tickets={BUDGET: 600}),
    Scenario("900 of 100,000 dead for good", [PLAY.killed(100_000, 900)], tickets={BUDGET: 600}),
    Scenario(
        "0.5% of 10,000 die per hour",
        [DYING],
        # Long before the floor is reached, which then pages.
        tickets={CAPACITY: 90},
        pages={FLOOR: 150},
    ),
    Scenario(
        "40 laptops are closed one by one in the evening, and stay listed",
        [
            Fleet(
                listed=[(1, LAPTOPS)],
                statuses={"away": EVENING},
                gauges={TRANSIENT: [(1, LAPTOPS)]},
            )
        ],
    ),
    Scenario(
        "40 laptops are closed one by one in the evening, and leave the list",
        [Fleet(listed=_open(), gauges={TRANSIENT: _open()})],
    ),
    Scenario(
        "40 laptops beside 20 servers are closed one by one in the evening, and leave the list",
        [Fleet(listed=_open(20), gauges={TRANSIENT: _open()})],
    ),
    Scenario(
        "60% drained and forgotten",
        [Fleet(listed=[(1, 2000)], statuses={"draining": PLAY.since(1200)})],
        tickets={"OllamaFleetDrainedLong": 450},
    ),
    Scenario(
        "two developers of 200 stop their own model over night",
        [PLAY.killed(200, 2, 720, models={"a": {"healthy": [(1, 198)]}, "dev": PLAY.part(2, 2)})],
        may={BUDGET},
    ),
]


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_who_hears_of_what_lasts(name: str, faults: Mapping[str, list[str]]) -> None:
    assert not faults[name], "; ".join(faults[name])


def test_the_ticket_on_instances_that_die_says_when_the_floor_is_reached(
    promtool_binary: Path, tmp_path: Path
) -> None:
    left_min = 30

    left_s = value_of(
        promtool_binary,
        tmp_path,
        PLAY,
        config.load(),
        DYING,
        CAPACITY,
        PLAY.before + 120 - left_min,
    )

    assert left_min * 0.7 <= left_s / 60 <= left_min * 1.3
