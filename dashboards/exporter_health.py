"""What watches the fleet: whether the other dashboards, and the alerts, can be believed."""

from __future__ import annotations

from dashboards import choices
from dashboards.choices import Uid
from dashboards.kit import colours, fields, variables
from dashboards.kit.board import Board
from dashboards.kit.grid import Section, row
from dashboards.kit.panels import Column, Panel, Query, Words, chart, stat, table
from dashboards.queries import pipeline
from dashboards.queries.select import Ask
from dashboards.settings import DashboardSettings
from exporter import catalogue

ALL_EXPORTERS = ".+"
NO_EXPORTER = "Prometheus has no figures of an exporter: see whether it scrapes one."
NO_PROMETHEUS = "Prometheus does not scrape itself, or has no rules of ollama-fleet."
NO_ALERTMANAGER = "Prometheus does not scrape an Alertmanager."
EXPORTER_NAME = "{{instance}}"
GOOD = {"0": ("failing", colours.BAD), "1": ("good", colours.GOOD)}


def dashboard(settings: DashboardSettings) -> Board:
    """Return the dashboard for whoever doubts the others."""
    ask = Ask.of(settings)
    return Board(
        uid=Uid.EXPORTER,
        title="Exporter and pipeline",
        description="Whether the fleet's figures are fresh and whole, and whether alerts arrive.",
        scrape_interval=settings.scrape_interval,
        variables=_variables(ask),
        marks=choices.marks(ask)[:2],
        sections=(
            Section("", (row(4, *((4, panel) for panel in _figures(ask))),)),
            Section("Exporters", (row(7, (24, _exporters(ask))),)),
            _polls(ask),
            _inventory(ask),
            _page(ask),
            _process(ask),
            _rules(ask),
            _notifications(ask),
        ),
    )


def _variables(ask: Ask) -> tuple[object, ...]:
    known = ask.series(catalogue.EXPORTER_BUILD_INFO)
    of_job = ask.series(catalogue.EXPORTER_BUILD_INFO, 'job=~"$job"')
    return (
        variables.data_source(),
        choices.cluster(ask),
        variables.label_values("job", known, all_value=ALL_EXPORTERS, is_multi=True),
        variables.label_values("instance", of_job, all_value=ALL_EXPORTERS, is_multi=True),
    )


# At the top


def _figures(ask: Ask) -> tuple[Panel, ...]:
    """Return the figures that say whether anything is wrong at all."""
    return (
        _up(ask),
        _shards(ask),
        _last_pass(ask),
        _inventory_failing(ask),
        _rules_failing(ask),
        _alerts_lost(ask),
    )


def _figure(words: Words, *queries: Query, bad_from: float, colour: str = colours.BAD) -> Panel:
    """Return a stat whose first figure is green until it reaches a value."""
    steps = fields.steps((bad_from, colour))
    judged = fields.override(
        queries[0].legend, {"thresholds": {"mode": "absolute", "steps": steps}}
    )
    return stat(words, *queries, overrides=[judged])


