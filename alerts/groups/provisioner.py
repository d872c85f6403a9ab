"""Rules on the provisioners: does one lead, does it get on, does the fleet become what is wanted.

Without a provisioner there is none of their series, and none of these alerts. Of several the one
that leads counts: a standby knows nothing of nodes, and its last reconcile is of its last term.
"""

from __future__ import annotations

from alerts import series
from alerts.model import Alert, Dashboard, Group, Recording, Severity, linked
from alerts.names import READY_RATIO
from alerts.promql import Scope, indented, joined
from alerts.settings import Settings
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent

VANISHED_S = 3600.0
"""For how long a provisioner is missed that is no longer a target of Prometheus."""


def group(settings: Settings) -> Group:
    """Return the alerts on provisioners, and what they rest on."""
    return Group(
        "ollama-fleet-provisioner",
        linked(
            Dashboard.EXPORTER,
            _ready_ratio(settings),
            _no_leader(settings),
            _many_leaders(settings),
            _down(settings),
            _store_unavailable(settings),
            _stalled(settings),
            _node_unreachable(settings),
            _reload_failed(settings),
            _instances_failed(settings),
            _behind(settings),
        ),
    )


def _of_leader(scope: Scope, expression: str) -> str:
    """Return what the leading provisioner says, by cluster."""
    return joined(
        f"max {scope.by()} (",
        f"  {indented(expression)}",
        f"  and {scope.on_exporter} {scope.last(series.LEADER)} == 1",
        ")",
    )


def _ready_ratio(settings: Settings) -> Recording:
    scope = settings.provisioner_scope
    wanted = scope.last(series.WANTED_INSTANCES)
    return Recording(
        READY_RATIO,
        _of_leader(scope, f"{scope.last(series.READY_INSTANCES)} / ({wanted} > 0)"),
    )


def _no_leader(settings: Settings) -> Alert:
    scope, window = settings.provisioner_scope, duration_text(VANISHED_S)
    return Alert(
        name="OllamaProvisionerNoLeader",
        # Whether they stand by, cannot be scraped or have vanished: those that there were count.
        expr=joined(
            f"count {scope.by()} (present_over_time({scope.up}[{window}]))",
            f"unless {scope.on()} max {scope.by()} ({scope.last(series.LEADER)}) == 1",
        ),
        for_s=300,
        keep_firing_for_s=360,
        severity=Severity.WARNING,
        summary="No provisioner leads the fleet.",
        description="Provisioners that lead: none of the {{ $value }} that Prometheus knows. "
        "Instances keep running, but failed instances are not replaced, rotation stops, and every "
        "change is refused.",
    )


def _many_leaders(settings: Settings) -> Alert:
    scope = settings.provisioner_scope
    return Alert(
        name="OllamaProvisionerManyLeaders",
        # After a takeover the one that led before is seen to lead for a while, until its last
        # value is forgotten.
        expr=f"sum {scope.by()} ({scope.last(series.LEADER)}) > 1",
        for_s=300,
        keep_firing_for_s=360,
        severity=Severity.WARNING,
        summary="Several provisioners lead one fleet.",
        description="Provisioners that lead at the same time: {{ $value }}. They do not share a "
        "store: each applies its own specification to the nodes and may remove instances of the "
        "others.",
    )


def _down(settings: Settings) -> Alert:
    return Alert(
        name="OllamaProvisionerDown",
        expr=f"{settings.provisioner_scope.up} == 0",
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="A provisioner cannot be scraped.",
        description="The provisioner {{ $labels.instance }} cannot be scraped. While another one "
        "leads, nothing is lost yet; one more failure leaves the fleet without a leader.",
    )


