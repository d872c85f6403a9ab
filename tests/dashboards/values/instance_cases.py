"""What the queries of one instance make of given series: of `i1` on `n1`, told by two replicas."""

from __future__ import annotations

from collections.abc import Mapping

from dashboards.queries import instance
from exporter import catalogue
from tests.dashboards.values.case import ASK, NOTHING, Case, Series
from tests.dashboards.values.node_cases import MIXED, row

CHOSEN = {"node": "n1", "instance_id": "i1"}
KNOWN = 'instance_id="i1",node="n1",model="m",engine="e",version="1",developer="d"'
LABELS = f"{{{KNOWN}}}"


def told(name: str, first: float | str, second: float | str, labels: str = "") -> Series:
    """Return what the two replicas tell of the instance, and of another one."""
    own = f'instance_id="i1",node="n1"{labels}'
    other = f'instance_id="i2",node="n1"{labels}'
    return {
        f'{name}{{job="x",instance="a",{own}}}': first,
        f'{name}{{job="x",instance="b",{own}}}': second,
        f'{name}{{job="x",instance="a",{other}}}': 999_999,
    }


INFO: Series = {
    f'ollama_instance_info{{job="x",instance="a",{KNOWN}}}': 1,
    f'ollama_instance_info{{job="x",instance="b",{KNOWN}}}': 1,
}
EU, US = '{cluster="eu"}', '{cluster="us"}'


def in_two(name: str, labels: str, eu: float | str, us: float | str) -> Series:
    """Return a series of two fleets."""
    return {f'{name}{{cluster="{c}",{labels}}}': told for c, told in (("eu", eu), ("us", us))}


def of_two(name: str, eu: float | str, us: float | str, labels: str = "") -> Series:
    """Return what the exporters of two fleets tell of instances that are called the same."""
    own = f'job="x",instance="a",instance_id="i1",node="n1"{labels}'
    return in_two(name, own, eu, us)


AGAINST_PEERS = "node_model_engine:ollama_tokens_per_second_per_peers:ratio"
PEERS_OF_TWO: Series = {
    **of_two("ollama_instance_info", 1, 1, ',model="m",engine="e",version="1",developer="d"'),
    **in_two(
        "node_model_engine:ollama_tokens_per_second:avg", 'node="n1",model="m",engine="e"', 30, 30
    ),
    **in_two(AGAINST_PEERS, 'node="n1",model="m",engine="e"', 0.75, 0.5),
}
PEERS: Series = {
    **INFO,
    'node_model_engine:ollama_tokens_per_second:avg{node="n1",model="m",engine="e"}': 30,
    'node_model_engine:ollama_tokens_per_second:avg{node="n1",model="other",engine="e"}': 90,
    'node_model_engine:ollama_tokens_per_second:avg{node="n2",model="m",engine="e"}': 95,
    f'{AGAINST_PEERS}{{node="n1",model="m",engine="e"}}': 0.75,
    f'{AGAINST_PEERS}{{node="n1",model="other",engine="e"}}': 0.9,
    f'{AGAINST_PEERS}{{node="n2",model="m",engine="e"}}': 0.8,
}
RATIO = "fleet:ollama_node_speed_ratio:threshold"
OF_NODE = '{instance_id="i1",node="n1"}'
START = "ollama_instance_start_time_seconds"
AWAY = "1000x200 stale _x35"
"""It ran, and has been away for nine minutes and a half."""


def of_instance(name: str, expr: str, given: Series, expected: float | Mapping[str, float]) -> Case:
    return Case(name, expr, given, expected, CHOSEN)


