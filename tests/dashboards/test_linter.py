"""The linter's rules: each finds what it is for, and the dashboards that we ship keep them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from dashboards.choices import Uid
from tests.dashboards import linter
from tests.dashboards.linter import Fault
from tests.dashboards.shipped import OUT, document

Json = dict[str, Any]
ANYWHERE = "*"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


# What our dashboards may do all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Faults that are none: of one rule, in one dashboard, in one place or anywhere."""

    rule: str
    dashboard: str
    where: str = ANYWHERE
    reason: str

    def covers(self, fault: Fault) -> bool:
        return (
            self.rule == fault.rule
            and self.dashboard == fault.dashboard
            and self.where in (ANYWHERE, fault.where)
        )


OF_JOBS = ("template-job-rule", "target-job-rule")
OF_INSTANCES = ("template-instance-rule", "target-instance-rule")
OF_QUERIES = ("target-job-rule", "target-instance-rule")
OF_THE_FLEET = (Uid.OVERVIEW, Uid.NODES, Uid.MODELS, Uid.INSTANCE, Uid.TRAFFIC)
NO_JOB = (
    "what the rules record has no job, and that of the exporters is a setting: the cluster is what "
    "tells two fleets apart, so it is the variable and in every selector"
)
NO_INSTANCE = (
    "`instance` is the exporter's address, the same for 10,000 LLM servers; those are told apart "
    "by node and instance_id, and a list of them would be too long to choose from"
)
OF_ONE_JOB = "the job is a setting, as in the rules: a hidden constant, and nothing to choose from"
OF_ALL_SHARDS = "a shard lacks an exporter only if none at all has it, chosen or not"
NOT_THE_EXPORTER = (
    "Prometheus, Alertmanager and provisioners are other jobs and instances than the exporters to "
    "choose from"
)
NOT_OF_THE_EXPORTER = (
    "Last reload of the configuration A",
    "Last reload of the configuration B",
    "Failing rules A",
    "Alerts lost A",
    "Duration of rule groups A",
    "Duration of rule groups B",
    "Failed evaluations A",
    "Missed evaluations A",
    "Alerts sent to Alertmanagers A",
    "Alerts sent to Alertmanagers B",
    "Notifications A",
    "Failed notifications A",
    "Leading provisioner A",
    "Ready instances A",
    "Ready instances B",
    "Ready instances C",
    "Unreachable nodes A",
    "Age of the last reconcile and of the store view A",
    "Age of the last reconcile and of the store view B",
)
EXCEPTIONS = (
    *(
        Allowed(rule=rule, dashboard=uid, reason=reason)
        for uid in OF_THE_FLEET
        for rules, reason in ((OF_JOBS, NO_JOB), (OF_INSTANCES, NO_INSTANCE))
        for rule in rules
    ),
    Allowed(rule="template-job-rule", dashboard=Uid.EXPORTER, where="job", reason=OF_ONE_JOB),
    Allowed(
        rule="target-instance-rule",
        dashboard=Uid.EXPORTER,
        where="Shards without exporter A",
        reason=OF_ALL_SHARDS,
    ),
    *(
        Allowed(rule=rule, dashboard=Uid.EXPORTER, where=where, reason=NOT_THE_EXPORTER)
        for rule in OF_QUERIES
        for where in NOT_OF_THE_EXPORTER
    ),
)


def not_allowed(faults: Iterable[Fault], exceptions: Sequence[Allowed]) -> list[Fault]:
    return [fault for fault in faults if not any(one.covers(fault) for one in exceptions)]


def needless(exceptions: Iterable[Allowed], faults: Sequence[Fault]) -> list[Allowed]:
    """Return the exceptions that cover nothing."""
    return [one for one in exceptions if not any(one.covers(fault) for fault in faults)]


def test_every_dashboard_is_shipped_and_none_besides() -> None:
    assert sorted(Uid) == sorted(path.stem for path in OUT.glob("*.json"))


@pytest.mark.parametrize("uid", list(Uid))
def test_our_dashboards_keep_the_rules(uid: Uid) -> None:
    assert [] == not_allowed(linter.faults(document(uid)), EXCEPTIONS)


def test_no_exception_is_needless() -> None:
    """An exception that is not needed any more would hide the next fault."""
    faults = [fault for uid in Uid for fault in linter.faults(document(uid))]

    assert [] == needless(EXCEPTIONS, faults)


