"""Put PromQL together where many rules need the same turn of phrase.

Two exporters over the same instances are replicas: of what both say the maximum counts. Exporters
over different parts of the fleet are shards: what they say is added up. Every aggregate of an
exporter has its `shard` as a label; so every sum over the fleet is a sum over shards of a maximum
over replicas, and nobody has to configure which of the two there are.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from exporter.catalogue import Kind, Series
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import ABSOLUTE, Level, number


@dataclass(frozen=True, slots=True)
class Scope:
    """How a job is scraped, as far as expressions depend on it."""

    job: str
    cluster_label: str
    lookback_s: float
    """How far back a value is looked for: a scrape that fails then leaves no gap."""

    @property
    def up(self) -> str:
        """Return the series that says whether scrapes succeed."""
        return self.raw("up")

    def raw(self, series: Series | str, *, suffix: str = "", where: str = "") -> str:
        """Return the selector of a scraped series: one of the catalogue, or of Prometheus itself.

        Args:
            series: What to select; only of this job, whoever else publishes that name.
            suffix: Part of a histogram, such as `_bucket`.
            where: Further matchers.
        """
        name = series if isinstance(series, str) else series.name
        matchers = ", ".join(filter(None, (f'job="{self.job}"', where)))
        return f"{name}{suffix}{{{matchers}}}"

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

    def latest(self, series: Series | str) -> str:
        """Return the highest value of the same time: of a timestamp, the latest."""
        return self._over_lookback("max_over_time", series)

    def _over_lookback(self, function: str, series: Series | str, where: str = "") -> str:
        selector = series if isinstance(series, str) else self.raw(series, where=where)
        return f"{function}({selector}[{duration_text(self.lookback_s)}])"

    def over(
        self, function: str, series: Series, window_s: float, *, suffix: str = "", where: str = ""
    ) -> str:
        """Return a function over a range of a scraped series: `rate(name{job="…"}[5m])`."""
        selector = self.raw(series, suffix=suffix, where=where)
        return f"{function}({selector}[{duration_text(window_s)}])"

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
        buckets = ("le",) if series.kind is Kind.HISTOGRAM and suffix == "_bucket" else ()
        inner = inner or self.last(series)
        return f"sum {self.by(*labels)} (\n  max {self.by(*series.labels, *buckets)} ({inner})\n)"

    def fleet_mean(self, series: Series, *labels: str) -> str:
        """Return the mean over shards of a quantile that each exporter publishes, by some labels.

        Shards are random samples of the fleet, so the quantile of each estimates the fleet's.
        """
        each = f"max {self.by(*series.labels)} ({self.last(series)})"
        return f"avg {self.by(*labels)} (\n  {each}\n)"


def of_size(level: Level, size: str) -> str:
    """Return a level as PromQL; `size` is a number or an expression for the fleet's size."""
    if not level.is_per_instance:
        return number(level.value)
    if ABSOLUTE.fullmatch(size):
        return number(level.of(float(size)))
    return f"{number(level.value)} * {size}"


def indented(expression: str) -> str:
    """Return an expression moved to the right, but for its first line."""
    return textwrap.indent(expression, "  ").lstrip()


def joined(*lines: str) -> str:
    """Return the lines as one expression."""
    return "\n".join(lines)
