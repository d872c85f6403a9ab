"""What watches and keeps the fleet: exporters, rules, Alertmanager, provisioners."""

from __future__ import annotations

from alerts import series
from dashboards.queries.selectors import CANARIES, EXPORTERS, JOB, RATE, Selectors
from exporter import catalogue
from exporter.catalogue import Series

EXPORTER = ("job", "instance")
CPU = "process_cpu_seconds_total"
STARTED = "process_start_time_seconds"
IN_RANGE = "[$__range]"
RULES = 'rule_group=~".*ollama-fleet-.*"'
LATE_RATIO = 0.1
"""Of the interval: when the last poll begins later than that, there are too many instances."""
STALE_INTERVALS = 3
"""Without a complete poll cycle for longer, an exporter withdraws its metrics of the fleet."""


def own(select: Selectors, series: Series | str) -> str:
    """Return one of the exporters' series, by exporter."""
    return f"max {select.by(*EXPORTER)} ({select.series(series, *EXPORTERS)})"


def _of_exporters(select: Selectors, name: str) -> str:
    """Return a series that Prometheus has of every target, whatever its job."""
    return select.series(name, JOB, *EXPORTERS)


def scraped(select: Selectors, name: str) -> str:
    """Return such a series by exporter."""
    return f"max {select.by(*EXPORTER)} ({_of_exporters(select, name)})"


def up_count(select: Selectors) -> str:
    """Return how many exporters can be scraped."""
    return f"sum({_of_exporters(select, 'up')})"


def down_count(select: Selectors) -> str:
    """Return how many exporters Prometheus knows and cannot scrape."""
    up = _of_exporters(select, "up")
    return f"count({up} == 0) or 0 * count({up})"


def shards_missing(select: Selectors) -> str:
    """Return how many parts of the fleet nobody polls; one too many replaces none elsewhere."""
    wanted = f"max {select.by()} ({select.series(catalogue.EXPORTER_SHARDS)})"
    polled = select.series(catalogue.FLEET_INVENTORY_INSTANCES)
    found = f"count {select.by()} (count {select.by('shard')} ({polled}))"
    return f"sum(clamp_min({wanted} - ({found} or 0 * {wanted}), 0))"


def _last_poll_cycle(select: Selectors) -> str:
    """Return when each exporter ended its last poll cycle, or else when it started."""
    last = select.series(catalogue.EXPORTER_POLL_LAST_COMPLETED, *EXPORTERS)
    return f"{last} > 0 or {_of_exporters(select, STARTED)}"


def poll_cycle_age(select: Selectors) -> str:
    """Return how long ago each exporter ended its last complete poll cycle.

    Of one that has not ended any, how long it has been running.
    """
    return f"time() - max {select.by(*EXPORTER)} ({_last_poll_cycle(select)})"


def intervals_since_poll_cycle(select: Selectors) -> str:
    """Return the same in poll intervals; of several exporters the worst."""
    interval = select.series(catalogue.EXPORTER_POLL_INTERVAL, *EXPORTERS)
    return f"max((time() - ({_last_poll_cycle(select)})) / {interval})"


def interval(select: Selectors) -> str:
    """Return how often each instance should be polled."""
    return f"max({select.series(catalogue.EXPORTER_POLL_INTERVAL, *EXPORTERS)})"


def lateness_limit(select: Selectors) -> str:
    """Return the lateness above which an exporter has too many instances."""
    return f"{LATE_RATIO} * {interval(select)}"


def facts(select: Selectors, series: Series, *labels: str) -> str:
    """Return what an exporter says of itself, as labels; the value is 1."""
    return f"max {select.by(*EXPORTER, *labels)} ({select.series(series, *EXPORTERS)})"


def rate(select: Selectors, series: Series | str, *labels: str) -> str:
    """Return how fast one of the exporters' counters grows, by exporter and further labels."""
    return f"sum {select.by(*EXPORTER, *labels)} ({select.rate(series, *EXPORTERS)})"


def _polls(select: Selectors) -> str:
    return f"sum({select.rate(catalogue.EXPORTER_POLLS, *EXPORTERS)})"