CASES = (
    of_instance("up where one replica sees it up", instance.up(ASK),
                told("ollama_instance_up", 0, 1), 1),
    of_instance("down where no replica sees it up", instance.up(ASK),
                told("ollama_instance_up", 0, 0), 0),
    of_instance("all that is known of it", instance.info(ASK), INFO, {LABELS: 1}),
    of_instance("its state, with its node", instance.now(ASK, catalogue.INSTANCE_UP),
                told("ollama_instance_up", 0, 1), {OF_NODE: 1}),
    of_instance("its start in milliseconds, as Grafana reads times", instance.start_ms(ASK),
                told(START, 3000, 3100), {OF_NODE: 3_100_000}),
    of_instance("its conditions, apart from what is healthy", instance.conditions(ASK),
                told("ollama_instance_condition", 1, 1, ',condition="stalled"'),
                {'{condition="stalled"}': 2}),
    of_instance("the memory of its models", instance.models(ASK, catalogue.INSTANCE_MODEL_BYTES),
                {**told("ollama_instance_model_bytes", 4, 4, ',model="m"'),
                 **told("ollama_instance_model_bytes", 7, 7, ',model="n"')},
                {'{model="m"}': 4, '{model="n"}': 7}),
    of_instance("when its models leave, in milliseconds", instance.models_expire_ms(ASK),
                told("ollama_instance_model_expires_timestamp_seconds", 9, 9, ',model="m"'),
                {'{model="m"}': 9000}),
    of_instance("a gauge of it", instance.value(ASK, catalogue.INSTANCE_LATENCY_P99),
                told("ollama_instance_request_latency_p99_seconds", 0.25, 0.125), 0.25),
    of_instance("a counter's growth", instance.rate(ASK, catalogue.INSTANCE_GENERATED_TOKENS),
                told("ollama_instance_generated_tokens_total", "0+30x240", "0+15x240"), 2),
    of_instance("its errors by type", instance.errors(ASK),
                told("ollama_instance_errors_total", "0+30x240", "0+15x240",
                     ',error_type="timeout"'),
                {'{error_type="timeout"}': 2}),
    of_instance("how long it has been running", instance.age(ASK), told(START, 1000, 1000), 2600),
    of_instance("a start shortly before", instance.restarts(ASK), told(START, 1000, 3301), 299),
    of_instance("a start some time before", instance.restarts(ASK), told(START, 1000, 3300),
                NOTHING),
    of_instance("a start after minutes away", instance.restarts(ASK),
                told(START, f"{AWAY} 3550x4", f"{AWAY} 3550x4"), 50),
    of_instance("the mean of its node, of its model", instance.node_speed(ASK), PEERS, 30),
    of_instance("the median of the peers of its node", instance.peers_speed(ASK), PEERS, 40),
    of_instance("the speed below which its node is slow", instance.slow_speed(ASK),
                {**PEERS, RATIO: 0.75}, 30),
    of_instance("no speed is slow without a limit", instance.slow_speed(ASK), PEERS, NOTHING),
    of_instance("the fleet's limit of the p99", instance.latency_limit(ASK),
                {**told("ollama_instance_request_latency_p99_seconds", 1, 1),
                 "fleet:ollama_request_latency_seconds:threshold": 0.5}, 0.5),
    of_instance("no limit without a p99 of its own", instance.latency_limit(ASK),
                {"fleet:ollama_request_latency_seconds:threshold": 0.5}, NOTHING),
    of_instance("of two fleets each tells of its own instance", instance.up(ASK),
                of_two("ollama_instance_up", 0, 1), {EU: 0, US: 1}),
    of_instance("a gauge of each fleet's instance",
                instance.value(ASK, catalogue.INSTANCE_LATENCY_P99),
                of_two("ollama_instance_request_latency_p99_seconds", 0.25, 0.125),
                {EU: 0.25, US: 0.125}),
    of_instance("a counter's growth in each fleet",
                instance.rate(ASK, catalogue.INSTANCE_GENERATED_TOKENS),
                of_two("ollama_instance_generated_tokens_total", "0+30x240", "0+15x240"),
                {EU: 2, US: 1}),
    of_instance("errors by type in each fleet", instance.errors(ASK),
                of_two("ollama_instance_errors_total", "0+30x240", "0+15x240",
                       ',error_type="timeout"'),
                {'{cluster="eu",error_type="timeout"}': 2,
                 '{cluster="us",error_type="timeout"}': 1}),
    of_instance("the age of each fleet's instance", instance.age(ASK), of_two(START, 1000, 2000),
                {EU: 2600, US: 1600}),
    of_instance("the start of the one fleet's instance", instance.restarts(ASK),
                of_two(START, 1000, 3400), {US: 200}),
    of_instance("the node of each fleet", instance.node_speed(ASK), PEERS_OF_TWO,
                {EU: 30, US: 30}),
    of_instance("the peers of each fleet", instance.peers_speed(ASK), PEERS_OF_TWO,
                {EU: 40, US: 60}),
    of_instance("the limit of slow nodes in each fleet", instance.slow_speed(ASK),
                {**PEERS_OF_TWO, **{f"{RATIO}{fleet}": 0.75 for fleet in (EU, US)}},
                {EU: 30, US: 45}),
    of_instance("its neighbours", instance.neighbours(ASK, catalogue.INSTANCE_UP), MIXED,
                {row("down"): 0, row("slow"): 1, row("fast"): 1}),
    of_instance("their models", instance.neighbours_info(ASK), MIXED,
                {f'{{instance_id="{one}",node="n1",model="m",engine="e"}}': 1
                 for one in ("down", "slow", "fast")}),
    of_instance("no neighbours of another node",
                instance.neighbours(ASK, catalogue.INSTANCE_UP),
                {'ollama_instance_up{job="x",instance_id="i9",node="n9"}': 1}, NOTHING),
)  # fmt: skip
