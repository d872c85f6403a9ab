"""Where the alerts of a profile begin: what each says at its limit, and one step beyond."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alerts import names
from exporter import catalogue
from tests.alerts.promtool import TESTS, Rule, TestFile, read_rules, read_test

BEFORE_MIN = 75
"""Of the time before something happens: rules look back for an hour."""
ALERTS = 'count by (cluster, severity) (ALERTS{alertname="%s", alertstate="firing"})'
DRAINING = f'{names.INSTANCES}{{status="draining"}}'
HEALTHY = f'{names.INSTANCES}{{status="healthy"}}'
UP = 'up{job="ollama-fleet-exporter"}'
GATEWAY_UP = 'up{job="ollama-fleet-gateway"}'
MODEL_P99 = f'{names.MODEL_REQUESTS_P99}{{model="m"}}'
SLOWEST = (
    f"{catalogue.FLEET_INSTANCE_REQUEST_LATENCY_P99.name}"
    '{job="ollama-fleet-exporter", shard="0", quantile="0.999"}'
)
TRAFFIC = f'{names.TRAFFIC_RATIO}{{source="requests"}}'
STALLED = f'{names.CONDITIONS}{{condition="stalled"}}'
PAGE, TICKET = "critical", "warning"
EXPECTED = {names.EXPECTED: 10_000.0, names.INVENTORY: 10_000.0}
"""So many that a share that is another by 1% makes another count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An alert that is silent for ever at its limit, and fires some minutes beyond it."""

    name: str
    severity: str
    hold_min: int
    at: Mapping[str, float]
    """Series without their cluster."""
    beyond: Mapping[str, float | None]
    """Those that change; None is an end."""
    before: Mapping[str, float] = field(default_factory=dict)
    """Those that were otherwise before either."""

    def test(self) -> dict[str, Any]:
        """Return a test with a cluster at the limit and one that goes beyond it."""
        times = BEFORE_MIN + self.hold_min - 1, BEFORE_MIN + self.hold_min
        labels = f'{{cluster="beyond", severity="{self.severity}"}}'
        expected: tuple[list[Any], ...] = ([], [{"labels": labels, "value": 1}])
        return {
            "name": f"{self.name} begins beyond its limit",
            "interval": "1m",
            "input_series": [*self._series("limit", {}), *self._series("beyond", self.beyond)],
            "promql_expr_test": [
                {"expr": ALERTS % self.name, "eval_time": f"{at_min}m", "exp_samples": samples}
                for at_min, samples in zip(times, expected, strict=True)
            ],
        }

    def _series(
        self, cluster: str, changes: Mapping[str, float | None]
    ) -> Iterator[dict[str, str]]:
        for series, value in self.at.items():
            after = changes.get(series, value)
            text = "stale" if after is None else f"{after:g}x{self.hold_min + 1}"
            values = f"{self.before.get(series, value):g}x{BEFORE_MIN - 1} {text}"
            yield {"series": _in_cluster(series, cluster), "values": values}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A series that the rules record from others."""

    name: str
    value: float
    given: Mapping[str, float] = field(default_factory=dict)

    def test(self) -> dict[str, Any]:
        """Return a test of its value."""
        labels = _in_cluster(self.name, "a")
        case = {
            "expr": self.name,
            "eval_time": "1m",
            "exp_samples": [{"labels": labels, "value": self.value}],
        }
        series = [
            {"series": _in_cluster(name, "a"), "values": f"{value:g}x2"}
            for name, value in self.given.items()
        ]
        return {
            "name": f"{self.name} is drawn at the limit",
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": [case],
        }


def _in_cluster(series: str, cluster: str) -> str:
    name, _, labels = series.rstrip("}").partition("{")
    return f'{name}{{cluster="{cluster}"{"," if labels else ""}{labels}}}'


def limits_of(profile: str) -> TestFile:
    """Return the promtool tests of a profile's limits."""
    tests = [each.test() for each in LIMITS[profile]]
    return TestFile(TESTS / profile / "limits", {"evaluation_interval": "1m", "tests": tests})


def tests_of(profile: str) -> list[TestFile]:
    """Return all promtool tests of a profile: of its limits, and in its folder."""
    return [limits_of(profile), *map(read_test, sorted((TESTS / profile).glob("*.yml")))]


def differing(rules: Sequence[Rule]) -> list[tuple[Rule, Rule]]:
    """Return the rules of a profile that differ from the default ones, each beside that."""
    kept = {rule.name for rule in rules}
    default = [rule for rule in read_rules() if rule.name in kept]
    return [(rule, twin) for rule, twin in zip(rules, default, strict=True) if rule != twin]


def _latency(seconds: float) -> dict[str, float]:
    return {f'{names.LATENCY_P99}{{source="requests"}}': seconds}


def _losing(floor: float) -> Limit:
    """Return a fleet that loses ten instances in a quarter of an hour, four hours off its floor."""
    return Limit(
        name="OllamaFleetCapacityLow",
        severity=TICKET,
        hold_min=5,
        at=EXPECTED | {names.AVAILABLE: floor + 160, names.MISSING: 1_000, names.LOSS: 10},
        beyond={names.AVAILABLE: floor + 159},
        before={names.MISSING: 0},
    )


def _drained_long(n: float) -> Limit:
    return Limit(
        name="OllamaFleetDrainedLong",
        severity=TICKET,
        hold_min=365,
        at=EXPECTED | {DRAINING: n},
        beyond={DRAINING: n + 1},
    )


def _model(status: str) -> str:
    return f'{names.MODEL_INSTANCES}{{model="m",status="{status}"}}'