def test_an_exception_covers_its_rule_its_dashboard_and_its_place_alone() -> None:
    fault = Fault("a-rule", "fleet", "Speed A", "too fast")
    others = [
        Fault("b-rule", "fleet", "Speed A", "too fast"),
        Fault("a-rule", "nodes", "Speed A", "too fast"),
        Fault("a-rule", "fleet", "Speed B", "too fast"),
    ]
    allowed = Allowed(rule="a-rule", dashboard="fleet", where="Speed A", reason="")

    assert others == not_allowed([fault, *others], [allowed])


# The rules themselves


def good() -> Json:
    """Return a dashboard in which no rule finds anything."""
    variable = {"type": "query", "datasource": SOURCE, "refresh": 2, "multi": True}
    query = "label_values(up, %s)"
    job = {**variable, "name": "job", "label": "Job", "query": query % "job", "allValue": ".+"}
    instance = {**job, "name": "instance", "label": "Instance", "query": query % "instance"}
    chosen = 'job=~"$job", instance=~"$instance"'
    speed = panel("Speed", f"sum(rate(requests_total{{{chosen}}}[$__rate_interval]))")
    folded = {"type": "row", "title": "More", "panels": [panel("Up", f"up{{{chosen}}}")]}
    source = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    return {
        "uid": "good",
        "editable": False,
        "templating": {"list": [{**source, "label": "Data source"}, job, instance]},
        "panels": [speed, folded],
    }


def panel(title: str, expr: str) -> Json:
    return {
        "id": 1,
        "type": "timeseries",
        "title": title,
        "description": "What it shows.",
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": "reqps"}, "overrides": []},
        "targets": [{"refId": "A", "datasource": SOURCE, "expr": expr}],
    }


def speed(dashboard: Json) -> Json:
    found: Json = dashboard["panels"][0]
    return found


def folded(dashboard: Json) -> Json:
    found: Json = dashboard["panels"][1]["panels"][0]
    return found


def variable(dashboard: Json, name: str) -> Json:
    found: Json = next(one for one in dashboard["templating"]["list"] if one["name"] == name)
    return found


def drop(dashboard: Json, name: str) -> None:
    dashboard["templating"]["list"].remove(variable(dashboard, name))


def ask(dashboard: Json, expr: str) -> None:
    """Put an expression in, of which the rules for matchers are content."""
    chosen = '{job=~"$job", instance=~"$instance"}'
    speed(dashboard)["targets"][0]["expr"] = expr.replace("{}", chosen)


def override(dashboard: Json, unit: str) -> None:
    speed(dashboard)["fieldConfig"]["overrides"] = [
        {"matcher": {}, "properties": [{"id": "min", "value": 0}, {"id": "unit", "value": unit}]}
    ]


def no_unit(dashboard: Json) -> None:
    del speed(dashboard)["fieldConfig"]["defaults"]["unit"]


def unit_of_overrides_alone(dashboard: Json) -> None:
    no_unit(dashboard)
    override(dashboard, "bytes")


def words_instead_of_a_unit(dashboard: Json) -> None:
    no_unit(dashboard)
    speed(dashboard)["fieldConfig"]["defaults"]["mappings"] = [{"type": "value", "options": {}}]


def second_source(dashboard: Json, name: str, label: str) -> None:
    variable(dashboard, "datasource").update(
        name="prometheus_datasource", label="Prometheus data source"
    )
    loki = {"name": name, "type": "datasource", "query": "loki", "label": label}
    dashboard["templating"]["list"].append(loki)


