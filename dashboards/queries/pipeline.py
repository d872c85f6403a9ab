"""What watches the fleet: the exporters, how they are scraped, and the rules.

An exporter's own series are chosen by job and instance, as Prometheus labels them. What Prometheus
and Alertmanager say of themselves is there only where Prometheus scrapes both.
"""

from __future__ import annotations

from alerts import names
from dashboards.queries.select import EXPORTERS, RATE, Ask
from exporter import catalogue
from exporter.catalogue import Series

EXPORTER = ("job", "instance")
CPU = "process_cpu_seconds_total"
STARTED = "process_start_time_seconds"
IN_RANGE = "[$__range]"
RULES = 'rule_group=~".*ollama-fleet-.*"'
LATE_RATIO = 0.1
"""Of the interval: when the last poll begins later than that, there are too many instances."""
STALE_INTERVALS = 12
"""Without a whole pass for so many, an exporter speaks for the fleet no more; as the rules have it.
"""


def own(ask: Ask, series: Series | str) -> str:
    """Return one of the exporters' series, by exporter."""
    return f"max {ask.by(*EXPORTER)} ({ask.series(series, *EXPORTERS)})"


def _of_exporters(ask: Ask, name: str) -> str:
    """Return a series that Prometheus has of every target: All jobs must not mean all of these."""
    return ask.series(name, f'job="{ask.scope.job}"', *EXPORTERS)


def scraped(ask: Ask, name: str) -> str:
    """Return such a series by exporter."""
    return f"max {ask.by(*EXPORTER)} ({_of_exporters(ask, name)})"


def up_count(ask: Ask) -> str:
    """Return how many exporters can be scraped."""
    return f"sum({_of_exporters(ask, 'up')})"


def down_count(ask: Ask) -> str:
    """Return how many exporters Prometheus knows and cannot scrape."""
    up = _of_exporters(ask, "up")
    return f"count({up} == 0) or 0 * count({up})"


def shards_missing(ask: Ask) -> str:
    """Return how many parts of the fleet nobody polls; one too many replaces none elsewhere."""
    wanted = f"max {ask.by()} ({ask.series(catalogue.EXPORTER_SHARDS)})"
    found = f"count {ask.by()} (count {ask.by('shard')} ({ask.series(names.FRESH)}))"
    return f"sum(clamp_min({wanted} - ({found} or 0 * {wanted}), 0))"


def age_of_pass(ask: Ask) -> str:
    """Return how long ago each exporter ended its last whole pass over the fleet.

    Of one that has not ended any, how long it has been running.
    """
    last = f"{own(ask, catalogue.EXPORTER_POLL_LAST_COMPLETED)} > 0"
    return f"time() - ({last} or {scraped(ask, STARTED)})"


def intervals_since_pass(ask: Ask) -> str:
    """Return the same in poll intervals; of several exporters the worst."""
    return f"max(({age_of_pass(ask)}) / {own(ask, catalogue.EXPORTER_POLL_INTERVAL)})"


def interval(ask: Ask) -> str:
    """Return how often each instance should be polled."""
    return f"max({ask.series(catalogue.EXPORTER_POLL_INTERVAL, *EXPORTERS)})"


def lateness_limit(ask: Ask) -> str:
    """Return the lateness above which an exporter has too many instances."""
    return f"{LATE_RATIO} * {interval(ask)}"


def shard(ask: Ask) -> str:
    """Return which part of the fleet each exporter polls, as a label; the value is 1."""
    labels = ask.by(*EXPORTER, "shard")
    return f"max {labels} ({ask.series(catalogue.EXPORTER_SHARD_INFO, *EXPORTERS)})"


def with_shard(ask: Ask, expression: str) -> str:
    """Return a value of each exporter with its shard and version as labels."""
    labels = ask.by(*EXPORTER, "version", "python")
    build = f"max {labels} ({ask.series(catalogue.EXPORTER_BUILD_INFO, *EXPORTERS)})"
    on = ask.on_exporter
    return (
        f"0 * {shard(ask)}\n"
        f"+ {on} group_left (version, python) 0 * {build}\n"
        f"+ {on} group_left () ({expression})"
    )


def rate(ask: Ask, series: Series | str, *labels: str) -> str:
    """Return how fast one of the exporters' counters grows, by exporter and further labels."""
    return f"sum {ask.by(*EXPORTER, *labels)} ({ask.rate(series, *EXPORTERS)})"


def _polls(ask: Ask) -> str:
    return f"sum({ask.rate(catalogue.EXPORTER_POLLS, *EXPORTERS)})"


def polls_failed(ask: Ask) -> str:
    """Return polls per second whose health check failed."""
    failed = ask.rate(catalogue.EXPORTER_POLL_ERRORS, *EXPORTERS, 'request="health"')
    return f"sum({failed})"


