"""The service level of a period: budgets, gaps, worst hours."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from alerts import slo_html, slo_report
from alerts.slo import DAY_S, HOUR_S, Fired, Hour, Level, Report, Verdict, judge, with_causes

BEGIN_S = 20_000 * DAY_S


def hour(
    n: int,
    available: float | None = 1.0,
    requests: float | None = 1000.0,
    failed: float | None = 0.0,
    covered: float = 1.0,
) -> Hour:
    return Hour(
        start_s=BEGIN_S + n * HOUR_S,
        covered=covered if available is not None else 0.0,
        available=available,
        requests=requests,
        failed=failed,
    )


def judged(hours: Sequence[Hour]) -> Report:
    return judge("a", hours, availability=0.999, requests=0.997)


def test_a_budget_is_what_the_objective_leaves_for_failures() -> None:
    found = judged([hour(0, available=0.5, failed=24.0), *(hour(n) for n in range(1, 1000))])

    assert pytest.approx(0.9995) == found.availability.measured
    assert pytest.approx(0.5) == found.availability.budget_used
    assert pytest.approx(24 / 3000) == found.requests.budget_used
    assert [Verdict.MET, Verdict.MET] == [found.availability.verdict, found.requests.verdict]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(0.999, Verdict.MET), (0.99899, Verdict.MISSED), (None, Verdict.UNKNOWN)],
)
def test_an_objective_is_met_or_missed_or_not_measured(
    measured: float | None, verdict: Verdict
) -> None:
    assert verdict is Level(objective=0.999, measured=measured).verdict


def test_an_objective_of_everything_has_no_budget() -> None:
    found = judge("a", [hour(0, available=0.5)], availability=1.0, requests=1.0)

    assert found.availability.budget_used is None
    assert "missed" in slo_report.text(found)


def test_hours_without_data_are_neither_good_nor_bad_and_are_shown() -> None:
    half = hour(4, available=0.9, covered=0.5)
    empty = [hour(n, None, None, None) for n in (0, 5, 6, 9)]
    found = judged(sorted([half, *empty, *(hour(n) for n in (1, 2, 3, 7, 8))], key=str))

    assert 5.5 == found.covered_hours
    assert pytest.approx(1 - 0.05 / 5.5) == found.availability.measured
    assert pytest.approx(5.45 / 10) == found.at_worst
    hours = [(begin - BEGIN_S, end - BEGIN_S) for begin, end in found.gaps]
    assert [(0, 3600), (5 * 3600, 7 * 3600), (9 * 3600, 10 * 3600)] == hours
    assert "5.5 of 10 hours" in slo_report.text(found)
    assert "2024-10-04 05:00 to 2024-10-04 07:00 UTC (2h)" in slo_report.text(found)


def test_an_hour_with_less_than_half_of_its_data_is_shown_as_without() -> None:
    found = judged([hour(0), hour(1, covered=0.49), hour(2, covered=0.5)])

    assert ((BEGIN_S + HOUR_S, BEGIN_S + 2 * HOUR_S),) == found.gaps


def test_a_period_without_any_data_or_requests_is_not_measured() -> None:
    found = judged([hour(0, None, None, None)])
    idle = judged([hour(0, requests=0.0)])

    assert [Verdict.UNKNOWN] * 2 == [found.availability.verdict, found.requests.verdict]
    assert "Requests are not measured" in slo_report.text(found)
    assert Verdict.UNKNOWN is idle.requests.verdict
    assert "0 requests, 0 of them failed" in slo_report.text(idle)


def test_the_worst_hours_are_those_that_took_most_of_either_budget() -> None:
    hours = [hour(n) for n in range(1000)]
    for n in range(20):
        hours[n] = hour(n, available=0.99 - n / 100)
    hours[500] = hour(500, failed=1000.0)
    hours[600] = hour(600, available=0.9995)

    found = judged(hours)

    # All that failed was in one hour, a third of what may fail: 3,000 of a million.
    first = found.worst[0]
    assert (BEGIN_S + 500 * HOUR_S, 0) == (first.hour.start_s, first.of_availability)
    assert pytest.approx(1 / 3) == first.of_requests
    rest = [(one.hour.start_s - BEGIN_S) // HOUR_S for one in found.worst[1:]]
    assert list(range(19, 10, -1)) == rest


def test_alerts_that_page_come_first_and_say_what_they_mean() -> None:
    (worst,) = judged([hour(0, available=0.5)]).worst
    fired = [
        Fired(alert="Slow", severity="warning", minutes=60),
        Fired(alert="Low", severity="critical", minutes=3),
        Fired(alert="Lost", severity="critical", minutes=30),
    ]

    found = with_causes(worst, fired, ["n1"], summaries={"Low": "Too few."})

    assert ["Lost", "Low", "Slow"] == [one.alert for one in found.fired]
    assert ["", "Too few.", ""] == [one.summary for one in found.fired]


def test_percentages_are_not_rounded_up_to_the_objective() -> None:
    assert "99.899%" == slo_report.share(0.998999)
    assert "99.9%" == slo_report.share(0.999)
    assert "-" == slo_report.share(None)


def test_the_page_has_a_bar_for_each_day_hatched_without_data() -> None:
    hours = [
        *(hour(n) for n in range(24)),
        *(hour(n, None, None, None) for n in range(24, 48)),
        *(hour(n, available=0.995) for n in range(48, 72)),
        *(hour(n, available=0.5) for n in range(72, 80)),
    ]

    page = slo_html.page(judged(hours))

    colours = [slo_html.GOOD, slo_html.EMPTY, slo_html.FAIR, slo_html.BAD]
    places = [page.index(f'fill="{colour}"') for colour in colours]
    assert sorted(places) == places
    assert "2024-10-05: no data" in page
    assert "2024-10-06: 99.5% available, 24.0 hours with data" in page
