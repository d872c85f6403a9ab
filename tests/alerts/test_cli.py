"""The commands `ollama-fleet alerts …`, as a user runs them."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from alerts import explain, rulebook
from alerts.cli import alerts
from alerts.settings import Settings

GROUPS = rulebook.groups(Settings())
NAMES = sorted({alert.name for group in GROUPS for alert in group.alerts})


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(alerts, [str(argument) for argument in arguments])


def test_build_writes_what_build_check_asks_for(tmp_path: Path) -> None:
    built = run("build", "--output-dir", tmp_path)
    checked = run("build", "--output-dir", tmp_path, "--check")

    assert 0 == built.exit_code
    assert f"{tmp_path}/alertmanager.yml" in built.stdout.splitlines()
    assert (0, "") == (checked.exit_code, checked.stdout)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ((), "links.exporter links.grafana"),
        (("links.exporter=http://e:1",), "links.grafana"),
        (("links.runbooks=http://r", "links.grafana=http://g"), ""),
    ],
)
def test_build_warns_while_links_are_placeholders(
    changes: tuple[str, ...], missing: str, tmp_path: Path
) -> None:
    options = [part for change in changes for part in ("--set", change)]

    built = run("build", "--output-dir", tmp_path, *options)

    assert missing.split() == re.findall(r"--set (\S+)=URL", built.stderr)


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        (("links.exporter=http://e:1",), "http://e:1/runbooks/Watchdog"),
        (("links.exporter=http://e:1", "links.runbooks=http://r/x"), "http://r/x/Watchdog.md"),
    ],
)
def test_runbooks_are_those_of_the_exporter_unless_others_are_set(
    changes: tuple[str, ...], url: str
) -> None:
    options = [part for change in changes for part in ("--set", change)]

    listed = json.loads(run("list", "--json", *options).stdout)

    assert url in [alert["runbook_url"] for alert in listed]


def test_build_check_fails_on_drift_and_changes_nothing(tmp_path: Path) -> None:
    run("build", "--output-dir", tmp_path)
    (tmp_path / "alertmanager.yml").write_text("mine")

    checked = run("build", "--output-dir", tmp_path, "--check")

    assert 1 == checked.exit_code
    assert f"{tmp_path}/alertmanager.yml differs" in checked.stderr
    assert "mine" == (tmp_path / "alertmanager.yml").read_text()


def test_bad_settings_change_nothing(tmp_path: Path) -> None:
    refused = run("build", "--output-dir", tmp_path, "--set", "windows.rate=1s")

    assert 1 == refused.exit_code
    assert "windows.rate (1s) must be at least 1m" in refused.stderr
    assert [] == list(tmp_path.iterdir())


def test_the_settings_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yml"
    path.write_text("thresholds: {request_latency_p99: 2s}\n")

    listed = CliRunner().invoke(
        alerts, ["list", "--json"], env={"OLLAMA_FLEET_ALERTS_CONFIG_FILE": str(path)}
    )

    (latency,) = [
        alert for alert in json.loads(listed.stdout) if alert["name"] == "OllamaFleetLatencyP99High"
    ]
    assert {"thresholds.request_latency_p99": "2s"}.items() <= latency["settings"].items()
    assert latency["expr"].endswith("> 2")


def test_list_has_a_line_for_each_alert() -> None:
    lines = run("list").stdout.splitlines()

    assert ["ALERT", "SEVERITY", "FOR", "SUMMARY"] == lines[0].split()
    assert NAMES == sorted({line.split()[0] for line in lines[1:]})


def test_list_as_json_has_all_that_a_script_would_want() -> None:
    listed = json.loads(run("list", "--json").stdout)

    (first,) = [alert for alert in listed if alert["name"] == "OllamaFleetHealthyInstancesLow"]
    assert ("critical", 30, 360) == (
        first["severity"],
        first["for_seconds"],
        first["keep_firing_for_seconds"],
    )
    assert first["runbook_url"].endswith("/alerts/runbooks/OllamaFleetHealthyInstancesLow.md")
    assert first["dashboard_url"].endswith("/d/ollama-fleet-overview")


def test_explain_gives_the_rule_the_settings_and_the_runbook() -> None:
    for group in GROUPS:
        for alert in group.alerts:
            explained = run("explain", alert.name)

            assert 0 == explained.exit_code, explained.stderr
            assert explained.stdout.startswith(f"{alert.name}: ")
            assert f"# {alert.name}" in explained.stdout
            assert alert.expr.splitlines()[0] in explained.stdout
            assert all(f"  {key}: " in explained.stdout for key in alert.settings)


def test_explain_shows_the_recording_rules_that_an_alert_rests_on() -> None:
    explained = run("explain", "OllamaFleetHealthyInstancesLow").stdout

    assert "fleet:ollama_inventory_instances:sum is\n" in explained
    assert explained.index("fleet:ollama_inventory_instances:sum is") < explained.index(
        "fleet:ollama_instances_expected:sum is"
    )
    assert "model:ollama_instances:sum is" not in explained


def test_explain_of_no_alert_says_which_was_meant() -> None:
    refused = run("explain", "OllamaFleetLatencyHigh")

    assert (1, "") == (refused.exit_code, refused.stdout)
    assert "did you mean OllamaFleetLatencyP99High?" in refused.stderr


def test_explain_of_an_alert_that_is_left_out_says_so() -> None:
    option = "--set=alerts.OllamaFleetQueueSaturated.enabled=false"

    refused = run("explain", "OllamaFleetQueueSaturated", option)

    assert 1 == refused.exit_code
    assert "OllamaFleetQueueSaturated is left out: the settings say" in refused.stderr


def test_a_password_in_the_address_is_not_repeated() -> None:
    refused = run("check", "--prometheus.url", "http://me:s3cret@127.0.0.1:9")

    assert 2 == refused.exit_code
    assert "s3cret" not in refused.output


def test_check_of_no_prometheus_says_what_was_tried() -> None:
    refused = run("check", "--prometheus.url", "http://127.0.0.1:9")

    assert 2 == refused.exit_code
    assert "http://127.0.0.1:9 cannot be asked: " in refused.stderr
    assert "is --prometheus.url the address of a Prometheus that runs?" in refused.stderr


# What an alert says of its settings is true

CHANGED: dict[str, dict[str, object]] = {
    "thresholds": {
        "healthy_instances": "97%", "min_missing": 7, "model_instances_down": "7%",
        "request_latency_p99": "700ms", "latency_outliers": "7s", "latency_rise": "7%",
        "traffic_lost": "77%", "failing_requests": "7%",
        "tokens_per_second": "37 per instance", "min_measured": "77%", "min_requests": 77,
        "queued_per_instance": 7.7, "stuck_instances": 77, "min_model_instances": 7,
        "drained_instances": "7%", "slow_node": "37%", "slow_nodes": "37%",
        "flapping_instances": "7%", "out_of_memory": "7%", "rotation_age": "8d",
        "rotation_critical_age": "27d", "rotation_critical_instances": "7%", "versions": 7,
        "inventory_shrunk": "7%", "inventory_lost": "77%", "inventory_age": "77m",
        "poll_intervals": 7, "replicas_differ": "7%", "poll_lateness": "7%",
        "metrics_failures": "7%", "samples": 777,
        "samples_per_instance": 7, "scrape_duration": "77%", "view_age": "7m",
        "reconcile_age": "7m",
        "failed_instances": 7, "ready_instances": "77%",
        "kv_cache_instances": "7%", "not_loaded_instances": "7%", "not_loaded_share": "7%",
        "not_installed_instances": "7%", "on_cpu": "7%", "unloads": "7 per instance",
        "restarts": "7 per instance", "stalled_instances": "7%", "stalled_share": "7%",
        "fleet_full": "77%", "rejections": "3%", "upstreams_age": "7m", "ejected_upstreams": "77%",
    },
    "slo": {"availability": "97%", "requests": "97%", "period": "7d"},
    "windows": {
        "low_traffic": "7h",
        "rate": "7m", "canary": "7m", "changes": "7m", "drained": "7h",
        "out_of_memory": "7m", "inventory": "7m",
        "trend": "7h", "horizon": "7h", "telemetry": "7m", "absent": "7h", "failed": "7m",
        "progress": "7m",
    },
}  # fmt: skip


def _exprs(settings: Settings) -> dict[str, set[str]]:
    exprs: dict[str, set[str]] = defaultdict(set)
    for group in rulebook.groups(settings):
        for rule in group.rules:
            exprs[rule.name].add(rule.expr)
    return exprs


def _rests_on() -> dict[str, set[str]]:
    """Return by alert the names of the rules that decide when it fires."""
    names: dict[str, set[str]] = defaultdict(set)
    for group in GROUPS:
        for alert in group.alerts:
            rules = explain.dependencies(alert.expr, GROUPS)
            names[alert.name] |= {alert.name, *(rule.name for rule in rules)}
    return names


def test_an_alert_names_the_settings_that_move_it_and_no_others() -> None:
    before, rests_on = _exprs(Settings()), _rests_on()
    moved: dict[str, set[str]] = {}
    named: dict[str, set[str]] = {}
    for section, values in CHANGED.items():
        for name, value in values.items():
            key = f"{section}.{name}"
            after = _exprs(Settings.model_validate({section: {name: value}}))
            changed = {rule for rule in before if before[rule] != after[rule]}
            moved[key] = {alert for alert in rests_on if rests_on[alert] & changed}
            named[key] = {
                alert.name for group in GROUPS for alert in group.alerts if key in alert.settings
            }

    assert moved == named
    assert all(moved.values())


def test_every_threshold_window_and_objective_is_tried_above() -> None:
    for section, names in CHANGED.items():
        assert set(type(getattr(Settings(), section)).model_fields) == set(names)
