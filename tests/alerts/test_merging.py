"""Our routing in an Alertmanager that somebody else has set up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from alerts import merging
from alerts.cli import alerts
from alerts.errors import MergeError
from alerts.routing import TEMPLATES
from alerts.settings import Settings
from tests.alerts.alertmanager import labels_of
from tests.alerts.test_routing import EVERYTHING, amtool
from tests.conftest import ROOT

THEIRS = """\
# our company's
global:
  resolve_timeout: 5m  # seldom used
route:
  receiver: default
  group_by: ['job']
  routes:
  # the database
  - matchers: [team="db"]
    receiver: db
  - receiver: switch
    matchers: ['alertname="Watchdog"']
receivers:
- name: default
- name: db
- name: switch
templates:
  - mine/*.tmpl
inhibit_rules:

- source_matchers: [severity="critical"]
  target_matchers: [severity="warning"]
  equal: [alertname]
time_intervals:
- name: nights
  time_intervals: [{times: [{start_time: "00:00", end_time: "06:00"}]}]
"""
LEAST = "route:\n    receiver: default\nreceivers: [{name: default}]"
FLAT = "route:\n  receiver: a\n  routes:\n  - receiver: a\nreceivers:\n- name: a\ntemplates:\n"


def given(**changes: Any) -> Settings:
    return Settings.model_validate({"routing": EVERYTHING | changes})


def merged(text: str, settings: Settings | None = None) -> str:
    return merging.merged(text, settings or given(), source="a.yml")


def content(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_ours_come_first_and_theirs_stay_line_by_line() -> None:
    made = merged(THEIRS)

    lines = iter(made.splitlines())
    assert all(line in lines for line in THEIRS.splitlines())
    before, after = content(THEIRS), content(made)
    assert before["route"]["routes"] == after["route"]["routes"][-2:]
    assert "Ollama" in str(after["route"]["routes"][:-2])
    for key in ("receivers", "templates", "inhibit_rules", "time_intervals"):
        assert before[key] == after[key][-len(before[key]) :]
        assert len(before[key]) < len(after[key])


def test_merging_again_changes_nothing_and_other_settings_replace_what_was_merged() -> None:
    once = merged(THEIRS)

    assert once == merged(once)
    assert merged(THEIRS, Settings()) == merged(once, Settings())
    assert "ollama-fleet-page" in once
    assert "ollama-fleet-page" not in merged(once, Settings())


@pytest.mark.parametrize("text", [THEIRS, FLAT, THEIRS.rstrip()])
@pytest.mark.parametrize("settings", [given(), Settings()])
def test_alertmanager_accepts_the_result(tmp_path: Path, text: str, settings: Settings) -> None:
    (tmp_path / "alertmanager.yml").write_text(merged(text, settings))
    (tmp_path / TEMPLATES).parent.mkdir()
    (tmp_path / TEMPLATES).write_text('{{ define "x" }}{{ end }}')

    assert "SUCCESS" in amtool("check-config", str(tmp_path / "alertmanager.yml"))


@pytest.mark.parametrize(
    ("receiver", "labels"),
    [
        ("ollama-fleet-page", labels_of("OllamaFleetLatencyP99High", team="db")),
        ("ollama-fleet-ticket", labels_of("OllamaNodeSlowerThanFleet", "warning", node="n1")),
        ("ollama-fleet-info", labels_of("OllamaFleetVersionSkew", "info")),
        ("ollama-fleet-null", labels_of("OllamaSomething", "none")),
        ("ollama-fleet-dead-mans-switch", labels_of("Watchdog", component="ollama-fleet")),
        ("switch", labels_of("Watchdog", "none")),
        ("db", labels_of("DatabaseDown", team="db")),
        ("default", labels_of("NodeFilesystemFull")),
    ],
)
def test_our_alerts_go_to_our_receivers_and_theirs_to_theirs(
    tmp_path: Path, receiver: str, labels: dict[str, str]
) -> None:
    path = tmp_path / "alertmanager.yml"
    path.write_text(merged(THEIRS))
    pairs = [f"{key}={value}" for key, value in labels.items()]

    assert receiver == amtool("config", "routes", "test", f"--config.file={path}", *pairs).strip()


def test_our_part_of_the_tree_takes_no_interval_from_their_root() -> None:
    tree = content(merged(THEIRS))["route"]["routes"][1]

    assert ("30s", "5m", "4h") == (
        tree["group_wait"],
        tree["group_interval"],
        tree["repeat_interval"],
    )
    assert ["alertname", "cluster"] == tree["group_by"]


REFUSED = {
    "groups: []": "a.yml: is no configuration of Alertmanager: it has no `route`",
    "": "it has no `route`",
    "- route": "it has no `route`",
    "route: page": "it has no `route`",
    "route: [": "a.yml:2: is not valid YAML",
    "route: {receiver: a}": "a.yml:1: write one key a line, not {…}",
    '{"route": {"receiver": "a"}}': "a.yml:1: write one key a line",
    LEAST: "a.yml:3: write `receivers` with one `- …` a line",
    f"{FLAT}- a\n---\nb: c\n": "a.yml:9: is not valid YAML",
    f"{FLAT}- a\n...\n": "its form leaves no place for ours",
    FLAT.replace("name: a", "&a name: a\n- *a"): "uses aliases (*name); write them out",
    FLAT.replace("- name: a", "- name: a\n- name: ollama-fleet-page"): (
        "a.yml:6: has a receiver ollama-fleet-page that is not ours: rename it"
    ),
    f"{FLAT}- a\nmute_time_intervals: [{{name: ollama-fleet-rotation}}]\n": (
        "a.yml:9: has a time interval ollama-fleet-rotation that is not ours"
    ),
    f"{FLAT}{merging.BEGIN}\n": f"a.yml:8: `{merging.END}` is missing",
    f"{FLAT}  {merging.END}\n": "a.yml:8: `# END ollama-fleet` is not expected here",
    f"{FLAT}{merging.BEGIN}\n{merging.BEGIN}\n": "a.yml:9: `# BEGIN ollama-fleet",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_ours_cannot_be_merged_into_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(MergeError) as caught:
        merged(text)

    assert REFUSED[text] in str(caught.value)


def test_what_the_build_made_is_no_configuration_to_merge_into(tmp_path: Path) -> None:
    runner = CliRunner()
    runner.invoke(alerts, ["build", "--output-dir", str(tmp_path)], catch_exceptions=False)

    result = runner.invoke(alerts, ["merge", str(tmp_path / "alertmanager.yml")])

    assert 1 == result.exit_code
    assert "was made by `ollama-fleet alerts build`" in result.output


def test_the_command_writes_the_templates_beside_a_file_that_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "alertmanager.yml"
    path.write_text(THEIRS)
    path.chmod(0o600)

    shown = CliRunner().invoke(alerts, ["merge", str(path)])
    result = CliRunner().invoke(alerts, ["merge", str(path), "--output", str(path)])

    assert shown.stdout == path.read_text() != THEIRS
    assert "routing.page has no receiver" in shown.stderr
    assert [str(tmp_path / TEMPLATES), str(path)] == result.stdout.splitlines()
    assert 0o600 == path.stat().st_mode & 0o777
    assert (ROOT / "alerts" / TEMPLATES).read_text() == (tmp_path / TEMPLATES).read_text()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="does not exist"):
        merging.read(tmp_path / "no.yml")
