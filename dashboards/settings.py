"""What differs from one installation to the next, as far as dashboards depend on it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dashboards.errors import SettingsError
from exporter.catalogue import ALL_SERIES

INTERVAL = re.compile(r"[1-9][0-9]{0,5}[smh]")
"""Grafana takes one unit only."""
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
JOB = re.compile(r'[^"$\\\n]+')
TAKEN_LABELS = frozenset(label for series in ALL_SERIES for label in series.labels) | {
    "alertname", "severity", "job", "instance", "le", "quantile", "shard",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardSettings:
    """How the fleet is scraped, and where Grafana finds what it shows."""

    cluster_label: str = "cluster"
    """Label that distinguishes fleets; series without it are shown as well."""
    prometheus_job: str = "ollama-fleet-exporter"
    scrape_interval: str = "15s"
    prometheus_url: str = "http://localhost:9090"
    alertmanager_url: str = "http://localhost:9093"
    dashboards_path: str = "/etc/grafana/dashboards/ollama-fleet"
    """Where Grafana's machine has the JSON files."""
    folder: str = "ollama-fleet"

    def __post_init__(self) -> None:
        faults = [
            *_faults_of_label(self.cluster_label),
            *_faults_of_job(self.prometheus_job),
            *_faults_of_interval(self.scrape_interval),
        ]
        if faults:
            raise SettingsError("\n".join(faults))


def _faults_of_label(name: str) -> list[str]:
    if not LABEL.fullmatch(name):
        return [f"--cluster-label {name!r}: no name of a label; take letters, digits and _"]
    if name in TAKEN_LABELS:
        return [f"--cluster-label {name!r}: our series have this label already; take another"]
    return []


def _faults_of_job(name: str) -> list[str]:
    if JOB.fullmatch(name):
        return []
    return [f"--job {name!r}: must be a name without quotes, dollars, backslashes, line breaks"]


def _faults_of_interval(text: str) -> list[str]:
    if INTERVAL.fullmatch(text):
        return []
    return [f"--scrape-interval {text!r}: must be a duration such as 15s or 1m"]