def polls_failed(select: Selectors) -> str:
    """Return polls per second whose health check failed."""
    failed = select.rate(catalogue.EXPORTER_POLL_ERRORS, *EXPORTERS, 'request="health"')
    return f"sum({failed})"


def polls_good(select: Selectors) -> str:
    """Return polls per second whose health check was good."""
    return f"{_polls(select)} - {polls_failed(select)}"


def poll_errors(select: Selectors) -> str:
    """Return failed requests to instances per second, by request and outcome."""
    errors = select.rate(catalogue.EXPORTER_POLL_ERRORS, *EXPORTERS)
    return f"sum by (request, outcome) ({errors}) > 0"


def poll_error_ratio(select: Selectors) -> str:
    """Return failed health checks per poll."""
    return f"{polls_failed(select)} / ({_polls(select)} > 0)"


def canary_results(select: Selectors) -> str:
    """Return the canaries of the last minutes by outcome."""
    results = select.series(catalogue.FLEET_CANARY_RESULTS, *EXPORTERS)
    return f"sum by (outcome) (increase({results}{CANARIES}))"


def canary_cost(select: Selectors, series: Series) -> str:
    """Return what canaries cost per second: requests, tokens or seconds of instances.

    Replicas are added up: each sends its own.
    """
    return f"sum({select.rate(series, *EXPORTERS)})"


def inventory_age(select: Selectors) -> str:
    """Return how long ago each inventory source was last read well."""
    last = select.series(catalogue.EXPORTER_INVENTORY_LAST_SUCCESS, *EXPORTERS)
    return f"time() - max {select.by(*EXPORTER, 'source')} ({last} > 0)"


def inventory_size(select: Selectors) -> str:
    """Return how many instances each source listed, by cluster."""
    listed = select.series(catalogue.EXPORTER_INVENTORY_INSTANCES, *EXPORTERS)
    return f"max {select.by('source')} ({listed})"


def inventory_total(select: Selectors) -> str:
    """Return the same, of all clusters that have a source of that name together."""
    return f"sum by (source) ({inventory_size(select)})"


def inventory_failing(select: Selectors) -> str:
    """Return how many sources some exporter could not read the last time."""
    good = inventory_good(select)
    return f"count({good} == 0) or 0 * count({good})"


def inventory_good(select: Selectors) -> str:
    """Return whether every exporter could read each source the last time, by cluster."""
    good = select.series(catalogue.EXPORTER_INVENTORY_LAST_RELOAD_SUCCESSFUL, *EXPORTERS)
    return f"min {select.by('source')} ({good})"


def reload_good(select: Selectors) -> str:
    """Return whether each exporter and provisioner took over its configuration the last time."""
    exporters = own(select, catalogue.EXPORTER_CONFIG_LAST_RELOAD_SUCCESSFUL)
    provisioners = select.series(series.CONFIG_LAST_RELOAD_SUCCESSFUL)
    return f"{exporters} or max {select.by(*EXPORTER)} ({provisioners})"


def reload_age(select: Selectors) -> str:
    """Return how long each has run with the configuration that it has."""
    exporters = own(select, catalogue.EXPORTER_CONFIG_LAST_RELOAD_SUCCESS)
    provisioners = select.series(series.CONFIG_LAST_RELOAD_SUCCESS)
    return f"time() - ({exporters} or max {select.by(*EXPORTER)} ({provisioners}))"


def exposition_age(select: Selectors) -> str:
    """Return the age of the metrics that each exporter serves."""
    return f"time() - {own(select, catalogue.EXPORTER_EXPOSITION_TIMESTAMP)}"


def web_refused(select: Selectors) -> str:
    """Return the HTTP requests per second that exporters refuse, by reason."""
    refused = select.rate(catalogue.EXPORTER_WEB_REQUESTS_REFUSED, *EXPORTERS)
    return f"sum by (reason) ({refused})"


def web_cut_off(select: Selectors, series: Series) -> str:
    """Return the responses or connections per second that exporters end before their time."""
    return f"sum({select.rate(series, *EXPORTERS)})"


def cpu(select: Selectors) -> str:
    """Return how many cores each exporter uses."""
    return f"max {select.by(*EXPORTER)} (rate({_of_exporters(select, CPU)}{RATE}))"


