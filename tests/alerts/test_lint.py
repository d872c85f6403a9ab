"""The rules keep the lints, under any settings; each lint catches what it is for."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from alerts import rulebook
from alerts.annotations import VALUE, count
from alerts.model import Alert, Group, Recording, Severity
from alerts.rulefile import rule_file
from alerts.settings import Settings
from exporter import catalogue
from exporter.catalogue import Series
from tests.alerts import expression_lints, lints
from tests.alerts.expression_lints import CLOSED
from tests.alerts.lints import Lint
from tests.conftest import ROOT

LINTS = (*lints.LINTS, *expression_lints.LINTS)
GIVEN: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "absolute thresholds": {
        "thresholds": {"healthy_instances": 9900, "tokens_per_second": 400_000}
    },
    "fleet of a fixed size": {"fleet": {"size": 10_000}},
    "another cluster label": {"prometheus": {"cluster_label": "fleet"}},
    "scraped every 30s": {"prometheus": {"scrape_interval": "30s"}},
}
"""Settings under which the lints must hold."""


def alert(expr: str = 'up{job="ollama-fleet-exporter"} == 0', **changed: Any) -> Alert:
    """Return an alert without any fault but what is changed."""
    good = Alert(
        name="OllamaFleetExporterReplicaDown",
        expr=expr,
        severity=Severity.CRITICAL,
        summary="An example.",
        description="{{ $value }} of them.",
        for_s=60.0,
        keep_firing_for_s=60.0,
    )
    return dataclasses.replace(good, **changed)


def record(expr: str, name: str = "fleet:ollama_example:sum", **labels: str) -> Recording:
    return Recording(name, expr, labels)


ONE_OF_ONE = f"{VALUE}{count(Settings().scope, 'fleet:ollama_instances:sum', before=' of ')}"
HEALTHY = 'ollama_fleet_instances{status="healthy"}'
ROUGH = "ollama_fleet_requests_total"

CAUGHT: tuple[tuple[Lint, Recording | Alert, str], ...] = (
    (lints.alert_names, alert(name="OllamaFleet_Down"), "CamelCase"),
    (lints.alert_names, alert(name="FleetDown"), "CamelCase"),
    (lints.alert_names, alert(name=f"Ollama{'A' * 35}"), "at most 40"),
    (lints.recorded_names, record("up", "ollama_example_sum"), "level:metric:operations"),
    (lints.recorded_names, record("up", "fleet:ollama_example_total:rate"), "_total"),
    (lints.severities, alert(severity=Severity.NONE), "none is for Watchdog"),
    (lints.severities, alert(name="Watchdog"), "none is for Watchdog"),
    (lints.severities, alert(labels={"severity": "info"}), "names a severity"),
    (lints.summaries, alert(summary="{{ $value }} are down."), "no sentence"),
    (lints.summaries, alert(summary="they are down."), "no sentence"),
    (lints.summaries, alert(summary="They are down"), "no sentence"),
    (lints.descriptions, alert(description="Some are down."), "neither a value nor a label"),
    (lints.plurals, alert(description="{{ $value }} nodes are down."), "1 nodes"),
    (lints.plurals, alert(description="{{ $value | humanize }} slow nodes."), "1 slow nodes"),
    (lints.plurals, alert(description=f"{ONE_OF_ONE} instances fail."), "1 instances"),
    (lints.links, alert(name="OllamaNoSuchAlert"), "no alerts/runbooks/OllamaNoSuchAlert.md"),
    (lints.holds, alert(for_s=29.0), "two scrapes"),
    (lints.keeps, alert(keep_firing_for_s=0.0), "flaps"),
    (expression_lints.known_series, alert("ollama_fleet_instance > 0"), "ollama_fleet_instance"),
    (expression_lints.known_series, alert("fleet:ollama_typo:sum > 0"), "fleet:ollama_typo:sum"),
    (expression_lints.known_series, alert("ollama_fleet_requests_bucket > 0"), "_bucket"),
    (expression_lints.order, record("fleet:ollama_example:sum + 1"), "before its group records"),
    (expression_lints.jobs, record("sum by (cluster) (up)"), "reads up of any job"),
    (expression_lints.matched_labels, alert('up{state="x"} == 0'), "up has no label state"),
    (
        expression_lints.matched_labels,
        alert('max_over_time(ollama_fleet_instances{model="x"}[5m]) > 0'),
        "no label model",
    ),
    (expression_lints.matched_values, alert('ollama_fleet_instances{status="sick"} > 0'), "sick"),
    (
        expression_lints.matched_values,
        alert('ollama_node_instances{status=~"healthy|sick"} > 0'),
        "no status sick",
    ),
    (
        expression_lints.matched_values,
        alert('rate(ollama_exporter_poll_errors_total{request="figures"}[5m]) > 0'),
        "no request figures",
    ),
    (expression_lints.grouped_labels, record(f"sum by (cluster, model) ({HEALTHY})"), "by model"),
    (
        expression_lints.joined_labels,
        record(f"{HEALTHY} * on (cluster, version) ollama_exporter_build_info"),
        "matches version",
    ),
    (
        expression_lints.joined_labels,
        record(f"{HEALTHY} * on (cluster, instance) group_left (shard) up"),
        "matches shard",
    ),
    (expression_lints.clusters, record(f"sum by (status) ({HEALTHY})"), "aggregates over cluster"),
    (expression_lints.clusters, record(f"sum without (cluster) ({HEALTHY})"), "aggregates over"),
    (expression_lints.clusters, record(f"{HEALTHY} and on (instance) up"), "without cluster"),
    (
        expression_lints.joins,
        record(f"{HEALTHY} * ignoring (status) group_left (job) up"),
        "not on which labels",
    ),
    (expression_lints.counters, record(f"rate({HEALTHY}[5m])"), "takes rate"),
    (
        expression_lints.counters,
        record(f"increase(sum by (cluster) ({ROUGH})[5m:15s])"),
        "takes increase",
    ),
    (expression_lints.counters, record("rate(fleet:ollama_example:sum[5m])"), "takes rate"),
    (expression_lints.counters, record(f"deriv({ROUGH}[5m])"), "takes deriv of a counter"),
    (expression_lints.ranges, record(f"rate({ROUGH}[59s])"), "59 s, less than 60 s"),
    (expression_lints.ranges, record(f"max_over_time({HEALTHY}[45s:15s])"), "45 s, less than"),
    (expression_lints.fragile, record(f"topk by (cluster) (5, {HEALTHY})"), "come and go"),
    (expression_lints.filters, alert("up == bool 0"), "compares with bool"),
    (expression_lints.absences, alert(f"absent({HEALTHY})"), "of what is not up"),
    (expression_lints.offsets, alert("up offset 5m == 0", for_s=0.0), "with an offset"),
    (
        expression_lints.pages,
        alert("max by (cluster, instance_id) (ollama_instance_up) == 0"),
        "for each instance",
    ),
    (
        expression_lints.template_labels,
        alert("max by (cluster) (up) == 0", description="{{ $labels.instance }}"),
        "its label instance",
    ),
    (
        expression_lints.template_labels,
        alert("max by (cluster) (up) == 0", dashboard_query="var-node={{ $labels.node }}"),
        "its label node",
    ),
    (
        expression_lints.asked,
        alert(description="{{ query (printf `fleet:typo:sum{cluster=%[1]q}`) }}"),
        "asks for fleet:typo:sum, which nobody records",
    ),
)
"""A lint, a rule with the one fault that it is for, and what it says of it."""


@pytest.mark.parametrize("given", GIVEN)
def test_the_rules_keep_every_lint_under_any_settings(given: str) -> None:
    settings = Settings.model_validate(GIVEN[given])
    groups = rulebook.groups(settings)

    assert [] == [f"{lint.__name__}: {fault}" for lint in LINTS for fault in lint(groups, settings)]


def test_each_lint_catches_the_fault_that_it_is_for_and_no_other() -> None:
    missed = []
    for lint, rule, fault in CAUGHT:
        said = list(lint([Group("ollama-fleet-example", (rule,))], Settings()))
        if len(said) != 1 or not said[0].startswith(f"{rule.name}: ") or fault not in said[0]:
            missed.append((lint.__name__, fault, said))

    assert [] == missed


def test_an_alert_without_faults_passes_every_lint() -> None:
    told = alert(labels={"kind": "a"}, description="{{ $labels.kind }} of {{ $labels.instance }}.")
    groups = [Group("ollama-fleet-example", (alert(), told))]

    assert [] == [fault for lint in LINTS for fault in lint(groups, Settings())]


def test_each_lint_is_seen_to_catch_something() -> None:
    of_groups = {lints.group_names, lints.duplicates}

    assert set(LINTS) == of_groups | {lint for lint, _, _ in CAUGHT}


@pytest.mark.parametrize(
    ("groups", "fault"),
    [
        ([Group("ollamaFleet", ())], "kebab-case"),
        ([Group(f"ollama-{'a' * 34}", ())], "at most 40"),
        ([Group("ollama-fleet", (alert(),) * 21)], "has 21 rules"),
        ([Group("ollama-fleet", ()), Group("ollama-fleet", ())], "2 groups"),
    ],
)
def test_a_group_with_a_bad_name_or_too_many_rules_is_caught(
    groups: list[Group], fault: str
) -> None:
    (said,) = lints.group_names(groups, Settings())

    assert fault in said


@pytest.mark.parametrize("rule", [alert(), record("up", name="fleet:ollama_example:sum", kind="a")])
def test_two_rules_that_make_the_same_are_caught_across_groups(rule: Recording | Alert) -> None:
    groups = [Group("ollama-fleet-one", (rule,)), Group("ollama-fleet-two", (rule,))]

    (said,) = lints.duplicates(groups, Settings())

    assert said.startswith(f"{rule.name}: 2 rules make it with")


def test_rules_of_one_name_with_labels_of_their_own_are_no_duplicates() -> None:
    rules = (record("up", kind="a"), record("up", kind="b"))

    assert [] == list(lints.duplicates([Group("ollama-fleet-example", rules)], Settings()))


def test_what_another_group_records_may_be_used_in_any_order() -> None:
    groups = [
        Group("ollama-fleet-one", (alert("fleet:ollama_example:sum > 0"),)),
        Group("ollama-fleet-two", (record("up"),)),
    ]

    assert [] == list(expression_lints.order(groups, Settings()))


def test_labels_of_a_recorded_series_are_those_of_its_expression_and_its_own() -> None:
    rule = record(f"sum by (cluster, status) ({HEALTHY})", kind="a")

    known = expression_lints.known([Group("ollama-fleet-example", (rule,))], Settings())

    assert {"cluster", "status", "kind"} == known.labels("fleet:ollama_example:sum")


@pytest.mark.parametrize(
    ("label", "series"),
    [("status", catalogue.FLEET_INSTANCES), ("request", catalogue.EXPORTER_POLL_ERRORS)],
)
def test_all_values_of_a_closed_label_are_told_of_in_the_catalogue(
    label: str, series: Series
) -> None:
    assert label in series.labels
    assert [] == [value for value in CLOSED[label] if not re.search(rf"\b{value}\b", series.help)]


def file_faults(document: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """Find what alerts of a rule file lack of that which the file's writer adds."""
    for rule in document["groups"][0]["rules"]:
        name = rule.get("alert")
        if not name:
            continue
        annotations = rule.get("annotations", {})
        if annotations.get("runbook_url") != f"{settings.links.runbooks}/{name}.md":
            yield f"{name}: has no link to its own runbook"
        if not annotations.get("dashboard_url", "").startswith(f"{settings.links.grafana}/d/"):
            yield f"{name}: has no link to a dashboard"
        if rule.get("labels", {}).get("severity") not in ("critical", "warning", "info", "none"):
            yield f"{name}: has no severity that we know"
        if name != lints.WATCHDOG and "for" not in rule:
            yield f"{name}: fires at once"


