"""What watches a fleet: the exporter, Prometheus with our alert rules, Alertmanager.

In:   Observers: the inventories, the programs, where each listens, how often they look.
Out:  their configuration in the run folder, and a ChildSpec for each.
Fails with BuildError or RunDirError.

    watch = Observers(run_dir=RunDir(tmp_path), inventories=(path,), …)
    observers.build_rules(watch.run_dir, interval_s=watch.interval_s)
    observers.write_config(watch)
    await children.start(*observers.all_of(watch))
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provisioning.demo import alertmanager, ourselves, prometheus, rules, rundir
from provisioning.demo.ports import address_of, url_of
from provisioning.demo.processes import ChildSpec
from provisioning.demo.prometheus import PrometheusSettings
from provisioning.demo.rundir import RunDir

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
        )


def build_rules(run_dir: RunDir, *, interval_s: int, options: tuple[str, ...] = ()) -> None:
    """Build the alert rules and Alertmanager's configuration, neither of which names a port.

    Further options are those of `ollama-fleet alerts build`, such as `--config-file=FILE`.

    Raises:
        BuildError: They cannot be built.
    """
    rules.build_alerts(rules.alerts_command(run_dir.alerts, interval_s=interval_s, options=options))


def write_config(observers: Observers) -> None:
    """Write Prometheus' configuration.

    Raises:
        RunDirError: It cannot be written.
    """
    rundir.write(
        observers.run_dir.prometheus_config, prometheus.prometheus_config(observers.prometheus)
    )


def all_of(observers: Observers) -> tuple[ChildSpec, ...]:
    """Return all three; Prometheus is the last to start and so the first to be stopped."""
    return (exporter(observers), alertmanager_server(observers), prometheus_server(observers))


def exporter(observers: Observers) -> ChildSpec:
    """Return the exporter; ready once it has polled every instance."""
    # A poll must end before the next one is due, which short intervals do not leave time for.
    poll_limit_ms = observers.interval_s * 1000 * 4 // 5
    command = ourselves.our_command(
        "exporter",
        *(f"--inventory={path}" for path in observers.inventories),
        f"--inventory.refresh-interval={observers.interval_s}s",
        f"--web.listen-address={address_of(observers.exporter_port)}",
        f"--poll.interval={observers.interval_s}s",
        f"--poll.health-timeout={min(HEALTH_TIMEOUT_MS, poll_limit_ms)}ms",
        f"--poll.metrics-timeout={min(METRICS_TIMEOUT_MS, poll_limit_ms)}ms",
        f"--ui.prometheus-url={observers.prometheus_url}",
    )
    ready_within_s = observers.interval_s + FIRST_CYCLE_S
    return ChildSpec("exporter", command, f"{observers.exporter_url}/-/ready", ready_within_s)


def prometheus_server(observers: Observers) -> ChildSpec:
    """Return Prometheus, scraping the exporter and evaluating the rules."""
    command = prometheus.prometheus_command(
        observers.prometheus_binary,
        config=observers.run_dir.prometheus_config,
        data_dir=observers.run_dir.prometheus_data,
        settings=observers.prometheus,
    )
    return ChildSpec("prometheus", command, f"{observers.prometheus_url}/-/ready")


def alertmanager_server(observers: Observers) -> ChildSpec:
    """Return Alertmanager, which Prometheus sends its alerts to."""
    command = alertmanager.alertmanager_command(
        observers.alertmanager_binary,
        config=observers.run_dir.alertmanager_config,
        data_dir=observers.run_dir.alertmanager_data,
        address=address_of(observers.alertmanager_port),
    )
    return ChildSpec("alertmanager", command, f"{observers.alertmanager_url}/-/ready")