def descriptors_ratio(select: Selectors) -> str:
    """Return the share of the files that each exporter may open."""
    return f"{scraped(select, 'process_open_fds')} / {scraped(select, 'process_max_fds')}"


# Of Prometheus and Alertmanager themselves


def rule_duration(_: Selectors) -> str:
    """Return how long each of our groups of rules takes."""
    return f"max by (rule_group) (prometheus_rule_group_last_duration_seconds{{{RULES}}})"


def rule_interval(_: Selectors) -> str:
    """Return how often the most frequent of them are evaluated."""
    return f"min(prometheus_rule_group_interval_seconds{{{RULES}}})"


def rule_failures(_: Selectors) -> str:
    """Return failed evaluations of our rules per second."""
    failures = f"rate(prometheus_rule_evaluation_failures_total{{{RULES}}}{RATE})"
    return f"sum by (rule_group) ({failures})"


def rule_failures_count(_: Selectors) -> str:
    """Return failed evaluations of our rules within the time range."""
    failures = f"increase(prometheus_rule_evaluation_failures_total{{{RULES}}}{IN_RANGE})"
    return f"round(sum({failures}))"


def rules_missed(_: Selectors) -> str:
    """Return evaluations of our rules per second that were left out for lack of time."""
    missed = f"rate(prometheus_rule_group_iterations_missed_total{{{RULES}}}{RATE})"
    return f"sum by (rule_group) ({missed})"


def alerts_sent(_: Selectors) -> str:
    """Return alerts per second that Prometheus sent to Alertmanagers."""
    return f"sum by (alertmanager) (rate(prometheus_notifications_sent_total{RATE}))"


def alerts_lost(_: Selectors) -> str:
    """Return alerts per second that Prometheus could not send."""
    return f"sum(rate(prometheus_notifications_dropped_total{RATE}))"


def alerts_lost_count(_: Selectors) -> str:
    """Return alerts within the time range that Prometheus could not send."""
    return f"round(sum(increase(prometheus_notifications_dropped_total{IN_RANGE})))"


def notifications_failed(_: Selectors) -> str:
    """Return notifications per second that Alertmanager could not deliver, by receiver's kind."""
    return f"sum by (integration) (rate(alertmanager_notifications_failed_total{RATE}))"


def notifications(_: Selectors) -> str:
    """Return notifications per second that Alertmanager tried, by receiver's kind."""
    return f"sum by (integration) (rate(alertmanager_notifications_total{RATE}))"


def _of_leader(select: Selectors, wanted: Series, *matchers: str) -> str:
    leads = f"{select.series(series.LEADER)} == 1"
    found = select.series(wanted, *matchers)
    return f"max {select.by()} ({found} and {select.on_exporter} {leads})"


def leaders(select: Selectors) -> str:
    """Return whether each provisioner leads."""
    return f"max {select.by(*EXPORTER)} ({select.series(series.LEADER)})"


def wanted_instances(select: Selectors) -> str:
    """Return how many instances the specifications ask for."""
    return f"sum({_of_leader(select, series.WANTED_INSTANCES)})"


def ready_instances(select: Selectors) -> str:
    """Return how many of them run, are healthy and up to date."""
    return f"sum({_of_leader(select, series.READY_INSTANCES)})"


def failed_instances(select: Selectors) -> str:
    """Return how many instances cannot be started."""
    of_leader = _of_leader(select, series.INSTANCES, 'phase="failed"')
    return f"sum({of_leader})"


def unreachable_nodes(select: Selectors) -> str:
    """Return how many nodes the leaders do not reach."""
    return f"sum({_of_leader(select, series.UNREACHABLE_NODES)})"


def reconcile_age(select: Selectors) -> str:
    """Return how long ago the leaders last reconciled; of several the worst."""
    return f"max(time() - ({_of_leader(select, series.LAST_RECONCILE)} > 0))"


def view_age(select: Selectors) -> str:
    """Return how old the view is that each provisioner has of its store."""
    views = select.series(series.VIEW_TIMESTAMP)
    return f"time() - max {select.by(*EXPORTER)} ({views} > 0)"
