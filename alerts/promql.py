"""Put PromQL together where many rules need the same turn of phrase.

Two exporters over the same instances are replicas: of what both say the maximum counts. Exporters
over different parts of the fleet are shards: what they say is added up. Which shard an exporter is,
its own `ollama_exporter_shard_info` says; so every sum over the fleet is a sum over shards of a
maximum over replicas, and nobody has to configure which of the two there are.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from alerts.names import ACTIVE_EXPORTERS
from exporter.catalogue import INSTANCE_INFO, Kind, Series
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import ABSOLUTE, Level, number


@dataclass(frozen=True, slots=True)
class Scope:
    """How the exporter is scraped, as far as expressions depend on it."""

    job: str
    cluster_label: str
    lookback_s: float
    """How far back a value is looked for: a scrape that fails then leaves no gap."""

    @property
    def up(self) -> str:
        """Return the series that says whether scrapes of the exporter succeed."""
        return self.scraped("up")

    def scraped(self, name: str) -> str:
        """Return one of the series that Prometheus itself makes of each scrape of the exporter."""
        return f'{name}{{job="{self.job}"}}'

    def by(self, *labels: str) -> str:
        """Return `by (…)`; every aggregate keeps the cluster, or clusters would mute each other."""
        return f"by ({', '.join((self.cluster_label, *labels))})"

    def on(self, *labels: str) -> str:
        """Return `on (…)`, for aggregates of the same cluster."""
        return f"on ({', '.join((self.cluster_label, *labels))})"

    @property
    def on_exporter(self) -> str:
        """Return `on (…)`, for series of the same exporter."""
        return self.on("job", "instance")

    def last(self, series: Series | str, *, where: str = "") -> str:
        """Return a series, of the catalogue or recorded, whose last value bridges failed scrapes.

        Without it every failed scrape would restart an alert's `for`.
        """
        return self._over_lookback("last_over_time", series, where)

    def latest(self, series: Series | str, *, where: str = "") -> str:
        """Return the highest value of the same time: of a timestamp, the latest."""
        return self._over_lookback("max_over_time", series, where)

    def _over_lookback(self, function: str, series: Series | str, where: str) -> str:
        name = series if isinstance(series, str) else series.name
        selector = f"{{{where}}}" if where else ""
        return f"{function}({name}{selector}[{duration_text(self.lookback_s)}])"

    def covered(self, name: str, window_s: float) -> str:
        """Return what is there only if a recorded series was at the beginning of a window."""
        first_s = max(window_s / 6, self.lookback_s)
        present = f"{name}[{duration_text(first_s)}]"
        if window_s > first_s:
            present += f" offset {duration_text(window_s - first_s)}"
        return f"present_over_time({present})"

    def fleet_sum(
        self, series: Series, *labels: str, inner: str | None = None, suffix: str = ""
    ) -> str:
        """Return the fleet's total of a series, by some of its labels.

        Args:
            series: One that each exporter publishes for its shard.
            labels: What to keep apart; of the series' own, or `le`.
            inner: What to take of the series, such as its rate; its last value where not given.
            suffix: `_bucket` for the buckets of a histogram.
        """
        labels_kept = (
            *[label for label in series.labels if label != "shard"],
            *(["le"] if series.kind is Kind.HISTOGRAM and suffix == "_bucket" else []),
        )
        inner = inner or self.last(series)
        return (
            f"sum {self.by(*labels)} (\n"
            f"  max {self.by('shard', *labels_kept)} (\n"
            f"    {inner}\n"
            f"    * {self.on_exporter} group_left (shard) {ACTIVE_EXPORTERS}\n"
            "  )\n"
            ")"
        )

    def with_model(self, expression: str) -> str:
        """Return an expression on instances with the model of each as a label."""
        same = self.on("job", "instance", "instance_id")
        return f"{expression} * {same} group_left (model) {INSTANCE_INFO.name}"

    def per_instance(self, expression: str, *labels: str) -> str:
        """Return the maximum over replicas for each instance, by id and further labels."""
        return f"max {self.by('instance_id', *labels)} ({expression})"


def over(
    function: str, series: Series, window_s: float, *, suffix: str = "", where: str = ""
) -> str:
    """Return a function over a range of a series: `rate(name{where}[5m])`."""
    selector = f"{{{where}}}" if where else ""
    return f"{function}({series.name}{suffix}{selector}[{duration_text(window_s)}])"


def of_size(level: Level, size: str) -> str:
    """Return a level as PromQL; `size` is a number or an expression for the fleet's size."""
    if not level.is_per_instance:
        return number(level.value)
    if ABSOLUTE.fullmatch(size):
        return number(level.of(float(size)))
    return f"{number(level.value)} * {size}"


def indented(expression: str, depth: int = 2) -> str:
    """Return an expression moved to the right, but for its first line."""
    return textwrap.indent(expression, " " * depth).lstrip()


def joined(*lines: str) -> str:
    """Return the lines as one expression."""
    return "\n".join(lines)
