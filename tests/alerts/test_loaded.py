"""Rules against those that a Prometheus has loaded."""

from __future__ import annotations

from typing import Any

import pytest

from alerts.loaded import Loaded, difference, squeezed
from alerts.model import Alert, Recording, Severity
from ollama_fleet.prometheus import LoadedGroup, LoadedRule

RECORDING = Recording("fleet:b:sum", "sum(b)", {"quantile": "0.5"})


def alert(**changes: Any) -> Alert:
    given: dict[str, Any] = {
        "name": "OllamaA",
        "expr": "a > 1",
        "severity": Severity.CRITICAL,
        "for_s": 60.0,
        "labels": {"window": "1h"},
        "summary": "",
        "description": "",
    }
    return Alert(**{**given, **changes})


def loaded_alert(**changes: Any) -> LoadedRule:
    labels = {"severity": "critical", "window": "1h", "team": "llm"}
    given = {"expr": "a > 1", "for_s": 60.0, "labels": labels, "type": "alerting"}
    return LoadedRule("OllamaA", **{**given, **changes})


def in_group(*rules: LoadedRule, group: str = "ollama-fleet-x") -> Loaded:
    return Loaded.of([LoadedGroup(group, list(rules))])


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((loaded_alert(),), ""),
        ((), "is not loaded"),
        ((loaded_alert(labels={"severity": "critical", "window": "6h"}),), "is not loaded"),
        ((loaded_alert(type="recording"),), "is not loaded"),
        ((loaded_alert(for_s=90.0),), "for: 1m by the settings, 1m30s is loaded"),
        (
            (loaded_alert(labels={"severity": "warning", "window": "1h"}),),
            "severity: critical by the settings, warning is loaded",
        ),
        ((loaded_alert(), loaded_alert()), "is loaded 2 times"),
    ],
)
def test_an_alert_differs_where_prometheus_would_fire_another(
    rules: tuple[LoadedRule, ...], expected: str
) -> None:
    assert expected == difference(alert(), in_group(*rules).twins(alert()), "")


def test_an_alert_without_the_labels_of_the_settings_differs() -> None:
    wanted = alert(site_labels={"team": "llm", "tier": "1"})

    said = difference(wanted, in_group(loaded_alert()).twins(wanted), "")

    assert "label tier: 1 by the settings, none is loaded" == said


def test_a_difference_of_expressions_is_shown_where_it_begins() -> None:
    ours = alert(expr="sum by (cluster) (some_long_name_of_series) > 0.15")
    theirs = "sum by (cluster) (some_long_name_of_series) > 0.2 and on () vector(1)"

    shown = difference(ours, (loaded_alert(),), theirs)

    assert (
        "expression: …g_name_of_series)>0.15… by the settings, "
        "…g_name_of_series)>0.2andon()vector(1)… is loaded"
    ) == shown


def test_rules_of_our_groups_that_no_setting_makes_are_unknown() -> None:
    twin = LoadedRule("fleet:b:sum", labels={"quantile": "0.5"}, type="recording")
    stale = LoadedRule("fleet:b:sum", labels={"quantile": "0.9"}, type="recording")

    ours = in_group(loaded_alert(), loaded_alert(), twin, stale)

    assert ["fleet:b:sum (0.9)"] == list(ours.unknown([alert(), RECORDING]))


def test_rules_of_other_groups_are_none_of_ours() -> None:
    others = in_group(loaded_alert(), group="kubernetes-mixin")

    assert [] == list(others.unknown([]))
    assert () == others.twins(alert())


def test_spaces_do_not_make_another_expression_but_those_in_quotes_do() -> None:
    assert squeezed("sum  (a)\n and b") == squeezed("sum(a) andb")
    assert squeezed('a{b="c d"}') != squeezed('a{b="cd"}')
