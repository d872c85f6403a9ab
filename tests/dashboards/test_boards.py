"""What every dashboard that we ship has, and what each is there to show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from alerts import names
from dashboards import collection
from dashboards.choices import Uid
from dashboards.kit import colours
from dashboards.kit.board import BANNER
from dashboards.kit.panels import MAX_POINTS
from dashboards.queries import fleet
from dashboards.queries.limits import ThresholdStat
from dashboards.queries.selectors import FAILING, Selectors
from dashboards.settings import DashboardSettings
from exporter import catalogue
from exporter.model import CanaryOutcome, Status
from tests.dashboards.expansion import panels
from tests.dashboards.shipped import document

Json = dict[str, Any]
BOARDS = {board.uid: board for board in collection.boards(DashboardSettings())}
PANELS = [(uid, panel) for uid in Uid for panel in panels(document(uid))]
SELECT = Selectors.of(DashboardSettings())
SERIES = re.compile(r"Series: (.+)\.$")
PLACEHOLDER = re.compile(r"\$\{[^}]*\}|\{\{\w+\}\}")
SENTENCE = re.compile(r"[A-Z].*[.]", re.DOTALL)

every_dashboard = pytest.mark.parametrize("uid", list(Uid))


def every_panel(check: Callable[[Uid, Json], None]) -> Callable[[], None]:
    """Return a test that does a check on every panel and tells of all that fail it."""

    def test() -> None:
        faults = []
        for uid, panel in PANELS:
            try:
                check(uid, panel)
            except AssertionError as error:
                faults.append(f"{uid}: {panel['title']}: {error}")
        assert [] == faults

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def panel(uid: Uid, title: str) -> Json:
    (found,) = [one for one in panels(document(uid)) if title == one["title"]]
    return found


def defaults(panel: Json) -> Json:
    found: Json = panel["fieldConfig"]["defaults"]
    return found


def shown(panel: Json) -> list[Json]:
    """Return the queries of a table whose values are columns, and not only their labels."""
    (organized,) = [one["options"] for one in panel["transformations"] if one["id"] == "organize"]
    hidden = organized["excludeByName"]
    return [one for one in panel["targets"] if f"Value #{one['refId']}" not in hidden]


def links(panel: Json) -> Iterator[str]:
    """Yield the addresses that cells of a panel lead to."""
    for override in panel["fieldConfig"]["overrides"]:
        for each in override["properties"]:
            if each["id"] == "links":
                yield from (link["url"] for link in each["value"])


# Of every dashboard


def test_there_is_a_dashboard_for_each_uid_in_the_order_of_reading() -> None:
    assert list(Uid) == list(BOARDS)


@every_dashboard
def test_a_dashboard_can_be_found_and_is_not_edited(uid: Uid) -> None:
    found = document(uid)

    assert uid == found["uid"]
    assert len(found["uid"]) <= 40
    assert found["title"].startswith("ollama-fleet / ")
    assert {"ollama-fleet", "generated"} == set(found["tags"])
    assert found["description"].endswith(BANNER)
    assert found["editable"] is False
    assert "id" not in found


@every_dashboard
def test_each_dashboard_leads_to_all_the_others(uid: Uid) -> None:
    """By the tag that all have; with the same variables and the same time range."""
    (link,) = document(uid)["links"]

    assert "dashboards" == link["type"]
    assert all(set(link["tags"]) <= set(document(other)["tags"]) for other in Uid)
    assert (True, True) == (link["includeVars"], link["keepTime"])


@every_dashboard
def test_a_dashboard_is_asked_for_twice_a_minute_at_most(uid: Uid) -> None:
    found = document(uid)

    assert "30s" == found["refresh"]
    assert "30s" == found["timepicker"]["refresh_intervals"][0]
    assert "utc" == found["timezone"]


@every_dashboard
def test_critical_alerts_are_marked_and_warnings_can_be(uid: Uid) -> None:
    annotations = {one["name"]: one for one in document(uid)["annotations"]["list"]}

    assert annotations["Critical alerts"]["enable"]
    assert 'severity="critical"' in annotations["Critical alerts"]["expr"]
    assert not annotations["Warnings"]["enable"]
    assert 'severity="warning"' in annotations["Warnings"]["expr"]


@every_dashboard
def test_the_words_of_a_mark_name_no_variable(uid: Uid) -> None:
    """Grafana fills in labels there, and leaves `$name` as it is."""
    told = [
        text
        for one in document(uid)["annotations"]["list"]
        if not one.get("builtIn")
        for text in (one["titleFormat"], one["textFormat"])
    ]

    assert [] == [text for text in told if "$" in text]


@every_dashboard
def test_the_data_source_is_chosen_first_and_all_else_is_asked_of_it(uid: Uid) -> None:
    first, *others = document(uid)["templating"]["list"]
    asked = [
        *(one for one in others if one["type"] == "query"),
        *(one for one in document(uid)["annotations"]["list"] if not one.get("builtIn")),
        *panels(document(uid)),
        *(target for one in panels(document(uid)) for target in one["targets"]),
    ]

    assert ("datasource", "datasource", "prometheus") == (
        first["name"], first["type"], first["query"],
    )  # fmt: skip
    assert [{"type": "prometheus", "uid": "${datasource}"}] * len(asked) == [
        one["datasource"] for one in asked
    ]


@every_dashboard
def test_choices_follow_the_time_range_and_all_is_no_list_of_everything(uid: Uid) -> None:
    """Without an allValue, All would be an expression as long as the fleet is large."""
    for variable in document(uid)["templating"]["list"]:
        if variable["type"] == "query":
            assert 2 == variable["refresh"]
            assert variable["allValue"] in (".*", ".+") if variable["includeAll"] else True


def test_instances_are_chosen_by_their_node_never_from_a_list_of_all() -> None:
    chosen = {
        uid: [one["name"] for one in document(uid)["templating"]["list"]]
        for uid in Uid
    }  # fmt: skip
    (instance,) = [
        one for one in document(Uid.INSTANCE)["templating"]["list"] if one["name"] == "instance_id"
    ]

    assert [Uid.INSTANCE] == [uid for uid, names in chosen.items() if "instance_id" in names]
    assert ["datasource", "job", "cluster", "node", "instance_id"] == chosen[Uid.INSTANCE]
    assert 'node="$node"' in instance["query"]["query"]
    assert not instance["includeAll"]


@every_dashboard
def test_ids_of_panels_are_unique(uid: Uid) -> None:
    everything = [*document(uid)["panels"], *panels(document(uid))]
    by_title = {one["title"]: one["id"] for one in everything if one["type"] != "row"}
    headings = [one["id"] for one in document(uid)["panels"] if one["type"] == "row"]

    counts = Counter([*by_title.values(), *headings])
    assert [] == [one for one, count in counts.items() if count > 1]
    assert len(by_title) == len(list(panels(document(uid))))


# Of every panel


@every_panel
def test_a_panel_says_what_it_shows_and_of_which_series(uid: Uid, panel: Json) -> None:
    assert panel["title"]
    assert SENTENCE.fullmatch(panel["description"])
    assert SERIES.search(panel["description"]), "name the series at the end"


@every_panel
def test_a_panel_says_what_it_means_that_it_is_empty(uid: Uid, panel: Json) -> None:
    text = defaults(panel)["noValue"]

    assert SENTENCE.fullmatch(text)
    assert "no data" not in text.lower()


@every_panel
def test_every_value_has_a_unit(uid: Uid, panel: Json) -> None:
    assert defaults(panel)["unit"]
    if panel["type"] == "table":
        with_unit = {
            override["matcher"]["options"]
            for override in panel["fieldConfig"]["overrides"]
            for each in override["properties"]
            if each["id"] == "unit"
        }
        assert {target["legendFormat"] for target in shown(panel)} == with_unit


@every_panel
def test_no_panel_asks_for_more_points_than_a_screen_shows(uid: Uid, panel: Json) -> None:
    assert MAX_POINTS == panel["maxDataPoints"] == 500
    assert {"15s"} == {target["interval"] for target in panel["targets"]}


@every_panel
def test_figures_and_tables_are_of_a_moment_and_charts_are_not(uid: Uid, panel: Json) -> None:
    is_of_moment = panel["type"] in ("stat", "table")

    assert {is_of_moment} == {target["instant"] for target in panel["targets"]}
    assert {not is_of_moment} == {target["range"] for target in panel["targets"]}
    if panel["type"] == "table":
        assert {"table"} == {target["format"] for target in panel["targets"]}
    if panel["type"] == "stat":
        assert ["lastNotNull"] == panel["options"]["reduceOptions"]["calcs"]


@every_panel
def test_queries_of_a_panel_are_told_apart(uid: Uid, panel: Json) -> None:
    refs = [target["refId"] for target in panel["targets"]]
    names = [target["legendFormat"] for target in panel["targets"]]

    assert sorted(set(refs)) == refs
    assert len(set(names)) == len(names)
    assert "__auto" not in names


@every_panel
def test_what_is_coloured_or_linked_is_there(uid: Uid, panel: Json) -> None:
    """An override of a name that no series or column has is a mistake that Grafana keeps quiet."""
    names = {target["legendFormat"] for target in panel["targets"]}
    if panel["type"] == "table":
        names |= {
            name
            for step in panel["transformations"]
            if step["id"] == "organize"
            for name in step["options"]["indexByName"]
        }
    for label, values in (("status", Status), ("outcome", CanaryOutcome)):
        if {name for name in names if f"{{{{{label}}}}}" in name}:
            names |= set(values)

    assert [] == [
        one["matcher"]
        for one in panel["fieldConfig"]["overrides"]
        if not any(is_of(one["matcher"], name) for name in names)
    ]


def is_of(matcher: Json, name: str) -> bool:
    """Return whether an override is of a series or column; `{{label}}` is any value."""
    options: str = matcher["options"]
    if matcher["id"] == "byRegexp":
        return bool(re.fullmatch(options.removeprefix("/").removesuffix("/"), name))
    assert "byName" == matcher["id"]
    return options == name


@every_panel
def test_a_table_is_sorted_by_a_column_that_it_has(uid: Uid, panel: Json) -> None:
    if panel["type"] != "table":
        return
    names = {target["legendFormat"] for target in panel["targets"]}
    (organized,) = [one["options"] for one in panel["transformations"] if one["id"] == "organize"]
    names |= set(organized["indexByName"])

    assert {one["displayName"] for one in panel["options"].get("sortBy", [])} <= names
    assert {f"Value #{target['refId']}" for target in shown(panel)} <= set(
        organized["renameByName"]
    )


@every_panel
def test_a_link_leads_to_one_of_our_dashboards_and_sets_variables_that_it_has(
    uid: Uid, panel: Json
) -> None:
    for url in links(panel):
        path, _, query = url.partition("?")
        target = Uid(path.removeprefix("/d/"))
        variables = {one["name"] for one in document(target)["templating"]["list"]}
        given = dict(parse_qsl(urlsplit(f"?{query}").query))

        assert {name.removeprefix("var-") for name in given if name.startswith("var-")} <= variables
        assert {"${datasource:queryparam}", "${__url_time_range}"} <= set(query.split("&"))
        assert ("${cluster:queryparam}" in query) != ("var-cluster" in given)


@every_panel
def test_rows_of_one_cluster_lead_to_that_cluster(uid: Uid, panel: Json) -> None:
    """Or a node would be looked for in all clusters that have one of its name."""
    of_cluster = [url for url in links(panel) if "${__data.fields.cluster:percentencode}" in url]
    if (uid, panel["title"]) != (Uid.MODELS, "Models"):  # its rows are the clusters' together
        assert list(links(panel)) == of_cluster
    if of_cluster:
        (organized,) = [one for one in panel["transformations"] if one["id"] == "organize"]
        assert "cluster" in organized["options"]["indexByName"]
        assert panel["targets"][0]["expr"].endswith('"cluster", "All", "cluster", "")')


@every_panel
def test_a_link_takes_its_values_from_columns_of_the_table(uid: Uid, panel: Json) -> None:
    asked = {name for url in links(panel) for name in re.findall(r"__data\.fields\.(\w+)", url)}
    columns = {
        name
        for step in panel["transformations"]
        if step["id"] == "organize"
        for name in step["options"]["indexByName"]
    }

    assert asked <= columns


def test_some_panels_of_every_dashboard_must_have_something_to_show() -> None:
    """Or a dead Prometheus would look like peace."""
    for uid, board in BOARDS.items():
        ids = {one["id"] for one in panels(document(Uid(uid)))}
        assert board.may_be_empty <= ids
        if uid != Uid.TRAFFIC:  # a fleet may have no gateway
            assert 4 <= len(ids - board.may_be_empty)


# What stock Ollama lacks

OF_THE_CANARY = frozenset(
    {
        names.CANARIES_P99,
        names.CAPACITY,
        names.LATENCY_P99,
        names.MODEL_SPEED,
        names.MODEL_SPEED_SPREAD,
        names.NODE_SPEED,
        names.NODE_SPEED_RATIO,
        names.REQUESTS_P99,
        catalogue.FLEET_QUEUE_TIME.name,
        catalogue.FLEET_TIME_TO_FIRST_TOKEN.name,
        catalogue.INSTANCE_TOKENS_PER_SECOND.name,
    }
)
"""What the canary gives where servers do not report it."""
ASKED_SERIES = re.compile(r"[a-z_0-9:]+(?=\{)")


@every_panel
def test_a_panel_that_the_canary_would_fill_says_so(uid: Uid, panel: Json) -> None:
    """What a query shows is the first series that it asks for and that is no threshold."""
    shown = [
        next(
            (name for name in ASKED_SERIES.findall(target["expr"]) if ":threshold" not in name), ""
        )
        for target in panel["targets"]
    ]
    if all(name in OF_THE_CANARY or "_canary_" in name for name in shown):
        assert re.search("--canary.period|canaries", defaults(panel)["noValue"])


# What some are there for


@pytest.mark.parametrize(
    ("title", "value", "good", "bad"),
    [
        ("Healthy instances", fleet.healthy(SELECT), "healthy", "below the floor"),
        ("Request latency, p99", fleet.latency(SELECT), "p99", "p99 above the limit"),
        ("Generation capacity", fleet.speed(SELECT), "tokens/s", "tokens/s below the floor"),
        ("Failed requests", fleet.failed(SELECT), "failed", "failed, too many"),
        ("Queued requests", fleet.waiting(SELECT), "queued", "too many queued"),
    ],
)
def test_the_good_side_of_a_threshold_is_green_and_the_bad_one_red(
    title: str, value: ThresholdStat, good: str, bad: str
) -> None:
    found = panel(Uid.OVERVIEW, title)
    expr = {target["legendFormat"]: target["expr"] for target in found["targets"]}
    colour = {
        one["matcher"]["options"]: each["value"]["fixedColor"]
        for one in found["fieldConfig"]["overrides"]
        for each in one["properties"]
    }
    unknown = f"{good}, no limit known"

    assert (value.good, value.bad, value.unknown) == (expr[good], expr[bad], expr[unknown])
    assert [colours.GOOD, colours.BAD, colours.NEUTRAL] == [
        colour[name] for name in (good, bad, unknown)
    ]


def test_the_annotations_are_the_queries_of_their_names() -> None:
    annotations = {one["name"]: one for one in document(Uid.OVERVIEW)["annotations"]["list"]}

    assert fleet.annotated_alerts(SELECT, "critical") == annotations["Critical alerts"]["expr"]
    assert fleet.annotated_alerts(SELECT, "warning") == annotations["Warnings"]["expr"]
    assert fleet.many_started(SELECT) == annotations["Rotations and restarts"]["expr"]


def test_every_line_of_an_instance_says_which_cluster_it_is_of() -> None:
    """While All is chosen there may be two of the name; the limit of the p99 is of all fleets."""
    lines = {
        f"{panel['title']}: {target['legendFormat']}"
        for panel in panels(document(Uid.INSTANCE))
        if panel["type"] != "table"
        for target in panel["targets"]
    }

    assert {"Latency, p99: limit"} == {line for line in lines if "{{cluster}}" not in line}


def test_every_status_has_a_colour_of_its_own() -> None:
    assert set(Status) == set(colours.STATUSES)
    assert len(Status) == len(set(colours.STATUSES.values()))
    assert set(FAILING) < set(Status)


def test_every_outcome_of_a_canary_has_a_colour_of_its_own() -> None:
    assert set(CanaryOutcome) == set(colours.CANARY_OUTCOMES)
    assert len(CanaryOutcome) == len(set(colours.CANARY_OUTCOMES.values()))


def test_spreads_of_each_model_are_asked_for_only_when_somebody_opens_them() -> None:
    (folded,) = [one for one in document(Uid.MODELS)["panels"] if one.get("collapsed")]

    assert {"model"} == {one["repeat"] for one in folded["panels"]}
