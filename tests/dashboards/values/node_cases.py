"""What the queries of nodes make of given series; tables have two rows."""

from __future__ import annotations

from dashboards.queries import nodes
from exporter import catalogue
from tests.dashboards.values.case import ASK, NOTHING, Case, Series

RATIO = "node_model_engine:ollama_tokens_per_second_per_peers:ratio"
RATIOS: Series = {
    f'{RATIO}{{node="n1",model="m",engine="e"}}': 0.5,
    f'{RATIO}{{node="n2",model="m",engine="e"}}': 0.7,
    f'{RATIO}{{node="n3",model="m",engine="e"}}': 1.2,
    f'{RATIO}{{node="n3",model="n",engine="e"}}': 1.1,
}
LIMIT: Series = {"fleet:ollama_node_speed_ratio:threshold": 0.6}
SPEEDS: Series = {
    f'node_model_engine:ollama_tokens_per_second:avg{{node="n{index}",model="m",engine="e"}}': speed
    for index, speed in enumerate((20, 28, 48), start=1)
}
N1 = '{node="n1",model="m",engine="e"}'
N2 = '{node="n2",model="m",engine="e"}'
STATUS: Series = {
    'node:ollama_instances:sum{node="n1",status="unhealthy"}': 1,
    'node:ollama_instances:sum{node="n1",status="unreachable"}': 2,
    'node:ollama_instances:sum{node="n1",status="healthy"}': 0,
    'node:ollama_instances:sum{node="n2",status="loading"}': 2,
    'node:ollama_instances:sum{node="n2",status="healthy"}': 9,
    'node:ollama_instances:sum{node="n3",status="unknown"}': 1,
    'node:ollama_instances:sum{node="n4",status="draining"}': 9,
    'node:ollama_instances:sum{node="n4",status="healthy"}': 0,
    'node:ollama_instances:sum{node="n5",status="unhealthy"}': 0,
    'node:ollama_instances:sum{node="n5",status="healthy"}': 10,
}
ALL_WELL: Series = {'node:ollama_instances:sum{node="n5",status="healthy"}': 10}
ERRORS: Series = {
    'node:ollama_errors:rate5m{node="n1"}': 5,
    'node:ollama_errors:rate5m{node="n2"}': 2,
    'node:ollama_errors:rate5m{node="n3"}': 1,
    'node:ollama_errors:rate5m{node="n4"}': 0,
}
MANY: Series = {
    series: value
    for index in range(1, 13)
    for series, value in (
        (f'{RATIO}{{node="n{index}",model="m",engine="e"}}', index),
        (f'node:ollama_instances:sum{{node="n{index}",status="unknown"}}', index),
        (f'node:ollama_errors:rate5m{{node="n{index}"}}', index),
        (f'node:ollama_instances_started:count{{node="n{index}"}}', f"{index}x230 0x9"),
    )
}
"""Twelve nodes, of which a chart has ten."""


def instance(index: str, *, up: int = 1, speed: float | None = None) -> Series:
    """Return what two replicas tell of an instance; the second has not seen it up."""
    labels = f'instance_id="{index}",node="n1"'
    told: dict[str, float | str] = {
        f'ollama_instance_info{{job="x",instance="a",{labels},model="m",engine="e"}}': 1,
        f'ollama_instance_info{{job="x",instance="b",{labels},model="m",engine="e"}}': 1,
        f'ollama_instance_up{{job="x",instance="a",{labels}}}': up,
        f'ollama_instance_up{{job="x",instance="b",{labels}}}': 0,
        f'ollama_instance_start_time_seconds{{job="x",instance="a",{labels}}}': 3000,
    }
    if speed is not None:
        told[f'ollama_instance_tokens_per_second{{job="x",instance="a",{labels}}}'] = speed
    return told


MIXED = {
    **instance("fast", speed=90),
    **instance("slow", speed=5),
    **instance("down", up=0),
}


def of_restarted(index: str, speed: float, again: float | None = None) -> Series:
    """Return what two replicas tell of an instance; the second may not know its speed again."""
    labels = f'instance_id="{index}",node="n1"'
    speeds = {"a": speed, "b": again}
    return {
        **{f'ollama_instance_up{{job="x",instance="{one}",{labels}}}': 1 for one in speeds},
        **{
            f'ollama_instance_tokens_per_second{{job="x",instance="{one}",{labels}}}': known
            for one, known in speeds.items()
            if known is not None
        },
    }


RESTARTED = {
    **of_restarted("slow", 5),
    **of_restarted("slower", 4),
    **of_restarted("fast", 50, 50),
    **of_restarted("faster", 60, 60),
}
"""The second replica was restarted and knows the speeds of fast instances only."""


def row(index: str) -> str:
    """Return the labels of an instance's row."""
    return f'{{instance_id="{index}",node="n1"}}'


