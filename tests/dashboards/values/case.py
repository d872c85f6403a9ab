"""What a query makes of given series: one row of a table of promises.

Series begin at 0 and come every 15 seconds; all is asked for at `AT`. A number stands for a series
that always has that value; text is promtool's notation: `0+15x240` grows by one per second.
Results are rounded and without a name, so that no expected value needs 15 digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dashboards.queries.limits import ThresholdStat
from dashboards.queries.selectors import Selectors
from dashboards.settings import DashboardSettings
from tests.dashboards.expansion import Choice, expanded

ASK = Selectors.of(DashboardSettings())
AT, AT_S = "1h", 3600.0
INTERVAL_S = 15.0
N_INTERVALS = 240
NOTHING: Mapping[str, float] = {}
ALL = {
    "cluster": Choice((), True, raw=".*"),
    "node": Choice((), True, raw=".*"),
    "model": Choice((), True, raw=".*"),
    "job": Choice(("x",), False),
    "instance": Choice((), True, raw=".+"),
    "limit": Choice(("2",), False),
}
FAILURE = re.compile(r'^ +expr: "# (.+?)\\n', re.MULTILINE)

Series = Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class Case:
    """One promise."""

    name: str
    """Unique. It stands in the expression as a comment, for promtool repeats that of a failure."""
    expr: str
    given: Series
    expected: float | Mapping[str, float]
    """By labels; a number alone is a single value without labels."""
    chosen: Mapping[str, str] = field(default_factory=dict)

    def as_test(self) -> dict[str, Any]:
        """Return what is asked and expected, as promtool reads it."""
        expected = self.expected if isinstance(self.expected, Mapping) else {"{}": self.expected}
        return {
            "expr": f"# {self.name}\nround({self._asked()}, 0.0001)",
            "eval_time": AT,
            "exp_samples": [
                {"labels": labels, "value": value} for labels, value in expected.items()
            ],
        }

    def _asked(self) -> str:
        chosen = {name: Choice((value,), False) for name, value in self.chosen.items()}
        return expanded(self.expr, {**ALL, **chosen}, INTERVAL_S, AT_S)


def _values(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.15g}x{N_INTERVALS}"


def judged(
    name: str,
    asked: ThresholdStat,
    given: Series,
    *,
    good: float | None = None,
    bad: float | None = None,
    unknown: float | None = None,
) -> tuple[Case, ...]:
    """Return the cases of a figure: the side that is named has the value, the others none."""
    sides = {"good": good, "bad": bad, "unknown": unknown}
    return tuple(
        Case(f"{name}: {side}", getattr(asked, side), given, NOTHING if value is None else value)
        for side, value in sides.items()
    )


def document(cases: Sequence[Case]) -> dict[str, Any]:
    """Return all cases as one file without rules; those of the same series share a database."""
    by_series: dict[tuple[tuple[str, float | str], ...], list[Case]] = {}
    for case in cases:
        by_series.setdefault(tuple(case.given.items()), []).append(case)
    tests = [
        {
            "interval": f"{INTERVAL_S:g}s",
            "input_series": [{"series": name, "values": _values(value)} for name, value in series],
            "promql_expr_test": [case.as_test() for case in same],
        }
        for series, same in by_series.items()
    ]
    return {"evaluation_interval": "1h", "tests": tests}


def failures(output: str) -> dict[str, str]:
    """Return what promtool says of each case that failed, by its name."""
    return dict(_failures(output))


def _failures(output: str) -> Iterator[tuple[str, str]]:
    _, *parts = FAILURE.split(output)
    yield from zip(parts[::2], parts[1::2], strict=True)
