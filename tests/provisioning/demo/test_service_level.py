"""The line with which a run ends."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from alerts.names import AVAILABLE_RATIO
from alerts.settings import Slo
from exporter import catalogue
from provisioning.demo import service_level
from provisioning.demo.service_level import ServiceLevel
from tests.provisioning.demo.test_app import answering_queries

GOOD = ServiceLevel(
    duration_s=754.6, available=0.9994, n_requests=12_345.0, n_failed=20.2, p99_s=0.098, n_pages=0
)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (
            GOOD,
            "service level of this run (12m35s): availability 99.94% (objective 99.9%, met); "
            "requests 99.83% (objective 99.7%, met), 20 of 12,345 failed; p99 98 ms; no page",
        ),
        (
            replace(GOOD, available=0.99899, n_requests=1.0, n_failed=1.0, n_pages=2),
            "service level of this run (12m35s): availability 99.89% (objective 99.9%, missed); "
            "requests 0.00% (objective 99.7%, missed), 1 of 1 failed; p99 98 ms; 2 pages",
        ),
        (
            ServiceLevel(3.0, math.nan, math.nan, 0.0, math.nan, 0),
            "service level of this run (3s): availability is not known yet; "
            "no request was counted; no page",
        ),
    ],
)
def test_the_line_has_each_figure_its_objective_and_what_is_not_known(
    seen: ServiceLevel, words: str
) -> None:
    assert words == str(seen)


def test_objectives_and_series_are_those_of_slo_report() -> None:
    objectives = Slo()

    assert objectives.availability == service_level.AVAILABILITY_OBJECTIVE
    assert objectives.requests == service_level.REQUESTS_OBJECTIVE
    assert AVAILABLE_RATIO in service_level.AVAILABLE
    assert catalogue.FLEET_REQUESTS.name in service_level.REQUESTS
    assert catalogue.FLEET_REQUEST_ERRORS.name in service_level.ERRORS
    assert catalogue.FLEET_REQUEST_DURATION.name in service_level.P99_S


async def test_figures_come_from_the_time_of_the_run() -> None:
    asked: list[str] = []
    values = {"available_per": "0.5", "requests_total": "8", "errors_total": "2", "bucket": "0.25"}

    def value(query: str) -> str | None:
        asked.append(query)
        return next((values[part] for part in values if part in query), None)

    async with answering_queries(value) as url:
        seen = await service_level.measure(url, duration_s=60.5, n_pages=1)

    assert ServiceLevel(60.5, 0.5, 8.0, 2.0, 0.25, 1) == seen
    assert all("[61s]" in query for query in asked)