CASES = (
    Case("the slowest nodes", nodes.slowest_ratio(ASK), RATIOS, {N1: 0.5, N2: 0.7}),
    Case(
        "below the limit a node is slow",
        nodes.slowest_is_slow(ASK), {**RATIOS, **LIMIT}, {N1: 1, N2: 0},
    ),
    Case("without a limit no node is as its peers", nodes.slowest_is_slow(ASK), RATIOS, NOTHING),
    Case(
        "speeds of the slowest nodes",
        nodes.slowest_speed(ASK), {**RATIOS, **SPEEDS}, {N1: 20, N2: 28},
    ),
    Case(
        "the median of the slowest nodes' own peers",
        nodes.slowest_peers(ASK), {**RATIOS, **SPEEDS}, {N1: 40, N2: 40},
    ),
    Case(
        "what is healthy on the slowest nodes",
        nodes.slowest_healthy(ASK), {**RATIOS, **STATUS}, {N1: 0, N2: 9},
    ),
    Case(
        "a chart has the ten that are slowest at the end",
        f"count({nodes.ratio_over_time(ASK)}) * 100 + max({nodes.ratio_over_time(ASK)})", MANY,
        1010,
    ),
    Case("the limit of a slow node", nodes.ratio_limit(ASK), {**RATIOS, **LIMIT}, 0.6),
    Case("nodes that are slow", nodes.slow_count(ASK), {**RATIOS, **LIMIT}, 1),
    Case(
        "no node is slow", nodes.slow_count(ASK),
        {**RATIOS, "fleet:ollama_node_speed_ratio:threshold": 0.5}, 0,
    ),
    Case("without a limit nobody counts slow nodes", nodes.slow_count(ASK), RATIOS, NOTHING),
    Case("nodes that are compared count once", nodes.compared_count(ASK), RATIOS, 3),
    Case("nodes with instances", nodes.all_count(ASK), STATUS, 5),
    Case("dark is what has failing instances and no healthy one", nodes.dark_count(ASK), STATUS, 2),
    Case("no node is dark", nodes.dark_count(ASK), ALL_WELL, 0),
    Case(
        "nodes with most failing instances",
        nodes.failing_most(ASK), STATUS, {'{node="n1"}': 3, '{node="n2"}': 2},
    ),
    Case("nothing fails, no row", nodes.failing_most(ASK), ALL_WELL, NOTHING),
    Case(
        "one status of the nodes with most failing instances",
        nodes.failing_status(ASK, "healthy"), STATUS, {'{node="n1"}': 0, '{node="n2"}': 9},
    ),
    Case(
        "a chart has the ten that fail most at the end",
        f"count({nodes.failing_over_time(ASK)}) * 100 + min({nodes.failing_over_time(ASK)})",
        MANY, 1003,
    ),
    Case(
        "nodes with most errors",
        nodes.errors_most(ASK), ERRORS, {'{node="n1"}': 5, '{node="n2"}': 2},
    ),
    Case(
        "as many nodes with errors as are asked for, none without",
        f"count({nodes.errors_most(ASK, '10')})", ERRORS, 3,
    ),
    Case(
        "their share of all errors",
        nodes.errors_share(ASK), ERRORS, {'{node="n1"}': 0.625, '{node="n2"}': 0.25},
    ),
    Case(
        "a chart has the ten with most errors at the end",
        f"count({nodes.errors_over_time(ASK)}) * 100 + min({nodes.errors_over_time(ASK)})",
        MANY, 1003,
    ),
    Case(
        "a chart has the ten on which most ever started at once",
        f"count({nodes.started_over_time(ASK)})", MANY, 10,
    ),
    Case(
        "a node on which few started at once is not among them",
        f'{nodes.started_over_time(ASK)} and on (node) ({RATIO} < 3)', MANY, NOTHING,
    ),
    Case(
        "first what is down, then what nobody knows the speed of",
        nodes.instance_value(ASK, catalogue.INSTANCE_UP), {**MIXED, **instance("u", up=1)},
        {row("down"): 0, row("u"): 1},
    ),
    Case(
        "then the slowest",
        nodes.instance_value(ASK, catalogue.INSTANCE_UP), MIXED, {row("down"): 0, row("slow"): 1},
    ),
    Case(
        "models and engines of the instances to show",
        nodes.instance_info(ASK), MIXED,
        {'{instance_id="down",node="n1",model="m",engine="e"}': 1,
         '{instance_id="slow",node="n1",model="m",engine="e"}': 1},
    ),
    Case(
        "how many conditions each has, of replicas that agree",
        nodes.instance_conditions(ASK),
        {**MIXED, **{
            f'ollama_instance_condition{{job="x",instance="{one}",instance_id="slow",node="n1",'
            f'condition="{condition}"}}': 1
            for one in "ab" for condition in ("on_cpu", "stalled")
        }},
        {row("slow"): 2},
    ),
    Case(
        "the speed is told as it is",
        nodes.instance_value(ASK, catalogue.INSTANCE_TOKENS_PER_SECOND), MIXED, {row("slow"): 5},
    ),
    Case(
        "slow is what one replica finds slow, though the other does not know yet",
        nodes.instance_value(ASK, catalogue.INSTANCE_TOKENS_PER_SECOND), RESTARTED,
        {row("slower"): 4, row("slow"): 5},
    ),
    Case(
        "an unknown speed is not told at all",
        nodes.instance_value(ASK, catalogue.INSTANCE_TOKENS_PER_SECOND), instance("u"), NOTHING,
    ),
    Case(
        "the age of the instances to show",
        nodes.instance_age(ASK), MIXED, {row("down"): 600, row("slow"): 600},
    ),
    Case(
        "a row says which cluster it is of",
        ASK.with_cluster("up"), {'up{cluster="b"}': 1, 'up{job="x"}': 2},
        {'{cluster="b"}': 1, '{cluster="All",job="x"}': 2},
    ),
)  # fmt: skip
