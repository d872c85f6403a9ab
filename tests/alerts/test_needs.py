"""What an expression lacks to give a result, and which words say why."""

from __future__ import annotations

import dataclasses

import pytest

from alerts import rulebook
from alerts.model import Recording
from alerts.needs import Needs
from alerts.settings import Settings
from alerts.sources import EXPORTER_SOURCES, GATEWAY_SOURCES, PROVISIONER_SOURCES, Present
from tests.alerts import promql_tree

SETTINGS = Settings()
GROUPS = rulebook.groups(SETTINGS)
RECORDINGS = [rule for group in GROUPS for rule in group.recordings]
JOB, PROVISIONER_JOB = SETTINGS.prometheus.job, SETTINGS.prometheus.provisioner_job
GATEWAY_JOB = SETTINGS.prometheus.gateway_job
SPEED, UP = "ollama_fleet_tokens_per_second", "ollama_instance_up"
QUEUED, KV = "ollama_fleet_requests_queued", "ollama_model_instance_kv_cache_usage_ratio"
PEERS = "ollama_node_peers_tokens_per_second"
EXPORTER_NAMES = frozenset(name for source in EXPORTER_SOURCES for name in source.names)
PER_INSTANCE = frozenset(name for name in EXPORTER_NAMES if name.startswith("ollama_instance_"))
CANARY = frozenset(name for name in EXPORTER_NAMES if "canary" in name)
LATENCY = frozenset(name for name in EXPORTER_NAMES if "latency" in name or "duration_s" in name)
TRAFFIC = frozenset({"ollama_fleet_requests_total", "ollama_fleet_generated_tokens_total"})
PUBLISHED = frozenset(name for name in EXPORTER_NAMES if name.startswith("ollama_"))
FLEET = frozenset(name for name in PUBLISHED if not name.startswith("ollama_exporter_"))


def needs(*present: str, recordings: list[Recording] = RECORDINGS) -> Needs:
    return Needs(recordings, Present({JOB: frozenset(present)}, JOB, GATEWAY_JOB))


def reasons(*present: str) -> dict[str, list[str]]:
    """Return why alerts can never fire, by their names, where only some series are present."""
    judge = needs(*present)
    return {
        alert.name: sorted({gap.reason.partition(":")[0] for gap in judge.lacking(alert.expr)})
        for group in GROUPS
        for alert in group.alerts
    }


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("vector(1)", ""),
        (f"{UP} == 0", ""),
        (f"sum by ({SPEED}) ({UP}) > 0.5e3", ""),
        (f"{UP} * on ({SPEED}) group_left ({KV}) {UP}", ""),
        (f"{UP} offset 5m > {SPEED}[5m]", SPEED),
        (f"{UP} and on () {SPEED}", SPEED),
        (f"{SPEED} unless {UP}", SPEED),
        (f"{UP} unless on (job) {SPEED} > 0 and {KV}", KV),
        (f"{SPEED} or {UP}", ""),
        (f"{SPEED} or {KV}", f"{SPEED} {KV}"),
        (f"{SPEED} or {UP} and {KV}", f"{SPEED} {KV}"),
        (f"({SPEED} or {UP}) and {KV}", KV),
        (f'label_replace({UP}, "a", "{SPEED}", "", "")', ""),
        (f"clamp_min({UP} or {SPEED}, {KV})", KV),
        (f"absent_over_time({SPEED}[1h])", ""),
        (f"absent({SPEED}) and {KV}", KV),
        (f'{UP}{{a=")}} or {SPEED}"}} and {KV}', KV),
        ("recorded > 1", SPEED),
        ("recorded_twice > 1", ""),
        ("recorded:longer", ""),
    ],
)
def test_an_expression_lacks_what_none_of_its_alternatives_can_do_without(
    expression: str, expected: str
) -> None:
    recordings = [
        Recording("recorded", "recorded_below"),
        Recording("recorded_below", f"sum({SPEED})"),
        Recording("recorded_twice", SPEED),
        Recording("recorded_twice", UP),
    ]

    gaps = needs(UP, recordings=recordings).lacking(expression)

    assert expected == " ".join(sorted(gap.name for gap in gaps))


