"""Prometheus for one machine: its configuration and its command line, as pure functions.

In:   where the exporter and Prometheus itself listen, and how often to scrape.
Out:  the text of prometheus.yml; the arguments that make Prometheus keep little, and all of it in
      one folder, and listen on loopback only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

RETENTION = "6h"
MAX_SAMPLES = 2_000_000
"""Of the exporter's page: 100,000 instances with all their series, and a margin."""
MAX_BODY = "256MB"


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """What differs from one run to the next."""

    exporter_address: str
    """`host:port`."""
    address: str
    """`host:port` that Prometheus itself listens on."""
    interval_s: int = 5
    """Between two scrapes, and between two evaluations of rules."""


def render(settings: PrometheusSettings) -> str:
    """Return prometheus.yml: one job for the exporter, one for Prometheus."""
    exporter = {
        "job_name": "ollama-fleet-exporter",
        # The page is about other servers: its labels are theirs, and stay as they are.
        "honor_labels": True,
        "sample_limit": MAX_SAMPLES,
        "body_size_limit": MAX_BODY,
        "static_configs": [{"targets": [settings.exporter_address]}],
    }
    itself = {"job_name": "prometheus", "static_configs": [{"targets": [settings.address]}]}
    every = f"{settings.interval_s}s"
    document = {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": every,
            "evaluation_interval": every,
        },
        "scrape_configs": [exporter, itself],
    }
    return yaml.safe_dump(document, sort_keys=False)


def command(
    binary: Path, *, config: Path, data_dir: Path, settings: PrometheusSettings
) -> tuple[str, ...]:
    """Return the command that runs Prometheus on this configuration."""
    return (
        str(binary),
        f"--config.file={config}",
        f"--storage.tsdb.path={data_dir}",
        f"--storage.tsdb.retention.time={RETENTION}",
        f"--web.listen-address={settings.address}",
        "--log.level=warn",
    )