def test_each_file_is_named_for_its_group_whose_alerts_have_links_severity_and_for() -> None:
    faults: list[str] = []
    for path in sorted((ROOT / "alerts" / "rules").glob("*.yml")):
        document = yaml.safe_load(path.read_text())
        faults += file_faults(document, Settings())
        if [path.stem] != [group["name"] for group in document["groups"]]:
            faults.append(f"{path}: named for another group")

    assert [] == faults


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"annotations": {}}, "runbook"),
        ({"annotations": {}}, "dashboard"),
        ({"labels": {"severity": "page"}}, "severity"),
        ({"for": None}, "fires at once"),
    ],
)
def test_an_alert_in_a_file_without_one_of_them_is_caught(
    change: Mapping[str, Any], fault: str
) -> None:
    document = yaml.safe_load(rule_file(Group("ollama-fleet", (alert(),)), Settings()))
    (rule,) = document["groups"][0]["rules"]
    document["groups"][0]["rules"] = [
        {key: value for key, value in {**rule, **change}.items() if value is not None}
    ]

    assert any(fault in said for said in file_faults(document, Settings()))


@pytest.mark.parametrize("given", GIVEN)
def test_promtool_finds_no_fault_under_any_settings(
    given: str, promtool_binary: Path, tmp_path: Path
) -> None:
    settings = Settings.model_validate(GIVEN[given])
    groups = rulebook.groups(settings)
    for group in groups:
        (tmp_path / f"{group.name}.yml").write_text(rule_file(group, settings))

    checked = subprocess.run(
        [
            *(promtool_binary, "check", "rules", "--lint=all", "--lint-fatal"),
            *sorted(tmp_path.glob("*.yml")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (checked.returncode, checked.stderr)
    assert len(groups) == checked.stdout.count("SUCCESS")
