"""The built files: the same for the same settings, whole or not there, and never left behind."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from alerts import build, config, rulebook
from alerts.model import Alert
from alerts.rulefile import BANNER
from alerts.settings import Settings
from exporter import catalogue
from ollama_fleet.generated import GeneratedError
from tests.alerts.promtool import read_groups
from tests.conftest import ROOT

RULES = ROOT / "alerts"


def test_the_committed_files_are_as_the_default_settings_make_them() -> None:
    build.check(Settings(), RULES)


@pytest.mark.parametrize("profile", config.PROFILES)
def test_the_committed_rules_of_a_profile_are_as_its_settings_make_them(profile: str) -> None:
    settings = config.load(profile=profile)

    build.check(settings, RULES / "rules" / profile, is_rules_only=True)
    assert build.rule_files(settings) == build.rule_files(config.load(profile=profile))


def test_rules_alone_are_written_straight_into_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("groups: []")

    written = build.write(Settings(), tmp_path, is_rules_only=True)

    assert {f"rules/{name}" for name in written} < set(build.files(Settings()))
    assert {"mine.yml", *written} == {path.name for path in tmp_path.iterdir()}
    build.check(Settings(), tmp_path, is_rules_only=True)


def test_what_was_written_is_found_to_be_right_and_writing_again_changes_nothing(
    tmp_path: Path,
) -> None:
    written = build.write(Settings(), tmp_path)

    assert set(build.files(Settings())) == set(written)
    assert () == build.write(Settings(), tmp_path)
    build.check(Settings(), tmp_path)


def test_another_setting_is_drift_and_names_the_file(tmp_path: Path) -> None:
    build.write(Settings(), tmp_path)
    changed = config.load(changes=["thresholds.slow_node=40%"])

    with pytest.raises(GeneratedError) as caught:
        build.check(changed, tmp_path)

    assert f"{tmp_path}/rules/ollama-fleet-nodes.yml differs" in str(caught.value)
    assert "performance" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda path: path.write_text(""), "is empty"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"\xff"), "is empty"),
        (lambda path: path.write_text(path.read_text() + "\n"), "differs"),
        (lambda path: (path.parent / "old.yml").write_text(f"{BANNER}groups: []"), "is left over"),
    ],
)
def test_a_file_that_is_not_as_made_is_found(tmp_path: Path, spoil: object, fault: str) -> None:
    build.write(Settings(), tmp_path)
    assert callable(spoil)
    spoil(tmp_path / "rules" / "ollama-fleet-nodes.yml")

    with pytest.raises(GeneratedError, match=fault):
        build.check(Settings(), tmp_path)


def test_a_rule_file_that_is_no_longer_made_is_removed_and_others_files_stay(
    tmp_path: Path,
) -> None:
    build.write(Settings(), tmp_path)
    (tmp_path / "rules" / "old.yml").write_text(f"{BANNER}groups: []")
    (tmp_path / "rules" / "mine.yml").write_text("groups: []")
    (tmp_path / "templates" / "mine.tmpl").write_text("{{/* mine */}}")

    assert ("rules/old.yml",) == build.write(Settings(), tmp_path)
    assert (tmp_path / "rules" / "mine.yml").exists()
    assert (tmp_path / "templates" / "mine.tmpl").exists()


@pytest.mark.parametrize("path", ["rules/ollama-fleet-slo-requests.yml", "alertmanager.yml"])
def test_a_file_that_somebody_else_has_made_is_never_replaced(tmp_path: Path, path: str) -> None:
    """As in the folder of a Prometheus or an Alertmanager that already runs."""
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("receivers: [{name: precious}]")

    with pytest.raises(
        GeneratedError, match="not made by this command, so left alone, and nothing"
    ):
        build.write(Settings(), tmp_path)

    assert "receivers: [{name: precious}]" == (tmp_path / path).read_text()
    assert [path] == [
        item.relative_to(tmp_path).as_posix() for item in tmp_path.rglob("*") if item.is_file()
    ]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(GeneratedError, match="choose another --output-dir"):
        build.write(Settings(), tmp_path / "file")


@contextmanager
def small_files_only() -> Iterator[None]:
    """Let no file grow beyond 100 bytes, as if the disk were full; not even the tests' output."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path) -> None:
    build.write(Settings(), tmp_path)
    path = tmp_path / "rules" / "ollama-fleet-nodes.yml"
    before = path.read_text()
    changed = config.load(changes=["thresholds.slow_node=40%"])

    with small_files_only(), pytest.raises(GeneratedError) as caught:
        build.write(changed, tmp_path)

    assert f"cannot write {path}: File too large; choose another" in str(caught.value)
    assert before == path.read_text()
    assert [] == [item.name for item in path.parent.iterdir() if item.name.startswith(".")]


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["thresholds.healthy_instances=9900", "thresholds.tokens_per_second=400000"],
        ["fleet.size=10000", "prometheus.cluster_label=region"],
        ["prometheus.scrape_interval=1m", "prometheus.job=my-fleet"],
        ["slo.period=90d", "slo.availability=99.99%"],
        ["windows.rate=1m", "windows.trend=1m"],
    ],
)
def test_promtool_takes_the_rules_of_any_settings(
    promtool_binary: Path, tmp_path: Path, changes: list[str]
) -> None:
    build.write(config.load(changes=changes), tmp_path)
    rules = sorted((tmp_path / "rules").glob("*.yml"))

    checked = subprocess.run(
        [promtool_binary, "check", "rules", "--lint=all", "--lint-fatal", *rules],
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == checked.returncode, checked.stdout + checked.stderr


def test_the_text_says_what_is_counted_against_a_fixed_floor() -> None:
    fixed = _alert("OllamaFleetHealthyInstancesLow", "thresholds.healthy_instances=9900")

    assert "Instances healthy or out of service on purpose: " in fixed.description
    assert ", floor 9,900." in fixed.description
    assert "on purpose, floor" not in _alert("OllamaFleetHealthyInstancesLow").description


def _alert(name: str, *changes: str) -> Alert:
    groups = rulebook.groups(config.load(changes=changes))
    return next(alert for group in groups for alert in group.alerts if alert.name == name)


def test_labels_and_annotations_of_the_settings_are_on_every_alert_and_change_nothing_else() -> (
    None
):
    settings = config.load(changes=["labels={team: llm}", "annotations={handbook: 'https://x'}"])
    theirs = [rule for text in build.rule_files(settings).values() for rule in _rules(text)]
    ours = [rule for text in build.rule_files(Settings()).values() for rule in _rules(text)]

    alerts = [rule for rule in theirs if "alert" in rule]
    assert {("llm", "https://x")} == {
        (rule["labels"].pop("team"), rule["annotations"].pop("handbook")) for rule in alerts
    }
    assert ours == theirs
    assert build.files(settings)["alertmanager.yml"] == build.files(Settings())["alertmanager.yml"]


def _rules(text: str) -> list[dict[str, Any]]:
    return [rule for group in read_groups(text) for rule in group["rules"]]


def test_an_alert_is_changed_or_left_out_as_the_settings_say() -> None:
    changed = _alert(
        "OllamaFleetLatencyP99High",
        "alerts.OllamaFleetLatencyP99High.for=10m",
        "alerts.OllamaFleetLatencyP99High.keep_firing_for=1h",
        "alerts.OllamaFleetLatencyP99High.severity=warning",
    )
    groups = rulebook.groups(
        config.load(changes=["alerts.OllamaFleetLatencyP99High.enabled=false"])
    )

    assert (600.0, 3600.0, "warning") == (
        changed.for_s,
        changed.keep_firing_for_s,
        changed.severity,
    )
    assert "OllamaFleetLatencyP99High" not in {a.name for group in groups for a in group.alerts}


def test_the_thresholds_that_dashboards_draw_are_those_that_the_alerts_compare_with() -> None:
    for changes in ([], ["fleet.size=10000"], ["thresholds.slow_node=40%"]):
        groups = {group.name: group for group in rulebook.groups(config.load(changes=changes))}
        recorded = {
            rule.name: rule.expr.partition(" + 0 * ")[0]
            for rule in groups["ollama-fleet-thresholds"].recordings
        }
        compared = {alert.name: alert.expr for group in groups.values() for alert in group.alerts}

        for threshold, alert in {
            catalogue.HEALTHY_THRESHOLD: "OllamaFleetHealthyInstancesLow",
            catalogue.LATENCY_THRESHOLD: "OllamaFleetLatencyP99High",
            catalogue.SPEED_THRESHOLD: "OllamaFleetTokenThroughputLow",
            catalogue.NODE_SPEED_THRESHOLD: "OllamaNodeSlowerThanFleet",
            catalogue.QUEUED_THRESHOLD: "OllamaFleetQueueSaturated",
        }.items():
            assert recorded[threshold.name].rstrip(")") in compared[alert], threshold.name
