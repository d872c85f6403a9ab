"""Which alerts say nothing new while another one fires, as data.

What Alertmanager does with them, and what follows:
- An alert is muted only while the other one fires. It must fire first, or within the `group_wait`
  of the muted one; the comments say how each pair keeps to that.
- A muted alert mutes as before: what is behind it stays muted.
- No resolved message is sent while an alert is muted: an incident that was open before has to be
  closed by hand. A dead exporter must not close it.
- A label of `equal` that both sides lack counts as equal. Rules that compare a label besides the
  cluster's therefore demand that it is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

OURS = 'alertname=~"Ollama.*"'
"""Matches our alerts, never Watchdog, and no alert of others in the same Alertmanager."""

OUR_WATCHDOG = {"component": "ollama-fleet"}
"""The label that tells our Watchdog from those of others."""

EXPORTERS = 'alertname=~"Ollama(Fleet|Model|Node).*"'
"""Matches what rests on the exporters' series; provisioners are scraped by themselves."""

FLEET = (
    "OllamaFleetHealthyInstancesLow",
    "OllamaFleetCapacityLow",
    "OllamaModelUnavailable",
    "OllamaModelInstancesDown",
    "OllamaFleetAllDrained",
    "OllamaFleetDrainedLong",
)
SLOW = (
    "OllamaFleetLatencyOutliers",
    "OllamaFleetLatencyHighLowTraffic",
    "OllamaModelLatencyP99High",
    "OllamaFleetLatencyRising",
)
"""Tickets on latency."""
PERFORMANCE = (
    "OllamaFleetLatencyP99High",
    *SLOW,
    "OllamaFleetTokenThroughputLow",
    "OllamaFleetQueueSaturated",
    "OllamaFleetInstancesNotServing",
    "OllamaFleetKvCacheSaturated",
)
MODELS = (
    "OllamaFleetModelsNotLoaded",
    "OllamaFleetManyModelsNotLoaded",
    "OllamaFleetModelsNotInstalled",
    "OllamaModelOnCpu",
    "OllamaFleetModelUnloadsHigh",
)
CANARY = (
    "OllamaFleetCanariesStalled",
    "OllamaFleetManyCanariesStalled",
    "OllamaFleetCanaryStopped",
)
NODES = (
    "OllamaNodeInstancesDown",
    "OllamaNodeSlowerThanFleet",
    "OllamaFleetManySlowNodes",
)
LIFE_CYCLE = (
    "OllamaFleetInstancesFlapping",
    "OllamaFleetRestartsHigh",
    "OllamaFleetOutOfMemoryRestarts",
    "OllamaFleetRotationOverdue",
    "OllamaFleetRotationCritical",
    "OllamaFleetVersionSkew",
)
REQUESTS = (
    "OllamaFleetTrafficLost",
    "OllamaFleetRequestsFailing",
    "OllamaModelRequestsFailing",
)
GATEWAY_FULL = ("OllamaGatewayFleetFull", "OllamaGatewayRejectionsHigh")
SLO = ("OllamaFleetAvailabilityBudgetBurn", "OllamaFleetErrorBudgetBurn")
FLEET_ALERTS = (*FLEET, *PERFORMANCE, *MODELS, *CANARY, *NODES, *LIFE_CYCLE, *REQUESTS, *SLO)
"""Alerts on what the exporter reports of the fleet: without it they cannot be trusted."""

ROTATION_CAUSES = (
    "OllamaFleetCapacityLow",
    "OllamaFleetInstancesFlapping",
    "OllamaFleetRestartsHigh",
    "OllamaFleetModelsNotLoaded",
    "OllamaFleetModelUnloadsHigh",
    "OllamaFleetVersionSkew",
    "OllamaNodeSlowerThanFleet",
)
"""What rotating instances looks like while it goes on: restarts, two versions, less capacity, and
nodes slowed by loading models."""


def named(*names: str) -> str:
    """Return the matcher of alerts with these names."""
    return f'alertname=~"{"|".join(names)}"' if len(names) > 1 else f'alertname="{names[0]}"'


