"""Prometheus for one machine: its configuration and its command line, as pure functions.

In:   where the exporter and Prometheus itself listen, how often to scrape, and, where alerts are
      wanted, the rules and where Alertmanager listens.
Out:  the text of prometheus.yml; the arguments that make Prometheus keep little, and all of it in
      one folder, and listen on loopback only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

EXPORTER_JOB = "ollama-fleet-exporter"
PROVISIONER_JOB = "ollama-fleet-provisioner"
RETENTION = "6h"
MAX_SAMPLES = 2_000_000
"""Of the exporter's page: 100,000 instances with all their series, and a margin."""
MAX_BODY = "256MB"
RESEND_DELAY = "5s"
"""An alert that fires before Prometheus has found Alertmanager, which takes it some seconds, is
sent to nobody and then again after this time, which would otherwise be a minute."""


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """What differs from one run to the next."""

    exporter_address: str
    """`host:port`."""
    address: str
    """`host:port` that Prometheus itself listens on."""
    interval_s: int = 5
    """Between two scrapes, and between two evaluations of rules."""
    rule_files: tuple[str, ...] = ()
    """Patterns of file names, as Prometheus reads them."""
    alertmanager_address: str | None = None
    """`host:port`; None where alerts are sent nowhere."""
    provisioner_address: str | None = None
    """`host:port`; None where there is none to be scraped."""


def prometheus_config(settings: PrometheusSettings) -> str:
    """Return prometheus.yml: one job for each program, the rules, and where alerts go."""
    exporter = {
        "job_name": EXPORTER_JOB,
        # The page is about other servers: its labels are theirs, and stay as they are.
        "honor_labels": True,
        "sample_limit": MAX_SAMPLES,
        "body_size_limit": MAX_BODY,
        **_static(settings.exporter_address),
    }
    addresses = {
        "prometheus": settings.address,
        "alertmanager": settings.alertmanager_address,
        PROVISIONER_JOB: settings.provisioner_address,
    }
    others = [{"job_name": name, **_static(at)} for name, at in addresses.items() if at is not None]
    every = f"{settings.interval_s}s"
    document = {
        "global": {
            "scrape_interval": every,
            "scrape_timeout": every,
            "evaluation_interval": every,
        },
        "rule_files": list(settings.rule_files),
        "alerting": _alerting(settings.alertmanager_address),
        "scrape_configs": [exporter, *others],
    }
    return yaml.safe_dump(document, sort_keys=False)


def _alerting(address: str | None) -> dict[str, object]:
    return {} if address is None else {"alertmanagers": [_static(address)]}


def _static(address: str) -> dict[str, object]:
    return {"static_configs": [{"targets": [address]}]}


def prometheus_command(
    binary: Path, *, config: Path, data_dir: Path, settings: PrometheusSettings
) -> tuple[str, ...]:
    """Return the command that runs Prometheus on this configuration."""
    return (
        str(binary),
        f"--config.file={config}",
        f"--storage.tsdb.path={data_dir}",
        f"--storage.tsdb.retention.time={RETENTION}",
        f"--web.listen-address={settings.address}",
        # Alerts link to it; by itself Prometheus would name the machine, which listens elsewhere.
        f"--web.external-url=http://{settings.address}",
        f"--rules.alert.resend-delay={RESEND_DELAY}",
        "--log.level=warn",
    )
