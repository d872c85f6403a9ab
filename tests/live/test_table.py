"""The table of the live proof."""

from __future__ import annotations

from tests.live import table
from tests.live.judgement import Arrived
from tests.live.scenarios import SCENARIOS
from tests.live.test_judgement import FIRING, RESOLVED
from tests.live.trial import Result

TOLD = Result(
    scenario=SCENARIOS["count"],
    told_after_s=171.4,
    intervals_s=190.0,
    least_s=150.0,
    resolved_after_s=600.2,
    arrived=Arrived([FIRING, RESOLVED], [], []),
    complaints=(),
)


def test_a_row_has_the_seconds_their_bounds_and_the_pages() -> None:
    rows = table.render([TOLD]).splitlines()

    assert "2 % of the instances die  OllamaFleetHealthyInstancesLow" in rows[2]
    assert ["171", "190", "150", "1", "600"] == rows[2].split()[-5:]
    assert "everything arrived that should, and nothing else" == rows[-1]


def test_what_never_came_is_a_dash_and_a_complaint() -> None:
    silent = Result(
        scenario=SCENARIOS["node"],
        told_after_s=None,
        intervals_s=1540.0,
        least_s=1500.0,
        resolved_after_s=None,
        arrived=Arrived([], [], []),
        complaints=("it was not told",),
    )
    rows = table.render([TOLD, silent]).splitlines()

    assert ["–", "1540", "1500", "0", "–"] == rows[3].split()[-5:]
    assert "node: it was not told" == rows[-1]
