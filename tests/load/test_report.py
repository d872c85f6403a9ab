from __future__ import annotations

import pytest
from msgspec.structs import replace

from provisioning.load.report import Report, Requests, misses, to_text, verdict
from provisioning.load.settings import ServiceLevel

LOST = "1 worker went away during the test; their last figures are not known"
LEVEL = ServiceLevel(p99_s=0.15, failed_ratio=0.003)


def report(*, n: int = 1000, n_failed: int = 3, p99_s: float = 0.15, rejected: int = 0) -> Report:
    text = Requests("text", n, n_failed, 0.062, p99_s, 0.07, 100.0)
    health = Requests("health", 250, 0, 0.001, 0.002, 0.001, 25.0)
    return Report(
        text=text,
        requests=(health, text),
        duration_s=10.0,
        failures={"refused": 2, "timeout": n_failed},
        rejected=rejected,
        swapped=3,
        generated_tokens=8000,
        tokens_per_s=800.0,
    )


@pytest.mark.parametrize(
    ("seen", "level", "expected"),
    [
        (report(), LEVEL, []),
        (report(p99_s=0.16), LEVEL, ["p99 160 ms is above 150 ms"]),
        (report(n_failed=4), LEVEL, ["0.4% failed, limit 0.3%"]),
        (replace(report(), lost_workers=1), LEVEL, [LOST]),
        (report(n=0, n_failed=0), LEVEL, ["no request for text was answered"]),
        (report(rejected=1250), LEVEL, []),
        (
            report(rejected=1250),
            ServiceLevel(p99_s=1, failed_ratio=1, rejected_ratio=0.2),
            ["50.0% were rejected, limit 20%"],
        ),
    ],
)
def test_each_point_that_misses_the_service_level_is_named(
    seen: Report, level: ServiceLevel, expected: list[str]
) -> None:
    assert expected == misses(seen, level)


def test_the_closing_line_has_failures_and_rejections_each_in_its_own_number() -> None:
    met, missed = (verdict(report(rejected=7, n_failed=n), LEVEL) for n in (3, 30))

    assert met.startswith("met the service level: ")
    assert "0.3% of 1,000 requests failed, 7 rejected with 429" in met
    assert missed.startswith("MISSED the service level: 3% failed, limit 0.3%")


def test_people_see_kinds_of_failures_the_most_frequent_first() -> None:
    assert "failures: 30 timeout, 2 refused" in to_text(report(n_failed=30))
