"""What the dashboards ask: series and labels that there are, and few enough lines for a screen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import pytest
from promql_parser import (
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    MatchOp,
    MatrixSelector,
    NumberLiteral,
    ParenExpr,
    StringLiteral,
    SubqueryExpr,
    UnaryExpr,
    VectorMatchCardinality,
    VectorSelector,
    parse,
)

from alerts import names, rulebook
from alerts.settings import Settings
from dashboards import collection
from dashboards.choices import Uid
from dashboards.kit.board import document
from dashboards.queries import instance, pipeline
from dashboards.queries.fleet import ALERTNAME
from dashboards.settings import DashboardSettings
from exporter import catalogue, snapshot
from exporter.catalogue import Kind
from tests.alerts import expression_lints
from tests.alerts import promql_tree as tree
from tests.alerts.expression_lints import CLOSED
from tests.dashboards.expansion import Asked, Origin, choices, expanded, queries

CLUSTER = "region"
"""Not the default, so that a label that is written out is found."""
KNOWN = expression_lints.known(
    rulebook.groups(Settings.model_validate({"prometheus": {"cluster_label": CLUSTER}})),
    Settings.model_validate({"prometheus": {"cluster_label": CLUSTER}}),
)
OF_ALERTS = frozenset({"alertname", "severity", "node", "model", CLUSTER, "instance", "job"})
OTHERS: Mapping[str, frozenset[str]] = {
    "ALERTS": OF_ALERTS | {"alertstate"},
    "ALERTS_FOR_STATE": OF_ALERTS,
    "process_cpu_seconds_total": KNOWN.target,
    "process_start_time_seconds": KNOWN.target,
    "process_resident_memory_bytes": KNOWN.target,
    "process_open_fds": KNOWN.target,
    "process_max_fds": KNOWN.target,
    "prometheus_rule_group_last_duration_seconds": KNOWN.target | {"rule_group"},
    "prometheus_rule_group_interval_seconds": KNOWN.target | {"rule_group"},
    "prometheus_rule_evaluation_failures_total": KNOWN.target | {"rule_group"},
    "prometheus_rule_group_iterations_missed_total": KNOWN.target | {"rule_group"},
    "prometheus_notifications_sent_total": KNOWN.target | {"alertmanager"},
    "prometheus_notifications_dropped_total": KNOWN.target,
    "alertmanager_notifications_total": KNOWN.target | {"integration"},
    "alertmanager_notifications_failed_total": KNOWN.target | {"integration"},
}
"""What others publish that we ask for, with its labels."""
COUNTING = frozenset({"rate", "irate", "increase"})
RANKING = frozenset({"topk", "bottomk"})
LEGEND_LABEL = re.compile(r"\{\{(\w+)\}\}")
HOUR_S = 3600.0
MAX_LENGTH = 400
EXPORTED = catalogue.FLEET_SERIES + catalogue.INSTANCE_SERIES + catalogue.EXPORTER_SERIES


def ask_all(settings: DashboardSettings) -> Iterator[tuple[Asked, str]]:
    """Yield every query of every dashboard, and as Prometheus gets it while All is chosen."""
    for board in collection.boards(settings):
        content = document(board)
        single = {"node": "n1", "instance_id": "n1:1"} if board.uid == Uid.INSTANCE else {}
        chosen = choices(content, **single)
        for asked in queries(content, board.may_be_empty):
            yield asked, expanded(asked.expr, chosen, asked.step_s(HOUR_S), HOUR_S)


ASKED = tuple(ask_all(DashboardSettings(cluster_label=CLUSTER)))
QUERIES = {text: asked for asked, text in ASKED}


def labels_of(selector: VectorSelector) -> frozenset[str]:
    name = selector.name or ""
    return OTHERS[name] if name in OTHERS else KNOWN.labels_of(selector)


def labels(node: Expr) -> frozenset[str]:
    return tree.labels(node, labels_of)


# Series and labels: each rule yields what is wrong with a query


def unknown_series(expr: str) -> Iterator[str]:
    """In the catalogue, recorded by the rules, or on the short list of what others publish."""
    names = {selector.name or "" for selector in tree.selectors(expr)}
    yield from (name for name in names if name not in OTHERS and not KNOWN.is_known(name))
    if not names or "$" in expr:
        yield expr


def unknown_matched_labels(expr: str) -> Iterator[str]:
    for selector in tree.selectors(expr):
        for matcher in tree.matchers(selector):
            if matcher.name not in labels_of(selector) | {CLUSTER}:
                yield f"{selector.name} has no {matcher.name}"


QUANTILES = {
    names.LATENCY_SPREAD: snapshot.FLEET_QUANTILES,
    names.MODEL_LATENCY_SPREAD: snapshot.HIGH_QUANTILES,
    names.MODEL_SPEED_SPREAD: snapshot.LOW_QUANTILES,
    names.MODEL_KV_CACHE_SPREAD: snapshot.HIGH_QUANTILES,
}


def unknown_matched_values(expr: str) -> Iterator[str]:
    """A quantile that nobody records would be absent."""
    for selector in tree.selectors(expr):
        for matcher in tree.matchers(selector):
            if matcher.name in CLOSED:
                yield from set(tree.values(matcher)) - set(CLOSED[matcher.name])
            elif (
                matcher.name == "quantile"
                and float(matcher.value) not in QUANTILES[str(selector.name)]
            ):
                yield f"{selector.name} has no {matcher.name} {matcher.value}"


def unknown_grouped_labels(expr: str) -> Iterator[str]:
    for node in tree.aggregations(expr):
        yield from (tree.grouping(node) or tree.NONE) - labels(node.expr) - {CLUSTER}


def unknown_joined_labels(expr: str) -> Iterator[str]:
    """The cluster's apart: without several of them no series has it, and nothing is lost."""
    for node in tree.operations(expr):
        left, right = labels(node.lhs), labels(node.rhs)
        is_right = node.modifier and node.modifier.card == VectorMatchCardinality.OneToMany
        yield from (tree.matching(node) or tree.NONE) - (left & right) - {CLUSTER}
        yield from tree.brought(node) - (left if is_right else right) - {CLUSTER}