MATCHER = re.compile(r'(\w+)(=~|!=|=)"(.*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Inhibition:
    """While an alert fires that all of `sources` match, those that all of `targets` match wait."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    equal: tuple[str, ...] = ()
    """Labels that must agree, besides the cluster's."""
    reason: str


RULES = (
    Inhibition(
        sources=(named("OllamaFleetExporterDown"),),
        targets=(EXPORTERS, 'alertname!="OllamaFleetExporterDown"'),
        reason="No exporter answers: every other alert on the fleet is an effect of that, or old.",
    ),
    Inhibition(
        # A lost shard takes its instances out of every sum at once; ShardMissing comes before
        # what takes that for an outage.
        sources=(named("OllamaFleetMetricsAbsent", "OllamaFleetShardMissing"),),
        targets=(named(*FLEET_ALERTS),),
        reason="Metrics that are missing, or missing in part, say nothing of the fleet.",
    ),
    Inhibition(
        sources=(named("OllamaFleetMetricsAbsent"),),
        targets=(named("OllamaFleetSeriesAbsent", "OllamaFleetTelemetryPartial"),),
        reason="With all metrics gone it is no news that some are.",
    ),
    Inhibition(
        # It is about a shard, slow polls are about an exporter: no label links the two.
        sources=(named("OllamaFleetPollStale"),),
        targets=(
            named("OllamaFleetMetricsAbsent", "OllamaFleetShardMissing", "OllamaFleetPollSlow"),
        ),
        reason="Polls that have stopped make the metrics vanish, and are not slow.",
    ),
    Inhibition(
        sources=(named("OllamaFleetClusterLabelMissing"), 'shard=~".+"'),
        targets=(named("OllamaFleetReplicasDisagree"),),
        equal=("shard",),
        reason="Exporters of two fleets are no replicas, and count what is theirs.",
    ),
    Inhibition(
        sources=(named("OllamaFleetInventoryLost"),),
        # Not muted is HealthyInstancesLow, though a floor that is a fixed number makes it fire as
        # well: an outage of what is still listed must page.
        targets=(
            named(
                "OllamaFleetInventoryShrunk", "OllamaFleetInventoryEmpty", "OllamaFleetTrafficLost"
            ),
        ),
        reason="The same figure, further down, and the day after, and what it costs.",
    ),
    Inhibition(
        # A rack that dies makes a ticket for each of its nodes and models: they wait as well, and
        # those that are still down when the floor is reached again become tickets then. Capacity,
        # throughput and queues follow from the number of instances, and the availability budget is
        # their sum over time. Latency and errors are what users feel: not muted.
        sources=(named("OllamaFleetHealthyInstancesLow"),),
        targets=(
            named(
                "OllamaFleetCapacityLow",
                "OllamaFleetAvailabilityBudgetBurn",
                "OllamaModelInstancesDown",
                "OllamaFleetTokenThroughputLow",
                "OllamaFleetQueueSaturated",
                "OllamaNodeInstancesDown",
                *GATEWAY_FULL,
                "OllamaGatewayUpstreamsEjected",
            ),
        ),
        reason="They follow from the instances that are missing, which is known by now.",
    ),
    Inhibition(
        sources=(named("OllamaModelUnavailable"), 'model=~".+"'),
        targets=(named("OllamaModelInstancesDown"),),
        equal=("model",),
        reason="The same instances, and all of them.",
    ),
    Inhibition(
        sources=(named("OllamaFleetAllDrained"),),
        targets=(named("OllamaFleetDrainedLong", "OllamaFleetTrafficLost", *GATEWAY_FULL),),
        reason="The same instances, and all of them: nothing is left for requests to reach.",
    ),
    Inhibition(
        sources=(named("OllamaFleetLatencyP99High"),),
        targets=(named(*SLOW),),
        reason="The p99 of all requests is known to be too high; these say it of some.",
    ),
    Inhibition(
        sources=(named("OllamaFleetLatencyHighLowTraffic"),),
        targets=(named("OllamaModelLatencyP99High"),),
        reason="The same requests; its text names the slowest models.",
    ),
    Inhibition(
        # The budget's page as well: it comes minutes later, of the same failures.
        sources=(named("OllamaFleetRequestsFailing"),),
        targets=(named("OllamaModelRequestsFailing", "OllamaFleetErrorBudgetBurn"),),
        reason="The same failures, further down.",
    ),
    Inhibition(
        sources=(named("OllamaGatewayAllDown"),),
        targets=(
            named(
                "OllamaGatewayDown",
                *GATEWAY_FULL,
                "OllamaGatewayListRefused",
                "OllamaGatewayListStale",
                "OllamaGatewayUpstreamsEjected",
                "OllamaFleetTrafficLost",
                "OllamaFleetSeriesAbsent",
            ),
        ),
        reason="Without a gateway there are no requests, and nobody counts them.",
    ),
    Inhibition(
        sources=(named("OllamaGatewayFleetFull"),),
        targets=(named("OllamaGatewayRejectionsHigh"),),
        reason="The same rejections, and more of them.",
    ),
    Inhibition(
        sources=(named("OllamaGatewayListRefused"), 'instance=~".+"'),
        targets=(named("OllamaGatewayListStale"),),
        equal=("instance",),
        reason="A list that is refused gets old.",
    ),
    Inhibition(
        sources=(
            named("OllamaFleetExporterDown", "OllamaFleetMetricsAbsent", "OllamaFleetPollStale"),
        ),
        targets=(named("OllamaGatewayListStale"),),
        reason="An exporter that does not poll serves no upstream list.",
    ),
    Inhibition(
        sources=(named("OllamaNodeInstancesDown"), 'node=~".+"'),
        targets=(named("OllamaNodeSlowerThanFleet"),),
        equal=("node",),
        reason="A node whose instances fail or load is no slow one.",
    ),
    Inhibition(
        # We have no alerts on single instances; these are for those that others write.
        sources=(named("OllamaNodeInstancesDown"), 'node=~".+"'),
        targets=('instance_id=~".+"',),
        equal=("node",),
        reason="What is wrong with single instances follows from what is wrong with their node.",
    ),
    Inhibition(
        # It holds for less time than they do, so it mutes them before the first ticket.
        sources=(named("OllamaFleetManySlowNodes"),),
        targets=(named("OllamaNodeSlowerThanFleet"),),
        reason="One ticket about many slow nodes, instead of one for each.",
    ),
    Inhibition(
        # All hold for less time than what they mute, so they mute it before the first ticket.
        sources=(named("OllamaFleetManyModelsNotLoaded"),),
        targets=(named("OllamaFleetModelsNotLoaded", "OllamaFleetModelsNotInstalled"),),
        reason="The same instances, and more of them; what is on disk its runbook asks.",
    ),
    Inhibition(
        sources=(named("OllamaFleetModelsNotInstalled"),),
        targets=(named("OllamaFleetModelsNotLoaded"),),
        reason="What is not on disk cannot be in memory.",
    ),
    Inhibition(
        sources=(named("OllamaFleetManyCanariesStalled"),),
        targets=(named("OllamaFleetCanariesStalled"),),
        reason="The same instances, and more of them.",
    ),
    Inhibition(
        sources=(named("OllamaFleetRotationCritical"),),
        targets=(named("OllamaFleetRotationOverdue"),),
        reason="The same instances, a week older.",
    ),
    Inhibition(
        # A dead leader still counts as one until its last value is stale. NoLeader fires that
        # much later, and still before the tickets.
        sources=(named("OllamaProvisionerNoLeader"),),
        targets=(named("OllamaProvisionerDown", "OllamaProvisionerStoreUnavailable"),),
        reason="Why nobody leads is what its runbook asks first.",
    ),
    Inhibition(
        sources=(named("OllamaProvisionerStalled"),),
        targets=(
            named(
                "OllamaProvisionerStoreUnavailable",
                "OllamaProvisionerInstancesFailed",
                "OllamaProvisionerBehind",
            ),
        ),
        reason="Without reconciling nothing gets on; the store is one cause in its runbook.",
    ),
    Inhibition(
        sources=(OURS, 'severity="critical"'),
        targets=(OURS, 'severity="warning"'),
        equal=("alertname",),
        reason="Who has been woken by an alert needs no ticket about it.",
    ),
)


def mutes(source: Mapping[str, str], target: Mapping[str, str]) -> bool:
    """Return whether an alert with these labels mutes another of its cluster while it fires."""
    return any(
        _match(rule.sources, source)
        and _match(rule.targets, target)
        and all(source.get(label) == target.get(label) for label in rule.equal)
        for rule in RULES
    )


def _match(matchers: Iterable[str], labels: Mapping[str, str]) -> bool:
    return all(_matches(matcher, labels) for matcher in matchers)


def _matches(matcher: str, labels: Mapping[str, str]) -> bool:
    parts = MATCHER.fullmatch(matcher)
    if parts is None:
        raise ValueError(f"is no matcher: {matcher}")
    label, operator, text = parts.groups()
    value = labels.get(label, "")
    if operator == "=~":
        return re.fullmatch(text, value) is not None
    return (value == text) is (operator == "=")