def polls_good(ask: Ask) -> str:
    """Return polls per second whose health check was good."""
    return f"{_polls(ask)} - {polls_failed(ask)}"


def poll_errors(ask: Ask) -> str:
    """Return failed requests to instances per second, by request and reason."""
    errors = ask.rate(catalogue.EXPORTER_POLL_ERRORS, *EXPORTERS)
    return f"sum by (request, reason) ({errors}) > 0"


def poll_error_ratio(ask: Ask) -> str:
    """Return failed health checks per poll."""
    return f"{polls_failed(ask)} / ({_polls(ask)} > 0)"


def inventory_age(ask: Ask) -> str:
    """Return how long ago each inventory source was last read well."""
    last = ask.series(catalogue.EXPORTER_INVENTORY_LAST_SUCCESS, *EXPORTERS)
    return f"time() - max {ask.by(*EXPORTER, 'source')} ({last} > 0)"


def inventory_size(ask: Ask) -> str:
    """Return how many instances each source listed, by cluster."""
    listed = ask.series(catalogue.EXPORTER_INVENTORY_INSTANCES, *EXPORTERS)
    return f"max {ask.by('source')} ({listed})"


def inventory_total(ask: Ask) -> str:
    """Return the same, of all clusters that have a source of that name together."""
    return f"sum by (source) ({inventory_size(ask)})"


def inventory_failing(ask: Ask) -> str:
    """Return how many sources some exporter could not read the last time."""
    good = inventory_good(ask)
    return f"count({good} == 0) or 0 * count({good})"


def inventory_good(ask: Ask) -> str:
    """Return whether every exporter could read each source the last time, by cluster."""
    good = ask.series(catalogue.EXPORTER_INVENTORY_LAST_RELOAD_SUCCESSFUL, *EXPORTERS)
    return f"min {ask.by('source')} ({good})"


def page_age(ask: Ask) -> str:
    """Return how old the figures are that each exporter gives."""
    return f"time() - {own(ask, catalogue.EXPORTER_EXPOSITION_TIMESTAMP)}"


def cpu(ask: Ask) -> str:
    """Return how many cores each exporter uses."""
    return f"max {ask.by(*EXPORTER)} (rate({_of_exporters(ask, CPU)}{RATE}))"


def descriptors_ratio(ask: Ask) -> str:
    """Return the share of the files that each exporter may open."""
    return f"{scraped(ask, 'process_open_fds')} / {scraped(ask, 'process_max_fds')}"


# Of Prometheus and Alertmanager themselves


def rule_duration(_: Ask) -> str:
    """Return how long each of our groups of rules takes."""
    return f"max by (rule_group) (prometheus_rule_group_last_duration_seconds{{{RULES}}})"


def rule_interval(_: Ask) -> str:
    """Return how often the most frequent of them are evaluated."""
    return f"min(prometheus_rule_group_interval_seconds{{{RULES}}})"


def rule_failures(_: Ask) -> str:
    """Return failed evaluations of our rules per second."""
    failures = f"rate(prometheus_rule_evaluation_failures_total{{{RULES}}}{RATE})"
    return f"sum by (rule_group) ({failures})"


def rule_failures_count(_: Ask) -> str:
    """Return failed evaluations of our rules within the time range."""
    failures = f"increase(prometheus_rule_evaluation_failures_total{{{RULES}}}{IN_RANGE})"
    return f"round(sum({failures}))"


def rules_missed(_: Ask) -> str:
    """Return evaluations of our rules per second that were left out for want of time."""
    missed = f"rate(prometheus_rule_group_iterations_missed_total{{{RULES}}}{RATE})"
    return f"sum by (rule_group) ({missed})"


def alerts_sent(_: Ask) -> str:
    """Return alerts per second that Prometheus sent to Alertmanagers."""
    return f"sum by (alertmanager) (rate(prometheus_notifications_sent_total{RATE}))"


def alerts_lost(_: Ask) -> str:
    """Return alerts per second that Prometheus could not send."""
    return f"sum(rate(prometheus_notifications_dropped_total{RATE}))"


def alerts_lost_count(_: Ask) -> str:
    """Return alerts within the time range that Prometheus could not send."""
    return f"round(sum(increase(prometheus_notifications_dropped_total{IN_RANGE})))"


def notifications_failed(_: Ask) -> str:
    """Return notifications per second that Alertmanager could not deliver, by receiver's kind."""
    return f"sum by (integration) (rate(alertmanager_notifications_failed_total{RATE}))"


def notifications(_: Ask) -> str:
    """Return notifications per second that Alertmanager tried, by receiver's kind."""
    return f"sum by (integration) (rate(alertmanager_notifications_total{RATE}))"
