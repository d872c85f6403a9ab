"""What happens to the instances of real fleets, from 5 to 100,000, and who is woken by it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from alerts import config
from tests.alerts.fleets import RECENTLY_FAILED, Fleet
from tests.alerts.plays import GRACE_MIN, Play, Scenario, played

HOURS = Play(minutes=170, before=70)
BEFORE = HOURS.before
FLOOR, BUDGET = "OllamaFleetHealthyInstancesLow", "OllamaFleetAvailabilityBudgetBurn"
NODE, MODEL = "OllamaNodeInstancesDown", "OllamaModelInstancesDown"
FIRST, SECOND = "exporter-0:11440", "exporter-1:11440"
LOADING = {"loading": HOURS.since(100, 10), "unhealthy": [(BEFORE + 10, 0), (1, 100)]}
"""Of instances that never end loading: so the exporter calls them for its `loading-timeout`."""
SOUND_NODE = {"healthy": [(1, 100)]}
EVERY_OTHER_MINUTE = [(BEFORE, 0), *[(1, 100 * (n % 2)) for n in range(HOURS.minutes)]]

SCENARIOS = [
    *(
        Scenario(f"1 of {size} restarts for 5 minutes", [HOURS.killed(size, 1, 5)], may={BUDGET})
        for size in (5, 20, 60, 100, 200)
    ),
    Scenario(
        "a node of 100 loads for ever",
        [
            Fleet(
                listed=[(1, 10_000)],
                statuses=LOADING,
                gauges={RECENTLY_FAILED: HOURS.since(100, GRACE_MIN)},
                nodes={
                    "n-0": {**LOADING, "healthy": HOURS.since(0, otherwise=100)},
                    "n-1": SOUND_NODE,
                },
            )
        ],
        tickets={f"{NODE} n-0": 15},
        may={BUDGET},
    ),
    Scenario(
        "90 of a node's 100 dead",
        [HOURS.killed(10_000, 90, nodes={"n-0": HOURS.part(100, 90), "n-1": SOUND_NODE})],
        tickets={f"{NODE} n-0": 15},
        may={BUDGET},
    ),
    Scenario(
        "one of two replicas cut off from half the fleet",
        [
            Fleet(listed=[(1, 2000)], exporter=FIRST),
            HOURS.killed(2000, 1000, exporter=SECOND),
        ],
        tickets={"OllamaFleetReplicasDisagree": 15},
    ),
    Scenario(
        "two fleets without a cluster label, one dies",
        [Fleet(listed=[(1, 1000)], exporter=FIRST), HOURS.killed(60, 60, exporter=SECOND)],
        tickets={"OllamaFleetClusterLabelMissing": 30},
        may={"OllamaFleetReplicasDisagree"},
        is_from_start=True,
        has_label=False,
    ),
]


@pytest.fixture(scope="module")
def faults(
    promtool_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, list[str]]:
    """By scenario; they share one promtool run."""
    folder = tmp_path_factory.mktemp("scenarios")
    return played(promtool_binary, folder, HOURS, config.load(), SCENARIOS)


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_who_hears_of_instances_that_are_lost(name: str, faults: Mapping[str, list[str]]) -> None:
    assert not faults[name], "; ".join(faults[name])
