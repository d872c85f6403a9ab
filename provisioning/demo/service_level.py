"""The service level of a run, as Prometheus has it: the line with which `up` ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ollama_fleet.durations import duration_text
from ollama_fleet.prometheus import PrometheusClient
from ollama_fleet.tables import count_text

QUERY_TIMEOUT_S = 5.0
SHORTEST_S = 15
"""Of what Prometheus looks back to: a rate needs several scrapes."""
AVAILABILITY = 0.999
"""The objective; `slo.availability` of the alerts."""
FAILED = 0.003
"""Failed requests that the objective allows."""

AVAILABLE = "avg_over_time(fleet:ollama_instances_available_per_expected:ratio[{window}])"
REQUESTS = "sum(increase(ollama_fleet_requests_total[{window}]))"
ERRORS = "sum(increase(ollama_fleet_request_errors_total[{window}])) or vector(0)"
P99_S = (
    "histogram_quantile(0.99, "
    "sum by (le) (increase(ollama_fleet_request_duration_seconds_bucket[{window}])))"
)


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """What a run was like; NaN: Prometheus does not know."""

    duration_s: float
    available: float
    """Mean share of the instances that should serve and do."""
    n_requests: float
    n_failed: float
    p99_s: float
    n_pages: int

    def __str__(self) -> str:
        parts = (self._availability(), self._failures(), self._p99(), self._pages())
        run = duration_text(float(round(self.duration_s)))
        return f"service level of this run ({run}): {'; '.join(part for part in parts if part)}"

    def _availability(self) -> str:
        if math.isnan(self.available):
            return "availability is not known yet"
        verdict = _verdict(self.available >= AVAILABILITY)
        return f"availability {self.available:.2%} (objective {AVAILABILITY:.1%}, {verdict})"

    def _failures(self) -> str:
        if not self.n_requests > 0:
            return "no request was counted"
        failed = self.n_failed / self.n_requests
        requests = count_text(round(self.n_requests), "request")
        verdict = _verdict(failed <= FAILED)
        return f"{failed:.2%} of {requests} failed (objective {FAILED:.1%}, {verdict})"

    def _p99(self) -> str:
        return "" if math.isnan(self.p99_s) else f"p99 {self.p99_s * 1000:,.0f} ms"

    def _pages(self) -> str:
        return count_text(self.n_pages, "page") if self.n_pages else "no page"


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "missed"


async def measure(prometheus_url: str, *, duration_s: float, n_pages: int) -> ServiceLevel:
    """Ask Prometheus for the service level of the last `duration_s`.

    Raises:
        PrometheusError: It does not answer, or refuses a query.
    """
    window = f"{max(SHORTEST_S, math.ceil(duration_s))}s"
    async with PrometheusClient(prometheus_url, timeout_s=QUERY_TIMEOUT_S) as client:
        answers = [
            (await client.query(text.format(window=window))).series
            for text in (AVAILABLE, REQUESTS, ERRORS, P99_S)
        ]
    available, n_requests, n_failed, p99_s = (
        series[0].number if series else math.nan for series in answers
    )
    return ServiceLevel(duration_s, available, n_requests, n_failed, p99_s, n_pages)