def plain_counters(expr: str) -> Iterator[str]:
    """Counters are asked for their growth, and nothing else is."""
    ranged = set()
    for node in tree.nodes(expr):
        if isinstance(node, MatrixSelector):
            ranged.add(node.vector_selector.name)
        if isinstance(node, Call) and node.func.name in COUNTING:
            (part,) = node.args
            assert isinstance(part, MatrixSelector)
            if not is_counter(part.vector_selector.name or ""):
                yield f"{node.func.name} of {part}"
    plain = {selector.name or "" for selector in tree.selectors(expr)} - ranged
    yield from (name for name in plain if is_counter(name))


def unbounded(expr: str) -> Iterator[str]:
    """A chart or table would have a line for each instance or node of the fleet."""
    is_of_variable = QUERIES[expr].origin is Origin.VARIABLE
    for label in ("instance_id", "node"):
        if is_unbounded(parse(expr), label) and not (is_of_variable and label == "node"):
            yield f"a series for each {label}"


def slow(expr: str) -> Iterator[str]:
    """A chart of each of 10,000 instances would take seconds; the rules record what charts need."""
    asked = QUERIES[expr]
    of_instances = {series.name for series in catalogue.INSTANCE_SERIES}
    if not asked.is_instant and asked.origin is not Origin.VARIABLE:
        for selector in tree.selectors(expr):
            if selector.name in of_instances and not is_narrowed(selector):
                yield str(selector)


def too_long(expr: str) -> Iterator[str]:
    """Nobody reads a longer one in Grafana's editor: a recorded rule should say part of it."""
    if (length := len(QUERIES[expr].expr)) > MAX_LENGTH:
        yield f"{length} characters"


def of_any_job(expr: str) -> Iterator[str]:
    """Whoever else publishes series of our names would count as our fleet."""
    for selector in tree.selectors(expr):
        found = expression_lints.series(selector.name or "")
        if found in EXPORTED:
            given = [(one.op, one.value) for one in tree.matchers(selector) if one.name == "job"]
            if given != [(MatchOp.Re, DashboardSettings().prometheus_job)]:
                yield f"{selector} is of any job"


@pytest.mark.parametrize(
    "rule",
    [
        too_long,
        of_any_job,
        unknown_series,
        unknown_matched_labels,
        unknown_matched_values,
        unknown_grouped_labels,
        unknown_joined_labels,
        plain_counters,
        unbounded,
        slow,
    ],
)
def test_every_query_keeps_the_rule(rule: Callable[[str], Iterator[str]]) -> None:
    faults = [f"{asked}: {fault}" for expr, asked in QUERIES.items() for fault in rule(expr)]

    assert [] == faults


