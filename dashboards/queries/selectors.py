"""Choose series by the variables of the dashboard.

`cluster=~"$cluster"` takes everything while All is chosen, also series that have no such label.
Thresholds that are plain numbers have none even where the fleet's series do, so they are asked for
with `$cluster|`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from alerts.promql import Scope
from dashboards.settings import LOOKBACK_SCRAPES, DashboardSettings
from exporter import catalogue
from exporter.catalogue import INSTANCE, INSTANCE_INFO, Kind, Series
from ollama_fleet.durations import duration_text

FAILING = ("unhealthy", "unreachable", "loading", "unknown")
"""Statuses of instances that should serve and do not."""
ALL_CLUSTERS = "All"
"""As Grafana's addresses say it."""
RATE = "[$__rate_interval]"
NODE = 'node=~"$node"'
MODEL = 'model=~"$model"'
THIS_NODE = 'node="$node"'
THIS_INSTANCE = ('node="$node"', 'instance_id="$instance_id"')
EXPORTERS = ('job=~"$job"', 'instance=~"$instance"')


@dataclass(frozen=True, slots=True)
class Selectors:
    """Writes selectors and aggregates for one installation."""

    scope: Scope

    @classmethod
    def of(cls, settings: DashboardSettings) -> Selectors:
        """Return one for these settings."""
        return cls(settings.scope)

    @property
    def cluster(self) -> str:
        """Return the label that distinguishes fleets."""
        return self.scope.cluster_label

    def series(self, series: Series | str, *matchers: str, suffix: str = "") -> str:
        """Return a selector of the chosen clusters."""
        return self._selector(series, (f'{self.cluster}=~"$cluster"', *matchers), suffix)

    def with_or_without_cluster(self, series: Series | str, *matchers: str) -> str:
        """Return a selector of the chosen clusters and of series that belong to none."""
        return self._selector(series, (f'{self.cluster}=~"$cluster|"', *matchers), "")

    def without_cluster(self, series: Series | str, *matchers: str) -> str:
        """Return a selector of the series that belong to no cluster."""
        return self._selector(series, (f'{self.cluster}=""', *matchers), "")

    def _selector(self, series: Series | str, matchers: Iterable[str], suffix: str) -> str:
        name = series if isinstance(series, str) else series.name
        return f"{name}{suffix}{{{', '.join(matchers)}}}"

    def rate(self, series: Series | str, *matchers: str, suffix: str = "") -> str:
        """Return how fast a counter grows, per second."""
        return f"rate({self.series(series, *matchers, suffix=suffix)}{RATE})"

    def over_lookback(self, expression: str) -> str:
        """Return what an expression last was: a scrape that fails leaves no gap.

        Of a sum, unlike of each of its series, which would count for a while after they ended.
        """
        lookback_s = self.scope.lookback_s
        span, step = duration_text(lookback_s), duration_text(lookback_s / LOOKBACK_SCRAPES)
        return f"last_over_time(({expression})[{span}:{step}])"

    def by(self, *labels: str) -> str:
        """Return `by (…)`, clusters kept apart."""
        return self.scope.by(*labels)

    def with_cluster(self, expression: str) -> str:
        """Return an expression whose every series says what to choose to see its cluster."""
        label = self.cluster
        return (
            f"label_replace(\n{_indented(expression)},\n"
            f'  "{label}", "{ALL_CLUSTERS}", "{label}", ""\n)'
        )

    def on(self, *labels: str) -> str:
        """Return `on (…)`, within a cluster."""
        return self.scope.on(*labels)

    @property
    def on_exporter(self) -> str:
        """Return `on (…)`, for series of the same exporter."""
        return self.scope.on_exporter

    def per_instance(self, series: Series, *matchers: str, labels: tuple[str, ...] = ()) -> str:
        """Return a value per instance, whichever replica reports it."""
        kept = self.by("instance_id", "node", *labels)
        return f"max {kept} ({self.series(series, *matchers)})"

    def fleet_rate(self, series: Series, *labels: str) -> str:
        """Return how fast one of the exporters' counters grows: shards added, replicas not.

        A histogram's buckets are taken when `le` is among the labels.
        """
        suffix = "_bucket" if series.kind is Kind.HISTOGRAM else ""
        inner = self.rate(series, suffix=suffix)
        total = self.scope.fleet_sum(series, *labels, inner=inner, suffix=suffix)
        return f"sum by ({', '.join(labels)}) (\n{_indented(total)}\n)" if labels else total


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


UNKNOWN_SPEED = "1e9"
"""Tokens per second that none has: instances whose speed is not known come last."""


def _with_model(select: Selectors, series: Series, *matchers: str, model: str) -> str:
    """Return a series of instances with the model of each as a label."""
    same = select.on("job", "instance", "instance_id")
    info = select.series(INSTANCE_INFO, *filter(None, (model,)))
    return f"{select.series(series, *matchers)}\n* {same} group_left (model) {info}"


def _worst(select: Selectors, limit: str, *matchers: str, model: str) -> str:
    """Return the instances: 0 where down, else the speed, or UNKNOWN_SPEED."""
    up = _with_model(select, catalogue.INSTANCE_UP, *matchers, model=model)
    speed = _with_model(select, catalogue.INSTANCE_TOKENS_PER_SECOND, *matchers, model=model)
    # Of replicas first: one that was restarted knows no speed yet, and must not hide the other's.
    each = f"max {select.by(*INSTANCE, 'model')}"
    return f"bottomk({limit}, {each} ({speed}) or {UNKNOWN_SPEED} * {each} ({up}))"


def worst_value(
    select: Selectors, series: Series, limit: str, *matchers: str, model: str = ""
) -> str:
    """Return a value of each of the instances, whichever replica reports it."""
    wanted = _with_model(select, series, *matchers, model=model)
    worst = _worst(select, limit, *matchers, model=model)
    of_worst = f"{wanted}\nand {select.on('instance_id', 'node')} {worst}"
    return f"max {select.by(*INSTANCE, 'model')} (\n{of_worst}\n)"
