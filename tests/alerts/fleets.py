"""Fleets of any size as promtool's input series: a day of samples, one a minute.

In:   What happens to a fleet, as steps: `"60x119 59x1320"` is a minute's healthy count each.
Out:  The series that an exporter publishes of it, each fleet with a `cluster` label of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alerts import build
from alerts.settings import Settings
from tests.alerts.promtool import Rule, foundations, run, write

DAY_MIN = 1440
JOB = 'job="ollama-fleet-exporter",instance="exporter:11440"'
FIRED = 'group by (cluster, alertname) (max_over_time(ALERTS{alertstate="firing",%s}[1d]))'
PAGE, ANY = 'severity="critical"', 'severity!="none"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet during a day; every step is (minutes, number of instances)."""

    cluster: str
    listed: Sequence[tuple[int, int]]
    healthy: Sequence[tuple[int, int]]
    failing_as: str = "unreachable"
    latency_s: float = 0.1
    speed: float = 100.0
    """In tokens/s of an instance."""

    def series(self) -> Iterator[dict[str, str]]:
        """Yield what promtool is fed."""
        listed, healthy = _minutes(self.listed), _minutes(self.healthy)
        failing = [of - up for of, up in zip(listed, healthy, strict=True)]
        statuses = {"healthy": healthy, self.failing_as: failing}
        speed = [up * self.speed for up in healthy]
        exporter = {
            "up": "1x1440",
            'ollama_exporter_shard_info{shard="0"}': "1x1440",
            "ollama_exporter_shards": "1x1440",
            "ollama_exporter_poll_interval_seconds": "10x1440",
            "ollama_exporter_poll_last_completed_timestamp_seconds": "0+60x1440",
            'ollama_fleet_instances{shard="0",status="draining"}': "0x1440",
            'ollama_fleet_instances{shard="0",status="provisioning"}': "0x1440",
            'ollama_fleet_inventory_instances{shard="0"}': _text(listed),
            'ollama_fleet_tokens_per_second{shard="0",model="a"}': _text(speed),
            'ollama_fleet_measured_instances{shard="0",model="a"}': _text(healthy),
            'ollama_fleet_request_latency_p99_seconds{shard="0"}': f"{self.latency_s}x1440",
            'ollama_fleet_generated_tokens_total{shard="0",model="a"}': "0+600x1440",
        }
        for status, counts in statuses.items():
            for kind in ('fleet_instances{shard="0"', 'model_instances{shard="0",model="a"'):
                exporter[f'ollama_{kind},status="{status}"}}'] = _text(counts)
        for selector, values in exporter.items():
            yield {"series": self._labelled(selector), "values": values}

    def _labelled(self, selector: str) -> str:
        name, _, labels = selector.rstrip("}").partition("{")
        return f'{name}{{{JOB},cluster="{self.cluster}"{"," if labels else ""}{labels}}}'


def _minutes(steps: Sequence[tuple[int, int]]) -> list[int]:
    """Return the value of each minute; the last one stays until the end of the day."""
    values = [value for minutes, value in steps for _ in range(minutes)]
    return (values + [steps[-1][1]] * (DAY_MIN + 1))[: DAY_MIN + 1]


def _text(values: Sequence[float]) -> str:
    """Return the values as promtool reads them, repetitions in one."""
    parts: list[tuple[float, int]] = []
    for value in values:
        if parts and parts[-1][0] == value:
            parts[-1] = (value, parts[-1][1] + 1)
        else:
            parts.append((value, 0))
    return " ".join(f"{value:g}x{times}" if times else f"{value:g}" for value, times in parts)


def fired(
    promtool: Path,
    folder: Path,
    settings: Settings,
    fleets: Sequence[Fleet],
    *,
    expected: Sequence[Mapping[str, str]] = (),
    names: Collection[str] = (),
) -> str:
    """Return what promtool says of a day in which no other alerts may fire; empty if all is so.

    Args:
        promtool: The program.
        folder: Where its files are written.
        settings: What makes the rules.
        fleets: What happens.
        expected: The labels of the alerts that must fire.
        names: The alerts to look at; those that page where none are given.
    """
    texts = (", ".join(f'{key}="{value}"' for key, value in each.items()) for each in expected)
    samples = [{"labels": f"{{{text}}}", "value": 1} for text in texts]
    test: dict[str, Any] = {
        "name": "a day",
        "interval": "1m",
        "input_series": [series for fleet in fleets for series in fleet.series()],
        "promql_expr_test": [
            {"expr": FIRED % (ANY if names else PAGE), "eval_time": "1d", "exp_samples": samples}
        ],
    }
    rules = [
        rule
        for rule in rules_of(settings)
        if not rule.is_alert or (rule.name in names if names else _pages(rule))
    ]
    rest_on = foundations({rule.name for rule in rules if rule.is_alert}, rules)
    seen = [rule for rule in rules if rule.name in rest_on]
    document = {"evaluation_interval": "1m", "tests": [test]}
    said = run(promtool, write(folder, seen, document))
    return "" if said.returncode == 0 else said.stdout


def _pages(rule: Rule) -> bool:
    return rule.is_alert and rule.body["labels"]["severity"] == "critical"


def rules_of(settings: Settings) -> list[Rule]:
    """Return all rules that these settings make."""
    return [
        Rule(group["name"], body)
        for text in build.rule_files(settings).values()
        for group in yaml.safe_load(text)["groups"]
        for body in group["rules"]
    ]