def _up(ask: Ask) -> Panel:
    words = Words(
        title="Exporters",
        description="Exporters that Prometheus can scrape, and how many do not answer. Good: none "
        "down. One of two replicas down loses nothing yet. Series: up.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    down, up = Query(pipeline.down_count(ask), "down"), Query(pipeline.up_count(ask), "up")
    return _figure(words, down, up, bad_from=1)


def _shards(ask: Ask) -> Panel:
    words = Words(
        title="Shards that nobody polls",
        description="Parts of the fleet without an exporter whose polls go on: their instances are "
        "missing from every total. Good: none. Series: ollama_exporter_shards, "
        "exporter:ollama_exporter_shard:fresh.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    return _figure(words, Query(pipeline.shards_missing(ask), "missing"), bad_from=1)


def _last_pass(ask: Ask) -> Panel:
    words = Words(
        title="Since the last whole pass",
        description="In poll intervals, of the chosen exporters the worst. Good: up to about two. "
        "More: an exporter hangs, or has more instances than it can poll; red where the rules "
        "no longer count what it says. "
        "Series: ollama_exporter_poll_last_completed_timestamp_seconds.",
        no_data="No exporter has ended a pass over the fleet yet.",
        unit="none",
    )
    worst = Query(pipeline.intervals_since_pass(ask), "intervals")
    return _figure(words, worst, bad_from=pipeline.STALE_INTERVALS)


def _inventory_failing(ask: Ask) -> Panel:
    words = Words(
        title="Inventory sources that fail",
        description="That could not be read the last time; their last good list is kept and gets "
        "old. Good: none. Series: ollama_exporter_inventory_last_reload_successful.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    failing = Query(pipeline.inventory_failing(ask), "failing")
    return _figure(words, failing, bad_from=1, colour=colours.WARNING)


def _rules_failing(ask: Ask) -> Panel:
    words = Words(
        title="Rules that fail",
        description="Failed evaluations of our rules within the time range. Good: none. Any: see "
        "Prometheus's page of rules for the reason; alerts of that group may stay silent. "
        "Series: prometheus_rule_evaluation_failures_total.",
        no_data=NO_PROMETHEUS,
        unit="none",
    )
    failures = Query(pipeline.rule_failures_count(ask), "failures")
    return _figure(words, failures, bad_from=1).optional()


def _alerts_lost(ask: Ask) -> Panel:
    words = Words(
        title="Alerts lost",
        description="That Prometheus could not bring to any Alertmanager within the time range. "
        "Good: none. Any: somebody may not have been told. "
        "Series: prometheus_notifications_dropped_total.",
        no_data="Prometheus does not scrape itself.",
        unit="none",
    )
    return _figure(words, Query(pipeline.alerts_lost_count(ask), "lost"), bad_from=1).optional()


def _exporters(ask: Ask) -> Panel:
    words = Words(
        title="Exporters, one by one",
        description="What each polls, and how it does. Replicas have the same shard and should "
        "have the same version. Series: ollama_exporter_shard_info, ollama_exporter_build_info "
        "and the others of each exporter.",
        no_data=NO_EXPORTER,
    )
    own = pipeline.own
    return table(
        words,
        _each(ask, "last pass", pipeline.age_of_pass(ask), "s"),
        _each(ask, "pass took", own(ask, catalogue.EXPORTER_POLL_CYCLE_DURATION), "s"),
        _each(ask, "late by", own(ask, catalogue.EXPORTER_POLL_LATENESS), "s"),
        _each(ask, "polls/s", pipeline.rate(ask, catalogue.EXPORTER_POLLS), "cps"),
        _each(ask, "connections", own(ask, catalogue.EXPORTER_OPEN_CONNECTIONS), "none"),
        _each(ask, "samples", own(ask, catalogue.EXPORTER_PAGE_SAMPLES), "none"),
        _each(ask, "page age", pipeline.page_age(ask), "s"),
        labels=("instance", "shard", "version", "python"),
        hidden_labels=("job",),
        sort=("instance", False),
    )


def _each(ask: Ask, name: str, expr: str, unit: str) -> Column:
    return Column(name=name, expr=pipeline.with_shard(ask, expr), unit=unit)


# Polls


def _polls(ask: Ask) -> Section:
    return Section(
        "Polls",
        (
            row(8, (8, _cycles(ask)), (8, _duration(ask)), (8, _lateness(ask))),
            row(8, (8, _outcomes(ask)), (8, _reasons(ask)), (8, _error_ratio(ask))),
        ),
    )


def _cycles(ask: Ask) -> Panel:
    words = Words(
        title="Passes over the fleet",
        description="Whole passes per minute that each exporter ends. Good: 60 by the poll "
        "interval in seconds, and even. Series: ollama_exporter_poll_cycles_total.",
        no_data=NO_EXPORTER,
        unit="cpm",
    )
    cycles = f"60 * {pipeline.rate(ask, catalogue.EXPORTER_POLL_CYCLES)}"
    return chart(words, Query(cycles, EXPORTER_NAME))


def _duration(ask: Ask) -> Panel:
    words = Words(
        title="Duration of a pass",
        description="From the first to the last answer, and the poll interval over which polls are "
        "spread. Good: about the interval. Series: ollama_exporter_poll_cycle_duration_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(
        words,
        Query(pipeline.own(ask, catalogue.EXPORTER_POLL_CYCLE_DURATION), EXPORTER_NAME),
        Query(pipeline.interval(ask), "interval"),
        overrides=[fields.limit_line("interval")],
    )


def _lateness(ask: Ask) -> Panel:
    words = Words(
        title="Lateness of polls",
        description="By how much the latest poll of a pass began too late, and a tenth of the "
        "interval. Above: the exporter has too many instances or too little CPU, so divide the "
        "fleet into more shards. Series: ollama_exporter_poll_lateness_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(
        words,
        Query(pipeline.own(ask, catalogue.EXPORTER_POLL_LATENESS), EXPORTER_NAME),
        Query(pipeline.lateness_limit(ask), "limit"),
        overrides=[fields.limit_line("limit")],
    )


def _outcomes(ask: Ask) -> Panel:
    words = Words(
        title="Polls by outcome",
        description="Polls per second whose health check was good, and those whose was not. A step "
        "in failures that the fleet does not explain: the exporter's network or its open files. "
        "Series: ollama_exporter_polls_total, ollama_exporter_poll_errors_total.",
        no_data=NO_EXPORTER,
        unit="cps",
    )
    return chart(
        words,
        Query(pipeline.polls_good(ask), "good"),
        Query(pipeline.polls_failed(ask), "failed"),
        overrides=[
            fields.coloured("good", colours.GOOD),
            fields.coloured("failed", colours.BAD),
        ],
        is_stacked=True,
    )


def _reasons(ask: Ask) -> Panel:
    words = Words(
        title="Failed requests to instances by reason",
        description="Per second. health: the instance does not count as healthy; metrics: it does, "
        "but its figures are missing. no_descriptor is the exporter's own: raise its limit of open "
        "files. Series: ollama_exporter_poll_errors_total.",
        no_data="No request to an instance fails.",
        unit="reqps",
    )
    errors = Query(pipeline.poll_errors(ask), "{{request}}: {{reason}}")
    return chart(words, errors, is_stacked=True).optional()


def _error_ratio(ask: Ask) -> Panel:
    words = Words(
        title="Failed polls, share",
        description="Of all polls, those whose health check failed. Good: as the share of "
        "instances that are down. Series: ollama_exporter_polls_total, "
        "ollama_exporter_poll_errors_total.",
        no_data="No exporter polls.",
        unit="percentunit",
    )
    failed = Query(pipeline.poll_error_ratio(ask), "failed")
    return chart(words, failed, overrides=[fields.coloured("failed", colours.BAD)])


# Inventory


def _inventory(ask: Ask) -> Section:
    return Section(
        "Inventory",
        (row(8, (8, _inventory_age(ask)), (8, _inventory_size(ask)), (8, _sources(ask))),),
    )


def _inventory_age(ask: Ask) -> Panel:
    words = Words(
        title="Age of the inventory",
        description="Since each source was last read well. Good: a saw-tooth no higher than the "
        "reload interval. A line that climbs: new instances are not watched, old ones count as "
        "down. Series: ollama_exporter_inventory_last_success_timestamp_seconds.",
        no_data="No exporter has read an inventory yet.",
        unit="s",
    )
    return chart(words, Query(pipeline.inventory_age(ask), "{{instance}} {{source}}"))


def _inventory_size(ask: Ask) -> Panel:
    words = Words(
        title="Instances in the inventory",
        description="As each source listed them when it was last read well. A step down that "
        "nobody planned: the source is cut short. Series: ollama_exporter_inventory_instances.",
        no_data="No exporter has read an inventory yet.",
        unit="none",
    )
    return chart(words, Query(pipeline.inventory_size(ask), "{{source}}"), is_stacked=True)


def _sources(ask: Ask) -> Panel:
    words = Words(
        title="Sources of the inventory",
        description="Whether each could be read the last time, and what it lists. Failing: the "
        "exporter's log has the reason. Series: ollama_exporter_inventory_last_reload_successful, "
        "ollama_exporter_inventory_instances.",
        no_data=NO_EXPORTER,
    )
    looks = fields.coloured_cell(GOOD)
    return table(
        words,
        Column(name="last read", expr=pipeline.inventory_good(ask), looks=looks),
        Column(name="instances", expr=pipeline.inventory_size(ask)),
        labels=("source",),
        sort=("last read", False),
    )


# The page


def _page(ask: Ask) -> Section:
    return Section(
        "Page for Prometheus",
        (row(8, (8, _samples(ask)), (8, _page_age(ask)), (8, _page_cost(ask))),),
    )


def _samples(ask: Ask) -> Panel:
    words = Words(
        title="Samples on the page",
        description="Of the fleet, by exporter: what Prometheus has to store with each scrape. "
        "About ten per instance. Series: ollama_exporter_page_samples.",
        no_data=NO_EXPORTER,
        unit="short",
    )
    return chart(words, Query(pipeline.own(ask, catalogue.EXPORTER_PAGE_SAMPLES), EXPORTER_NAME))


def _page_age(ask: Ask) -> Panel:
    words = Words(
        title="Age of the page",
        description="How old the figures are that each exporter gives. Good: below the poll "
        "interval. Growing: it answers scrapes, and polls no more. "
        "Series: ollama_exporter_page_timestamp_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(words, Query(pipeline.page_age(ask), EXPORTER_NAME))


def _page_cost(ask: Ask) -> Panel:
    words = Words(
        title="Rendering and scraping the page",
        description="CPU time to render a page, and how long Prometheus takes to get it. Near the "
        "scrape timeout: publish less or divide the fleet. "
        "Series: ollama_exporter_page_duration_seconds, scrape_duration_seconds.",
        no_data=NO_EXPORTER,
        unit="s",
    )
    return chart(
        words,
        Query(pipeline.own(ask, catalogue.EXPORTER_PAGE_DURATION), f"rendering {EXPORTER_NAME}"),
        Query(pipeline.scraped(ask, "scrape_duration_seconds"), f"scraping {EXPORTER_NAME}"),
    )


# The process


def _process(ask: Ask) -> Section:
    return Section(
        "Processes of the exporters",
        (row(7, (8, _cpu(ask)), (8, _memory(ask)), (8, _descriptors(ask))),),
    )


def _cpu(ask: Ask) -> Panel:
    words = Words(
        title="CPU",
        description="Cores in use; an exporter cannot use more than about one. Near one, polls "
        "become late: divide the fleet into more shards. Series: process_cpu_seconds_total.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    return chart(words, Query(pipeline.cpu(ask), EXPORTER_NAME))


def _memory(ask: Ask) -> Panel:
    words = Words(
        title="Memory",
        description="Resident. Good: level. It grows with the number of instances only. "
        "Series: process_resident_memory_bytes.",
        no_data=NO_EXPORTER,
        unit="bytes",
    )
    return chart(
        words, Query(pipeline.scraped(ask, "process_resident_memory_bytes"), EXPORTER_NAME)
    )


def _descriptors(ask: Ask) -> Panel:
    words = Words(
        title="Open files",
        description="Share of those that each exporter may open; each connection to an instance "
        "is one. Near all: raise the limit, or instances become unknown. "
        "Series: process_open_fds, process_max_fds.",
        no_data=NO_EXPORTER,
        unit="percentunit",
    )
    return chart(words, Query(pipeline.descriptors_ratio(ask), EXPORTER_NAME), max=1)


# Prometheus and Alertmanager


def _rules(ask: Ask) -> Section:
    return Section(
        "Evaluation of rules",
        (row(8, (8, _rule_duration(ask)), (8, _rule_failures(ask)), (8, _rules_missed(ask))),),
    )


def _rule_duration(ask: Ask) -> Panel:
    words = Words(
        title="Duration of rule groups",
        description="How long each of our groups took the last time, and the shortest interval "
        "between evaluations. Above: evaluations are left out, and alerts come late. "
        "Series: prometheus_rule_group_last_duration_seconds.",
        no_data=NO_PROMETHEUS,
        unit="s",
    )
    return chart(
        words,
        Query(pipeline.rule_duration(ask), "{{rule_group}}"),
        Query(pipeline.rule_interval(ask), "interval"),
        overrides=[fields.limit_line("interval")],
    ).optional()


def _rule_failures(ask: Ask) -> Panel:
    words = Words(
        title="Failed evaluations",
        description="Of our rules, per second. Good: none. "
        "Series: prometheus_rule_evaluation_failures_total.",
        no_data=NO_PROMETHEUS,
        unit="cps",
    )
    return chart(words, Query(pipeline.rule_failures(ask), "{{rule_group}}")).optional()


def _rules_missed(ask: Ask) -> Panel:
    words = Words(
        title="Evaluations left out",
        description="Of our groups, per second, because the one before had not ended. Good: none; "
        "else Prometheus needs more CPU, or asks too much. "
        "Series: prometheus_rule_group_iterations_missed_total.",
        no_data=NO_PROMETHEUS,
        unit="cps",
    )
    return chart(words, Query(pipeline.rules_missed(ask), "{{rule_group}}")).optional()


def _notifications(ask: Ask) -> Section:
    return Section(
        "Alerts on their way",
        (row(8, (8, _sent(ask)), (8, _tried(ask)), (8, _undelivered(ask))),),
    )


def _sent(ask: Ask) -> Panel:
    words = Words(
        title="Alerts sent to Alertmanagers",
        description="Per second by Alertmanager, and those lost because none took them. Watchdog "
        "always fires, so never zero. Series: prometheus_notifications_sent_total, "
        "prometheus_notifications_dropped_total.",
        no_data="Prometheus does not scrape itself, or has no Alertmanager.",
        unit="cps",
    )
    return chart(
        words,
        Query(pipeline.alerts_sent(ask), "{{alertmanager}}"),
        Query(pipeline.alerts_lost(ask), "lost"),
        overrides=[fields.coloured("lost", colours.BAD)],
    ).optional()


def _tried(ask: Ask) -> Panel:
    words = Words(
        title="Notifications",
        description="That Alertmanager tried to deliver, per second, by kind of receiver. "
        "Series: alertmanager_notifications_total.",
        no_data=NO_ALERTMANAGER,
        unit="cps",
    )
    return chart(words, Query(pipeline.notifications(ask), "{{integration}}")).optional()


def _undelivered(ask: Ask) -> Panel:
    words = Words(
        title="Notifications that failed",
        description="That could not be delivered, per second, by kind of receiver. Good: none; "
        "Alertmanager's log has the reason. Series: alertmanager_notifications_failed_total.",
        no_data=NO_ALERTMANAGER,
        unit="cps",
    )
    return chart(words, Query(pipeline.notifications_failed(ask), "{{integration}}")).optional()
