"""What the queries of the pipeline make of given series."""

from __future__ import annotations

from dashboards.queries import pipeline
from exporter import catalogue
from tests.dashboards.values.case import ASK, NOTHING, Case, Series

JOB = 'job="x"'
A, B = f'{{{JOB},instance="a"}}', f'{{{JOB},instance="b"}}'
ONLY_A = {"instance": "a"}


def of(name: str, a: float | str, b: float | str, labels: str = "") -> Series:
    """Return a series of two exporters."""
    more = f",{labels}" if labels else ""
    return {
        f'{name}{{{JOB},instance="a"{more}}}': a,
        f'{name}{{{JOB},instance="b"{more}}}': b,
    }


OTHER_JOB: Series = {'up{job="node",instance="a"}': 0}
SHARDS: Series = {
    'ollama_exporter_shards{cluster="a",job="x",instance="a"}': 2,
    'ollama_exporter_shards{cluster="b",job="x",instance="b"}': 2,
}


def fresh(cluster: str, *shards: int) -> Series:
    """Return the shards of a cluster that are polled, each by two replicas."""
    return {
        f'ollama_fleet_inventory_instances{{cluster="{cluster}",job="x",'
        f'instance="{replica}{shard}",shard="{shard}"}}': 9
        for shard in shards
        for replica in ("a", "b")
    }


CYCLES: Series = {
    **of("ollama_exporter_poll_last_completed_timestamp_seconds", 3580, 3000),
    **of("ollama_exporter_poll_interval_seconds", 10, 20),
}
NEVER: Series = {
    **of("ollama_exporter_poll_last_completed_timestamp_seconds", 3580, 0),
    **of("ollama_exporter_poll_interval_seconds", 10, 10),
    **of("process_start_time_seconds", 100, 1600),
}
POLLS: Series = {
    **of("ollama_exporter_polls_total", "0+150x240", "0+150x240"),
    **of("ollama_exporter_poll_errors_total", "0+30x240", "0+15x240",
         'request="health",outcome="timeout"'),
    **of("ollama_exporter_poll_errors_total", "0+15x240", "0+30x240",
         'request="metrics",outcome="status"'),
    **of("ollama_exporter_poll_errors_total", "0+15x240", "0x240",
         'request="metrics",outcome="refused"'),
    **of("ollama_exporter_poll_errors_total", "0x240", "0x240",
         'request="metrics",outcome="timeout"'),
}  # fmt: skip
SOURCES = "ollama_exporter_inventory_last_reload_successful"
GOOD: Series = {
    **of(SOURCES, 1, 1, 'source="x"'),
    **of(SOURCES, 1, 1, 'source="y"'),
}
FAILING: Series = {
    **of(SOURCES, 0, 0, 'source="x"'),
    **of(SOURCES, 1, 0, 'source="y"'),
    **of(SOURCES, 1, 1, 'source="z"'),
    f'{SOURCES}{{cluster="other",{JOB},instance="c",source="x"}}': 1,
}
LISTED: Series = {
    f'ollama_exporter_inventory_instances{{cluster="{cluster}",{JOB},instance="{instance}",'
    'source="x"}': size
    for cluster, instance, size in (("p", "a", 100), ("p", "b", 90), ("q", "c", 30))
}
SHARD_INFO: Series = {
    f'ollama_exporter_shard_info{{{JOB},instance="a",shard="1"}}': 1,
    f'ollama_exporter_build_info{{{JOB},instance="a",version="2",revision="c",python="3"}}': 1,
    **of("up", 1, 1),
}
CANARIES: Series = {
    **of("ollama_fleet_canary_results_total", "0+1.5x240", "0+0.75x240", 'shard="0",outcome="ok"'),
    **of("ollama_fleet_canary_results_total", "0+0.25x240", "0x240", 'shard="0",outcome="stalled"'),
    **of("ollama_fleet_canary_requests_total", "0+30x240", "0+15x240", 'shard="0"'),
    'ollama_fleet_canary_requests_total{job="other",instance="a",shard="0"}': "0+30x240",
}
GROUP = 'rule_group="/etc/r.yml;ollama-fleet-nodes"'
FOREIGN = 'rule_group="/etc/r.yml;node"'

