"""Rules on failed requests: does the fleet, or a model, answer at all."""

from __future__ import annotations

from alerts.annotations import PERCENT, count, highest
from alerts.model import Alert, Dashboard, Group, Recording, Severity
from alerts.names import MODEL_REQUEST_ERROR_RATIO, REQUEST_ERRORS, REQUESTS
from alerts.promql import joined
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Series
from ollama_fleet.levels import number, percent

RATE_S = 300.0
"""Window of the rates, which those of the error budget average."""


def group(settings: Settings) -> Group:
    """Return the rules on requests that fail now, whatever the error budget."""
    windows = settings.windows
    busy, quiet = (_model_ratio(settings, span) for span in (windows.rate, windows.low_traffic))
    return Group(
        "ollama-fleet-errors",
        (
            *_rates(settings),
            Recording(MODEL_REQUEST_ERROR_RATIO, joined(busy, "or", quiet)),
            _failing(settings),
            _model_failing(settings),
        ),
    )


def _rates(settings: Settings) -> tuple[Recording, ...]:
    """Return the rates that long windows average: they outlive an exporter that is replaced."""
    scope = settings.scope
    pairs = (
        (REQUESTS, catalogue.FLEET_REQUESTS),
        (REQUEST_ERRORS, catalogue.FLEET_REQUEST_ERRORS),
    )
    return tuple(
        Recording(name, scope.fleet_sum(series, inner=scope.over("rate", series, RATE_S)))
        for name, series in pairs
    )


def _model_ratio(settings: Settings, window_s: float) -> str:
    """Return the share of each model's requests that failed, where there were enough."""
    errors, requests = (
        _gained(settings, series, window_s)
        for series in (catalogue.FLEET_REQUEST_ERRORS, catalogue.FLEET_REQUESTS)
    )
    return joined(
        f"{errors} / {requests}", "and", f"{requests} >= {settings.thresholds.min_requests}"
    )


def _gained(settings: Settings, series: Series, window_s: float) -> str:
    scope = settings.scope
    gained = scope.over("increase", series, window_s, where='model!=""')
    return scope.fleet_sum(series, "model", inner=gained)


def _failing(settings: Settings) -> Alert:
    share, scope = settings.thresholds.failing_requests, settings.scope
    return Alert(
        name="OllamaFleetRequestsFailing",
        settings=("thresholds.failing_requests", "thresholds.min_requests"),
        # Without a long window: a fleet that was installed minutes ago has no hour to look at.
        expr=joined(
            f"{REQUEST_ERRORS} / {REQUESTS} > {number(share)}",
            f"and {REQUESTS} * {number(RATE_S)} >= {settings.thresholds.min_requests}",
        ),
        for_s=60,
        keep_firing_for_s=300,
        severity=Severity.CRITICAL,
        summary="A large share of the requests fails.",
        description=f"Requests failed in the last 5m: {{{{ $value | humanizePercentage }}}}"
        f"{count(scope, f'{REQUEST_ERRORS} * {number(RATE_S)}', before=', or ')}"
        f"{count(scope, f'{REQUESTS} * {number(RATE_S)}', before=' of ')}; the limit is "
        f"{percent(share)}.{failing_models(settings)} Users see errors now. First: look at the "
        "log of the gateway and of an instance, and at what was rolled out last.",
    )


def failing_models(settings: Settings) -> str:
    """Return the sentence of an annotation on the models whose requests fail most."""
    failing = f"{MODEL_REQUEST_ERROR_RATIO} > {number(1 - settings.slo.requests)}"
    return highest(settings.scope, "Highest share:", "model", failing, PERCENT)


def _model_failing(settings: Settings) -> Alert:
    share = settings.thresholds.failing_requests
    return Alert(
        name="OllamaModelRequestsFailing",
        settings=(
            "thresholds.failing_requests",
            "thresholds.min_requests",
            "windows.rate",
            "windows.low_traffic",
        ),
        expr=f"{MODEL_REQUEST_ERROR_RATIO} > {number(share)}",
        for_s=300,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="A large share of the requests for a model fails.",
        description=f"{{{{ $value | humanizePercentage }}}} of the requests for {{{{ "
        f"$labels.model }}}} failed; the limit is {percent(share)}. The fleet's share hides a "
        "model that few use.",
        dashboard=Dashboard.MODELS,
        dashboard_query="var-model={{ $labels.model | urlquery }}",
    )
