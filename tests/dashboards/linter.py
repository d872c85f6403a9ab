"""The rules of grafana/dashboard-linter, for whole dashboards.

The names are the linter's, and so are the demands: `docs/index.md` there, and where it differs
`lint/*.go`. Stricter here: what is only a warning there is a fault; rules about panels hold for all
types that ask something; units of overrides are looked at as well; there is no LogQL, so no rule
about what is in it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.models import units
from promql_parser import Call, MatchOp, MatrixSelector, VectorSelector

from tests.alerts import promql_tree

UNITS = frozenset(
    value
    for name, value in vars(units).items()
    if isinstance(value, str) and not name.startswith("_")
)


Json = Mapping[str, Any]
Rule = Callable[[Json], Iterator[tuple[str, str]]]
"""Yields where a fault is (a panel, a variable, nowhere) and what it is."""

ON_TIME_RANGE_CHANGE = 2
PER_SECOND = frozenset({"rate", "irate"})
OF_COUNTERS = PER_SECOND | {"increase"}
RATE_INTERVAL = "4242s"
"""What `$__rate_interval` is read as: a range that nobody writes."""
QUOTED = re.compile(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')""")
VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)|\[\[(\w+)(?::\w+)?\]\]")
LISTING = re.compile(r"(label_names|label_values|metrics|query_result)\((.*)\)", re.DOTALL)
LAST_LABEL = re.compile(r",\s*\w+\s*\Z")


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that a rule does not allow."""

    rule: str
    dashboard: str
    where: str
    """Title of a panel, with the query's letter where it is about one; name of a variable."""
    what: str


def faults(document: Json) -> list[Fault]:
    """Return everything that any rule finds in a dashboard."""
    return [
        Fault(name, document["uid"], where, what)
        for name, rule in RULES.items()
        for where, what in rule(document)
    ]


# Variables


def template_datasource(document: Json) -> Iterator[tuple[str, str]]:
    """Demand a variable for the data source, named and labelled as in everybody's dashboards."""
    sources = _variables(document, "datasource")
    if not sources:
        yield "", "no variable of type datasource"
    for source in sources:
        kind = source["query"].lower()
        names, labels = {f"{kind}_datasource"}, {f"{kind.capitalize()} data source"}
        if len(sources) == 1:
            names, labels = names | {"datasource"}, labels | {"Data source"}
        if source["name"] not in names:
            yield source["name"], f"must be named {_either(names)}"
        if source.get("label") not in labels:
            yield source["name"], f"must be labelled {_either(labels)}"


def template_job(document: Json) -> Iterator[tuple[str, str]]:
    """Demand a variable `job`."""
    return _template(document, "job")


def template_instance(document: Json) -> Iterator[tuple[str, str]]:
    """Demand a variable `instance`."""
    return _template(document, "instance")


def _template(document: Json, name: str) -> Iterator[tuple[str, str]]:
    variables = [one for one in document["templating"]["list"] if one["name"] == name]
    if not variables:
        yield "", f"no variable {name}"
    for variable in variables:
        wanted = {
            "a query": variable["type"] == "query",
            "asked of $datasource": _source(variable) in _sources(document),
            f"labelled {name}": variable.get("label", "").lower() == name,
            "a choice of several": variable.get("multi"),
            "`.+` for All": variable.get("allValue") == ".+",
        }
        yield from ((name, f"must be {what}") for what, is_so in wanted.items() if not is_so)


def template_label_promql(document: Json) -> Iterator[tuple[str, str]]:
    """Demand that variables list labels of series that PromQL can name."""
    for variable in _variables(document, "query"):
        query = variable["query"]
        text = query["query"] if isinstance(query, Mapping) else query
        listing = LISTING.fullmatch(text.strip())
        if listing is None:
            yield variable["name"], f"no function of the data source: {text}"
        elif problem := _problem_of_listing(listing[1], listing[2], document):
            yield variable["name"], problem


