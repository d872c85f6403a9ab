"""What watches a fleet: the exporter, Prometheus with our alert rules, Alertmanager."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from provisioning.demo import processes, rundir
from provisioning.demo.errors import DemoError
from provisioning.demo.ports import address_of, url_of
from provisioning.demo.processes import ChildSpec
from provisioning.demo.rundir import RunDir

EXPORTER_JOB = "ollama-fleet-exporter"
PROVISIONER_JOB = "ollama-fleet-provisioner"
GATEWAY_JOB = "ollama-fleet-gateway"
RETENTION = "6h"
MAX_SAMPLES = 2_000_000
"""Of the exporter's scrape body: 100,000 instances with all their series, and a margin."""
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
    gateway_address: str | None = None
    """`host:port` of its metrics; None where there is none."""


def prometheus_config(settings: PrometheusSettings) -> str:
    """Return prometheus.yml: one job for each program, the rules, and where alerts go."""
    exporter = {
        "job_name": EXPORTER_JOB,
        # The series are about other servers, whose labels must stay.
        "honor_labels": True,
        "sample_limit": MAX_SAMPLES,
        "body_size_limit": MAX_BODY,
        **_static(settings.exporter_address),
    }
    addresses = {
        "prometheus": settings.address,
        "alertmanager": settings.alertmanager_address,
        PROVISIONER_JOB: settings.provisioner_address,
        GATEWAY_JOB: settings.gateway_address,
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


def alertmanager_command(
    binary: Path, *, config: Path, data_dir: Path, address: str
) -> tuple[str, ...]:
    """Return the command that runs Alertmanager on this configuration; `address` is `host:port`."""
    return (
        str(binary),
        f"--config.file={config}",
        f"--storage.path={data_dir}",
        f"--web.listen-address={address}",
        f"--web.external-url=http://{address}",
        # Without an address there is no gossip, which would listen on every interface.
        "--cluster.listen-address=",
        "--log.level=warn",
    )


BUILD_TIMEOUT_S = 60.0
GROUP_WAIT = "5s"
"""Of pages; shorter than people run, as nobody's sleep is at stake."""


def alerts_command(folder: Path, *, interval_s: int, options: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command that builds for a Prometheus of ours; `options` come last and decide."""
    every = f"{interval_s}s"
    settings = {
        "prometheus.job": EXPORTER_JOB,
        "prometheus.scrape_interval": every,
        "prometheus.scrape_timeout": every,
        "prometheus.evaluation_interval": every,
    }
    return processes.our_command(
        *("alerts", "build", f"--output-dir={folder}"),
        *(f"--set={name}={value}" for name, value in settings.items()),
        *options,
    )


def build_alerts(command: tuple[str, ...], *, timeout_s: float = BUILD_TIMEOUT_S) -> None:
    """Run the command to its end.

    Raises:
        DemoError: It fails, or takes too long.
    """
    try:
        subprocess.run(
            command,
            env=processes.our_environ(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise _failed(
            command, f"exit status {error.returncode}; it said:\n{error.stderr}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise _failed(command, f"it took longer than {timeout_s:g} s") from error


def _failed(command: tuple[str, ...], seen: str) -> DemoError:
    return DemoError(
        f"the alert rules could not be built with `{shlex.join(command)}`: {seen.rstrip()}"
    )


HEALTH_TIMEOUT_MS = 2_000
METRICS_TIMEOUT_MS = 5_000
FIRST_CYCLE_S = 120.0
"""What the exporter may take beyond one interval to have polled every instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observers:
    """Everything that differs from one set of observers to the next."""

    run_dir: RunDir
    inventories: tuple[Path | str, ...]
    """Files or URLs."""
    exporter_port: int
    prometheus_port: int
    alertmanager_port: int
    prometheus_binary: Path
    alertmanager_binary: Path
    interval_s: int = 5
    """Between two polls of an instance, two scrapes, and two evaluations of the rules."""
    provisioner_address: str | None = None
    """`host:port` to scrape; None where there is none."""
    gateway_address: str | None = None
    """`host:port` of its metrics; None where there is none."""
    has_canary: bool = False
    """Whether the exporter asks instances for a few tokens once per period."""

    @property
    def exporter_url(self) -> str:
        """Return the exporter's landing page, without a slash at its end."""
        return url_of(self.exporter_port)

    @property
    def prometheus_url(self) -> str:
        """Return Prometheus, without a slash at its end."""
        return url_of(self.prometheus_port)

    @property
    def alertmanager_url(self) -> str:
        """Return Alertmanager, without a slash at its end."""
        return url_of(self.alertmanager_port)

    @property
    def prometheus(self) -> PrometheusSettings:
        """Return Prometheus' settings."""
        return PrometheusSettings(
            exporter_address=address_of(self.exporter_port),
            address=address_of(self.prometheus_port),
            interval_s=self.interval_s,
            rule_files=(self.run_dir.rule_files,),
            alertmanager_address=address_of(self.alertmanager_port),
            provisioner_address=self.provisioner_address,
            gateway_address=self.gateway_address,
        )


def build_rules(run_dir: RunDir, *, interval_s: int, options: tuple[str, ...] = ()) -> None:
    """Build the alert rules and Alertmanager's configuration, neither of which names a port.

    Further options are those of `ollama-fleet alerts build`, such as `--config.file=FILE`.

    Raises:
        DemoError: They cannot be built.
    """
    build_alerts(alerts_command(run_dir.alerts, interval_s=interval_s, options=options))


def page_options(run_dir: RunDir) -> tuple[str, ...]:
    """Return the options with which pages go to the URL in the run's file."""
    receivers = json.dumps([{"webhook": {"url_file": str(run_dir.page_url)}}])
    return (f"--set=routing.page={receivers}", f"--set=routing.group_wait={GROUP_WAIT}")


def write_config(observers: Observers) -> None:
    """Write Prometheus' configuration.

    Raises:
        RunDirError: It cannot be written.
    """
    rundir.write(observers.run_dir.prometheus_config, prometheus_config(observers.prometheus))


CANARY_PERIOD_S = 30
"""Of the demonstration; far shorter than people run, so that it shows something soon."""
CANARY_TIMEOUT_S = 10


def all_of(observers: Observers) -> tuple[ChildSpec, ...]:
    """Return all three; Prometheus is the last to start and so the first to be stopped."""
    return (exporter(observers), alertmanager_server(observers), prometheus_server(observers))


def exporter(observers: Observers) -> ChildSpec:
    """Return the exporter; ready once it has polled every instance."""
    # A poll must end before the next one is due, which short intervals do not leave time for.
    poll_limit_ms = observers.interval_s * 1000 * 4 // 5
    command = processes.our_command(
        "exporter",
        *(f"--inventory={path}" for path in observers.inventories),
        f"--inventory.refresh-interval={observers.interval_s}s",
        f"--web.listen-address={address_of(observers.exporter_port)}",
        f"--poll.interval={observers.interval_s}s",
        f"--poll.health-timeout={min(HEALTH_TIMEOUT_MS, poll_limit_ms)}ms",
        f"--poll.metrics-timeout={min(METRICS_TIMEOUT_MS, poll_limit_ms)}ms",
        f"--ui.prometheus-url={observers.prometheus_url}",
    )
    if observers.has_canary:
        period, timeout = f"--canary.period={CANARY_PERIOD_S}s", f"{CANARY_TIMEOUT_S}s"
        command = (*command, period, f"--canary.timeout={timeout}")
    if observers.gateway_address is not None:
        command = (*command, f"--gateway.url=http://{observers.gateway_address}")
    ready_within_s = observers.interval_s + FIRST_CYCLE_S
    return ChildSpec("exporter", command, f"{observers.exporter_url}/-/ready", ready_within_s)


def prometheus_server(observers: Observers) -> ChildSpec:
    """Return Prometheus, scraping the exporter and evaluating the rules."""
    command = prometheus_command(
        observers.prometheus_binary,
        config=observers.run_dir.prometheus_config,
        data_dir=observers.run_dir.prometheus_data,
        settings=observers.prometheus,
    )
    return ChildSpec("prometheus", command, f"{observers.prometheus_url}/-/ready")


def alertmanager_server(observers: Observers) -> ChildSpec:
    """Return Alertmanager, which Prometheus sends its alerts to."""
    command = alertmanager_command(
        observers.alertmanager_binary,
        config=observers.run_dir.alertmanager_config,
        data_dir=observers.run_dir.alertmanager_data,
        address=address_of(observers.alertmanager_port),
    )
    return ChildSpec("alertmanager", command, f"{observers.alertmanager_url}/-/ready")
