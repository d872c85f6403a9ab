"""The exporters and the pipeline behind them, for whoever doubts dashboards or alerts."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import Uid
from dashboards.kit import colours, controls, fields
from dashboards.kit.board import Board, Section, row
from dashboards.kit.panels import Column, Panel, PanelText, Query, chart, stat, table
from dashboards.queries import pipeline
from dashboards.queries.selectors import Selectors
from dashboards.settings import DashboardSettings
from exporter import catalogue

ALL_EXPORTERS = ".+"


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard for whoever doubts the others."""
    select = Selectors.of(settings)
    return Board(
        uid=Uid.EXPORTER,
        title="Exporter and pipeline",
        description="Whether the fleet's metrics are current and complete, and whether alerts "
        "arrive.",
        scrape_interval=settings.scrape_interval,
        variables=_variables(select),
        annotations=choices.event_annotations(select)[:2],
        sections=(
            Section("", (row(4, *((4, panel) for panel in _key_numbers(select))),)),
            Section("Exporters", (row(7, (24, _exporters(select))),)),
            _polls(select),
            _inventory(select),
            _provisioners(select),
            _exposition(select),
            _processes(select),
            _rules(select),
            _notifications(select),
        ),
    )


def _variables(select: Selectors) -> tuple[object, ...]:
    known = select.series(catalogue.EXPORTER_BUILD_INFO)
    of_job = select.series(catalogue.EXPORTER_BUILD_INFO, 'job=~"$job"')
    return (
        controls.data_source(),
        choices.cluster(select),
        controls.label_values("job", known, all_value=ALL_EXPORTERS, is_multi=True),
        controls.label_values("instance", of_job, all_value=ALL_EXPORTERS, is_multi=True),
    )


def _key_numbers(select: Selectors) -> tuple[Panel, ...]:
    """Return the numbers that say whether anything is wrong at all."""
    return (
        _up(select),
        _shards(select),
        _last_poll_cycle(select),
        _inventory_failing(select),
        _rules_failing(select),
        _alerts_lost(select),
    )


def _number(text: PanelText, *queries: Query, bad_from: float, colour: str = colours.BAD) -> Panel:
    """Return a stat whose first value is green below a threshold."""
    value = fields.turning(queries[0].legend, bad_from, colour)
    return stat(text, *queries, overrides=[value])


