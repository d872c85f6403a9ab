"""Where an alert's `dashboard_url` leads is a dashboard, which knows what the link chooses."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

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
KNOWN = known(GROUPS, SETTINGS)
ALERTS = [alert for group in GROUPS for alert in group.alerts]
DOCUMENTS = {board.uid: document(board) for board in collection.boards(DashboardSettings())}
LABEL = re.compile(r"\{\{ \$labels\.(\w+)(?: \| urlquery)? \}\}")


def chosen(alert: Alert) -> dict[str, str]:
    """Return what the link chooses, by the variables' names; the values are templates."""
    query = LABEL.sub(r"label:\1", alert.dashboard_query)
    return {name.removeprefix("var-"): value for name, value in parse_qsl(query)}


def faults(alert: Alert) -> list[str]:
    """Return what is wrong with an alert's link.

    It chooses by labels that the alert has; the dashboard's variables list those labels' values.
    """
    path = urlsplit(rulefile.dashboard_url(alert, SETTINGS.links)).path
    document = DOCUMENTS.get(path.rpartition("/d/")[2])
    if document is None or document["uid"] != alert.dashboard:
        return [f"{path} is no dashboard"]
    variables = {one["name"]: one["query"]["query"] for one in document["templating"]["list"]
                 if one["name"] in chosen(alert)}  # fmt: skip
    labels = tree.labels(tree.nodes(alert.expr)[0], KNOWN.labels_of)
    found = [f"{name} is no variable" for name in chosen(alert).keys() - variables.keys()]
    for name, value in chosen(alert).items():
        label = value.removeprefix("label:")
        if label not in labels or not variables.get(name, "").endswith(f", {label})"):
            found.append(f"{name} is not chosen by a label that it lists: {value}")
    return found


def test_the_link_of_each_alert_leads_to_a_dashboard_that_knows_what_it_chooses() -> None:
    assert {} == {alert.name: found for alert in ALERTS if (found := faults(alert))}
    assert {"node", "model"} <= {name for alert in ALERTS for name in chosen(alert)}


def test_alerts_know_no_dashboard_that_is_not_there() -> None:
    assert set(map(str, Dashboard)) <= DOCUMENTS.keys()