Change = Callable[[Json], object]
BAD: list[tuple[str, str, str, Change]] = [
    (
        "template-datasource-rule",
        "source",
        "must be named datasource or prometheus_datasource",
        lambda it: variable(it, "datasource").update(name="source"),
    ),
    (
        "template-datasource-rule",
        "datasource",
        "must be labelled Data source or Prometheus data source",
        lambda it: variable(it, "datasource").update(label="Source"),
    ),
    (
        "template-datasource-rule",
        "logs",
        "must be named loki_datasource",
        lambda it: second_source(it, "logs", "Loki data source"),
    ),
    ("template-job-rule", "", "no variable job", lambda it: drop(it, "job")),
    (
        "template-job-rule",
        "job",
        "must be a query",
        lambda it: variable(it, "job").update(type="custom"),
    ),
    (
        "template-job-rule",
        "job",
        "must be asked of $datasource",
        lambda it: variable(it, "job").update(datasource={"uid": "P1"}),
    ),
    ("template-instance-rule", "", "no variable instance", lambda it: drop(it, "instance")),
    (
        "template-label-promql-rule",
        "job",
        "no function of the data source: up",
        lambda it: variable(it, "job").update(query="up"),
    ),
    (
        "template-label-promql-rule",
        "job",
        "no PromQL",
        lambda it: variable(it, "job").update(query={"query": "label_values(up{, job)"}),
    ),
    (
        "template-on-time-change-reload-rule",
        "job",
        "refresh must be 2",
        lambda it: variable(it, "job").update(refresh=1),
    ),
    (
        "panel-datasource-rule",
        "Speed",
        "asks P1",
        lambda it: speed(it).update(datasource={"uid": "P1"}),
    ),
    (
        "panel-datasource-rule",
        "Speed",
        "no data source",
        lambda it: speed(it).update(datasource=None),
    ),
    (
        "panel-title-description-rule",
        "panel 1",
        "no title",
        lambda it: speed(it).update(title=""),
    ),
    ("panel-units-rule", "Speed", "no unit", no_unit),
    (
        "panel-units-rule",
        "Speed",
        "no such unit: furlongs",
        lambda it: speed(it)["fieldConfig"]["defaults"].update(unit="furlongs"),
    ),
    ("panel-no-targets-rule", "Speed", "asks nothing", lambda it: speed(it).update(targets=[])),
    ("target-promql-rule", "Speed A", "no PromQL", lambda it: ask(it, "sum(up{}")),
    (
        "target-rate-interval-rule",
        "Speed A",
        "rate must be over [$__rate_interval], not x",
        lambda it: ask(it, "rate(x{}[5m])"),
    ),
    (
        "target-job-rule",
        "Speed A",
        'no job=~"$job"',
        lambda it: ask(it, 'up{instance=~"$instance"}'),
    ),
    (
        "target-instance-rule",
        "Speed A",
        'no instance=~"$instance"',
        lambda it: ask(it, 'up{} + up{job=~"$job", instance=~"a"}'),
    ),
    (
        "target-counter-agg-rule",
        "Speed A",
        "is a counter",
        lambda it: ask(it, "sum(x_total{})"),
    ),
    ("uneditable-dashboard", "", "editable", lambda it: it.update(editable=True)),
]


def test_nothing_is_found_in_a_good_dashboard() -> None:
    assert [] == linter.faults(good())


@pytest.mark.parametrize(("rule", "where", "what", "change"), BAD)
def test_each_rule_finds_its_fault(rule: str, where: str, what: str, change: Change) -> None:
    dashboard = good()
    change(dashboard)

    found = [fault for fault in linter.faults(dashboard) if fault.rule == rule]

    assert [("good", where)] == [(fault.dashboard, fault.where) for fault in found]
    assert what in found[0].what


def test_every_rule_is_shown_to_find_something() -> None:
    assert set(linter.RULES) == {rule for rule, *_ in BAD}


@pytest.mark.parametrize(
    "change",
    [
        lambda it: ask(it, "increase(x_total{}[1h])"),
        lambda it: ask(it, "avg_over_time(x{}[5m])"),
        lambda it: ask(it, "irate(x_total{}[$__rate_interval])"),
        lambda it: ask(it, "rate(x{}[${__rate_interval}])"),
        lambda it: variable(it, "job").update(query="label_values(job)"),
        lambda it: variable(it, "job").update(query="label_names()"),
        lambda it: variable(it, "job").update(query="metrics(node.*)"),
        lambda it: variable(it, "job").update(query='label_values(up{a="$job, b"}, job)'),
        lambda it: speed(it).update(title="$job"),
        unit_of_overrides_alone,
        words_instead_of_a_unit,
    ],
)
def test_what_is_allowed_is_no_fault(change: Change) -> None:
    dashboard = good()
    change(dashboard)

    assert [] == linter.faults(dashboard)


@pytest.mark.parametrize(
    "expr", ["topk($limit, up{})", "topk(${limit}, up{})", "topk([[limit]], up{})"]
)
def test_a_variable_outside_of_texts_is_read_as_its_first_choice(expr: str) -> None:
    dashboard = good()
    dashboard["templating"]["list"].append({"name": "limit", "type": "custom", "query": "10,25"})
    ask(dashboard, expr)

    assert [] == linter.faults(dashboard)