def _up(select: Selectors) -> Panel:
    text = PanelText(
        title="Exporters",
        description="Exporters that Prometheus can scrape, and how many do not answer. Good: none "
        "down. One of two replicas down loses nothing yet. Series: up.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    down, up = Query(pipeline.down_count(select), "down"), Query(pipeline.up_count(select), "up")
    return _number(text, down, up, bad_from=1)


def _shards(select: Selectors) -> Panel:
    text = PanelText(
        title="Shards without exporter",
        description="Parts of the fleet without a polling exporter: their instances are missing "
        "from every total. Good: none. Series: ollama_exporter_shards, "
        "exporter:ollama_exporter_shard:active.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    return _number(text, Query(pipeline.shards_missing(select), "missing"), bad_from=1)


def _last_poll_cycle(select: Selectors) -> Panel:
    text = PanelText(
        title="Since the last complete poll cycle",
        description="In poll intervals; the worst of the chosen exporters. Before the first "
        "cycle: since the start. Good: up to about two. More: an exporter hangs or has too many "
        "instances. Red: the rules ignore its metrics. Series: "
        "ollama_exporter_poll_last_completed_timestamp_seconds.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    worst = Query(pipeline.intervals_since_poll_cycle(select), "intervals")
    return _number(text, worst, bad_from=pipeline.STALE_INTERVALS)


def _inventory_failing(select: Selectors) -> Panel:
    text = PanelText(
        title="Failing inventory sources",
        description="Sources whose last read failed. The last good list is kept. Good: none. "
        "Series: ollama_exporter_inventory_last_reload_successful.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    failing = Query(pipeline.inventory_failing(select), "failing")
    return _number(text, failing, bad_from=1, colour=colours.WARNING)


def _rules_failing(select: Selectors) -> Panel:
    text = PanelText(
        title="Failing rules",
        description="Failed evaluations of our rules within the time range. Good: none. Any: "
        "Prometheus shows the reason under Rules; alerts of that group may not fire. Series: "
        "prometheus_rule_evaluation_failures_total.",
        no_data=NO_PROMETHEUS,
        unit="none",
    )
    failures = Query(pipeline.rule_failures_count(select), "failures")
    return _number(text, failures, bad_from=1).optional()


def _alerts_lost(select: Selectors) -> Panel:
    text = PanelText(
        title="Alerts lost",
        description="Alerts that Prometheus could not send to any Alertmanager within the time "
        "range. Good: none. Any: a notification may be missing. Series: "
        "prometheus_notifications_dropped_total.",
        no_data="Prometheus does not scrape itself.",
        unit="none",
    )
    return _number(text, Query(pipeline.alerts_lost_count(select), "lost"), bad_from=1).optional()


def _exporters(select: Selectors) -> Panel:
    """Return the table of all exporters."""
    text = PanelText(
        title="Exporters in detail",
        description="What each exporter polls, and how it performs. Replicas have the same shard "
        "and should have the same version. Series: ollama_exporter_shard_info, "
        "ollama_exporter_build_info and the others of each exporter.",
        no_data=NO_EXPORTER,
    )
    own = pipeline.own
    return table(
        text,
        _each(select, "last cycle", pipeline.poll_cycle_age(select), "s"),
        _each(select, "cycle took", own(select, catalogue.EXPORTER_POLL_CYCLE_DURATION), "s"),
        _each(select, "late by", own(select, catalogue.EXPORTER_POLL_LATENESS), "s"),
        _each(select, "polls/s", pipeline.rate(select, catalogue.EXPORTER_POLLS), "cps"),
        _each(select, "connections", own(select, catalogue.EXPORTER_OPEN_CONNECTIONS), "none"),
        _each(select, "samples", own(select, catalogue.EXPORTER_EXPOSITION_SAMPLES), "none"),
        _each(select, "exposition age", pipeline.exposition_age(select), "s"),
        labels=("instance", "shard", "version", "python"),
        hidden_labels=("job",),
        sort=[("instance", False)],
    )


def _each(select: Selectors, name: str, expr: str, unit: str) -> Column:
    return Column(name=name, expr=pipeline.with_shard(select, expr), unit=unit)


def _polls(select: Selectors) -> Section:
    """Return the charts of polls."""
    return Section(
        "Polls",
        (
            row(8, (8, _cycles(select)), (8, _duration(select)), (8, _lateness(select))),
            row(
                8,
                (8, _outcomes(select)),
                (8, _outcomes_of_failures(select)),
                (8, _error_ratio(select)),
            ),
        ),
    )


def _cycles(select: Selectors) -> Panel:
    text = PanelText(
        title="Poll cycles",
        description="Complete poll cycles per minute and exporter. Good: 60 / poll interval in "
        "seconds, and even. Series: ollama_exporter_poll_cycles_total.",
        no_data=NO_EXPORTER,
        unit="cpm",
    )
    cycles = f"60 * {pipeline.rate(select, catalogue.EXPORTER_POLL_CYCLES)}"
    return chart(text, Query(cycles, EXPORTER_NAME))


def _duration(select: Selectors) -> Panel:
    text = PanelText(
        title="Duration of a poll cycle",
        description="From the first to the last answer, and the poll interval. Good: about the "
        "interval, as polls are spread over it. Series: "
        "ollama_exporter_poll_cycle_duration_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(
        text,
        Query(pipeline.own(select, catalogue.EXPORTER_POLL_CYCLE_DURATION), EXPORTER_NAME),
        Query(pipeline.interval(select), "interval"),
        overrides=[fields.limit_line("interval")],
    )


def _lateness(select: Selectors) -> Panel:
    text = PanelText(
        title="Lateness of polls",
        description="Highest delay of a poll in the last cycle, and a tenth of the interval. "
        "Above: the exporter has too many instances or too little CPU, so use more shards. "
        "Series: ollama_exporter_poll_lateness_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(
        text,
        Query(pipeline.own(select, catalogue.EXPORTER_POLL_LATENESS), EXPORTER_NAME),
        Query(pipeline.lateness_limit(select), "limit"),
        overrides=[fields.limit_line("limit")],
    )


def _outcomes(select: Selectors) -> Panel:
    text = PanelText(
        title="Polls by outcome",
        description="Polls per second with a passed and with a failed health check. A step in "
        "failures that the fleet does not explain: the exporter's network or its open files. "
        "Series: ollama_exporter_polls_total, ollama_exporter_poll_errors_total.",
        no_data=NO_EXPORTER,
        unit="cps",
    )
    return chart(
        text,
        Query(pipeline.polls_good(select), "good"),
        Query(pipeline.polls_failed(select), "failed"),
        overrides=[
            fields.coloured("good", colours.GOOD),
            fields.coloured("failed", colours.BAD),
        ],
        is_stacked=True,
    )


def _outcomes_of_failures(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed requests to instances by outcome",
        description="Per second. health: the instance is not healthy. metrics: it is healthy, but "
        "its metrics are missing. no_descriptor: the exporter ran out of file descriptors; raise "
        "its limit. Series: ollama_exporter_poll_errors_total.",
        no_data="No request to an instance fails.",
        unit="reqps",
    )
    errors = Query(pipeline.poll_errors(select), "{{request}}: {{outcome}}")
    return chart(text, errors, is_stacked=True).optional()


def _error_ratio(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed polls, share",
        description="Share of polls with a failed health check. Good: equal to the share of "
        "instances that are down. Series: ollama_exporter_polls_total, "
        "ollama_exporter_poll_errors_total.",
        no_data="No exporter polls.",
        unit="percentunit",
    )
    failed = Query(pipeline.poll_error_ratio(select), "failed")
    return chart(text, failed, overrides=[fields.coloured("failed", colours.BAD)])


GOOD = {"0": ("failing", colours.BAD), "1": ("good", colours.GOOD)}


def _inventory(select: Selectors) -> Section:
    """Return the charts and the table of sources."""
    return Section(
        "Inventory",
        (row(8, (8, _inventory_age(select)), (8, _inventory_size(select)), (8, _sources(select))),),
    )


def _inventory_age(select: Selectors) -> Panel:
    text = PanelText(
        title="Age of the inventory",
        description="Time since each source was last read successfully. Good: a saw-tooth no "
        "higher than the reload interval. A line that climbs: new instances are not monitored, "
        "removed ones count as down. Series: "
        "ollama_exporter_inventory_last_success_timestamp_seconds.",
        no_data="No exporter has read an inventory yet.",
        unit="s",
    )
    return chart(text, Query(pipeline.inventory_age(select), "{{instance}} {{source}}"))


def _inventory_size(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances in the inventory",
        description="Instances in each source at its last successful read. An unplanned step "
        "down: the source is truncated. Series: ollama_exporter_inventory_instances.",
        no_data="No exporter has read an inventory yet.",
        unit="none",
    )
    return chart(text, Query(pipeline.inventory_total(select), "{{source}}"), is_stacked=True)


def _sources(select: Selectors) -> Panel:
    text = PanelText(
        title="Sources of the inventory",
        description="Whether the last read of each source succeeded, and how many instances it "
        "lists. Failing: the exporter's log has the reason. Series: "
        "ollama_exporter_inventory_last_reload_successful, ollama_exporter_inventory_instances.",
        no_data=NO_EXPORTER,
    )
    overrides = fields.coloured_cell(GOOD)
    return table(
        text,
        Column(name="last read", expr=pipeline.inventory_good(select), overrides=overrides),
        Column(name="instances", expr=pipeline.inventory_size(select)),
        labels=("source", select.cluster),
        sort=[("last read", False)],
    )


NO_PROVISIONER = "Prometheus scrapes no provisioner."
NO_LEADER = "No provisioner leads, or Prometheus scrapes none."


def _provisioners(select: Selectors) -> Section:
    """Return the charts of the provisioners."""
    return Section(
        "Provisioner",
        (
            row(
                8,
                (6, _leaders(select)),
                (6, _ready_instances(select)),
                (6, _nodes(select)),
                (6, _ages(select)),
            ),
        ),
    )


def _leaders(select: Selectors) -> Panel:
    text = PanelText(
        title="Leading provisioner",
        description="The leader is 1, standbys are 0. Good: exactly one leader. None: failed "
        "instances are not replaced. Several: they have different stores. Series: "
        "ollama_provisioner_leader.",
        no_data=NO_PROVISIONER,
        unit="none",
    )
    return chart(text, Query(pipeline.leaders(select), "{{instance}}")).optional()


def _ready_instances(select: Selectors) -> Panel:
    text = PanelText(
        title="Ready instances",
        description="Instances that the specification asks for, those that run, healthy and up to "
        "date, and those that cannot be started. Good: as many as wanted; during a rollout the "
        "line climbs. Series: ollama_provisioner_wanted_instances, "
        "ollama_provisioner_ready_instances, ollama_provisioner_instances.",
        no_data=NO_LEADER,
        unit="none",
    )
    return chart(
        text,
        Query(pipeline.ready_instances(select), "ready"),
        Query(pipeline.failed_instances(select), "failed"),
        Query(pipeline.wanted_instances(select), "wanted"),
        overrides=[
            fields.coloured("ready", colours.GOOD),
            fields.coloured("failed", colours.BAD),
            fields.limit_line("wanted"),
        ],
    ).optional()


def _nodes(select: Selectors) -> Panel:
    text = PanelText(
        title="Unreachable nodes",
        description="Nodes whose runtime does not answer the leading provisioner. Good: none; its "
        "log names them. Series: ollama_provisioner_unreachable_nodes.",
        no_data=NO_LEADER,
        unit="none",
    )
    return chart(text, Query(pipeline.unreachable_nodes(select), "nodes")).optional()


def _ages(select: Selectors) -> Panel:
    text = PanelText(
        title="Age of the last reconcile and of the store view",
        description="Time since the leader last reconciled, and age of each provisioner's view of "
        "the store. Good: seconds. Series: ollama_provisioner_last_reconcile_timestamp_seconds, "
        "ollama_provisioner_view_timestamp_seconds.",
        no_data=NO_PROVISIONER,
        unit="s",
    )
    return chart(
        text,
        Query(pipeline.reconcile_age(select), "last reconcile"),
        Query(pipeline.view_age(select), "view of {{instance}}"),
    ).optional()


def _exposition(select: Selectors) -> Section:
    """Return the charts of the page that Prometheus scrapes."""
    return Section(
        "Exposition",
        (
            row(
                8,
                (8, _samples(select)),
                (8, _exposition_age(select)),
                (8, _cost(select)),
            ),
        ),
    )


def _samples(select: Selectors) -> Panel:
    text = PanelText(
        title="Samples in the exposition",
        description="Samples that Prometheus stores with each scrape, by exporter. About ten per "
        "instance. Series: ollama_exporter_exposition_samples.",
        no_data=NO_EXPORTER,
        unit="short",
    )
    return chart(
        text, Query(pipeline.own(select, catalogue.EXPORTER_EXPOSITION_SAMPLES), EXPORTER_NAME)
    )


def _exposition_age(select: Selectors) -> Panel:
    text = PanelText(
        title="Age of the exposition",
        description="Age of the metrics that each exporter serves. Good: below the poll interval. "
        "Growing: it answers scrapes but no longer polls. Series: "
        "ollama_exporter_exposition_timestamp_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(text, Query(pipeline.exposition_age(select), EXPORTER_NAME))


def _cost(select: Selectors) -> Panel:
    text = PanelText(
        title="Rendering and scraping",
        description="CPU time to render the exposition, and duration of a scrape. Near the scrape "
        "timeout: publish less or use more shards. Series: "
        "ollama_exporter_exposition_duration_seconds, scrape_duration_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(
        text,
        Query(
            pipeline.own(select, catalogue.EXPORTER_EXPOSITION_DURATION),
            f"rendering {EXPORTER_NAME}",
        ),
        Query(pipeline.scraped(select, "scrape_duration_seconds"), f"scraping {EXPORTER_NAME}"),
    )


def _processes(select: Selectors) -> Section:
    """Return the charts of the processes."""
    return Section(
        "Processes of the exporters",
        (row(7, (8, _cpu(select)), (8, _memory(select)), (8, _descriptors(select))),),
    )


def _cpu(select: Selectors) -> Panel:
    text = PanelText(
        title="CPU",
        description="Cores in use; an exporter cannot use more than about one. Near one, polls "
        "are late: use more shards. Series: process_cpu_seconds_total.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    return chart(text, Query(pipeline.cpu(select), EXPORTER_NAME))


def _memory(select: Selectors) -> Panel:
    text = PanelText(
        title="Memory",
        description="Resident memory. Good: constant. It grows only with the number of instances. "
        "Series: process_resident_memory_bytes.",
        no_data=NO_EXPORTER,
        unit="bytes",
    )
    return chart(
        text, Query(pipeline.scraped(select, "process_resident_memory_bytes"), EXPORTER_NAME)
    )


def _descriptors(select: Selectors) -> Panel:
    text = PanelText(
        title="Open files",
        description="Share of the open file limit; each connection to an instance uses one. Near "
        "100 %: raise the limit, or instances become unknown. Series: process_open_fds, "
        "process_max_fds.",
        no_data=NO_EXPORTER,
        unit="percentunit",
    )
    return chart(text, Query(pipeline.descriptors_ratio(select), EXPORTER_NAME), max=1)


NO_ALERTMANAGER = "Prometheus does not scrape an Alertmanager."


def _rules(select: Selectors) -> Section:
    """Return the charts of the evaluation of rules."""
    return Section(
        "Rule evaluation",
        (
            row(
                8,
                (8, _rule_duration(select)),
                (8, _rule_failures(select)),
                (8, _rules_missed(select)),
            ),
        ),
    )


def _rule_duration(select: Selectors) -> Panel:
    text = PanelText(
        title="Duration of rule groups",
        description="Last duration of each of our groups, and the shortest evaluation interval. "
        "Above: evaluations are missed and alerts are late. Series: "
        "prometheus_rule_group_last_duration_seconds.",
        no_data=NO_PROMETHEUS,
        unit="s",
    )
    return chart(
        text,
        Query(pipeline.rule_duration(select), "{{rule_group}}"),
        Query(pipeline.rule_interval(select), "interval"),
        overrides=[fields.limit_line("interval")],
    ).optional()


def _rule_failures(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed evaluations",
        description="Failed evaluations of our rules per second. Good: none. Series: "
        "prometheus_rule_evaluation_failures_total.",
        no_data=NO_PROMETHEUS,
        unit="cps",
    )
    return chart(text, Query(pipeline.rule_failures(select), "{{rule_group}}")).optional()


def _rules_missed(select: Selectors) -> Panel:
    text = PanelText(
        title="Missed evaluations",
        description="Missed evaluations of our groups per second, because the previous one had "
        "not finished. Good: none. Otherwise Prometheus needs more CPU. Series: "
        "prometheus_rule_group_iterations_missed_total.",
        no_data=NO_PROMETHEUS,
        unit="cps",
    )
    return chart(text, Query(pipeline.rules_missed(select), "{{rule_group}}")).optional()


def _notifications(select: Selectors) -> Section:
    """Return the charts of alerts on their way."""
    return Section(
        "Alert delivery",
        (row(8, (8, _sent(select)), (8, _tried(select)), (8, _undelivered(select))),),
    )


def _sent(select: Selectors) -> Panel:
    text = PanelText(
        title="Alerts sent to Alertmanagers",
        description="Alerts per second and Alertmanager, and those lost because none accepted "
        "them. Never zero, as Watchdog always fires. Series: prometheus_notifications_sent_total, "
        "prometheus_notifications_dropped_total.",
        no_data="Prometheus does not scrape itself, or has no Alertmanager.",
        unit="cps",
    )
    return chart(
        text,
        Query(pipeline.alerts_sent(select), "{{alertmanager}}"),
        Query(pipeline.alerts_lost(select), "lost"),
        overrides=[fields.coloured("lost", colours.BAD)],
    ).optional()


def _tried(select: Selectors) -> Panel:
    text = PanelText(
        title="Notifications",
        description="Notifications per second by kind of receiver. Series: "
        "alertmanager_notifications_total.",
        no_data=NO_ALERTMANAGER,
        unit="cps",
    )
    return chart(text, Query(pipeline.notifications(select), "{{integration}}")).optional()


def _undelivered(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed notifications",
        description="Failed notifications per second by kind of receiver. Good: none; "
        "Alertmanager's log has the reason. Series: alertmanager_notifications_failed_total.",
        no_data=NO_ALERTMANAGER,
        unit="cps",
    )
    return chart(text, Query(pipeline.notifications_failed(select), "{{integration}}")).optional()


NO_EXPORTER = "Prometheus has no exporter metrics: check that it scrapes one."
NO_PROMETHEUS = "Prometheus does not scrape itself, or has no rules of ollama-fleet."
EXPORTER_NAME = "{{instance}}"
