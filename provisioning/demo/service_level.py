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
AVAILABILITY_OBJECTIVE, REQUESTS_OBJECTIVE = 0.999, 0.997
"""`slo.availability` and `slo.requests` of the alerts, which provisioning does not import."""

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
        parts = (self._availability(), self._requests(), self._p99(), self._pages())
        run = duration_text(float(round(self.duration_s)))
        return f"service level of this run ({run}): {'; '.join(part for part in parts if part)}"

    def _availability(self) -> str:
        if math.isnan(self.available):
            return "availability is not known yet"
        return f"availability {_judged(self.available, AVAILABILITY_OBJECTIVE)}"

    def _requests(self) -> str:
        if not self.n_requests > 0:
            return "no request was counted"
        succeeded = _judged(1 - self.n_failed / self.n_requests, REQUESTS_OBJECTIVE)
        return f"requests {succeeded}, {self.n_failed:,.0f} of {self.n_requests:,.0f} failed"

    def _p99(self) -> str:
        return "" if math.isnan(self.p99_s) else f"p99 {self.p99_s * 1000:,.0f} ms"

    def _pages(self) -> str:
        return count_text(self.n_pages, "page") if self.n_pages else "no page"


def _judged(share: float, objective: float) -> str:
    """Return a share rounded down, so that what misses an objective does not look like it."""
    shown = math.floor(share * 1e4 + 1e-6) / 1e4
    verdict = "met" if share >= objective else "missed"
    return f"{shown:.2%} (objective {objective:.1%}, {verdict})"


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
