"""The files that Grafana reads at its start, read as Grafana does."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from dashboards import cli, provisioning, push
from dashboards.settings import DashboardSettings

DATASOURCE_KEYS = {
    "orgId": int,
    "orgName": str,
    "version": int,
    "name": str,
    "type": str,
    "access": str,
    "url": str,
    "user": str,
    "database": str,
    "basicAuth": bool,
    "basicAuthUser": str,
    "withCredentials": bool,
    "isDefault": bool,
    "correlations": list,
    "jsonData": dict,
    "secureJsonData": dict,
    "editable": bool,
    "uid": str,
}
"""`upsertDataSourceFromConfigV1` in grafana/pkg/services/provisioning/datasources/types.go."""

PROVIDER_KEYS = {
    "name": str,
    "type": str,
    "orgId": int,
    "folder": str,
    "folderUid": str,
    "editable": bool,
    "options": dict,
    "disableDeletion": bool,
    "updateIntervalSeconds": int,
    "allowUiUpdates": bool,
}
"""`configs` in grafana/pkg/services/provisioning/dashboards/types.go."""

PROVIDER_OPTIONS = {"path": str, "foldersFromFilesStructure": bool}
"""`NewDashboardFileReader` in …/dashboards/file_reader.go."""

PROMETHEUS_OPTIONS = {
    "timeInterval": str,
    "queryTimeout": str,
    "httpMethod": str,
    "prometheusType": str,
    "prometheusVersion": str,
    "cacheLevel": str,
    "incrementalQuerying": bool,
    "manageAlerts": bool,
}
"""`PromOptions` of @grafana/prometheus; `manageAlerts` in @grafana/data's DataSourceJsonData."""

ALERTMANAGER_OPTIONS = {"implementation": str, "handleGrafanaManagedAlerts": bool}
"""`AlertManagerDataSourceJsonData` in grafana/public/app/plugins/datasource/alertmanager."""


def as_grafana_reads(text: str, environment: Mapping[str, str]) -> Any:
    """Return the document with variables filled in, as …/provisioning/values/values.go does."""
    return _filled_in(yaml.safe_load(text), environment)


def _filled_in(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled_in(inner, environment) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled_in(inner, environment) for inner in value]
    if not isinstance(value, str):
        return value
    return "$".join(
        re.sub(r"\$\{?(\w+)\}?", lambda match: environment.get(match[1], ""), part)
        for part in value.split("$$")
    )


def datasources(**changes: str) -> list[dict[str, Any]]:
    text = provisioning.datasources(DashboardSettings(**changes))
    read = as_grafana_reads(text, os.environ)
    assert ["apiVersion", "datasources"] == list(read)
    assert 1 == read["apiVersion"]
    return list(read["datasources"])


def provider(**changes: str) -> dict[str, Any]:
    text = provisioning.dashboards(DashboardSettings(**changes))
    read = as_grafana_reads(text, os.environ)
    assert ["apiVersion", "providers"] == list(read)
    assert 1 == read["apiVersion"]
    (only,) = read["providers"]
    return dict(only)


def wrong_keys(found: Mapping[str, Any], known: Mapping[str, type]) -> list[str]:
    return [key for key, value in found.items() if type(value) is not known.get(key)]


def test_grafana_knows_every_key() -> None:
    prometheus, alertmanager = datasources()

    assert [] == wrong_keys(prometheus, DATASOURCE_KEYS)
    assert [] == wrong_keys(alertmanager, DATASOURCE_KEYS)
    assert [] == wrong_keys(prometheus["jsonData"], PROMETHEUS_OPTIONS)
    assert [] == wrong_keys(alertmanager["jsonData"], ALERTMANAGER_OPTIONS)
    assert [] == wrong_keys(provider(), PROVIDER_KEYS)
    assert [] == wrong_keys(provider()["options"], PROVIDER_OPTIONS)


def test_grafana_changes_neither_the_data_sources_nor_their_rules() -> None:
    """All of it is files, which would win again."""
    prometheus, alertmanager = datasources()

    assert [False, False] == [prometheus["editable"], alertmanager["editable"]]
    assert not prometheus["jsonData"]["manageAlerts"]
    assert not alertmanager["jsonData"]["handleGrafanaManagedAlerts"]


