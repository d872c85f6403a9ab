"""Rules on the monitoring itself: exporters, polls, expositions and the alerting pipeline."""

from __future__ import annotations

from alerts.groups.availability import HEALTHY, polled_shards, unpolled_shards
from alerts.inhibition import OUR_WATCHDOG
from alerts.model import Alert, Dashboard, Group, Severity, linked
from alerts.names import GENERATED, LATENCY_P99, SPEED
from alerts.promql import joined
from alerts.settings import Settings
from exporter import catalogue
from ollama_fleet.durations import duration_text
from ollama_fleet.levels import number, percent

COMPLETED = catalogue.EXPORTER_POLL_LAST_COMPLETED
INTERVAL = catalogue.EXPORTER_POLL_INTERVAL
VANISHED_S = 3600.0
"""For how long an exporter is missed that is no longer a target of Prometheus."""
LISTS_AGREE_S = 300.0
"""Within which replicas read the same inventory, one sooner than the other."""


def exporter_group(settings: Settings) -> Group:
    """Return the alerts on exporters that are down, stuck or late."""
    return Group(
        "ollama-fleet-exporter",
        linked(
            Dashboard.EXPORTER,
            _exporter_down(settings),
            _replica_down(settings),
            _shard_missing(settings),
            _metrics_absent(settings),
            _poll_stale(settings),
            _poll_slow(settings),
            _replicas_disagree(settings),
            _reload_failed(settings),
            _gateway_unread(settings),
            _cluster_label_missing(settings),
        ),
    )


def telemetry_group(settings: Settings) -> Group:
    """Return the alerts on metrics that are missing or too many, and Watchdog."""
    return Group(
        "ollama-fleet-telemetry",
        linked(
            Dashboard.EXPORTER,
            _telemetry_partial(settings),
            *_series_absent_alerts(settings),
            _cardinality_high(settings),
            _scrape_near_timeout(settings),
            WATCHDOG,
        ),
    )


def _exporter_down(settings: Settings) -> Alert:
    scope, up = settings.scope, settings.scope.up
    window = duration_text(VANISHED_S)
    return Alert(
        name="OllamaFleetExporterDown",
        # That a target vanished shows where another cluster's is still there, but only for a
        # while; that there is none at all shows for as long as that lasts.
        expr=joined(
            f"max {scope.by()} ({up}) == 0",
            "or",
            f"max {scope.by()} (max_over_time({up}[{window}])) unless {scope.on()} {up}",
            "or",
            f"absent_over_time({up}[{window}])",
        ),
        for_s=120,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="No exporter of the fleet can be scraped.",
        description=f"Prometheus reaches no exporter of the job {settings.prometheus.job}. The "
        "fleet is not monitored: no other alert can fire. First: see whether it runs and answers.",
    )


def _replica_down(settings: Settings) -> Alert:
    return Alert(
        name="OllamaFleetExporterReplicaDown",
        settings=("thresholds.poll_intervals",),
        expr=joined(f"{settings.scope.up} == 0", "or", _stale(settings)),
        for_s=300,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="An exporter is down or has stopped polling.",
        description="The exporter {{ $labels.instance }} cannot be scraped or has stopped "
        "polling. If a replica polls the same instances, nothing is lost yet; one more failure "
        "stops monitoring.",
    )


def _stale(settings: Settings) -> str:
    """Return the exporters that have polled the fleet, and no longer do."""
    scope, n = settings.scope, settings.thresholds.poll_intervals
    completed, interval = scope.latest(COMPLETED), scope.last(INTERVAL)
    return f"time() - {completed} > {n} * {interval} and {completed} > 0"


def _shard_missing(settings: Settings) -> Alert:
    return Alert(
        name="OllamaFleetShardMissing",
        expr=unpolled_shards(settings.scope),
        for_s=120,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="No exporter polls a part of the fleet.",
        description="Shards without an exporter that can be scraped and polls: {{ $value }}. Their "
        "instances are missing from every count and are not monitored. First: see which "
        "targets are down.",
    )


def _metrics_absent(settings: Settings) -> Alert:
    scope = settings.scope
    return Alert(
        name="OllamaFleetMetricsAbsent",
        expr=joined(
            f"max {scope.by()} ({scope.up}) == 1",
            f"unless {scope.on()} {HEALTHY}",
        ),
        for_s=300,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="The exporter answers but publishes no fleet metrics.",
        description="The exporter can be scraped but publishes no count of instances: it has not "
        "read every inventory yet, or has never finished polling the fleet; /-/ready says which. "
        "Alerts on the fleet cannot fire. First: ask /-/ready of each exporter.",
    )


