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
        description="Whether the fleet's figures are fresh and whole, and whether alerts arrive.",
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
    """Return the figures that say whether anything is wrong at all."""
    return (
        _up(select),
        _shards(select),
        _last_pass(select),
        _inventory_failing(select),
        _rules_failing(select),
        _alerts_lost(select),
    )


def _figure(text: PanelText, *queries: Query, bad_from: float, colour: str = colours.BAD) -> Panel:
    """Return a stat whose first figure is green until it reaches a value."""
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
    return _figure(text, down, up, bad_from=1)


def _shards(select: Selectors) -> Panel:
    text = PanelText(
        title="Shards that nobody polls",
        description="Parts of the fleet without an exporter whose polls go on: their instances are "
        "missing from every total. Good: none. Series: ollama_exporter_shards, "
        "exporter:ollama_exporter_shard:active.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    return _figure(text, Query(pipeline.shards_missing(select), "missing"), bad_from=1)


def _last_pass(select: Selectors) -> Panel:
    text = PanelText(
        title="Since the last whole pass",
        description="In poll intervals, of the chosen exporters the worst; of one that has ended "
        "none, since it started. Good: up to about two. More: an exporter hangs, or has more "
        "instances than it can poll; red where the rules no longer count what it says. "
        "Series: ollama_exporter_poll_last_completed_timestamp_seconds.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    worst = Query(pipeline.intervals_since_pass(select), "intervals")
    return _figure(text, worst, bad_from=pipeline.STALE_INTERVALS)


def _inventory_failing(select: Selectors) -> Panel:
    text = PanelText(
        title="Inventory sources that fail",
        description="That could not be read the last time; their last good list is kept and gets "
        "old. Good: none. Series: ollama_exporter_inventory_last_reload_successful.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    failing = Query(pipeline.inventory_failing(select), "failing")
    return _figure(text, failing, bad_from=1, colour=colours.WARNING)


def _rules_failing(select: Selectors) -> Panel:
    text = PanelText(
        title="Rules that fail",
        description="Failed evaluations of our rules within the time range. Good: none. Any: see "
        "Prometheus's page of rules for the reason; alerts of that group may stay silent. "
        "Series: prometheus_rule_evaluation_failures_total.",
        no_data=NO_PROMETHEUS,
        unit="none",
    )
    failures = Query(pipeline.rule_failures_count(select), "failures")
    return _figure(text, failures, bad_from=1).optional()


def _alerts_lost(select: Selectors) -> Panel:
    text = PanelText(
        title="Alerts lost",
        description="That Prometheus could not bring to any Alertmanager within the time range. "
        "Good: none. Any: somebody may not have been told. "
        "Series: prometheus_notifications_dropped_total.",
        no_data="Prometheus does not scrape itself.",
        unit="none",
    )
    return _figure(text, Query(pipeline.alerts_lost_count(select), "lost"), bad_from=1).optional()


def _exporters(select: Selectors) -> Panel:
    """Return the table of all exporters."""
    text = PanelText(
        title="Exporters, one by one",
        description="What each polls, and how it does. Replicas have the same shard and should "
        "have the same version. Series: ollama_exporter_shard_info, ollama_exporter_build_info "
        "and the others of each exporter.",
        no_data=NO_EXPORTER,
    )
    own = pipeline.own
    return table(
        text,
        _each(select, "last pass", pipeline.age_of_pass(select), "s"),
        _each(select, "pass took", own(select, catalogue.EXPORTER_POLL_CYCLE_DURATION), "s"),
        _each(select, "late by", own(select, catalogue.EXPORTER_POLL_LATENESS), "s"),
        _each(select, "polls/s", pipeline.rate(select, catalogue.EXPORTER_POLLS), "cps"),
        _each(select, "connections", own(select, catalogue.EXPORTER_OPEN_CONNECTIONS), "none"),
        _each(select, "samples", own(select, catalogue.EXPORTER_EXPOSITION_SAMPLES), "none"),
        _each(select, "page age", pipeline.page_age(select), "s"),
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
            row(8, (8, _outcomes(select)), (8, _reasons(select)), (8, _error_ratio(select))),
        ),
    )


def _cycles(select: Selectors) -> Panel:
    text = PanelText(
        title="Passes over the fleet",
        description="Whole passes per minute that each exporter ends. Good: 60 by the poll "
        "interval in seconds, and even. Series: ollama_exporter_poll_cycles_total.",
        no_data=NO_EXPORTER,
        unit="cpm",
    )
    cycles = f"60 * {pipeline.rate(select, catalogue.EXPORTER_POLL_CYCLES)}"
    return chart(text, Query(cycles, EXPORTER_NAME))


def _duration(select: Selectors) -> Panel:
    text = PanelText(
        title="Duration of a pass",
        description="From the first to the last answer, and the poll interval over which polls are "
        "spread. Good: about the interval. Series: ollama_exporter_poll_cycle_duration_seconds.",
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
        description="By how much the latest poll of a pass began too late, and a tenth of the "
        "interval. Above: the exporter has too many instances or too little CPU, so divide the "
        "fleet into more shards. Series: ollama_exporter_poll_lateness_seconds.",
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
        description="Polls per second whose health check was good, and those whose was not. A step "
        "in failures that the fleet does not explain: the exporter's network or its open files. "
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


def _reasons(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed requests to instances by reason",
        description="Per second. health: the instance does not count as healthy; metrics: it does, "
        "but its figures are missing. no_descriptor is the exporter's own: raise its limit of open "
        "files. Series: ollama_exporter_poll_errors_total.",
        no_data="No request to an instance fails.",
        unit="reqps",
    )
    errors = Query(pipeline.poll_errors(select), "{{request}}: {{reason}}")
    return chart(text, errors, is_stacked=True).optional()


def _error_ratio(select: Selectors) -> Panel:
    text = PanelText(
        title="Failed polls, share",
        description="Of all polls, those whose health check failed. Good: as the share of "
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
        description="Since each source was last read well. Good: a saw-tooth no higher than the "
        "reload interval. A line that climbs: new instances are not watched, old ones count as "
        "down. Series: ollama_exporter_inventory_last_success_timestamp_seconds.",
        no_data="No exporter has read an inventory yet.",
        unit="s",
    )
    return chart(text, Query(pipeline.inventory_age(select), "{{instance}} {{source}}"))


def _inventory_size(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances in the inventory",
        description="As each source listed them when it was last read well. A step down that "
        "nobody planned: the source is cut short. Series: ollama_exporter_inventory_instances.",
        no_data="No exporter has read an inventory yet.",
        unit="none",
    )
    return chart(text, Query(pipeline.inventory_total(select), "{{source}}"), is_stacked=True)


def _sources(select: Selectors) -> Panel:
    text = PanelText(
        title="Sources of the inventory",
        description="Whether each could be read the last time, and what it lists. Failing: an "
        "exporter's log has the reason. Series: ollama_exporter_inventory_last_reload_successful, "
        "ollama_exporter_inventory_instances.",
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
                (6, _instances_as_wanted(select)),
                (6, _nodes(select)),
                (6, _ages(select)),
            ),
        ),
    )


def _leaders(select: Selectors) -> Panel:
    text = PanelText(
        title="Provisioner that leads",
        description="Of the one that leads 1, of those that stand by 0. Good: exactly one is at 1. "
        "None: nothing that fails is replaced. Several: they have different stores. "
        "Series: ollama_provisioner_leader.",
        no_data=NO_PROVISIONER,
        unit="none",
    )
    return chart(text, Query(pipeline.leaders(select), "{{instance}}")).optional()


def _instances_as_wanted(select: Selectors) -> Panel:
    text = PanelText(
        title="Instances as wanted",
        description="What the specification asks for, what of it runs, is healthy and up to date, "
        "and what cannot be started. Good: as many as wanted; in a roll-out the line climbs. "
        "Series: ollama_provisioner_wanted_instances, ollama_provisioner_instances_as_wanted, "
        "ollama_provisioner_instances.",
        no_data=NO_LEADER,
        unit="none",
    )
    return chart(
        text,
        Query(pipeline.as_wanted(select), "as wanted"),
        Query(pipeline.failed_instances(select), "failed"),
        Query(pipeline.wanted_instances(select), "wanted"),
        overrides=[
            fields.coloured("as wanted", colours.GOOD),
            fields.coloured("failed", colours.BAD),
            fields.limit_line("wanted"),
        ],
    ).optional()


def _nodes(select: Selectors) -> Panel:
    text = PanelText(
        title="Nodes out of reach",
        description="Nodes whose runtime does not answer the provisioner that leads. Good: none; "
        "its log names them. Series: ollama_provisioner_unreachable_nodes.",
        no_data=NO_LEADER,
        unit="none",
    )
    return chart(text, Query(pipeline.unreachable_nodes(select), "nodes")).optional()


def _ages(select: Selectors) -> Panel:
    text = PanelText(
        title="Since the last pass and the last word of the store",
        description="How long ago the leader looked over the whole fleet, and how old each "
        "provisioner's view of the store is. Good: seconds. Series: "
        "ollama_provisioner_last_pass_timestamp_seconds, "
        "ollama_provisioner_view_timestamp_seconds.",
        no_data=NO_PROVISIONER,
        unit="s",
    )
    return chart(
        text,
        Query(pipeline.pass_age(select), "last pass"),
        Query(pipeline.view_age(select), "view of {{instance}}"),
    ).optional()


def _exposition(select: Selectors) -> Section:
    """Return the charts of the page that Prometheus scrapes."""
    return Section(
        "Page for Prometheus",
        (row(8, (8, _samples(select)), (8, _page_age(select)), (8, _page_cost(select))),),
    )


def _samples(select: Selectors) -> Panel:
    text = PanelText(
        title="Samples on the page",
        description="Of the fleet, by exporter: what Prometheus has to store with each scrape. "
        "About ten per instance. Series: ollama_exporter_exposition_samples.",
        no_data=NO_EXPORTER,
        unit="short",
    )
    return chart(
        text, Query(pipeline.own(select, catalogue.EXPORTER_EXPOSITION_SAMPLES), EXPORTER_NAME)
    )


def _page_age(select: Selectors) -> Panel:
    text = PanelText(
        title="Age of the page",
        description="How old the figures are that each exporter gives. Good: below the poll "
        "interval. Growing: it answers scrapes, and polls no more. "
        "Series: ollama_exporter_exposition_timestamp_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(text, Query(pipeline.page_age(select), EXPORTER_NAME))


def _page_cost(select: Selectors) -> Panel:
    text = PanelText(
        title="Rendering and scraping the page",
        description="CPU time to render a page, and how long Prometheus takes to get it. Near the "
        "scrape timeout: publish less or divide the fleet. "
        "Series: ollama_exporter_exposition_duration_seconds, scrape_duration_seconds.",
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
        "become late: divide the fleet into more shards. Series: process_cpu_seconds_total.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    return chart(text, Query(pipeline.cpu(select), EXPORTER_NAME))


def _memory(select: Selectors) -> Panel:
    text = PanelText(
        title="Memory",
        description="Resident. Good: level. It grows with the number of instances only. "
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
        description="Share of those that each exporter may open; each connection to an instance "
        "is one. Near all: raise the limit, or instances become unknown. "
        "Series: process_open_fds, process_max_fds.",
        no_data=NO_EXPORTER,
        unit="percentunit",
    )
    return chart(text, Query(pipeline.descriptors_ratio(select), EXPORTER_NAME), max=1)


NO_ALERTMANAGER = "Prometheus does not scrape an Alertmanager."


def _rules(select: Selectors) -> Section:
    """Return the charts of the evaluation of rules."""
    return Section(
        "Evaluation of rules",
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
        description="How long each of our groups took the last time, and the shortest interval "
        "between evaluations. Above: evaluations are left out, and alerts come late. "
        "Series: prometheus_rule_group_last_duration_seconds.",
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
        description="Of our rules, per second. Good: none. "
        "Series: prometheus_rule_evaluation_failures_total.",
        no_data=NO_PROMETHEUS,
        unit="cps",
    )
    return chart(text, Query(pipeline.rule_failures(select), "{{rule_group}}")).optional()


def _rules_missed(select: Selectors) -> Panel:
    text = PanelText(
        title="Evaluations left out",
        description="Of our groups, per second, because the one before had not ended. Good: none; "
        "else Prometheus needs more CPU, or asks too much. "
        "Series: prometheus_rule_group_iterations_missed_total.",
        no_data=NO_PROMETHEUS,
        unit="cps",
    )
    return chart(text, Query(pipeline.rules_missed(select), "{{rule_group}}")).optional()


def _notifications(select: Selectors) -> Section:
    """Return the charts of alerts on their way."""
    return Section(
        "Alerts on their way",
        (row(8, (8, _sent(select)), (8, _tried(select)), (8, _undelivered(select))),),
    )


def _sent(select: Selectors) -> Panel:
    text = PanelText(
        title="Alerts sent to Alertmanagers",
        description="Per second by Alertmanager, and those lost because none took them. Watchdog "
        "always fires, so never zero. Series: prometheus_notifications_sent_total, "
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
        description="That Alertmanager tried to deliver, per second, by kind of receiver. "
        "Series: alertmanager_notifications_total.",
        no_data=NO_ALERTMANAGER,
        unit="cps",
    )
    return chart(text, Query(pipeline.notifications(select), "{{integration}}")).optional()


def _undelivered(select: Selectors) -> Panel:
    text = PanelText(
        title="Notifications that failed",
        description="That could not be delivered, per second, by kind of receiver. Good: none; "
        "Alertmanager's log has the reason. Series: alertmanager_notifications_failed_total.",
        no_data=NO_ALERTMANAGER,
        unit="cps",
    )
    return chart(text, Query(pipeline.notifications_failed(select), "{{integration}}")).optional()


NO_EXPORTER = "Prometheus has no figures of an exporter: see whether it scrapes one."
NO_PROMETHEUS = "Prometheus does not scrape itself, or has no rules of ollama-fleet."
EXPORTER_NAME = "{{instance}}"