RELOAD = "config_last_reload_successful"
RELOADED = "config_last_reload_success_timestamp_seconds"
P = 'job="p",instance="c"'

CASES = (
    Case("whose configuration is refused, exporters and provisioners", pipeline.reload_good(ASK),
         {**of(f"ollama_exporter_{RELOAD}", 1, 0), f"ollama_provisioner_{RELOAD}{{{P}}}": 0},
         {A: 1, B: 0, f"{{{P}}}": 0}),
    Case("how long each configuration is in force", pipeline.reload_age(ASK),
         {**of(f"ollama_exporter_{RELOADED}", 3540, 3000),
          f"ollama_provisioner_{RELOADED}{{{P}}}": 2600},
         {A: 60, B: 600, f"{{{P}}}": 1000}),
    Case("an exporter's own series", pipeline.own(ASK, catalogue.EXPORTER_EXPOSITION_SAMPLES),
         of("ollama_exporter_exposition_samples", 7, 8), {A: 7, B: 8}),
    Case("of the chosen exporter", pipeline.own(ASK, catalogue.EXPORTER_EXPOSITION_SAMPLES),
         of("ollama_exporter_exposition_samples", 7, 8), {A: 7}, ONLY_A),
    Case("what Prometheus has of an exporter", pipeline.scraped(ASK, "up"),
         {**of("up", 1, 0), **OTHER_JOB}, {A: 1, B: 0}),
    Case("exporters that answer", pipeline.up_count(ASK), {**of("up", 1, 0), **OTHER_JOB}, 1),
    Case("exporters that do not", pipeline.down_count(ASK), {**of("up", 0, 0), **OTHER_JOB}, 2),
    Case("every exporter answers", pipeline.down_count(ASK), {**of("up", 1, 1), **OTHER_JOB}, 0),
    Case("no exporter is known", pipeline.down_count(ASK), OTHER_JOB, NOTHING),
    Case("every shard is polled", pipeline.shards_missing(ASK),
         {**SHARDS, **fresh("a", 0, 1), **fresh("b", 0, 1)}, 0),
    Case("shards of one cluster are missing", pipeline.shards_missing(ASK),
         {**SHARDS, **fresh("a", 0, 1)}, 2),
    Case("shards that are missing in several clusters add up", pipeline.shards_missing(ASK),
         {**SHARDS, **fresh("a", 0), **fresh("b", 1)}, 2),
    Case("a shard too many elsewhere replaces none", pipeline.shards_missing(ASK),
         {**SHARDS, **fresh("a", 0, 1, 2), **fresh("b", 0)}, 1),
    Case("nobody says how many shards there are", pipeline.shards_missing(ASK), fresh("a", 0),
         NOTHING),
    Case("since an exporter's last poll cycle", pipeline.poll_cycle_age(ASK), CYCLES,
         {A: 20, B: 600}),
    Case("without a poll cycle, since the exporter started", pipeline.poll_cycle_age(ASK), NEVER,
         {A: 20, B: 2000}),
    Case("poll cycles are late by their own interval", pipeline.intervals_since_poll_cycle(ASK),
         CYCLES, 30),
    Case("a poll cycle that is on time", pipeline.intervals_since_poll_cycle(ASK), CYCLES, 2,
         ONLY_A),
    Case("an exporter that has not ended any poll cycle is the worst",
         pipeline.intervals_since_poll_cycle(ASK), NEVER, 200),
    Case("the longest interval", pipeline.interval(ASK), CYCLES, 20),
    Case("a tenth of it is late", pipeline.lateness_limit(ASK), CYCLES, 2),
    Case("the shard of an exporter", pipeline.facts(ASK, catalogue.EXPORTER_SHARD_INFO, "shard"),
         SHARD_INFO, {f'{{{JOB},instance="a",shard="1"}}': 1}),
    Case("its versions",
         pipeline.facts(ASK, catalogue.EXPORTER_BUILD_INFO, "version", "revision", "python"),
         SHARD_INFO, {f'{{{JOB},instance="a",version="2",revision="c",python="3"}}': 1}),
    Case("an exporter's counter's growth", pipeline.rate(ASK, catalogue.EXPORTER_POLLS), POLLS,
         {A: 10, B: 10}),
    Case("by a further label", pipeline.rate(ASK, catalogue.EXPORTER_POLL_ERRORS, "request"), POLLS,
         {f'{{{JOB},instance="a",request="health"}}': 2,
          f'{{{JOB},instance="b",request="health"}}': 1,
          f'{{{JOB},instance="a",request="metrics"}}': 2,
          f'{{{JOB},instance="b",request="metrics"}}': 2}),
    Case("health checks that fail", pipeline.polls_failed(ASK), POLLS, 3),
    Case("health checks that do not", pipeline.polls_good(ASK), POLLS, 17),
    Case("failed requests by outcome, none without any", pipeline.poll_errors(ASK), POLLS,
         {'{request="health",outcome="timeout"}': 3, '{request="metrics",outcome="status"}': 3,
          '{request="metrics",outcome="refused"}': 1}),
    Case("the share of polls that fail", pipeline.poll_error_ratio(ASK), POLLS, 0.15),
    Case("without polls none fails", pipeline.poll_error_ratio(ASK),
         {**of("ollama_exporter_polls_total", 0, 0),
          **of("ollama_exporter_poll_errors_total", 0, 0, 'request="health"')}, NOTHING),
    Case("canaries of the last quarter of an hour, replicas' together",
         pipeline.canary_results(ASK), CANARIES,
         {'{outcome="ok"}': 135, '{outcome="stalled"}': 15}),
    Case("what canaries cost, in requests, in every replica", pipeline.canary_cost(
        ASK, catalogue.FLEET_CANARY_REQUESTS), CANARIES, 3),
    Case("since an inventory was read, where it ever was", pipeline.inventory_age(ASK),
         of("ollama_exporter_inventory_last_success_timestamp_seconds", 3540, 0, 'source="x"'),
         {f'{{{JOB},instance="a",source="x"}}': 60}),
    Case("an inventory's size counts once, in each cluster", pipeline.inventory_size(ASK), LISTED,
         {'{cluster="p",source="x"}': 100, '{cluster="q",source="x"}': 30}),
    Case("inventories of one name add up", pipeline.inventory_total(ASK), LISTED,
         {'{source="x"}': 130}),
    Case("a source that fails counts once", pipeline.inventory_failing(ASK), FAILING, 2),
    Case("no source fails", pipeline.inventory_failing(ASK), GOOD, 0),
    Case("no source is known", pipeline.inventory_failing(ASK), {"up": 1}, NOTHING),
    Case("a source is good where every exporter reads it", pipeline.inventory_good(ASK), FAILING,
         {'{source="x"}': 0, '{source="y"}': 0, '{source="z"}': 1,
          '{cluster="other",source="x"}': 1}),
    Case("how old an exposition is", pipeline.exposition_age(ASK),
         of("ollama_exporter_exposition_timestamp_seconds", 3590, 3000), {A: 10, B: 600}),
    Case("requests that are refused, by reason", pipeline.web_refused(ASK),
         of("ollama_exporter_web_requests_refused_total", "0+15x240", "0+30x240", 'reason="host"'),
         {'{reason="host"}': 3}),
    Case("responses that are ended early",
         pipeline.web_cut_off(ASK, catalogue.EXPORTER_WEB_RESPONSES_ABORTED),
         of("ollama_exporter_web_responses_aborted_total", "0+15x240", "0+15x240"), 2),
    Case("cores in use", pipeline.cpu(ASK),
         {**of("process_cpu_seconds_total", "0+15x240", "0+7.5x240"),
          'process_cpu_seconds_total{job="node",instance="a"}': "0+15x240"},
         {A: 1, B: 0.5}),
    Case("the share of open files", pipeline.descriptors_ratio(ASK),
         {**of("process_open_fds", 100, 200), **of("process_max_fds", 400, 400)},
         {A: 0.25, B: 0.5}),
    Case("how long our rules take", pipeline.rule_duration(ASK),
         {f"prometheus_rule_group_last_duration_seconds{{{GROUP}}}": 0.5,
          f"prometheus_rule_group_last_duration_seconds{{{FOREIGN}}}": 9},
         {f"{{{GROUP}}}": 0.5}),
    Case("the shortest interval of our rules", pipeline.rule_interval(ASK),
         {f"prometheus_rule_group_interval_seconds{{{GROUP}}}": 15,
          'prometheus_rule_group_interval_seconds{rule_group="r;ollama-fleet-spread"}': 60,
          f"prometheus_rule_group_interval_seconds{{{FOREIGN}}}": 1}, 15),
    Case("evaluations of our rules that fail", pipeline.rule_failures(ASK),
         {f"prometheus_rule_evaluation_failures_total{{{GROUP}}}": "0+15x240",
          f"prometheus_rule_evaluation_failures_total{{{FOREIGN}}}": "0+30x240"},
         {f"{{{GROUP}}}": 1}),
    Case("how many failed within the range, in whole ones", pipeline.rule_failures_count(ASK),
         {f"prometheus_rule_evaluation_failures_total{{{GROUP}}}": "_x100 0x60 1x79",
          f"prometheus_rule_evaluation_failures_total{{{FOREIGN}}}": "0+30x240"}, 1),
    Case("evaluations of our rules that are left out", pipeline.rules_missed(ASK),
         {f"prometheus_rule_group_iterations_missed_total{{{GROUP}}}": "0+15x240",
          f"prometheus_rule_group_iterations_missed_total{{{FOREIGN}}}": "0+30x240"},
         {f"{{{GROUP}}}": 1}),
    Case("alerts sent to each Alertmanager", pipeline.alerts_sent(ASK),
         {'prometheus_notifications_sent_total{alertmanager="x"}': "0+30x240",
          'prometheus_notifications_sent_total{alertmanager="y"}': "0+15x240"},
         {'{alertmanager="x"}': 2, '{alertmanager="y"}': 1}),
    Case("alerts that are lost", pipeline.alerts_lost(ASK),
         {'prometheus_notifications_dropped_total{instance="a"}': "0+30x240",
          'prometheus_notifications_dropped_total{instance="b"}': "0+15x240"}, 3),
    Case("how many were lost within the range, in whole ones", pipeline.alerts_lost_count(ASK),
         {'prometheus_notifications_dropped_total{instance="a"}': "_x100 0x60 1x79",
          'prometheus_notifications_dropped_total{instance="b"}': "_x100 0x60 1x79"}, 2),
    Case("notifications that fail, by kind", pipeline.notifications_failed(ASK),
         {'alertmanager_notifications_failed_total{integration="email",instance="a"}': "0+15x240",
          'alertmanager_notifications_failed_total{integration="email",instance="b"}': "0+15x240"},
         {'{integration="email"}': 2}),
    Case("notifications that are tried, by kind", pipeline.notifications(ASK),
         {'alertmanager_notifications_total{integration="email",instance="a"}': "0+15x240",
          'alertmanager_notifications_total{integration="slack",instance="a"}': "0+30x240"},
         {'{integration="email"}': 1, '{integration="slack"}': 2}),
)  # fmt: skip
