"""Which alerts a real Alertmanager mutes while others fire, and how few messages are left."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alerts import inhibition, rulebook
from alerts.model import Severity
from alerts.receivers import RoutingSettings
from alerts.settings import Settings
from tests.alerts.alertmanager import (
    Alertmanager,
    Inbox,
    Labels,
    all_told,
    hooks,
    labels_of,
    named,
    running,
)
from tests.waiting import eventually

# The rules that it is for

ALERTS = {alert.name: alert for group in rulebook.groups(Settings()) for alert in group.alerts}
EVALUATION_S = Settings().prometheus.evaluation_interval


def test_inhibition_names_only_alerts_that_there_are() -> None:
    texts = [text for rule in inhibition.RULES for text in (*rule.sources, *rule.targets)]
    named_ones = {name for text in texts for name in re.findall(r"Ollama\w+", text)}

    assert named_ones <= ALERTS.keys()
    assert set(inhibition.ROTATION_CAUSES) <= ALERTS.keys()


def _sent_after_s(name: str) -> float:
    """Return how long after its cause an alert is told of, if nothing mutes it."""
    settings = RoutingSettings()
    alert = ALERTS[name]
    is_page = alert.severity is Severity.CRITICAL
    return alert.for_s + (settings.group_wait if is_page else settings.ticket_group_wait)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("OllamaFleetExporterDown", "OllamaFleetShardMissing"),
        ("OllamaFleetExporterDown", "OllamaFleetExporterReplicaDown"),
        ("OllamaFleetShardMissing", "OllamaFleetTokenThroughputLow"),
        ("OllamaFleetPollStale", "OllamaFleetMetricsAbsent"),
        ("OllamaFleetInventoryLost", "OllamaFleetInventoryShrunk"),
        ("OllamaFleetHealthyInstancesLow", "OllamaModelInstancesDown"),
        ("OllamaFleetHealthyInstancesLow", "OllamaFleetAvailabilityBudgetBurn"),
        ("OllamaFleetAllDrained", "OllamaFleetDrainedLong"),
        ("OllamaModelUnavailable", "OllamaModelInstancesDown"),
        ("OllamaFleetInventoryLost", "OllamaFleetInventoryEmpty"),
        ("OllamaFleetInventoryLost", "OllamaFleetTrafficLost"),
        ("OllamaFleetAllDrained", "OllamaFleetTrafficLost"),
        ("OllamaFleetClusterLabelMissing", "OllamaFleetReplicasDisagree"),
        ("OllamaFleetLatencyHighLowTraffic", "OllamaModelLatencyP99High"),
        ("OllamaFleetHealthyInstancesLow", "OllamaFleetTokenThroughputLow"),
        ("OllamaFleetHealthyInstancesLow", "OllamaNodeInstancesDown"),
        ("OllamaNodeInstancesDown", "OllamaNodeSlowerThanFleet"),
        ("OllamaProvisionerStalled", "OllamaProvisionerBehind"),
        ("OllamaProvisionerStalled", "OllamaProvisionerInstancesFailed"),
        ("OllamaProvisionerStalled", "OllamaProvisionerStoreUnavailable"),
        ("OllamaFleetManySlowNodes", "OllamaNodeSlowerThanFleet"),
        ("OllamaFleetManyModelsNotLoaded", "OllamaFleetModelsNotLoaded"),
        ("OllamaFleetManyModelsNotLoaded", "OllamaFleetModelsNotInstalled"),
        ("OllamaFleetModelsNotInstalled", "OllamaFleetModelsNotLoaded"),
        ("OllamaFleetManyCanariesStalled", "OllamaFleetCanariesStalled"),
        ("OllamaFleetLatencyP99High", "OllamaFleetLatencyOutliers"),
        ("OllamaFleetLatencyP99High", "OllamaFleetLatencyHighLowTraffic"),
        ("OllamaFleetLatencyP99High", "OllamaModelLatencyP99High"),
        ("OllamaFleetLatencyP99High", "OllamaFleetLatencyRising"),
        ("OllamaFleetRequestsFailing", "OllamaModelRequestsFailing"),
        ("OllamaGatewayAllDown", "OllamaGatewayDown"),
        ("OllamaGatewayAllDown", "OllamaFleetTrafficLost"),
        ("OllamaGatewayFleetFull", "OllamaGatewayRejectionsHigh"),
        ("OllamaGatewayListRefused", "OllamaGatewayListStale"),
        ("OllamaFleetHealthyInstancesLow", "OllamaGatewayFleetFull"),
        ("OllamaFleetExporterDown", "OllamaGatewayListStale"),
        ("OllamaFleetMetricsAbsent", "OllamaGatewayListStale"),
        ("OllamaFleetRequestsFailing", "OllamaFleetErrorBudgetBurn"),
    ],
)
def test_what_mutes_fires_before_what_it_mutes_is_sent(source: str, target: str) -> None:
    """Of one cause. Rules are evaluated at intervals, so the two may be an interval apart."""
    assert ALERTS[source].for_s + EVALUATION_S <= _sent_after_s(target)


@pytest.mark.parametrize("target", ["OllamaProvisionerDown", "OllamaProvisionerStoreUnavailable"])
def test_that_nobody_leads_is_told_first_though_the_last_leader_is_forgotten_late(
    target: str,
) -> None:
    late_s = Settings().scope.lookback_s + EVALUATION_S

    assert ALERTS["OllamaProvisionerNoLeader"].for_s + late_s <= _sent_after_s(target)


@pytest.mark.parametrize(
    "rule", [rule for rule in inhibition.RULES if rule.equal], ids=lambda rule: rule.reason
)
def test_a_label_that_must_agree_must_be_there(rule: inhibition.Inhibition) -> None:
    """Alertmanager takes a label that both sides lack for equal. Each alert has a name."""
    for label in set(rule.equal) - {"alertname"}:
        assert f'{label}=~".+"' in rule.sources


# What a real Alertmanager mutes

OF_PROVISIONERS = ("OllamaProvisionerNoLeader", "OllamaProvisionerManyLeaders")
OF_A_SHARD = ("OllamaFleetShardMissing", "OllamaFleetExporterReplicaDown")
NODE_1 = {"severity": "warning", "node": "n1"}

MUTED_AND_NOT: list[tuple[str, list[Labels], list[Labels], list[Labels]]] = [
    (
        "a dead exporter mutes all that is ours, but for provisioners, which need none",
        named("OllamaFleetExporterDown"),
        named(*inhibition.FLEET_ALERTS, *OF_A_SHARD, "OllamaFleetMetricsAbsent")
        + named("OllamaFleetPollStale", shard="0")
        + named("OllamaFleetCardinalityHigh", severity="warning", instance="a:1"),
        named("Watchdog", severity="none") + named("NodeFilesystemFull", *OF_PROVISIONERS),
    ),
    (
        "absent figures mute what is computed of them",
        named("OllamaFleetMetricsAbsent"),
        named(*inhibition.FLEET_ALERTS)
        + named("OllamaFleetSeriesAbsent", severity="warning", metric="p99")
        + named("OllamaFleetTelemetryPartial", severity="warning"),
        named("OllamaFleetInventoryLost", "Watchdog", *OF_A_SHARD)
        + named("OllamaFleetScrapeNearTimeout", severity="warning", instance="a:1"),
    ),
    (
        "a missing shard mutes what is summed over shards",
        named("OllamaFleetShardMissing"),
        named(*inhibition.FLEET_ALERTS),
        named("OllamaFleetExporterReplicaDown", "OllamaFleetTelemetryPartial", severity="warning"),
    ),
    (
        "a dead polling loop mutes the absence that it makes",
        named("OllamaFleetPollStale", shard="0"),
        named("OllamaFleetMetricsAbsent")
        + named("OllamaFleetPollSlow", severity="warning", instance="a:1"),
        named("OllamaFleetInventoryStale", severity="warning", instance="a:1"),
    ),
    (
        "a dead polling loop mutes nothing of what other shards still see",
        named("OllamaFleetPollStale", shard="0"),
        [],
        named("OllamaFleetHealthyInstancesLow"),
    ),
    (
        "what is behind a muted alert stays muted",
        named("OllamaFleetPollStale", shard="0"),
        named("OllamaFleetMetricsAbsent", "OllamaFleetHealthyInstancesLow"),
        [],
    ),
    (
        "a lost inventory mutes the shrunk one and no outage of what is still listed",
        named("OllamaFleetInventoryLost"),
        named("OllamaFleetInventoryShrunk", severity="warning") + named("OllamaFleetTrafficLost"),
        named("OllamaFleetHealthyInstancesLow", "OllamaFleetLatencyP99High"),
    ),
    (
        "latency at low traffic mutes that of single models, and nothing else about latency",
        named("OllamaFleetLatencyHighLowTraffic", severity="warning"),
        named("OllamaModelLatencyP99High", severity="warning", model="m"),
        named("OllamaFleetLatencyOutliers", "OllamaFleetLatencyRising", severity="warning"),
    ),
    (
        "too few instances mute what follows from that",
        named("OllamaFleetHealthyInstancesLow"),
        named("OllamaFleetTokenThroughputLow")
        + named(
            "OllamaFleetCapacityLow",
            "OllamaFleetQueueSaturated",
            "OllamaFleetAvailabilityBudgetBurn",
            severity="warning",
        )
        + named("OllamaModelInstancesDown", severity="warning", model="m")
        + named("OllamaNodeInstancesDown", **NODE_1),
        named("OllamaFleetErrorBudgetBurn", "OllamaFleetLatencyP99High")
        + named("OllamaModelUnavailable", model="m"),
    ),
    (
        "a model that is gone mutes that many of its instances are",
        named("OllamaModelUnavailable", model="m"),
        named("OllamaModelInstancesDown", severity="warning", model="m"),
        [],
    ),
    (
        "a model that is gone mutes nothing about another one",
        named("OllamaModelUnavailable", model="m"),
        [],
        named("OllamaModelInstancesDown", severity="warning", model="n"),
    ),
    (
        "a fleet that is wholly drained mutes that much of it is",
        named("OllamaFleetAllDrained"),
        named("OllamaFleetDrainedLong", severity="warning"),
        named("OllamaFleetLatencyP99High"),
    ),
    (
        "a dead node mutes its slowness and its instances",
        named("OllamaNodeInstancesDown", **NODE_1),
        named("OllamaNodeSlowerThanFleet", model="m", engine="e", **NODE_1)
        + named("InstanceDown", instance_id="i1", **NODE_1),
        named("NodeFilesystemFull", **NODE_1),
    ),
    (
        "a dead node mutes no other node's",
        named("OllamaNodeInstancesDown", **NODE_1),
        [],
        named("OllamaNodeSlowerThanFleet", severity="warning", node="n2")
        + named("InstanceDown", instance_id="i2", node="n2"),
    ),
    (
        "an alert about a nameless node mutes no instance without a node",
        named("OllamaNodeInstancesDown", severity="warning"),
        [],
        named("InstanceDown", instance_id="i1")
        + named("OllamaNodeSlowerThanFleet", severity="warning"),
    ),
    (
        "many slow nodes mute the single ones",
        named("OllamaFleetManySlowNodes"),
        named("OllamaNodeSlowerThanFleet", **NODE_1),
        named("OllamaNodeInstancesDown", **NODE_1),
    ),
    (
        "many models that are not loaded mute the tickets about them",
        named("OllamaFleetManyModelsNotLoaded"),
        named("OllamaFleetModelsNotLoaded", "OllamaFleetModelsNotInstalled", severity="warning"),
        named("OllamaFleetManyCanariesStalled", "OllamaModelOnCpu"),
    ),
    (
        "models that are not on disk are not in memory either",
        named("OllamaFleetModelsNotInstalled", severity="warning"),
        named("OllamaFleetModelsNotLoaded", severity="warning"),
        named("OllamaModelOnCpu", severity="warning", model="m"),
    ),
    (
        "many canaries without answer mute the ticket about some",
        named("OllamaFleetManyCanariesStalled"),
        named("OllamaFleetCanariesStalled", severity="warning"),
        named("OllamaFleetCanaryStopped", severity="warning", shard="0")
        + named("OllamaFleetHealthyInstancesLow"),
    ),
    (
        "exporters of two fleets have nothing to agree on, in their shard",
        named("OllamaFleetClusterLabelMissing", severity="warning", shard="0"),
        named("OllamaFleetReplicasDisagree", severity="warning", shard="0"),
        named("OllamaFleetExporterReplicaDown", severity="warning", instance="a"),
    ),
    (
        "exporters of two fleets mute nothing of another shard",
        named("OllamaFleetClusterLabelMissing", severity="warning", shard="0"),
        [],
        named("OllamaFleetReplicasDisagree", severity="warning", shard="1"),
    ),
    (
        "that nobody leads mutes why that may be",
        named("OllamaProvisionerNoLeader", severity="warning"),
        named("OllamaProvisionerDown", severity="warning", instance="p:1")
        + named("OllamaProvisionerStoreUnavailable", severity="warning", instance="p:2"),
        named("OllamaFleetHealthyInstancesLow")
        + named("OllamaProvisionerNodeUnreachable", severity="warning"),
    ),
    (
        "a leader that does nothing mutes what comes of it, and its cause",
        named("OllamaProvisionerStalled", severity="warning", instance="p:1"),
        named("OllamaProvisionerStoreUnavailable", severity="warning", instance="p:1")
        + named("OllamaProvisionerInstancesFailed", severity="warning")
        + named("OllamaProvisionerBehind", severity="warning"),
        named("OllamaProvisionerNodeUnreachable", severity="warning")
        + named("OllamaProvisionerDown", severity="warning", instance="p:2"),
    ),
    (
        "a fleet without its gateways has no requests, and nobody counts them",
        named("OllamaGatewayAllDown"),
        named("OllamaGatewayDown", "OllamaGatewayListStale", severity="warning", instance="g:1")
        + named("OllamaGatewayFleetFull", "OllamaFleetTrafficLost"),
        named("OllamaFleetHealthyInstancesLow", "OllamaFleetRequestsFailing"),
    ),
    (
        "a fleet that lost many instances is full",
        named("OllamaFleetHealthyInstancesLow"),
        named("OllamaGatewayFleetFull")
        + named("OllamaGatewayUpstreamsEjected", severity="warning", instance="g:1"),
        named("OllamaGatewayAllDown"),
    ),
    (
        "a list that is refused gets old, at that gateway",
        named("OllamaGatewayListRefused", severity="warning", instance="g:1"),
        named("OllamaGatewayListStale", severity="warning", instance="g:1"),
        named("OllamaGatewayListStale", severity="warning", instance="g:2"),
    ),
    (
        "critical age mutes age",
        named("OllamaFleetRotationCritical", severity="warning"),
        named("OllamaFleetRotationOverdue", severity="warning"),
        named("OllamaFleetInstancesFlapping", severity="warning"),
    ),
]


@pytest.mark.parametrize(
    ("sources", "muted", "heard"),
    [row[1:] for row in MUTED_AND_NOT],
    ids=[row[0] for row in MUTED_AND_NOT],
)
async def test_inhibition(
    alertmanager: Alertmanager, sources: list[Labels], muted: list[Labels], heard: list[Labels]
) -> None:
    await alertmanager.fire([*muted, *heard, *sources])
    await alertmanager.are_considered("another")

    assert {labels["alertname"] for labels in muted} == await alertmanager.muted("eu")


async def test_a_critical_burn_mutes_the_warning_about_the_same_budget(
    alertmanager: Alertmanager, taken: Inbox
) -> None:
    burn = "OllamaFleetErrorBudgetBurn"

    await alertmanager.fire_known(named(burn, long_window="1h"))
    await alertmanager.fire(
        named(burn, severity="warning", long_window="3d")
        + named(burn, severity="warning", long_window="3d", cluster="us")
    )
    await all_told(alertmanager, taken)

    await eventually(lambda: [burn] == taken.told("page"))
    assert [] == taken.told("ticket")
    await eventually(lambda: [burn] == taken.told("ticket", "us"))


async def test_clusters_do_not_mute_each_other(alertmanager: Alertmanager, taken: Inbox) -> None:
    await alertmanager.fire_known(named("OllamaFleetExporterDown"))
    await alertmanager.fire(
        named("OllamaFleetLatencyP99High") + named("OllamaFleetLatencyP99High", cluster="us")
    )
    await all_told(alertmanager, taken)

    await eventually(lambda: ["OllamaFleetExporterDown"] == taken.told("page"))
    await eventually(lambda: ["OllamaFleetLatencyP99High"] == taken.told("page", "us"))


async def test_another_cluster_label_parts_clusters_as_well(tmp_path: Path, taken: Inbox) -> None:
    async with running(tmp_path, hooks(taken.url), cluster_label="fleet") as alertmanager:
        await alertmanager.fire(
            named("OllamaFleetExporterDown", fleet="a")
            + named("OllamaFleetLatencyP99High", fleet="b")
            + named("OllamaModelUnavailable", fleet="a")
        )
        await alertmanager.are_considered("another")

        assert {"OllamaModelUnavailable"} == await alertmanager.muted("eu")


# What is left to be told


async def test_a_dead_exporter_is_one_page_and_no_ticket(
    alertmanager: Alertmanager, taken: Inbox
) -> None:
    await alertmanager.fire_known(named("OllamaFleetExporterDown"))
    await alertmanager.fire(
        named("OllamaFleetHealthyInstancesLow", "OllamaFleetMetricsAbsent")
        + named("OllamaNodeInstancesDown", **NODE_1)
    )
    await all_told(alertmanager, taken)

    await eventually(lambda: ["OllamaFleetExporterDown"] == taken.told("page"))
    assert [] == taken.told("ticket")


async def test_the_loss_of_half_the_fleet_is_at_most_two_notifications(
    alertmanager: Alertmanager, taken: Inbox
) -> None:
    """Five hundred nodes are gone. Users feel it, so their errors are told of as well."""
    nodes = [f"n{i}" for i in range(500)]

    await alertmanager.fire_known(
        named("OllamaFleetHealthyInstancesLow")
        + named("OllamaFleetErrorBudgetBurn", long_window="1h")
    )
    await alertmanager.fire(
        named("OllamaFleetAvailabilityBudgetBurn", severity="warning", long_window="1h")
        + named("OllamaFleetTokenThroughputLow")
        + named("OllamaFleetCapacityLow", severity="warning")
        + named("OllamaModelInstancesDown", severity="warning", model="m")
        + named("OllamaFleetQueueSaturated", severity="warning")
        + [labels_of("OllamaNodeInstancesDown", "warning", node=node) for node in nodes]
    )
    await all_told(alertmanager, taken)

    pages = ["OllamaFleetErrorBudgetBurn", "OllamaFleetHealthyInstancesLow"]
    await eventually(lambda: pages == taken.told("page"))
    assert [] == taken.told("ticket")
