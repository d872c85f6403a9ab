"""What happens to the instances of real fleets, from 5 to 100,000, and who is woken by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.alerts.fleets import CONDITION, RECENTLY_FAILED, RESTARTS, Fleet, requests
from tests.alerts.plays import GRACE_MIN, Play, Scenario

PLAY = Play(minutes=170, before=70)
BEFORE = PLAY.before
FLOOR, BUDGET = "OllamaFleetHealthyInstancesLow", "OllamaFleetAvailabilityBudgetBurn"
NODE, MODEL = "OllamaNodeInstancesDown", "OllamaModelInstancesDown"
FIRST, SECOND = "exporter-0:11440", "exporter-1:11440"
LOADING = {"loading": PLAY.since(100, 10), "unhealthy": [(BEFORE + 10, 0), (1, 100)]}
"""Of instances that never end loading: so the exporter calls them for its `loading-timeout`."""
SOUND_NODE = {"healthy": [(1, 100)]}
EVERY_OTHER_MINUTE = [(BEFORE, 0), *[(1, 100 * (n % 2)) for n in range(PLAY.minutes)]]
FLAPPING = Fleet(
    listed=[(1, 2000)],
    statuses={"unreachable": EVERY_OTHER_MINUTE},
    gauges={
        RECENTLY_FAILED: EVERY_OTHER_MINUTE,
        CONDITION.format("flapping"): [(BEFORE + 5, 0), (1, 100)],
    },
)
UP_TO_DATE = [(BEFORE, 2000), *[(1, 50 * n) for n in range(40)], (1, 2000)]

SCENARIOS = [
    Scenario(
        "the only server dead for good",
        [PLAY.killed(1, 1)],
        pages={FLOOR: 10},
    ),
    Scenario(
        "1 of 5 dead for good",
        # The others are hardly faster than 40 tokens/s, the floor for each.
        [PLAY.killed(5, 1, nodes={"n-0": PLAY.part(1, 1)}, speed=42.0)],
        tickets={BUDGET: 60},
    ),
    Scenario(
        "all 60 dead for good",
        [PLAY.killed(60, 60, models={"a": PLAY.part(40, 40), "b": PLAY.part(20, 20)})],
        pages={FLOOR: 10},
    ),
    *(
        Scenario(f"1 of {size} restarts for 5 minutes", [PLAY.killed(size, 1, 5)], may={BUDGET})
        for size in (5, 20, 60, 100, 200)
    ),
    Scenario(
        "a node of 100 loads for ever",
        [
            Fleet(
                listed=[(1, 10_000)],
                statuses=LOADING,
                gauges={RECENTLY_FAILED: PLAY.since(100, GRACE_MIN)},
                nodes={
                    "n-0": {**LOADING, "healthy": PLAY.since(0, otherwise=100)},
                    "n-1": SOUND_NODE,
                },
            )
        ],
        tickets={f"{NODE} n-0": 15},
        may={BUDGET},
    ),
    Scenario(
        "90 of a node's 100 dead",
        [PLAY.killed(10_000, 90, nodes={"n-0": PLAY.part(100, 90), "n-1": SOUND_NODE})],
        tickets={f"{NODE} n-0": 15},
        may={BUDGET},
    ),
    Scenario(
        "500 of a model's 1,000 dead in 100,000",
        [
            PLAY.killed(
                100_000,
                500,
                models={"a": {"healthy": [(1, 99_000)]}, "b": PLAY.part(1000, 500)},
            )
        ],
        tickets={f"{MODEL} b": 15},
        may={BUDGET},
    ),
    Scenario(
        "two developers stop their own model over night",
        [PLAY.killed(10_000, 2, models={"a": {"healthy": [(1, 9998)]}, "dev": PLAY.part(2, 2)})],
    ),
    Scenario(
        "half as many again are listed at once and load for 10 minutes",
        [
            Fleet(
                listed=PLAY.since(1500, otherwise=1000),
                statuses={"starting": PLAY.since(500, 10)},
            )
        ],
    ),
    Scenario(
        "our own provisioner rolls out 2,000, 50 at once, a minute each",
        [
            Fleet(
                listed=[(1, 2000)],
                statuses={"provisioning": PLAY.since(45, 40), "draining": PLAY.since(5, 40)},
                gauges={
                    "ollama_provisioner_leader": [(1, 1)],
                    "ollama_provisioner_wanted_instances": [(1, 2000)],
                    "ollama_provisioner_ready_instances": UP_TO_DATE,
                },
                counters={
                    RESTARTS: PLAY.since(50, 40),
                    'ollama_provisioner_replacements_total{reason="changed"}': PLAY.since(50, 40),
                },
            )
        ],
    ),
    Scenario(
        "all drained by a wrong filter",
        [Fleet(listed=[(1, 200)], statuses={"draining": PLAY.since(200)})],
        pages={"OllamaFleetAllDrained": 10},
    ),
    Scenario(
        "5% of 2,000 go up and down each minute",
        [FLAPPING],
        tickets={"OllamaFleetInstancesFlapping": 15},
    ),
    Scenario(
        "5% of 2,000 go up and down each minute, and users feel it",
        [replace(FLAPPING, counters=requests([(1, 2000)], 0.08, failing=PLAY.since(200)))],
        pages={"OllamaFleetErrorBudgetBurn": 40},
        tickets={"OllamaFleetInstancesFlapping": 15},
    ),
    Scenario(
        "one of two replicas cut off from half the fleet",
        [
            Fleet(listed=[(1, 2000)], nodes={"n-0": SOUND_NODE}, exporter=FIRST),
            PLAY.killed(2000, 1000, nodes={"n-0": PLAY.part(100, 100)}, exporter=SECOND),
        ],
        tickets={"OllamaFleetReplicasDisagree": 15},
    ),
    Scenario(
        "two fleets without a cluster label, one dies",
        [Fleet(listed=[(1, 1000)], exporter=FIRST), PLAY.killed(60, 60, exporter=SECOND)],
        tickets={"OllamaFleetClusterLabelMissing": 30},
        may={"OllamaFleetReplicasDisagree"},
        is_from_start=True,
        has_label=False,
    ),
    Scenario(
        "an inventory is empty from the start",
        [Fleet(listed=[(1, 0)])],
        tickets={"OllamaFleetInventoryEmpty": 30},
        is_from_start=True,
    ),
]


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_who_hears_of_instances_that_are_lost(name: str, faults: Mapping[str, list[str]]) -> None:
    assert not faults[name], "; ".join(faults[name])