def test_every_series_that_a_rule_reads_has_a_source() -> None:
    sources = {
        JOB: EXPORTER_SOURCES,
        PROVISIONER_JOB: PROVISIONER_SOURCES,
        GATEWAY_JOB: GATEWAY_SOURCES,
    }
    known = {
        (job, name) for job, some in sources.items() for source in some for name in source.names
    }
    recorded = {rule.name for rule in RECORDINGS}
    read = {
        (job, selector.name)
        for group in GROUPS
        for rule in group.rules
        for selector in promql_tree.selectors(rule.expr)
        if selector.name not in recorded
        for job in (one.value for one in promql_tree.matchers(selector) if one.name == "job")
    }

    assert set() == read - known
    assert 25 < len(read)


def test_with_all_series_every_alert_of_the_exporter_can_fire() -> None:
    found = {name: why for name, why in reasons(*EXPORTER_NAMES).items() if why}

    assert {
        "no gateway in the scrape job ollama-fleet-gateway",
        "no provisioner in the scrape job ollama-fleet-provisioner",
    } == {reason for why in found.values() for reason in why}
    assert all(name.startswith(("OllamaProvisioner", "OllamaGateway")) for name in found)


@pytest.mark.parametrize(
    ("absent", "alert", "expected"),
    [
        (LATENCY, "OllamaFleetLatencyP99High", ["no latency"]),
        ({SPEED}, "OllamaFleetTokenThroughputLow", ["no speed"]),
        # Its own series may be there: it is 0 for all instances.
        (CANARY, "OllamaFleetCanariesStalled", ["no canaries"]),
        (CANARY, "OllamaFleetLatencyP99High", []),
        (PER_INSTANCE, "OllamaNodeSlowerThanFleet", []),
        ({PEERS}, "OllamaNodeSlowerThanFleet", ["no node to compare"]),
        (PER_INSTANCE, "OllamaFleetTokenThroughputLow", []),
        (
            {QUEUED, "ollama_fleet_generated_tokens_total"},
            "OllamaFleetInstancesNotServing",
            ["no queues", "no token counts"],
        ),
        (TRAFFIC, "OllamaFleetTrafficLost", ["no request counts", "no token counts"]),
        ({min(TRAFFIC)}, "OllamaFleetTrafficLost", []),
        ({max(TRAFFIC)}, "OllamaFleetTrafficLost", []),
        (FLEET, "OllamaFleetModelsNotLoaded", ["no count of instances"]),
        (FLEET, "OllamaFleetPollSlow", []),
        (PUBLISHED, "OllamaFleetPollSlow", [f"no series of an exporter in the scrape job {JOB}"]),
        (PUBLISHED, "OllamaFleetMetricsAbsent", []),
        (EXPORTER_NAMES, "OllamaFleetKvCacheSaturated", [f"no target of the scrape job {JOB}"]),
        (EXPORTER_NAMES, "OllamaFleetExporterDown", []),
    ],
)
def test_a_missing_series_is_explained_by_the_first_fault_on_the_way_to_it(
    absent: frozenset[str], alert: str, expected: list[str]
) -> None:
    assert expected == reasons(*(EXPORTER_NAMES - absent))[alert]


def test_series_of_another_job_are_not_there() -> None:
    other = Present({"llm": EXPORTER_NAMES}, JOB, GATEWAY_JOB)
    renamed = dataclasses.replace(other, exporter_job="llm")

    assert Needs(RECORDINGS, other).lacking(f'{UP}{{job="{JOB}"}}')
    assert not Needs(RECORDINGS, renamed).lacking(f'{UP}{{job="llm"}}')