def _poll_stale(settings: Settings) -> Alert:
    scope, n = settings.scope, settings.thresholds.poll_intervals
    return Alert(
        name="OllamaFleetPollStale",
        settings=("thresholds.poll_intervals",),
        # While one of its replicas polls, a shard has metrics, and nothing is missed.
        expr=joined(
            f"max {scope.by('shard')} ({scope.last(catalogue.EXPORTER_SHARD_INFO)})",
            f"unless {scope.on('shard')} {polled_shards(scope)}",
            f"and {scope.on()} ({_stale(settings)})",
        ),
        for_s=60,
        keep_firing_for_s=360,
        severity=Severity.CRITICAL,
        summary="The exporter answers but has stopped polling.",
        description="Shard {{ $labels.shard }} of the fleet is not polled: the last complete poll "
        f"cycle of an exporter is more than {n} poll intervals old. It has withdrawn its metrics "
        "of the fleet. First: look at the exporter's log and processor, then restart it.",
    )


def _poll_slow(settings: Settings) -> Alert:
    share = settings.thresholds.poll_lateness
    scope = settings.scope
    lateness, interval = scope.last(catalogue.EXPORTER_POLL_LATENESS), scope.last(INTERVAL)
    return Alert(
        name="OllamaFleetPollSlow",
        settings=("thresholds.poll_lateness",),
        expr=f"{lateness} / {interval} > {number(share)}",
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="An exporter has too many instances to poll in time.",
        description="Polls of {{ $labels.instance }} begin late by {{ $value | humanizePercentage "
        "}} of the poll interval, more than "
        f"{percent(share)}. Use more shards, a longer poll interval or a faster core.",
    )


def _replicas_disagree(settings: Settings) -> Alert:
    scope, share = settings.scope, settings.thresholds.replicas_differ
    by = scope.by(*catalogue.SHARD)
    healthy = scope.last(catalogue.FLEET_INSTANCES, where='status="healthy"')
    listed = scope.last(catalogue.FLEET_INVENTORY_INSTANCES)
    return Alert(
        name="OllamaFleetReplicasDisagree",
        settings=("thresholds.replicas_differ",),
        # Rounded up: a single instance that only one of them reaches is no news.
        expr=joined(
            f"max {by} ({healthy}) - min {by} ({healthy})",
            f"> ceil({number(share)} * max {by} ({listed}))",
        ),
        for_s=600,
        keep_firing_for_s=600,
        severity=Severity.WARNING,
        summary="Exporters of one shard disagree about which instances are healthy.",
        description="Healthy instances of shard {{ $labels.shard }}: its exporters differ by {{ "
        "$value }}, more than "
        f"{percent(share)} of the shard. The larger count is used. One of the exporters is cut "
        "off from a part of the fleet.",
    )


def _reload_failed(settings: Settings) -> Alert:
    good = settings.scope.last(catalogue.EXPORTER_CONFIG_LAST_RELOAD_SUCCESSFUL)
    return Alert(
        name="OllamaFleetExporterReloadFailed",
        expr=f"{good} == 0",
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="An exporter refuses its new configuration.",
        description="{{ $labels.instance }} could not take over its configuration at the last "
        "reload. It keeps its previous settings; a restart may fail. First: read the line `reload "
        "refused` of its log.",
    )


def _gateway_unread(settings: Settings) -> Alert:
    is_read = settings.scope.last(catalogue.EXPORTER_GATEWAY_UP)
    return Alert(
        name="OllamaFleetGatewayUnread",
        expr=f"{is_read} == 0",
        for_s=600,
        keep_firing_for_s=300,
        severity=Severity.WARNING,
        summary="An exporter cannot read a gateway.",
        description="{{ $labels.instance }} cannot read {{ $labels.gateway }}/metrics. Latency, "
        "errors and tokens of the fleet lack the requests that pass it; if it is the only "
        "gateway, the alerts on them cannot fire. First: read the line `gateway cannot be read` "
        "of the exporter's log.",
    )


def lists_differ(settings: Settings) -> str:
    """Return the shards whose exporters list different numbers of instances, as PromQL."""
    scope, span = settings.scope, duration_text(LISTS_AGREE_S)
    listed, by = scope.raw(catalogue.FLEET_INVENTORY_INSTANCES), scope.by(*catalogue.SHARD)
    # One that is gone lists nothing any more.
    least, most = (f"({f}_over_time({listed}[{span}]) and {listed})" for f in ("min", "max"))
    return joined(f"max {by} {least}", f"> min {by} {most}")


def _cluster_label_missing(settings: Settings) -> Alert:
    label = settings.prometheus.cluster_label
    return Alert(
        name="OllamaFleetClusterLabelMissing",
        expr=lists_differ(settings),
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Exporters of one shard list different numbers of instances.",
        description="Instances listed in shard {{ $labels.shard }}: {{ $value }} by one exporter, "
        f"fewer by another one. Usual cause: two fleets without a label `{label}` of their own. "
        "Only the larger one is monitored: the other one can die unnoticed.",
    )


