"""Choose series by the variables of the dashboard.

In:   settings, a series or a recorded name, and further matchers.
Out:  PromQL selectors.

`cluster=~"$cluster"` takes everything while All is chosen, also series that have no such label.
Thresholds that are plain numbers have none even where the fleet's series do, so they are asked for
with `$cluster|`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from alerts.promql import Scope
from dashboards.settings import SAMPLES_TO_BRIDGE, DashboardSettings
from exporter.catalogue import Kind, Series
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
class Ask:
    """Writes selectors and aggregates for one installation."""

    scope: Scope

    @classmethod
    def of(cls, settings: DashboardSettings) -> Ask:
        """Return one for these settings."""
        return cls(settings.scope)

    @property
    def cluster(self) -> str:
        """Return the label that tells fleets apart."""
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

    def bridged(self, expression: str) -> str:
        """Return what an expression last was: a scrape that fails leaves no gap.

        Of a sum, unlike of each of its series, which would count for a while after they ended.
        """
        bridge_s = self.scope.bridge_s
        span, step = duration_text(bridge_s), duration_text(bridge_s / SAMPLES_TO_BRIDGE)
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
        """Return a value per instance, whichever replica tells it."""
        kept = self.by("instance_id", "node", "model", *labels)
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