@pytest.mark.parametrize(
    ("rule", "expr"),
    [
        (unknown_series, "ollama_typo"),
        (unknown_matched_labels, 'ollama_instance_up{status="healthy"}'),
        (unknown_matched_values, 'ollama_fleet_instances{status="sick"}'),
        (
            unknown_matched_values,
            'fleet:ollama_instance_request_latency_p99_seconds:quantile{quantile="7"}',
        ),
        (unknown_grouped_labels, "sum by (status) (ollama_instance_up)"),
        (unknown_joined_labels, "ollama_instance_up * on (shard) ollama_exporter_shard_info"),
        (plain_counters, "sum(ollama_instance_errors_total)"),
        (plain_counters, "rate(ollama_instance_up[5m])"),
    ],
)
def test_each_rule_finds_its_fault(rule: Callable[[str], Iterator[str]], expr: str) -> None:
    assert [] != list(rule(expr))


def test_legends_columns_and_variables_name_labels_that_there_are() -> None:
    faults = []
    for asked, expr in ASKED:
        found = labels(parse(expr))
        named = set(LEGEND_LABEL.findall(asked.legend))
        if asked.origin is Origin.VARIABLE:
            named |= {asked.label} - {CLUSTER}
        faults += [f"{asked}: {label}" for label in named - found]

    assert [] == faults


def test_columns_of_names_are_labels_of_every_query_of_the_table_or_of_one_for_facts() -> None:
    """Grafana joins rows by the labels that all queries have."""
    faults = []
    for board in collection.boards(DashboardSettings(cluster_label=CLUSTER)):
        for panel in document(board)["panels"]:
            if panel["type"] != "table":
                continue
            (organized,) = [
                step["options"] for step in panel["transformations"] if step["id"] == "organize"
            ]
            columns = {name for name in organized["indexByName"] if not name.startswith("Value")}
            hidden = {name.removeprefix("Value #") for name in organized["excludeByName"]}
            found = {
                asked.ref_id: labels(parse(text))
                for asked, text in ASKED
                if (board.uid, panel["id"]) == (asked.uid, asked.panel_id)
            }
            of_facts = frozenset().union(*(found[ref_id] for ref_id in found.keys() & hidden))
            columns -= of_facts - found["A"]
            faults += [
                (panel["title"], missing)
                for known in found.values()
                if (missing := columns - known - {CLUSTER})
            ]

    assert [] == faults


def test_the_list_of_others_series_has_none_that_nobody_asks_for() -> None:
    asked = {selector.name for text in QUERIES for selector in tree.selectors(text)}

    assert set() == OTHERS.keys() - asked


def is_counter(name: str) -> bool:
    found = expression_lints.series(name)
    return found.kind in (Kind.COUNTER, Kind.HISTOGRAM) if found else name.endswith("_total")


# Few enough lines, and quick


def is_unbounded(node: Expr, label: str) -> bool:
    """Return whether a result may have a series for each value that a label has in the fleet."""
    match node:
        case VectorSelector():
            return label in labels_of(node) and not is_narrowed(node)
        case MatrixSelector():
            return is_unbounded(node.vector_selector, label)
        case ParenExpr() | UnaryExpr() | SubqueryExpr():
            return is_unbounded(node.expr, label)
        case AggregateExpr():
            if str(node.op) in RANKING:
                return False
            kept = tree.grouping(node)
            return (kept is None or label in kept) and is_unbounded(node.expr, label)
        case Call():
            return any(is_unbounded(part, label) for part in node.args)
        case BinaryExpr():
            return _is_operation_unbounded(node, label)
        case NumberLiteral() | StringLiteral():
            return False
        case _:
            raise AssertionError(f"what is {node}?")


def _is_operation_unbounded(node: BinaryExpr, label: str) -> bool:
    left, right = is_unbounded(node.lhs, label), is_unbounded(node.rhs, label)
    if tree.is_scalar(node.lhs) or tree.is_scalar(node.rhs):
        return left or right
    match str(node.op):
        case "or":
            return left or right
        case "and":
            # As few as the right side has, if that tells the label's values apart.
            on = tree.matching(node)
            names_it = label in (labels(node.rhs) if on is None else on)
            return left and (right or not names_it)
        case "unless":
            return left
    if node.modifier and node.modifier.card == VectorMatchCardinality.ManyToOne:
        return left
    if node.modifier and node.modifier.card == VectorMatchCardinality.OneToMany:
        return right
    return left and right