def _telemetry_partial(settings: Settings) -> Alert:
    scope, window_s = settings.scope, settings.windows.telemetry
    share = settings.thresholds.metrics_failures
    failed = scope.over("rate", catalogue.EXPORTER_POLL_ERRORS, window_s, where='request="metrics"')
    polls = scope.over("rate", catalogue.EXPORTER_POLLS, window_s)
    return Alert(
        name="OllamaFleetTelemetryPartial",
        settings=("thresholds.metrics_failures", "windows.telemetry"),
        # A ratio over all exporters: replicas add to both sides alike.
        expr=joined(
            f"sum {scope.by()} ({failed})",
            f"/ (sum {scope.by()} ({polls}) > 0)",
            f"> {number(share)}",
        ),
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="Many healthy instances do not report metrics.",
        description="{{ $value | humanizePercentage }} of the polls found a healthy instance with "
        f"missing or broken metrics, more than {percent(share)}. Speed and latency of the fleet "
        "are based on fewer instances. Usual cause: an upgrade changed the format.",
    )


def _series_absent_alerts(settings: Settings) -> tuple[Alert, ...]:
    """Return partners of the alerts on speed and latency, silent when their series vanish."""
    counts = settings.scope.over(
        "increase", catalogue.FLEET_REQUEST_DURATION, settings.windows.rate, suffix="_count"
    )
    # Requests that end, and are too few for a p99, are no fault either.
    few = f"unless {settings.scope.on()} max {settings.scope.by()} ({counts}) > 0"
    return (
        _series_absent(settings, SPEED, "generation speed"),
        _series_absent(settings, LATENCY_P99, "request latency", few),
    )


def _series_absent(settings: Settings, name: str, metric: str, *excuses: str) -> Alert:
    scope, window = settings.scope, duration_text(settings.windows.absent)
    return Alert(
        name="OllamaFleetSeriesAbsent",
        settings=("windows.absent", "windows.rate", "windows.canary", "thresholds.min_requests"),
        # An idle fleet has no such metrics and no fault; whether it is idle, only tokens tell.
        expr=joined(
            f"sum {scope.by()} ({HEALTHY}) > 0",
            f"and {scope.on()} present_over_time({name}[{window}])",
            f"unless {scope.on()} {name}",
            f"and {scope.on()} {GENERATED} > 0",
            *excuses,
        ),
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        labels={"metric": metric},
        summary="A metric that the fleet used to report is missing.",
        description=f"Healthy instances that report their {metric}: none of {{{{ $value }}}}. The "
        "alert on it cannot fire.",
    )


def _cardinality_high(settings: Settings) -> Alert:
    scope, thresholds = settings.scope, settings.thresholds
    listed = scope.last(catalogue.FLEET_INVENTORY_INSTANCES)
    samples = scope.raw("scrape_samples_post_metric_relabeling")
    return Alert(
        name="OllamaFleetCardinalityHigh",
        settings=("thresholds.samples", "thresholds.samples_per_instance"),
        expr=joined(
            # A failed scrape has no samples at all.
            f"max_over_time({samples}[{duration_text(scope.lookback_s)}])",
            f"> {scope.on_exporter}",
            f"{thresholds.samples} + {thresholds.samples_per_instance} * {listed}",
        ),
        for_s=900,
        keep_firing_for_s=900,
        severity=Severity.WARNING,
        summary="An exporter publishes too many series.",
        description="Samples that {{ $labels.instance }} publishes: {{ $value | humanize }}. A "
        "label keeps taking new values (model names, error types), which costs memory in "
        "Prometheus.",
    )


def _scrape_near_timeout(settings: Settings) -> Alert:
    prometheus, share = settings.prometheus, settings.thresholds.scrape_duration
    limit_s = share * prometheus.scrape_timeout
    return Alert(
        name="OllamaFleetScrapeNearTimeout",
        settings=("thresholds.scrape_duration",),
        expr=f"{settings.scope.raw('scrape_duration_seconds')} > {number(limit_s)}",
        for_s=600,
        keep_firing_for_s=600,
        severity=Severity.WARNING,
        summary="Scrapes of an exporter are close to their timeout.",
        description="Scraping {{ $labels.instance }} takes {{ $value | humanizeDuration }} of the "
        f"{duration_text(prometheus.scrape_timeout)} scrape timeout. Beyond it the whole "
        "fleet vanishes from Prometheus.",
    )


WATCHDOG = Alert(
    name="Watchdog",
    expr="vector(1)",
    severity=Severity.NONE,
    # Others have a Watchdog too: theirs must not keep our dead man's switch quiet.
    labels=OUR_WATCHDOG,
    summary="The alerting pipeline works.",
    description="This alert always fires ({{ $value }}). Its receiver raises an alarm when it "
    "stops arriving: then Prometheus, Alertmanager or the path between them is down.",
)
