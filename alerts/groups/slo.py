"""Is the error budget spent too fast? Multi-window burn rates, as Google's SRE workbook has them.

An alert fires when a long window spends the budget too fast and a short one says that it continues.
How fast is too fast: so that a given part of the budget is gone within the long window.
Source: SRE workbook, chapter 5, "Alerting on SLOs", table 5-8, with its 1-day line for tickets.
"""

from __future__ import annotations

from dataclasses import dataclass

from alerts.groups.errors import RATE_S, failing_models
from alerts.model import Alert, Group, Recording, Severity
from alerts.names import AVAILABLE_RATIO, INVENTORY, REQUEST_ERRORS, REQUESTS
from alerts.promql import joined
from alerts.settings import Settings
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent

HOUR_S = 3600.0
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Burn:
    """A pair of windows, and what part of the budget may go in the long one."""

    long_s: float
    short_s: float
    budget: float
    for_s: float
    is_fast: bool = False

    @property
    def windows_s(self) -> tuple[float, ...]:
        """Return the windows that must all burn.

        A fast burn must be about something that continues: half an hour after an outage its
        half-hour window still burns, so the shortest window must burn too.
        """
        shortest = (RATE_S,) if self.is_fast else ()
        return tuple(dict.fromkeys((self.long_s, self.short_s, *shortest)))

    def factor(self, period_s: float) -> float:
        """Return how many times faster than evenly over the period the budget is spent."""
        return self.budget * period_s / self.long_s


BURNS = (
    Burn(HOUR_S, 300, 0.02, 120, is_fast=True),
    Burn(6 * HOUR_S, 1800, 0.05, 900, is_fast=True),
    Burn(DAY_S, 2 * HOUR_S, 0.1, HOUR_S),
    Burn(3 * DAY_S, 6 * HOUR_S, 0.1, 3 * HOUR_S),
)
WINDOWS_S = tuple(sorted({window for burn in BURNS for window in (burn.long_s, burn.short_s)}))


@dataclass(frozen=True, slots=True)
class Indicator:
    """What is measured against an objective; `errors` is the recorded name without its window."""

    alert: str
    errors: str
    objective: float
    summary: str
    what: str
    settings: tuple[str, ...]
    longest_page_s: float
    """The longest window whose burn is a page; the others are tickets."""
    where: str = ""
    """The sentence of a page on what burns most."""


def availability_group(settings: Settings) -> Group:
    """Return the rules on the budget of instances that are not healthy."""
    indicator = Indicator(
        "OllamaFleetAvailabilityBudgetBurn",
        "fleet:ollama_instances_missing_per_expected:ratio_avg",
        settings.slo.availability,
        "The availability error budget burns too fast.",
        "of the instances that should serve were not healthy",
        ("slo.availability", "slo.period"),
        # Too few instances page by themselves: one page for an incident.
        longest_page_s=0.0,
    )
    records = tuple(
        Recording(_recorded(indicator, window_s), _missing_ratio(settings, window_s))
        for window_s in WINDOWS_S
    )
    return Group("ollama-fleet-slo-availability", (*records, *_alerts(indicator, settings)))


def requests_group(settings: Settings) -> Group:
    """Return the rules on the budget of failed requests, of servers that count their requests."""
    indicator = Indicator(
        "OllamaFleetErrorBudgetBurn",
        "fleet:ollama_request_errors_per_requests:ratio_rate",
        settings.slo.requests,
        "The request error budget burns too fast.",
        "of the requests failed",
        ("slo.requests", "slo.period", "thresholds.min_requests"),
        longest_page_s=6 * HOUR_S,
        where=failing_models(settings),
    )
    records = (
        Recording(_recorded(indicator, window_s), _error_ratio(settings, window_s))
        for window_s in WINDOWS_S
    )
    return Group("ollama-fleet-slo-requests", (*records, *_alerts(indicator, settings)))


def _recorded(indicator: Indicator, window_s: float) -> str:
    return f"{indicator.errors}{duration_text(window_s)}"


def _missing_ratio(settings: Settings, window_s: float) -> str:
    missing = f"1 - avg_over_time({AVAILABLE_RATIO}[{duration_text(window_s)}])"
    # The mean of a few minutes says nothing about an hour: a Prometheus that has just started
    # would page for the first stumble.
    return (
        missing
        if window_s < HOUR_S
        else joined(missing, f"and {settings.scope.covered(AVAILABLE_RATIO, window_s)}")
    )


def _error_ratio(settings: Settings, window_s: float) -> str:
    errors, requests = (_mean(name, window_s) for name in (REQUEST_ERRORS, REQUESTS))
    guards = [f"{requests} * {round(window_s)} >= {settings.thresholds.min_requests}"]
    if window_s >= HOUR_S:
        guards.append(settings.scope.covered(INVENTORY, window_s))
    return joined(f"{errors} / {requests}", *(f"and {guard}" for guard in guards))


def _mean(name: str, window_s: float) -> str:
    """Return the mean of a recorded rate over a window; it is one already over the shortest."""
    return name if window_s == RATE_S else f"avg_over_time({name}[{duration_text(window_s)}])"


def _alerts(indicator: Indicator, settings: Settings) -> tuple[Alert, ...]:
    return tuple(_alert(indicator, burn, settings) for burn in BURNS)


def _alert(indicator: Indicator, burn: Burn, settings: Settings) -> Alert:
    factor = burn.factor(settings.slo.period)
    long, short = duration_text(burn.long_s), duration_text(burn.short_s)
    limit = round(factor * (1 - indicator.objective), 12)
    is_page = burn.long_s <= indicator.longest_page_s
    burning = "\nand ".join(
        f"{_recorded(indicator, window_s)} > {number(limit)}" for window_s in burn.windows_s
    )
    return Alert(
        name=indicator.alert,
        settings=indicator.settings,
        expr=burning,
        for_s=burn.for_s,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL if is_page else Severity.WARNING,
        labels={"long_window": long, "short_window": short},
        summary=indicator.summary,
        description=f"{{{{ $value | humanizePercentage }}}} {indicator.what} in the last {long}. "
        f"The objective is {percent(indicator.objective)}. The error budget of "
        f"{duration_text(settings.slo.period)} burns at a rate above {number(round(factor, 2))}; "
        f"the objective allows 1.{indicator.where if is_page else ''}",
    )
