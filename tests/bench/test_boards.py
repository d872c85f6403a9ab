from __future__ import annotations

from tests.bench.boards import _by_series, words
from tests.dashboards.asking import Answer
from tests.dashboards.expansion import Asked, Origin


def _answers(title: str, *durations_s: float) -> list[Answer]:
    asked = Asked(uid="nodes", origin=Origin.PANEL, title=title, ref_id="A", expr="up")
    return [
        Answer(asked=asked, expr="up", labels=(), complaint="", duration_s=duration_s)
        for duration_s in durations_s
    ]


def test_of_several_times_the_middle_one_is_held_against_the_target() -> None:
    told = words([_answers("Slow", 0.9, 0.15, 0.1), _answers("Quick", 0.01, 0.01, 0.01)])

    assert (
        "dashboards: each of the 2 queries over 6 hours takes Prometheus 80 ms (median); the "
        "slowest is nodes / Slow A with 150 ms; all of them, one after the other, 0.2 s. Target "
        "of at most 200 ms each: met"
    ) == told


def test_queries_that_miss_the_target_are_named() -> None:
    told = words([_answers("Slow", 0.3), _answers("Slower", 0.4), _answers("Quick", 0.1)])

    assert told.endswith("200 ms each: missed by nodes / Slow A; nodes / Slower A")


def test_series_of_a_name_stand_together_as_openmetrics_demands() -> None:
    result = [
        {"metric": {"__name__": "b", "x": '1"'}, "value": [0, "2"]},
        {"metric": {"__name__": "a_more"}, "value": [0, "3"]},
        {"metric": {"__name__": "a", "x": "1"}, "value": [0, "4"]},
        {"metric": {"__name__": "b", "x": "0"}, "value": [0, "5"]},
    ]

    assert {'a{x="1"}': 4.0, "a_more{}": 3.0, 'b{x="0"}': 5.0, 'b{x="1\\""}': 2.0} == _by_series(
        result
    )
    assert ["a", "a_more", "b", "b"] == [name.partition("{")[0] for name in _by_series(result)]