SHARED = (
    Limit(name="OllamaGatewayFleetFull", severity=TICKET, hold_min=5,
          at={names.GATEWAY_REQUESTS: 3, names.FLEET_FULL: 1}, beyond={names.FLEET_FULL: 1.01}),
    Limit(name="OllamaFleetLatencyP99High", severity=TICKET, hold_min=5,
          at=_latency(120), beyond=_latency(120.5)),
    Limit(name="OllamaFleetLatencyHighLowTraffic", severity=TICKET, hold_min=15,
          at={names.REQUESTS_P99_LONG: 120}, beyond={names.REQUESTS_P99_LONG: 120.5}),
    Limit(name="OllamaModelLatencyP99High", severity=TICKET, hold_min=15,
          at={MODEL_P99: 120}, beyond={MODEL_P99: 120.5}),
    Limit(name="OllamaFleetLatencyOutliers", severity=TICKET, hold_min=15,
          at={SLOWEST: 600}, beyond={SLOWEST: 601}),
    Limit(name="OllamaFleetLatencyRising", severity=TICKET, hold_min=60,
          at={names.LATENCY_HOUR: 20, names.LATENCY_BASELINE: 10},
          beyond={names.LATENCY_HOUR: 20.1}),
    Limit(name="OllamaFleetTokenThroughputLow", severity=TICKET, hold_min=5,
          at=EXPECTED | {names.CAPACITY: 10_000, names.MISSING: 2},
          beyond={names.CAPACITY: 9_999}),
    Limit(name="OllamaFleetTokenThroughputLow", severity=TICKET, hold_min=5,
          at=EXPECTED | {names.CAPACITY: 9_999, HEALTHY: 9_999, names.MISSING: 1},
          beyond={HEALTHY: 10_000}),
    Limit(name="OllamaFleetManyModelsNotLoaded", severity=TICKET, hold_min=5,
          at=EXPECTED | {names.NOT_LOADED: 1_000}, beyond={names.NOT_LOADED: 1_001}),
    Recorded(name="fleet:ollama_request_latency_seconds:threshold", value=120,
             given=EXPECTED),
    Recorded(name="fleet:ollama_tokens_per_second:threshold", value=10_000, given=EXPECTED),
)  # fmt: skip
"""Of `small` and `stock-ollama` alike."""
LIMITS: Mapping[str, tuple[Limit | Recorded, ...]] = {
    "article": (_losing(9_900),),
    "small": (
        *SHARED,
        _losing(8_000),
        _drained_long(4_000),
        Limit(name="OllamaFleetHealthyInstancesLow", severity=PAGE, hold_min=15,
              at=EXPECTED | {names.AVAILABLE: 8_000}, beyond={names.AVAILABLE: 7_999}),
        Limit(name="OllamaModelUnavailable", severity=PAGE, hold_min=15,
              at={_model("healthy"): 1, _model("unreachable"): 3}, beyond={_model("healthy"): 0}),
        Limit(name="OllamaFleetManyCanariesStalled", severity=PAGE, hold_min=6,
              at=EXPECTED | {STALLED: 2_000}, beyond={STALLED: 2_001}),
        Limit(name="OllamaFleetExporterDown", severity=PAGE, hold_min=15,
              at={UP: 1}, beyond={UP: 0}),
        Limit(name="OllamaFleetMetricsAbsent", severity=PAGE, hold_min=15,
              at={UP: 1, HEALTHY: 1}, beyond={HEALTHY: None}),
        Limit(name="OllamaGatewayAllDown", severity=PAGE, hold_min=15,
              at={GATEWAY_UP: 1}, beyond={GATEWAY_UP: 0}),
        Limit(name="OllamaFleetInventoryShrunk", severity=TICKET, hold_min=5,
              at={names.PERMANENT: 600, names.DRAINED: 0}, beyond={names.PERMANENT: 599},
              before={names.PERMANENT: 1_000}),
        Limit(name="OllamaFleetInventoryLost", severity=PAGE, hold_min=2,
              at={names.PERMANENT: 400, names.DRAINED: 0}, beyond={names.PERMANENT: 399},
              before={names.PERMANENT: 1_000}),
        Limit(name="OllamaFleetTrafficLost", severity=TICKET, hold_min=5,
              at={TRAFFIC: 0.3}, beyond={TRAFFIC: 0.29}, before={TRAFFIC: 1}),
        Recorded(name="fleet:ollama_healthy_instances:threshold", value=8_000, given=EXPECTED),
    ),
    "stock-ollama": (
        *SHARED,
        _losing(9_000),
        _drained_long(1_000),
        Limit(name="OllamaFleetHealthyInstancesLow", severity=PAGE, hold_min=10,
              at=EXPECTED | {names.AVAILABLE: 9_000}, beyond={names.AVAILABLE: 8_999}),
        Limit(name="OllamaModelUnavailable", severity=PAGE, hold_min=10,
              at={_model("healthy"): 1, _model("unreachable"): 3}, beyond={_model("healthy"): 0}),
        Limit(name="OllamaFleetManyCanariesStalled", severity=PAGE, hold_min=6,
              at=EXPECTED | {STALLED: 500}, beyond={STALLED: 501}),
        Limit(name="OllamaGatewayAllDown", severity=PAGE, hold_min=10,
              at={GATEWAY_UP: 1}, beyond={GATEWAY_UP: 0}),
        Recorded(name="fleet:ollama_healthy_instances:threshold", value=9_000, given=EXPECTED),
    ),
}  # fmt: skip