def _store_unavailable(settings: Settings) -> Alert:
    scope, age_s = settings.provisioner_scope, settings.thresholds.view_age
    failures = scope.over("increase", series.STORE_ERRORS, settings.windows.rate)
    return Alert(
        name="OllamaProvisionerStoreUnavailable",
        settings=("thresholds.view_age", "windows.rate"),
        expr=joined(
            f"sum {scope.by('job', 'instance')} ({failures}) > 0",
            "or",
            f"time() - {scope.latest(series.VIEW_TIMESTAMP)} > {number(age_s)}",
        ),
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="A provisioner cannot use its store.",
        description="The provisioner {{ $labels.instance }} repeatedly fails to read or write its "
        "store. It changes nothing meanwhile, and its view of the fleet gets old.",
    )


def _stalled(settings: Settings) -> Alert:
    scope, age_s = settings.provisioner_scope, settings.thresholds.reconcile_age
    known = f"max {scope.by('job', 'instance')} ({scope.last(series.INSTANCES)})"
    return Alert(
        name="OllamaProvisionerStalled",
        settings=("thresholds.reconcile_age",),
        # Without a specification there is nothing to reconcile.
        expr=joined(
            f"time() - {scope.latest(series.LAST_RECONCILE)} > {number(age_s)}",
            f"and {scope.on_exporter} {scope.last(series.LEADER)} == 1",
            f"and {scope.on_exporter} {known} > 0",
        ),
        for_s=300,
        keep_firing_for_s=360,
        severity=Severity.WARNING,
        summary="The leading provisioner is not reconciling.",
        description="The provisioner {{ $labels.instance }} leads and last reconciled {{ $value | "
        "humanizeDuration }} ago (decades mean never). No standby takes over while it leads; "
        "failed instances are not replaced.",
    )


def _node_unreachable(settings: Settings) -> Alert:
    scope = settings.provisioner_scope
    return Alert(
        name="OllamaProvisionerNodeUnreachable",
        expr=f"max {scope.by()} ({scope.latest(series.UNREACHABLE_NODES)}) > 0",
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="The provisioner cannot reach some nodes.",
        description="Nodes whose runtime does not answer the provisioner: {{ $value }}. It cannot "
        "start or stop instances there; after the grace period it starts their instances "
        "elsewhere.",
    )


def _reload_failed(settings: Settings) -> Alert:
    good = settings.provisioner_scope.last(series.CONFIG_LAST_RELOAD_SUCCESSFUL)
    return Alert(
        name="OllamaProvisionerReloadFailed",
        expr=f"{good} == 0",
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="A provisioner refuses its changed files.",
        description="The provisioner {{ $labels.instance }} could not take over its token file or "
        "certificates at the last reload. Those from before stay in force. First: read the "
        "line `reload refused` of its log.",
    )


def _instances_failed(settings: Settings) -> Alert:
    scope, least = settings.provisioner_scope, settings.thresholds.failed_instances
    failed = scope.over(
        "max_over_time", series.INSTANCES, settings.windows.failed, where='phase="failed"'
    )
    return Alert(
        name="OllamaProvisionerInstancesFailed",
        settings=("thresholds.failed_instances", "windows.failed"),
        # An instance is tried again, for which it leaves the phase; the window bridges that.
        expr=f"{_of_leader(scope, failed)} >= {least}",
        for_s=1800,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="Instances cannot be started.",
        description="Instances that used up all their tries, and failed later retries too: {{ "
        "$value }}. They are missing from the fleet until the fault is fixed.",
    )


def _behind(settings: Settings) -> Alert:
    share, window = settings.thresholds.ready_instances, duration_text(settings.windows.progress)
    return Alert(
        name="OllamaProvisionerBehind",
        settings=("thresholds.ready_instances", "windows.progress"),
        # A roll-out is behind as well, but gets on.
        expr=joined(
            f"{READY_RATIO} < {number(share)}",
            f"and {READY_RATIO} <= {READY_RATIO} offset {window}",
        ),
        for_s=3600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="The fleet does not converge to its specification.",
        description="{{ $value | humanizePercentage }} of the wanted instances run, are healthy "
        f"and up to date: less than {percent(share)}, and not improved for {window}. Instances "
        "that were never created, for lack of capacity, are in no inventory, and no other alert "
        "reports them.",
    )
