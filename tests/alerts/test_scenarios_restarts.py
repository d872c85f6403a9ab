"""Rolling restarts and sudden deaths, at the intervals of a real Prometheus: seconds matter."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.alerts.fleets import RECENTLY_FAILED, RESTARTS, Fleet, Steps, requests
from tests.alerts.plays import Play, Scenario

PLAY = Play(minutes=60, before=15, interval_s=15, evaluation_s=15)
BEFORE = PLAY.before
TAKES_MIN = 30
"""How long a rolling restart takes."""
MIDDLE = (BEFORE + 15, BEFORE + 15.75)
RESTARTED = "OllamaFleetRestartsHigh"


def _rolling(
    n: int, restart: tuple[float, float] = (0, 0), *, is_drained: bool = False, **seconds: float
) -> Fleet:
    """Return 10,000 of which n restart within half an hour, each some seconds in some statuses."""

    def during(value: float) -> Steps:
        return PLAY.since(round(value), TAKES_MIN)

    statuses = {status: during(n * each / TAKES_MIN / 60) for status, each in seconds.items()}
    failing = 0 if is_drained else n * sum(seconds.values()) / TAKES_MIN / 60
    return Fleet(
        listed=[(1, 10_000)],
        statuses=statuses,
        gauges={RECENTLY_FAILED: during(failing)},
        counters={RESTARTS: during(n / TAKES_MIN)},
        restart=restart,
    )


SCENARIOS = [
    Scenario(
        "4,000 of 10,000 restart in 30 minutes, 20 s each, not drained",
        [_rolling(4000, unreachable=20)],
    ),
    Scenario(
        "4,000 of 10,000 restart in 30 minutes, with 60 s of loading each, not drained",
        [_rolling(4000, unreachable=20, loading=60)],
    ),
    Scenario(
        "10,000 restart in 30 minutes, 20 s each, not drained",
        [_rolling(10_000, unreachable=20)],
        tickets={RESTARTED: 30},
    ),
    Scenario(
        "10,000 restart in 30 minutes, with 60 s of loading each, not drained",
        [_rolling(10_000, unreachable=20, loading=60)],
        tickets={RESTARTED: 30},
    ),
    Scenario(
        "10,000 restart in 30 minutes, drained and provisioned",
        [_rolling(10_000, draining=20, provisioning=60, is_drained=True)],
        tickets={RESTARTED: 30},
    ),
    Scenario(
        "4,000 of 10,000 restart in 30 minutes, drained and provisioned, with an exporter restart",
        [_rolling(4000, MIDDLE, draining=20, provisioning=60, is_drained=True)],
    ),
    Scenario(
        "4,000 of 10,000 restart in 30 minutes, not drained, with an exporter restart",
        [_rolling(4000, MIDDLE, unreachable=20, loading=60)],
    ),
    Scenario(
        "3% of 2,000 are killed",
        [PLAY.killed(2000, 60)],
        # As late as before: the grace period, `for`, and an evaluation.
        pages={"OllamaFleetHealthyInstancesLow": 2.25},
    ),
    Scenario(
        "3% of 2,000 in two shards are killed",
        [
            PLAY.killed(1000, 30, exporter=f"exporter-{shard}:11440", shard=shard, shards=2)
            for shard in ("0", "1")
        ],
        pages={"OllamaFleetHealthyInstancesLow": 2.25},
    ),
    Scenario(
        "every request fails for three minutes, in a young Prometheus",
        [
            Fleet(
                listed=[(1, 200)],
                counters=requests([(1, 1000)], 0.08, failing=PLAY.since(1000, 3)),
            )
        ],
        pages={"OllamaFleetRequestsFailing": 4},
    ),
]


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_who_hears_of_restarts(name: str, faults: Mapping[str, list[str]]) -> None:
    assert not faults[name], "; ".join(faults[name])