def _problem_of_listing(function: str, argument: str, document: Json) -> str:
    """Return why an argument is no PromQL; label names and `metrics`' expression need not be."""
    if function in ("label_names", "metrics"):
        return ""
    series = LAST_LABEL.sub("", argument) if function == "label_values" else argument
    return _problem(series, document)


def template_on_time_change_reload(document: Json) -> Iterator[tuple[str, str]]:
    """Demand that choices follow the time range: what was gone yesterday was there last week."""
    for variable in _variables(document, "query"):
        if variable.get("refresh") != ON_TIME_RANGE_CHANGE:
            yield variable["name"], f"refresh must be {ON_TIME_RANGE_CHANGE}, on time range change"


# Panels


def panel_datasource(document: Json) -> Iterator[tuple[str, str]]:
    """Demand that panels, and their queries, ask the data source that was chosen."""
    allowed = _sources(document)
    for panel in _asking(document):
        for asked in (panel, *panel.get("targets", [])):
            if _source(asked) not in allowed:
                yield _where(panel, asked), f"asks {_source(asked) or 'no data source'}"


def panel_title_description(document: Json) -> Iterator[tuple[str, str]]:
    """Demand that panels say what they show."""
    for panel in _asking(document):
        for key in ("title", "description"):
            if not panel.get(key, "").strip():
                yield _where(panel), f"no {key}"


def panel_units(document: Json) -> Iterator[tuple[str, str]]:
    """Demand units, of the panel or all its overrides, that Grafana knows."""
    for panel in _asking(document):
        fields = panel["fieldConfig"]
        units = [
            each["value"]
            for override in fields["overrides"]
            for each in override["properties"]
            if each["id"] == "unit"
        ]
        if "unit" in fields["defaults"]:
            units.append(fields["defaults"]["unit"])
        if not units and not fields["defaults"].get("mappings"):
            yield _where(panel), "no unit"
        yield from ((_where(panel), f"no such unit: {unit}") for unit in units if unit not in UNITS)


def panel_no_targets(document: Json) -> Iterator[tuple[str, str]]:
    """Demand that panels ask something."""
    for panel in _asking(document):
        if not panel.get("targets"):
            yield _where(panel), "asks nothing"


# Queries


def target_promql(document: Json) -> Iterator[tuple[str, str]]:
    """Demand PromQL."""
    for where, expr in _expressions(document):
        if problem := _problem(expr, document):
            yield where, problem


def target_rate_interval(document: Json) -> Iterator[tuple[str, str]]:
    """Demand `$__rate_interval` of rates: other ranges miss samples, or smooth them away."""
    for where, call, argument in _ranges(document):
        name = call.func.name
        if name in PER_SECOND and argument.range.total_seconds() != float(RATE_INTERVAL[:-1]):
            yield where, f"{name} must be over [$__rate_interval], not {argument}"


def target_job(document: Json) -> Iterator[tuple[str, str]]:
    """Demand `job=~"$job"`."""
    return _target_matcher(document, "job")


def target_instance(document: Json) -> Iterator[tuple[str, str]]:
    """Demand `instance=~"$instance"`."""
    return _target_matcher(document, "instance")


def _target_matcher(document: Json, label: str) -> Iterator[tuple[str, str]]:
    for where, expr in _readable_expressions(document):
        for selector in promql_tree.selectors(expr):
            found = [(each.name, each.op, each.value) for each in promql_tree.matchers(selector)]
            if (label, MatchOp.Re, f"${label}") not in found:
                yield where, f'no {label}=~"${label}" in {selector}'


def target_counter_agg(document: Json) -> Iterator[tuple[str, str]]:
    """Demand that counters be asked for their increase: the value depends on when they began."""
    rightly = Counter(
        (where, str(argument.vector_selector))
        for where, call, argument in _ranges(document)
        if call.func.name in OF_COUNTERS
    )
    counters = Counter(
        (where, str(selector))
        for where, expr in _readable_expressions(document)
        for selector in promql_tree.selectors(expr)
        if _name(selector).endswith("_total")
    )
    for where, selector in counters - rightly:
        yield where, f"{selector} is a counter: put rate, irate or increase around it"


