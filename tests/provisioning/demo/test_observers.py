from __future__ import annotations

import glob
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from provisioning.demo import observers, prometheus
from provisioning.demo.cli import LONGEST_INTERVAL_S
from provisioning.demo.commands import Plan
from provisioning.demo.errors import BuildError
from provisioning.demo.observers import Observers
from provisioning.demo.rundir import RunDir


def test_the_exporter_reads_the_provisioners_inventory_and_listens_on_loopback(plan: Plan) -> None:
    command = observers.exporter(plan.observers).command

    assert "--inventory=http://127.0.0.1:8080/instances" in command
    assert "--inventory.refresh-interval=5s" in command
    assert "--web.listen-address=127.0.0.1:11440" in command
    assert "--poll.interval=5s" in command


def test_prometheus_scrapes_the_provisioner_where_there_is_one(plan: Plan) -> None:
    def jobs(watch: Observers) -> dict[str, str]:
        document = yaml.safe_load(prometheus.prometheus_config(watch.prometheus))
        return {
            job["job_name"]: job["static_configs"][0]["targets"][0]
            for job in document["scrape_configs"]
        }

    assert "127.0.0.1:8080" == jobs(plan.observers)["ollama-fleet-provisioner"]
    assert "ollama-fleet-provisioner" not in jobs(replace(plan.observers, provisioner_address=None))


def test_the_fleets_page_shows_what_fires_in_this_prometheus(plan: Plan) -> None:
    command = observers.exporter(plan.observers).command

    assert f"--ui.prometheus-url={plan.observers.prometheus_url}" in command


def test_a_poll_ends_before_the_next_one_is_due(plan: Plan) -> None:
    short = observers.exporter(replace(plan.observers, interval_s=1)).command
    long = observers.exporter(replace(plan.observers, interval_s=60)).command

    assert {"--poll.health-timeout=800ms", "--poll.metrics-timeout=800ms"} <= set(short)
    assert {"--poll.health-timeout=2000ms", "--poll.metrics-timeout=5000ms"} <= set(long)


def test_prometheus_is_stopped_before_what_it_sends_alerts_to(plan: Plan) -> None:
    """Children are stopped in reverse order."""
    names = [spec.name for spec in observers.all_of(plan.observers)]

    assert ["exporter", "alertmanager", "prometheus"] == names


@pytest.mark.parametrize("interval_s", [1, 5, LONGEST_INTERVAL_S])
def test_rules_are_built_for_every_interval_that_up_allows(
    plan: Plan, tmp_path: Path, interval_s: int
) -> None:
    watch = replace(plan.observers, run_dir=RunDir(tmp_path), interval_s=interval_s)

    observers.build_rules(watch.run_dir, interval_s=watch.interval_s)
    observers.write_config(watch)

    (pattern,) = yaml.safe_load(watch.run_dir.prometheus_config.read_text())["rule_files"]
    assert "OllamaFleetHealthyInstancesLow" in "".join(
        Path(path).read_text() for path in glob.glob(pattern)
    )
    assert "route" in yaml.safe_load(watch.run_dir.alertmanager_config.read_text())


def test_settings_of_the_alerts_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"slo\.periode .*unknown key"):
        observers.build_rules(RunDir(tmp_path), interval_s=5, options=("--set=slo.periode=1d",))
