"""The commands `ollama-fleet dashboards …`, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from alerts.settings import Settings
from dashboards import build
from dashboards.choices import Uid
from dashboards.cli import dashboards
from dashboards.settings import DashboardSettings
from ollama_fleet.durations import parse_duration_s
from tests.conftest import ROOT


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(dashboards, [str(argument) for argument in arguments])


def test_build_writes_what_build_check_asks_for(tmp_path: Path) -> None:
    built = run("build", "--output-dir", tmp_path)
    checked = run("build", "--output-dir", tmp_path, "--check")

    assert 0 == built.exit_code
    assert [f"{tmp_path}/{uid}.json" for uid in Uid] == built.stdout.splitlines()
    assert (0, "") == (checked.exit_code, checked.stdout)
    assert f"{tmp_path} is as the settings make it" in checked.stderr


def test_build_check_fails_on_drift_and_changes_nothing(tmp_path: Path) -> None:
    run("build", "--output-dir", tmp_path)
    path = tmp_path / "ollama-fleet-overview.json"
    path.write_text("{}")

    checked = run("build", "--output-dir", tmp_path, "--check")

    assert (1, "") == (checked.exit_code, checked.stdout)
    assert f"{path} differs" in checked.stderr
    assert "{}" == path.read_text()


def test_build_check_without_options_looks_at_the_folder_that_is_shipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)

    assert 0 == run("build", "--check").exit_code


def test_the_options_change_what_is_built(tmp_path: Path) -> None:
    options = ("--cluster-label", "region", "--job", "llms", "--scrape-interval", "30s")
    settings = DashboardSettings(
        cluster_label="region", prometheus_job="llms", scrape_interval="30s"
    )

    built = run("build", "--output-dir", tmp_path, *options)

    assert 0 == built.exit_code
    assert build.files(settings) == {path.name: path.read_text() for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--cluster-label", "no-label", "no name of a label"),
        ("--cluster-label", "", "no name of a label"),
        ("--cluster-label", "node", "our series have this label already"),
        ("--cluster-label", "instance", "our series have this label already"),
        ("--job", 'a"b', "without quotes"),
        ("--job", "$job", "without quotes"),
        ("--job", "", "without quotes"),
        ("--scrape-interval", "15", "a duration such as 15s or 1m"),
        ("--scrape-interval", "0s", "a duration such as 15s or 1m"),
        ("--scrape-interval", "1.5m", "a duration such as 15s or 1m"),
    ],
)
@pytest.mark.parametrize("command", ["build", "list"])
def test_an_option_that_cannot_be_used_is_named_with_its_value(
    tmp_path: Path, command: str, option: str, value: str, reason: str
) -> None:
    options = ("--output-dir", tmp_path) if command == "build" else ()

    refused = run(command, *options, option, value)

    assert (1, "") == (refused.exit_code, refused.stdout)
    assert refused.stderr.startswith(f"Error: {option} {value!r}: ")
    assert reason in refused.stderr
    assert [] == list(tmp_path.iterdir())


def test_everything_that_is_wrong_is_told_at_once() -> None:
    refused = run("list", "--job", "", "--scrape-interval", "1x", "--cluster-label", "le")

    assert 3 == len(refused.stderr.splitlines())


def test_the_defaults_are_those_of_the_alerts() -> None:
    """Otherwise dashboards and alerts that were both left alone would not fit each other."""
    ours, theirs = DashboardSettings(), Settings().prometheus

    assert (theirs.job, theirs.cluster_label) == (ours.prometheus_job, ours.cluster_label)
    assert theirs.scrape_interval == parse_duration_s(ours.scrape_interval)


def test_list_has_a_line_for_each_dashboard() -> None:
    listed = run("list")

    head, *lines = listed.stdout.splitlines()
    assert ["UID", "TITLE", "PANELS", "QUERIES"] == head.split()
    assert list(map(str, Uid)) == [line.split()[0] for line in lines]


def test_list_as_json_holds_every_query() -> None:
    listed = json.loads(run("list", "--json", "--cluster-label", "region").stdout)
    text = run("list", "--cluster-label", "region").stdout

    assert list(map(str, Uid)) == [one["uid"] for one in listed]
    overview = listed[0]
    queries = [query for panel in overview["panels"] for query in panel["queries"]]
    assert ["datasource", "job", "cluster"] == overview["variables"]
    assert any('{region=~"$cluster"}' in query for query in queries)
    assert [str(len(overview["panels"])), str(len(queries))] == text.splitlines()[1].split()[-2:]