# The whole


def uneditable(document: Json) -> Iterator[tuple[str, str]]:
    """Demand that nobody edits in Grafana what the next load replaces."""
    if document.get("editable") is not False:
        yield "", "editable must be false"


RULES: Mapping[str, Rule] = {
    "template-datasource-rule": template_datasource,
    "template-job-rule": template_job,
    "template-instance-rule": template_instance,
    "template-label-promql-rule": template_label_promql,
    "template-on-time-change-reload-rule": template_on_time_change_reload,
    "panel-datasource-rule": panel_datasource,
    "panel-title-description-rule": panel_title_description,
    "panel-units-rule": panel_units,
    "panel-no-targets-rule": panel_no_targets,
    "target-promql-rule": target_promql,
    "target-rate-interval-rule": target_rate_interval,
    "target-job-rule": target_job,
    "target-instance-rule": target_instance,
    "target-counter-agg-rule": target_counter_agg,
    "uneditable-dashboard": uneditable,
}


def _variables(document: Json, kind: str) -> list[Json]:
    return [each for each in document["templating"]["list"] if each["type"] == kind]


def _asking(document: Json) -> Iterator[Json]:
    """Yield the panels that show something asked, those of folded rows included."""
    for panel in document["panels"]:
        yield from panel["panels"] if panel["type"] == "row" else [panel]


def _where(panel: Json, target: Json | None = None) -> str:
    name = panel.get("title") or f"panel {panel['id']}"
    return f"{name} {target['refId']}" if target and "refId" in target else str(name)


def _source(asked: Json) -> str:
    source = asked.get("datasource")
    return str(source.get("uid", "")) if isinstance(source, Mapping) else str(source or "")


def _sources(document: Json) -> set[str]:
    """Return how a query may name a data source that is chosen at the top."""
    names = [variable["name"] for variable in _variables(document, "datasource")]
    return {form for name in names for form in (f"${name}", f"${{{name}}}")}


def _expressions(document: Json) -> Iterator[tuple[str, str]]:
    for panel in _asking(document):
        for target in panel.get("targets", []):
            yield _where(panel, target), target.get("expr", "")


def _readable_expressions(document: Json) -> Iterator[tuple[str, str]]:
    """Yield the expressions that are PromQL, as such; the others are another rule's."""
    for where, expr in _expressions(document):
        if not _problem(expr, document):
            yield where, _readable(expr, document)


def _ranges(document: Json) -> Iterator[tuple[str, Call, MatrixSelector]]:
    """Yield the ranges that functions take."""
    for where, expr in _readable_expressions(document):
        for call in promql_tree.calls(expr):
            for argument in call.args:
                if isinstance(argument, MatrixSelector):
                    yield where, call, argument


def _problem(expr: str, document: Json) -> str:
    try:
        promql_tree.nodes(_readable(expr, document))
    except ValueError as error:
        return f"no PromQL: {error}"
    return ""


def _readable(expr: str, document: Json) -> str:
    """Return PromQL: variables outside of texts are filled in, those within stay as they are."""
    values = {
        "__rate_interval": RATE_INTERVAL,
        "__interval": "15s",
        "__range": "1h",
        **{each["name"]: _first_choice(each) for each in document["templating"]["list"]},
    }

    def filled(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[3]
        return values.get(name, found[0])

    parts = QUOTED.split(expr)
    return "".join(
        part if is_text % 2 else VARIABLE.sub(filled, part) for is_text, part in enumerate(parts)
    )


def _first_choice(variable: Json) -> str:
    query = variable.get("query", "")
    return query.partition(",")[0] if isinstance(query, str) and query else "1"


def _name(selector: VectorSelector) -> str:
    named = (each.value for each in promql_tree.matchers(selector) if each.name == "__name__")
    return selector.name or next(named, "")


def _either(choices: set[str]) -> str:
    return " or ".join(sorted(choices))
