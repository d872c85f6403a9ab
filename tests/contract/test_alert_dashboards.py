"""Where an alert's `dashboard_url` leads is a dashboard, which knows what the link chooses."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

import pytest

from alerts import rulebook, rulefile
from alerts.model import Alert, Dashboard
from alerts.settings import Settings
from dashboards import collection
from dashboards.kit.board import document
from dashboards.settings import DashboardSettings
from tests.alerts import promql_tree as tree
from tests.alerts.expression_lints import known

SETTINGS = Settings()
GROUPS = rulebook.groups(SETTINGS)
ALERTS = [alert for group in GROUPS for alert in group.alerts]
DOCUMENTS = {board.uid: document(board) for board in collection.boards(DashboardSettings())}
LABEL = re.compile(r"\{\{ \$labels\.(\w+)(?: \| urlquery)? \}\}")

every_alert = pytest.mark.parametrize("alert", ALERTS, ids=[alert.name for alert in ALERTS])


def chosen(alert: Alert) -> dict[str, str]:
    """Return what the link chooses, by the variables' names; the values are templates."""
    query = LABEL.sub(r"label:\1", alert.dashboard_query)
    return {name.removeprefix("var-"): value for name, value in parse_qsl(query)}


@every_alert
def test_the_dashboard_of_an_alert_is_there(alert: Alert) -> None:
    path = urlsplit(rulefile.dashboard_url(alert, SETTINGS.links)).path

    assert DOCUMENTS[path.rpartition("/d/")[2]]["uid"] == alert.dashboard


@every_alert
def test_the_dashboard_has_the_variables_that_the_link_chooses(alert: Alert) -> None:
    variables = DOCUMENTS[alert.dashboard]["templating"]["list"]

    assert alert.dashboard_query.count("var-") == len(chosen(alert))
    assert chosen(alert).keys() <= {variable["name"] for variable in variables}


@every_alert
def test_a_link_chooses_by_a_label_that_the_alert_has(alert: Alert) -> None:
    """And the dashboard's variable lists that label's values, so that it can be found there."""
    there = known(GROUPS, SETTINGS)
    variables = {one["name"]: one for one in DOCUMENTS[alert.dashboard]["templating"]["list"]}
    for name, value in chosen(alert).items():
        label = value.removeprefix("label:")
        assert label in tree.labels(tree.nodes(alert.expr)[0], there.labels_of)
        assert variables[name]["query"]["query"].endswith(f", {label})")


def test_alerts_know_no_dashboard_that_is_not_there() -> None:
    assert set(map(str, Dashboard)) <= DOCUMENTS.keys()


def test_some_links_choose_something() -> None:
    """Otherwise the tests above would look at nothing."""
    assert {"node", "model"} <= {name for alert in ALERTS for name in chosen(alert)}