def is_narrowed(selector: VectorSelector) -> bool:
    """Return whether a selector is of one instance, or of those of one node."""
    return any(
        matcher.op == MatchOp.Equal and matcher.name in ("instance_id", "node")
        for matcher in tree.matchers(selector)
    )


@pytest.mark.parametrize(
    ("expr", "label", "expected"),
    [
        ("ollama_instance_up", "instance_id", True),
        ("ollama_instance_up", "node", True),
        ('ollama_instance_up{node="n1"}', "instance_id", False),
        ('ollama_instance_up{node=~"n1"}', "instance_id", True),
        ("sum by (node) (ollama_instance_up)", "instance_id", False),
        ("sum by (node) (ollama_instance_up)", "node", True),
        ("topk(5, ollama_instance_up)", "instance_id", False),
        ("ollama_instance_up and topk(5, ollama_instance_up)", "instance_id", False),
        ("ollama_instance_up and on (model) topk(5, ollama_instance_up)", "instance_id", True),
        ("ollama_instance_up and on () vector(1)", "instance_id", True),
        ("ollama_instance_up or topk(5, ollama_instance_up)", "instance_id", True),
        ("ollama_instance_up unless topk(5, ollama_instance_up)", "instance_id", True),
        ("ollama_instance_up * on (node) group_left () ollama_instance_up", "instance_id", True),
        ("time() - ollama_instance_up", "instance_id", True),
        ("1 - topk(5, ollama_instance_up)", "instance_id", False),
        ("rate(ollama_instance_errors_total[5m])", "instance_id", True),
    ],
)
def test_the_test_sees_what_is_a_line_for_each(expr: str, label: str, expected: bool) -> None:
    assert expected == is_unbounded(parse(expr), label)


# What queries share with the rules


def test_limits_of_the_pipeline_are_those_of_the_alerts() -> None:
    """These two the rules do not record as thresholds."""
    thresholds = Settings().thresholds

    assert thresholds.poll_lateness == pipeline.LATE_RATIO
    assert thresholds.poll_intervals == pipeline.STALE_INTERVALS


def test_an_instance_has_just_started_as_long_as_the_exporter_says_so_of_nodes() -> None:
    assert snapshot.STARTED_S == instance.RECENT_S


def test_alerts_are_chosen_by_a_name_that_all_of_ours_have() -> None:
    (_, expression, _) = ALERTNAME.split('"')
    ours = {alert.name for group in rulebook.groups(Settings()) for alert in group.alerts}

    assert {"Watchdog"} == {name for name in ours if not re.fullmatch(expression, name)}


def test_the_groups_of_rules_are_chosen_by_a_name_that_all_of_ours_have() -> None:
    """Prometheus calls a group by its file and its name."""
    (_, expression, _) = pipeline.RULES.split('"')

    for group in rulebook.groups(Settings()):
        assert re.fullmatch(expression, f"/etc/prometheus/rules/{group.name}.yml;{group.name}")
    assert not re.fullmatch(expression, "/etc/prometheus/rules/node.yml;node")


def test_what_every_target_has_is_asked_of_the_exporters_only() -> None:
    """All jobs stands for `.+`: Prometheus itself would count as an exporter."""
    of_targets = {name for name in OTHERS if name.startswith("process_")}
    of_targets |= expression_lints.OF_PROMETHEUS
    seen = set()
    for text in QUERIES:
        for selector in tree.selectors(text):
            if selector.name in of_targets:
                seen.add(selector.name)
                given = {one.value for one in tree.matchers(selector) if one.name == "job"}
                assert "ollama-fleet-exporter" in given
    assert {"up", "process_open_fds", "scrape_duration_seconds"} <= seen


def test_what_the_rules_record_for_dashboards_is_asked_for() -> None:
    asked = {selector.name for text in QUERIES for selector in tree.selectors(text)}

    assert {
        names.LATENCY_SPREAD,
        names.MODEL_LATENCY_SPREAD,
        names.MODEL_SPEED_SPREAD,
        names.NODE_ERRORS,
        names.MODEL_ERRORS,
        names.NODE_STARTED,
    } <= asked
