"""Latency, errors, speed and the age of instances: who hears when users feel it, and when not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from exporter.peers import NodeKey, peers_speeds
from tests.alerts.fleets import (
    FLEET_P99,
    GENERATED,
    GONE,
    MEASURED,
    SPEED,
    Fleet,
    Steps,
    requests,
)
from tests.alerts.plays import Play, Scenario

PLAY = Play(minutes=170, before=70)
LATENCY, THROUGHPUT = "OllamaFleetLatencyP99High", "OllamaFleetTokenThroughputLow"
REQUESTS, SLOW_NODE = "OllamaFleetRequestsFailing", "OllamaNodeSlowerThanFleet"
OUT_OF_MEMORY = 'ollama_fleet_errors_total{model="a",error_type="out_of_memory"}'
STARTED = 'ollama_instance_start_time_seconds{{instance_id="i-{0}",node="laptop-{0}"}}'
DAY_S = 86_400
OWN_400_MS = PLAY.since(0.4, otherwise=0.1)
IDLE: Steps = [(PLAY.before, 10_000), (1, None)]
"""What the exporter publishes of speeds that it has not seen for an hour."""
KINDS_42_31 = {"fast": (8, 42.0), "slow": (20, 31.0)}
MOSTLY_42 = {"fast": (20, 42.0), "slow": (8, 31.0)}
KINDS_187_42 = {"fast": (8, 187.0), "slow": (20, 42.0)}


def _nodes(
    kinds: Mapping[str, tuple[int, float]], slower: str = "", *, is_labelled: bool = False
) -> Fleet:
    """Return nodes of several kinds, of which one becomes 30% slower, as the exporter sees them."""
    kind_by_node = {f"{kind}-{i}": kind for kind, (n, _) in kinds.items() for i in range(n)}
    before = {node: kinds[kind][1] for node, kind in kind_by_node.items()}
    after = {node: speed * (0.7 if node == slower else 1) for node, speed in before.items()}
    hardware = kind_by_node if is_labelled else {}
    peers = [
        {
            key.node: speed
            for key, speed in peers_speeds(
                {NodeKey(node, "a", "ollama"): speed for node, speed in speeds.items()}, hardware
            ).items()
        }
        for speeds in (before, after)
    ]
    gauges: dict[str, Steps] = {}
    for node in kind_by_node:
        of = f'{{node="{node}",model="a",engine="ollama"}}'
        gauges["ollama_node_tokens_per_second" + of] = PLAY.since(
            10 * after[node], otherwise=10 * before[node]
        )
        gauges["ollama_node_measured_instances" + of] = [(1, 10)]
        gauges["ollama_node_peers_tokens_per_second" + of] = PLAY.since(
            peers[1][node], otherwise=peers[0][node]
        )
    return Fleet(listed=[(1, 10 * len(before))], gauges=gauges)


SCENARIOS = [
    Scenario(
        "10% with histograms at 80 ms, 90% with their own p99 at 400 ms",
        [Fleet(listed=[(1, 10_000)], latency_s=OWN_400_MS, counters=requests([(1, 9000)], 0.08))],
        pages={LATENCY: 15},
    ),
    Scenario(
        "one histogram server among 10,000, the others' p99 at 400 ms",
        [Fleet(listed=[(1, 10_000)], latency_s=OWN_400_MS, counters=requests([(1, 60)], 0.08))],
        pages={LATENCY: 15},
    ),
    Scenario(
        "90 of 10,000 at 30 s",
        [
            Fleet(
                listed=[(1, 10_000)],
                gauges={FLEET_P99.format("0.999"): PLAY.since(30, otherwise=0.1)},
            )
        ],
        tickets={"OllamaFleetLatencyOutliers": 15},
    ),
    Scenario(
        "20 instances, 15 requests a minute, each 3 s",
        [Fleet(listed=[(1, 20)], latency_s=GONE, counters=requests([(1, 15)], 3))],
        tickets={"OllamaFleetLatencyHighLowTraffic": 120},
        may={"OllamaModelLatencyP99High a"},
        is_from_start=True,
    ),
    Scenario(
        "every request fails for three minutes",
        [
            Fleet(
                listed=[(1, 200)],
                counters=requests([(1, 1000)], 0.08, failing=PLAY.since(1000, 3)),
            )
        ],
        pages={REQUESTS: 4},
    ),
    Scenario(
        "a model with 1% of the requests fails all of them",
        [
            Fleet(
                listed=[(1, 200)],
                counters={
                    **requests([(1, 9900)], 0.08),
                    **requests([(1, 100)], 0.08, failing=PLAY.since(100), model="b"),
                },
            )
        ],
        tickets={"OllamaModelRequestsFailing b": 30},
    ),
    Scenario(
        "60% stop telling their speed and the rest is at 10 tokens/s",
        [
            Fleet(
                listed=[(1, 100)],
                gauges={
                    SPEED: PLAY.since(400, otherwise=10_000),
                    MEASURED: PLAY.since(40, otherwise=100),
                },
            )
        ],
        pages={THROUGHPUT: 15},
    ),
    Scenario(
        "idle at night, speed 0",
        [
            Fleet(
                listed=[(1, 100)],
                gauges={SPEED: IDLE, MEASURED: PLAY.since(0, otherwise=100)},
                counters={GENERATED: PLAY.since(0, otherwise=600)},
            )
        ],
    ),
    Scenario(
        "idle at night, 60% report speed 0",
        [
            Fleet(
                listed=[(1, 100)],
                gauges={
                    SPEED: PLAY.since(4000, otherwise=10_000),
                    MEASURED: PLAY.since(40, otherwise=100),
                },
            )
        ],
    ),
    Scenario(
        "idle at night, speed absent without token counters",
        [
            Fleet(
                listed=[(1, 100)],
                gauges={SPEED: IDLE, MEASURED: PLAY.since(0, otherwise=100)},
                counters={GENERATED: GONE},
            )
        ],
    ),
    *(
        Scenario(f"nodes of {name} tokens/s, all healthy", [_nodes(kinds, is_labelled=labelled)])
        for name, kinds, labelled in (
            ("42 and 31", KINDS_42_31, False),
            ("labelled 42 and 31", KINDS_42_31, True),
            ("mostly 42, some 31", MOSTLY_42, False),
            ("187 and 42", KINDS_187_42, False),
        )
    ),
    *(
        Scenario(
            f"nodes of {name} tokens/s, {node} 30% slower than its own kind",
            [_nodes(kinds, node, is_labelled=labelled)],
            tickets={f"{SLOW_NODE} {node} a": 30},
        )
        for name, kinds, labelled, node in (
            ("labelled 42 and 31", KINDS_42_31, True, "fast-0"),
            ("labelled 42 and 31", KINDS_42_31, True, "slow-0"),
            ("187 and 42", KINDS_187_42, False, "fast-0"),
            ("187 and 42", KINDS_187_42, False, "slow-0"),
            ("42 and 31", KINDS_42_31, False, "slow-0"),
        )
    ),
    Scenario(
        "11 out-of-memory kills an hour in 10,000",
        [Fleet(listed=[(1, 10_000)], counters={OUT_OF_MEMORY: PLAY.since(1, 11)})],
        tickets={"OllamaFleetOutOfMemoryRestarts": 30},
    ),
    Scenario(
        "laptops up for 15 days",
        [
            Fleet(
                listed=[(1, 40)],
                gauges={STARTED.format(i): [(1, -15 * DAY_S)] for i in range(40)},
            )
        ],
        tickets={"OllamaFleetRotationCritical": 90},
        may={"OllamaFleetRotationOverdue"},
        is_from_start=True,
    ),
]


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_who_hears_of_what_users_feel(name: str, faults: Mapping[str, list[str]]) -> None:
    assert not faults[name], "; ".join(faults[name])
