"""Choose series by the variables of the dashboard.

`cluster=~"$cluster"` takes everything while All is chosen, also series that have no such label.
Each series that an exporter publishes is chosen by `job=~"$job"` too: who else uses the name counts
for nothing. What rules record has no job.
"""

from __future__ import annotations

from dataclasses import dataclass

from dashboards.settings import DashboardSettings
from exporter import catalogue
from exporter.catalogue import INSTANCE, Kind, Series

FAILING = ("unhealthy", "unreachable", "loading", "unknown")
"""Statuses of instances that should serve and do not."""
ALL_CLUSTERS = "All"
"""As Grafana's addresses say it."""
RATE = "[$__rate_interval]"
CANARIES = "[15m]"
"""Three periods of the canary as it comes: over shorter times a small fleet sends none."""
JOB = 'job=~"$job"'
NODE = 'node=~"$node"'
MODEL = 'model=~"$model"'
THIS_NODE = 'node="$node"'
THIS_INSTANCE = ('node="$node"', 'instance_id="$instance_id"')
EXPORTERS = ('instance=~"$instance"',)
SCRAPED = frozenset(
    series.name
    for series in catalogue.FLEET_SERIES + catalogue.INSTANCE_SERIES + catalogue.EXPORTER_SERIES
)


@dataclass(frozen=True, slots=True)
class Selectors:
    """Writes selectors and aggregates for one installation."""

    cluster: str
    """The label that distinguishes fleets."""

    @classmethod
    def of(cls, settings: DashboardSettings) -> Selectors:
        """Return one for these settings."""
        return cls(settings.cluster_label)

    def series(self, series: Series | str, *matchers: str, suffix: str = "") -> str:
        """Return a selector of the chosen clusters; of a scraped series, of our job alone."""
        name = series if isinstance(series, str) else series.name
        job = (JOB,) if name in SCRAPED else ()
        chosen = (f'{self.cluster}=~"$cluster"', *job, *matchers)
        return f"{name}{suffix}{{{', '.join(chosen)}}}"

    def with_or_without_cluster(self, series: str, *matchers: str) -> str:
        """Return a selector of the chosen clusters and of series that belong to none."""
        chosen = ", ".join((f'{self.cluster}=~"$cluster|"', *matchers))
        return f"{series}{{{chosen}}}"

    def rate(self, series: Series | str, *matchers: str, suffix: str = "") -> str:
        """Return how fast a counter grows, per second."""
        return f"rate({self.series(series, *matchers, suffix=suffix)}{RATE})"

    def by(self, *labels: str) -> str:
        """Return `by (…)`, clusters kept apart."""
        return f"by ({', '.join((self.cluster, *labels))})"

    def on(self, *labels: str) -> str:
        """Return `on (…)`, within a cluster."""
        return f"on ({', '.join((self.cluster, *labels))})"

    @property
    def on_exporter(self) -> str:
        """Return `on (…)`, for series of the same exporter."""
        return self.on("job", "instance")

    def with_cluster(self, expression: str) -> str:
        """Return an expression whose every series says what to choose to see its cluster."""
        label = self.cluster
        return f'label_replace({expression}, "{label}", "{ALL_CLUSTERS}", "{label}", "")'

    def per_instance(self, series: Series, *matchers: str, labels: tuple[str, ...] = ()) -> str:
        """Return a value per instance, whichever replica reports it."""
        return f"max {self.by(*INSTANCE, *labels)} ({self.series(series, *matchers)})"

    # Aggregates of the exporters: of replicas the highest counts, shards are added up

    def fleet_sum(self, series: Series, *labels: str, where: tuple[str, ...] = ()) -> str:
        """Return the fleet's total of a gauge, by some of its labels."""
        return self._added_up(series, labels, self.series(series, *where))

    def fleet_rate(self, series: Series, *labels: str, where: tuple[str, ...] = ()) -> str:
        """Return how fast a counter grows; a histogram's buckets where `le` is among the labels."""
        suffix = _suffix(series, labels)
        return self._added_up(series, labels, self.rate(series, *where, suffix=suffix))

    def fleet_increase(
        self, series: Series, window: str, *labels: str, where: tuple[str, ...] = ()
    ) -> str:
        """Return by how much a counter grew within a window, such as `[1h]`."""
        selected = self.series(series, *where, suffix=_suffix(series, labels))
        return self._added_up(series, labels, f"increase({selected}{window})")

    def fleet_quantile(
        self, q: str, series: Series, *labels: str, window: str = "", where: tuple[str, ...] = ()
    ) -> str:
        """Return a quantile of a histogram, within a window if given; of clusters the worst.

        Buckets of clusters are not added up: other engines have other boundaries.
        """
        kept = (self.cluster, *labels, "le")
        buckets = (
            self.fleet_increase(series, window, *kept, where=where)
            if window
            else self.fleet_rate(series, *kept, where=where)
        )
        by = f"by ({', '.join(labels)}) " if labels else ""
        return f"max {by}(histogram_quantile({q}, {buckets}))"

    def _added_up(self, series: Series, labels: tuple[str, ...], inner: str) -> str:
        bucket = ("le",) if "le" in labels else ()
        each = f"max {self.by(*series.labels, *bucket)} ({inner})"
        return f"sum by ({', '.join(labels)}) ({each})" if labels else f"sum({each})"


def _suffix(series: Series, labels: tuple[str, ...]) -> str:
    if series.kind is not Kind.HISTOGRAM:
        return ""
    return "_bucket" if "le" in labels else "_count"


# Tables of the instances that most need a look


def _rank(select: Selectors, *matchers: str) -> str:
    """Return 0 where an instance is down, 1 where its speed is not known, else its speed.

    So what one replica has seen of an instance counts, though another was cut off or restarted.
    """
    up = select.series(catalogue.INSTANCE_UP, *matchers)
    speed = select.series(catalogue.INSTANCE_TOKENS_PER_SECOND, *matchers)
    return f"max {select.by(*INSTANCE)} ({speed} or {up})"


def _worst(select: Selectors, limit: str, *matchers: str) -> str:
    return f"bottomk({limit}, {_rank(select, *matchers)})"


def worst_value(select: Selectors, series: Series, limit: str, *matchers: str) -> str:
    """Return a value of each of these instances, whichever replica reports it."""
    each = select.per_instance(series, *matchers)
    return f"{each}\nand {_worst(select, limit, *matchers)}"


def worst_conditions(select: Selectors, limit: str, *matchers: str) -> str:
    """Return how many conditions each of these instances has."""
    each = select.per_instance(catalogue.INSTANCE_CONDITION, *matchers, labels=("condition",))
    counted = f"count {select.by(*INSTANCE)} ({each})"
    return f"{counted}\nand {_worst(select, limit, *matchers)}"


def worst_info(select: Selectors, limit: str, *matchers: str) -> str:
    """Return model and engine of each of these instances as labels."""
    info = select.per_instance(catalogue.INSTANCE_INFO, *matchers, labels=("model", "engine"))
    return f"{info}\nand {select.on(*INSTANCE)} {_worst(select, limit, *matchers)}"
