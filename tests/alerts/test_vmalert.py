"""VictoriaMetrics' vmalert takes the rules as they are, and evaluates them alike.

Its windows leave out their first instant, as those of Prometheus 3 do, which those of Prometheus 2
include. So what passes here does not hang on the oldest sample of a window, except for what SOONER
lists.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from alerts import rulebook
from alerts.model import Group, Recording
from alerts.rulefile import rule_file
from alerts.settings import Settings
from tests.alerts.promtool import RULES, TESTS
from tests.conftest import program

TIMEOUT_S = 250
ALIKE = (
    pytest.param("OllamaFleetExporterDown", marks=pytest.mark.nightly),
    "OllamaFleetScrapeNearTimeout",
    pytest.param("OllamaProvisionerManyLeaders", marks=pytest.mark.nightly),
    "Watchdog",
    "scenarios/texts",
)
"""Alerts whose promtool tests are run: on absence, on a value, on a sum, one that always fires, and
one whose text asks for other series.
"""
SOONER = (("1h6m45s", "1h6m30s"), ("1h7m", "1h6m45s"), ("1h2m45s", "1h2m30s"), ("1h3m", "1h2m45s"))
"""When OllamaFleetExporterDown forgets a target, an hour after its last sample: there and here.

That sample is the first instant of the last window that Prometheus 2 sees it in; here windows leave
theirs out. So all that follows comes one evaluation sooner; nothing else differs.
"""
OWN_NETWORK = (
    *("unshare", "--user", "--map-root-user", "--net"),
    *("sh", "-c", 'ip link set lo up && exec "$@"', "sh"),
)
"""vmalert-tool listens on a port that cannot be chosen: in a network of its own it is free."""


def dry_run(pattern: Path) -> subprocess.CompletedProcess[str]:
    return _run(program("vmalert"), "-dryRun", f"-rule={pattern}")


def unit_test(file: Path) -> subprocess.CompletedProcess[str]:
    tool = program("vmalert-tool")
    return _run(
        *(*OWN_NETWORK, tool, "unittest", "-disableAlertgroupLabel", f"-files={file}"),
        # Its database is in a folder of a fixed name, below this one.
        env={**os.environ, "TMPDIR": str(file.parent)},
    )


def _run(
    *command: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


@pytest.fixture(scope="module")
def _own_network() -> None:
    if not all(map(shutil.which, ("unshare", "ip"))) or _run(*OWN_NETWORK, "true").returncode:
        pytest.skip("this system lets us make no network namespace (unshare, ip)")


def test_vmalert_accepts_all_rule_files() -> None:
    checked = dry_run(RULES / "*.yml")

    assert 0 == checked.returncode, checked.stdout
    assert f"found {len(list(RULES.glob('*.yml')))} files" in checked.stdout


def test_vmalert_accepts_rules_with_other_settings(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "fleet": {"size": 10_000},
            "thresholds": {"healthy_instances": 9900, "tokens_per_second": 400_000},
            "prometheus": {"cluster_label": "fleet", "scrape_interval": "30s"},
        }
    )
    for group in rulebook.groups(settings):
        (tmp_path / f"{group.name}.yml").write_text(rule_file(group, settings))

    checked = dry_run(tmp_path / "*.yml")

    assert 0 == checked.returncode, checked.stdout


def test_vmalert_would_refuse_a_rule_that_is_no_expression(tmp_path: Path) -> None:
    broken = Group("ollama-fleet-example", (Recording("fleet:ollama_example:sum", "sum by ("),))
    (tmp_path / "broken.yml").write_text(rule_file(broken, Settings()))

    assert 0 != dry_run(tmp_path / "*.yml").returncode


def _translated(name: str, folder: Path) -> Path:
    """Write a promtool test as vmalert-tool wants it: tests of expressions have another name."""
    text = (TESTS / f"{name}.yml").read_text()
    text = text.replace("promql_expr_test", "metricsql_expr_test")
    for there, here in SOONER:
        text = text.replace(f"eval_time: {there}", f"eval_time: {here}")
    translated = folder / f"{Path(name).name}.yml"
    translated.write_text(re.sub(r"(\.\./)+alerts/rules", str(RULES), text))
    return translated


@pytest.mark.usefixtures("_own_network")
@pytest.mark.parametrize("name", ALIKE)
def test_alerts_fire_in_vmalert_as_they_do_in_prometheus(name: str, tmp_path: Path) -> None:
    tested = unit_test(_translated(name, tmp_path))

    assert 0 == tested.returncode, tested.stdout
    assert "SUCCESS" in tested.stdout


@pytest.mark.usefixtures("_own_network")
def test_vmalert_would_notice_an_alert_that_fires_otherwise(tmp_path: Path) -> None:
    file = _translated("OllamaFleetScrapeNearTimeout", tmp_path)
    file.write_text(file.read_text().replace("8.05x40", "7.95x40"))

    assert 0 != unit_test(file).returncode