def test_no_data_source_claims_to_be_the_default() -> None:
    """Two files that do keep Grafana from starting."""
    assert [False, False] == [one["isDefault"] for one in datasources()]


def test_dashboards_come_from_the_folder_and_stay_as_they_are_there() -> None:
    read = provider(dashboards_path="/srv/dashboards", folder="LLM fleet")

    assert "/srv/dashboards" == read["options"]["path"]
    assert ("LLM fleet", "file") == (read["folder"], read["type"])
    assert not read["allowUiUpdates"]
    assert read["disableDeletion"]
    # A folder of its own and folders after the files' exclude each other.
    assert not read["options"]["foldersFromFilesStructure"]


def test_provisioning_and_pushing_use_the_same_folder() -> None:
    assert push.FOLDER_UID == provider()["folderUid"]


@pytest.mark.parametrize("text", ["$HOME", "${HOME}", "a$$b", "$", "$__file{/etc/hostname}"])
def test_a_dollar_stays_a_dollar(text: str) -> None:
    prometheus, alertmanager = datasources(prometheus_url=text, alertmanager_url=text)

    assert [text, text] == [prometheus["url"], alertmanager["url"]]
    assert text == provider(folder=text)["folder"]
    assert text == provider(dashboards_path=text)["options"]["path"]


@pytest.mark.parametrize("text", ["yes", "007", "a: b # c", "q\"uo'te", "é", "line\nbreak", "{x}"])
def test_a_text_stays_a_text(text: str) -> None:
    assert text == provider(folder=text)["folder"]


# The command


def provision(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        cli.dashboards, ["provision", "--output-dir", str(folder), *arguments]
    )


def test_the_files_are_written_where_grafana_reads_them(tmp_path: Path) -> None:
    result = provision(tmp_path)

    files = [tmp_path / "datasources/ollama-fleet.yml", tmp_path / "dashboards/ollama-fleet.yml"]
    assert (0, "") == (result.exit_code, result.stderr)
    assert [str(file) for file in files] == result.stdout.splitlines()
    assert [
        provisioning.datasources(DashboardSettings()),
        provisioning.dashboards(DashboardSettings()),
    ] == [file.read_text() for file in files]


def test_each_option_is_in_the_files(tmp_path: Path) -> None:
    given = {
        "prometheus_url": "https://prometheus.example.org",
        "alertmanager_url": "https://alertmanager.example.org",
        "scrape_interval": "1m",
        "dashboards_path": "/srv/dashboards",
        "folder": "LLM fleet",
    }
    options = [
        f"--{name.replace('_url', '.url').replace('_', '-')}={value}"
        for name, value in given.items()
    ]

    assert 0 == provision(tmp_path, *options).exit_code
    assert [
        provisioning.datasources(DashboardSettings(**given)),
        provisioning.dashboards(DashboardSettings(**given)),
    ] == [
        (tmp_path / "datasources/ollama-fleet.yml").read_text(),
        (tmp_path / "dashboards/ollama-fleet.yml").read_text(),
    ]


def test_a_file_that_somebody_wrote_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "dashboards" / "ollama-fleet.yml"
    theirs.parent.mkdir()
    theirs.write_text("apiVersion: 1\n")

    result = provision(tmp_path)

    assert 1 == result.exit_code
    assert f"{theirs}: not made by this command" in result.stderr
    assert [theirs] == [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--prometheus.url=localhost:9090", "--prometheus.url must be a URL such as http://"),
        ("--prometheus.url=ftp://host", "--prometheus.url must be a URL such as http://"),
        ("--alertmanager.url=http://", "--alertmanager.url must name a host"),
        ("--alertmanager.url=http://[::1", "--alertmanager.url is not a URL"),
        ("--scrape-interval=15", "--scrape-interval '15': must be a duration"),
    ],
)
def test_what_grafana_could_not_use_is_told(tmp_path: Path, option: str, told: str) -> None:
    result = provision(tmp_path, option)

    assert (1, []) == (result.exit_code, list(tmp_path.iterdir()))
    assert told in result.stderr


@pytest.mark.parametrize("option", ["--prometheus.url", "--alertmanager.url"])
def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path, option: str) -> None:
    result = provision(tmp_path, f"{option}=https://admin:hunter2@prometheus.example.org")

    assert 1 == result.exit_code
    assert f"{option} must not hold a user or password" in result.stderr
    assert "hunter2" not in result.output
