"""Write the files that make Grafana load the data sources and the dashboards by itself.

Which keys Grafana reads is in its `pkg/services/provisioning/{datasources,dashboards}/types.go`;
keys that it does not know it ignores without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from dashboards.errors import SettingsError
from dashboards.settings import DashboardSettings
from ollama_fleet import generated
from ollama_fleet.generated import Output
from ollama_fleet.urls import http_url

BANNER = "# Made by `ollama-fleet dashboards provision`: change its options, not this file.\n"
FILE_NAME = "ollama-fleet.yml"
ORGANISATION = 1
PROMETHEUS_UID = "ollama-fleet-prometheus"
ALERTMANAGER_UID = "ollama-fleet-alertmanager"
FOLDER_UID = "ollama-fleet"
RELOAD_S = 30
"""How soon a changed file shows in Grafana."""


def write(settings: DashboardSettings, folder: Path) -> tuple[str, ...]:
    """Write the files that differ; return which.

    Raises:
        SettingsError: An address is none, or holds a password.
        GeneratedError: A file cannot be written, or one of that name is not ours.
    """
    _check(settings)
    made = {
        f"datasources/{FILE_NAME}": datasources(settings),
        f"dashboards/{FILE_NAME}": dashboards(settings),
    }
    output = Output(what="provisioning files", made=made, folders=(), is_ours=_is_ours)
    return generated.write(output, folder)


def _is_ours(text: str) -> bool:
    return text.startswith(BANNER)


def _check(settings: DashboardSettings) -> None:
    faults = [
        *_faults_of_url("--prometheus.url", settings.prometheus_url),
        *_faults_of_url("--alertmanager.url", settings.alertmanager_url),
    ]
    if faults:
        raise SettingsError("\n".join(faults))


def _faults_of_url(option: str, url: str) -> list[str]:
    instead = "everybody who may read the file would see it; use Grafana's own settings"
    try:
        http_url(url, example="http://localhost:9090", instead=instead)
    except ValueError as error:
        return [f"{option} {error}"]
    return []


def datasources(settings: DashboardSettings) -> str:
    """Return the file that declares Prometheus and Alertmanager.

    Neither is made the default: Grafana does not start if two files claim that.
    """
    return _as_yaml({"datasources": [_prometheus(settings), _alertmanager(settings)]})


def dashboards(settings: DashboardSettings) -> str:
    """Return the file that makes Grafana read the dashboards from a folder of its machine."""
    provider = {
        "name": "ollama-fleet",
        "orgId": ORGANISATION,
        "folder": settings.folder,
        "folderUid": FOLDER_UID,
        "type": "file",
        # A file that is gone for a moment, during an update, must not take links and stars along.
        "disableDeletion": True,
        "updateIntervalSeconds": RELOAD_S,
        # Grafana would lose what people save with the next change of the file.
        "allowUiUpdates": False,
        "options": {"path": settings.dashboards_path, "foldersFromFilesStructure": False},
    }
    return _as_yaml({"providers": [provider]})


def _prometheus(settings: DashboardSettings) -> dict[str, Any]:
    options = {
        # $__rate_interval is four times this.
        "timeInterval": settings.scrape_interval,
        # Long queries do not fit into an address, and POST answers are never cached on the way.
        "httpMethod": "POST",
        "prometheusType": "Prometheus",
        # Grafana must not offer to change rules that are files.
        "manageAlerts": False,
    }
    return _datasource(
        "ollama-fleet Prometheus", PROMETHEUS_UID, "prometheus", settings.prometheus_url, options
    )


def _alertmanager(settings: DashboardSettings) -> dict[str, Any]:
    options = {
        # Without it, Grafana takes it for Mimir's and asks paths that are not there.
        "implementation": "prometheus",
        "handleGrafanaManagedAlerts": False,
    }
    return _datasource(
        "ollama-fleet Alertmanager",
        ALERTMANAGER_UID,
        "alertmanager",
        settings.alertmanager_url,
        options,
    )


def _datasource(
    name: str, uid: str, kind: str, url: str, options: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "uid": uid,
        "orgId": ORGANISATION,
        "type": kind,
        # Grafana asks, not the browser.
        "access": "proxy",
        "url": url,
        "isDefault": False,
        "editable": False,
        "jsonData": options,
    }


def _as_yaml(document: dict[str, Any]) -> str:
    body = yaml.safe_dump(
        {"apiVersion": 1, **_escaped(document)}, sort_keys=False, allow_unicode=True, width=100_000
    )
    return BANNER + body


def _escaped(value: Any) -> Any:
    """Return a value whose texts Grafana reads as they are: `$` would begin a variable."""
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return value.replace("$", "$$") if isinstance(value, str) else value
