"""The exporters and the pipeline behind them, for whoever doubts dashboards or alerts."""

from __future__ import annotations

from dashboards import canaries, choices, pipeline_health
from dashboards.choices import Uid
from dashboards.kit import colours, controls, fields
from dashboards.kit.board import Board, Section, row, section
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
        variables=_variables(settings, select),
        annotations=choices.event_annotations(select)[:2],
        sections=(
            section("", row(4, *_key_numbers(select))),
            section("Exporters", row(7, _exporters(select))),
            section("Configuration", row(5, _reloads(select))),
            _polls(select),
            _inventory(select),
            canaries.cost(select),
            pipeline_health.provisioners(select),
            _exposition(select),
            _processes(select),
            pipeline_health.rules(select),
            pipeline_health.notifications(select),
        ),
    )


def _variables(settings: DashboardSettings, select: Selectors) -> tuple[object, ...]:
    known = select.series(catalogue.EXPORTER_BUILD_INFO)
    return (
        *choices.common(settings, select),
        controls.label_values("instance", known, all_value=ALL_EXPORTERS, is_multi=True),
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
        "ollama_fleet_inventory_instances.",
        no_data=NO_EXPORTER,
        unit="none",
    )
    return _number(text, Query(pipeline.shards_missing(select), "missing"), bad_from=1)


def _last_poll_cycle(select: Selectors) -> Panel:
    text = PanelText(
        title="Since the last complete poll cycle",
        description="In poll intervals; the worst of the chosen exporters. Before the first "
        "cycle: since the start. Good: up to about two. More: an exporter hangs or has too many "
        "instances. Red: it withdraws the metrics of its fleet. Series: "
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
        no_data=pipeline_health.NO_PROMETHEUS,
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
    own, rate = pipeline.own, pipeline.rate
    return table(
        text,
        Column(name="last cycle", expr=pipeline.poll_cycle_age(select), unit="s"),
        Column(
            name="cycle took", expr=own(select, catalogue.EXPORTER_POLL_CYCLE_DURATION), unit="s"
        ),
        Column(name="late by", expr=own(select, catalogue.EXPORTER_POLL_LATENESS), unit="s"),
        Column(name="polls/s", expr=rate(select, catalogue.EXPORTER_POLLS), unit="cps"),
        Column(name="connections", expr=own(select, catalogue.EXPORTER_OPEN_CONNECTIONS)),
        Column(name="samples", expr=own(select, catalogue.EXPORTER_EXPOSITION_SAMPLES)),
        Column(name="exposition age", expr=pipeline.exposition_age(select), unit="s"),
        labels=("instance", "shard", "version", "revision", "python"),
        facts=(
            pipeline.facts(select, catalogue.EXPORTER_SHARD_INFO, "shard"),
            pipeline.facts(select, catalogue.EXPORTER_BUILD_INFO, "version", "revision", "python"),
        ),
        hidden_labels=("job",),
        sort=[("instance", False)],
    )


def _reloads(select: Selectors) -> Panel:
    """Return the table of whose configuration is in force."""
    text = PanelText(
        title="Last reload of the configuration",
        description="Whether each exporter and provisioner took over its configuration at the "
        "last reload, and how long it has run with the one in force. Failing: its log has a line "
        "'reload refused'. Series: ollama_exporter_config_last_reload_successful, "
        "ollama_exporter_config_last_reload_success_timestamp_seconds, "
        "ollama_provisioner_config_last_reload_successful, "
        "ollama_provisioner_config_last_reload_success_timestamp_seconds.",
        no_data=NO_EXPORTER,
    )
    overrides = fields.coloured_cell(GOOD)
    return table(
        text,
        Column(name="last reload", expr=pipeline.reload_good(select), overrides=overrides),
        Column(name="in force for", expr=pipeline.reload_age(select), unit="s"),
        labels=("instance", "job", select.cluster),
        sort=[("last reload", False)],
    )


def _polls(select: Selectors) -> Section:
    """Return the charts of polls."""
    return section(
        "Polls",
        row(8, _cycles(select), _duration(select), _lateness(select)),
        row(8, _outcomes(select), _outcomes_of_failures(select), _error_ratio(select)),
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
    return section(
        "Inventory", row(8, _inventory_age(select), _inventory_size(select), _sources(select))
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


def _exposition(select: Selectors) -> Section:
    """Return the charts of the page that Prometheus scrapes."""
    return section(
        "Exposition",
        row(8, _samples(select), _exposition_age(select), _cost(select), _refused(select)),
    )


def _samples(select: Selectors) -> Panel:
    text = PanelText(
        title="Samples in the exposition",
        description="Samples that Prometheus stores with each scrape, by exporter. About ten per "
        "instance. Series: ollama_exporter_exposition_samples.",
        no_data=NO_EXPORTER,
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


def _refused(select: Selectors) -> Panel:
    text = PanelText(
        title="Refused and aborted requests",
        description="HTTP requests per second that exporters refuse, by reason, and responses and "
        "connections that they end early. Good: none. responses, aborted, closed: too many or too "
        "slow readers. host: add the name to web.allowed-hosts. Series: "
        "ollama_exporter_web_requests_refused_total, ollama_exporter_web_responses_aborted_total, "
        "ollama_exporter_web_connections_closed_total.",
        no_data=NO_EXPORTER,
        unit="reqps",
    )
    cut_off = pipeline.web_cut_off
    return chart(
        text,
        Query(pipeline.web_refused(select), "refused: {{reason}}"),
        Query(cut_off(select, catalogue.EXPORTER_WEB_RESPONSES_ABORTED), "aborted responses"),
        Query(cut_off(select, catalogue.EXPORTER_WEB_CONNECTIONS_CLOSED), "closed connections"),
        is_stacked=True,
    )


def _processes(select: Selectors) -> Section:
    """Return the charts of the processes."""
    return section(
        "Processes of the exporters", row(7, _cpu(select), _memory(select), _descriptors(select))
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


NO_EXPORTER = "Prometheus has no exporter metrics: check that it scrapes one."
EXPORTER_NAME = "{{instance}}"
