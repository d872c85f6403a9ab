"""What the README says of the provisioner is what it does."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from alerts.durations import duration_text
from alerts.series import PROVISIONER_SERIES
from alerts.settings import Settings
from exporter.config import build, read_file
from exporter.inventory import sources_for
from exporter.inventory.naming import urls_of
from ollama_fleet.clock import SystemClock
from provisioning.api.routes import AGE_HEADER, OPERATIONS
from provisioning.cli.common import PREFIX, TOKEN_OPTION
from provisioning.cli.run_options import OPTIONS
from provisioning.cli.setup_cli import CLIENT_DIR
from provisioning.demo import systemd
from provisioning.demo.prometheus import PROVISIONER_JOB
from provisioning.metrics import Metrics
from provisioning.runtime import node_setup
from provisioning.runtime.containerd import containers
from provisioning.runtime.containerd.runtime import namespace_of
from provisioning.runtime.records import Records
from provisioning.simulator.spec import MODELS
from provisioning.spec import load_fleet, schema
from provisioning.spec.engines import Preset, warm_up_of
from tests.test_readme import README, table

SPECIFICATIONS = [
    text
    for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    if text.startswith("name: ")
]


def series_of(metrics: Metrics) -> list[list[str]]:
    rows = []
    for collector in dict.fromkeys(metrics.registry._names_to_collectors.values()):
        if isinstance(collector, MetricWrapperBase):
            (family,) = collector.describe()
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(collector._labelnames) or "–"
            rows.append([name, family.type, labels, family.documentation])
    return rows


def keys_in(value: object) -> set[str]:
    match value:
        case dict():
            return set(value).union(*map(keys_in, value.values()))
        case list():
            return set().union(*map(keys_in, value))
    return set()


def test_every_setting_of_the_provisioner_is_in_the_readme() -> None:
    expected = [
        [
            option.name,
            option.variable,
            str(option.shown_default or option.default or "–"),
            option.help,
        ]
        for option in OPTIONS
    ]

    assert expected == table("option")


def test_every_request_of_the_api_is_in_the_readme() -> None:
    expected = [
        [
            f"{operation.method} {operation.path}",
            "yes" if operation.needs_token else "–",
            operation.summary.replace("`", ""),
        ]
        for operation in OPERATIONS
    ]

    assert expected == table("request")


def test_every_series_of_the_provisioner_is_in_the_readme() -> None:
    metrics = Metrics(SystemClock(), version="1")

    assert series_of(metrics) == table("series of the provisioner")


def test_the_rules_know_the_provisioners_series_as_they_are_published() -> None:
    metrics = Metrics(SystemClock(), version="1")

    assert [row[:3] for row in series_of(metrics)] == [
        [series.name, series.kind, ", ".join(series.labels) or "–"] for series in PROVISIONER_SERIES
    ]


def test_prometheus_scrapes_provisioners_as_the_readme_says_and_the_alerts_expect(
    promtool_binary: Path, tmp_path: Path
) -> None:
    (text,) = re.findall(r"```yaml\n(scrape_configs:.*?provisioner.*?)```", README, re.DOTALL)
    path = tmp_path / "prometheus.yml"
    path.write_text(text)

    checked = subprocess.run(
        [promtool_binary, "check", "config", path], capture_output=True, text=True, check=False
    )
    (job,) = yaml.safe_load(text)["scrape_configs"]

    assert 0 == checked.returncode, checked.stdout + checked.stderr
    expected = Settings().prometheus
    assert expected.provisioner_job == job["job_name"] == PROVISIONER_JOB
    assert duration_text(expected.scrape_interval) == job["scrape_interval"]
    assert [expected.cluster_label] == list(job["static_configs"][0]["labels"])


@pytest.mark.parametrize("text", SPECIFICATIONS)
def test_a_specification_in_the_readme_is_a_good_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "developers.txt").write_text("ada\nbob\n")
    (tmp_path / "fleet.yml").write_text(text)

    assert load_fleet(tmp_path / "fleet.yml").pools


def test_the_readme_shows_every_key_that_a_specification_may_have() -> None:
    sections = (
        schema.FleetForm,
        schema.NodeForm,
        schema.PoolForm,
        schema.HealthForm,
        schema.MountForm,
        schema.PlacementForm,
        schema.RotationForm,
        schema.LimitsForm,
    )
    expected = {key for section in sections for key in section.model_fields}

    shown = set().union(*(keys_in(yaml.safe_load(text)) for text in SPECIFICATIONS))

    assert set() == expected - shown


def test_the_readme_names_the_header_that_tells_the_lists_age() -> None:
    assert f"`{AGE_HEADER}`" in README


def test_the_readme_says_where_an_instances_log_and_image_are() -> None:
    settings = containers.Settings()
    log = Records(Path("units/FLEET/NODE"), "").log("ID")

    assert f"`{settings.log_dir}/FLEET/ID.log`" in README
    assert f"`{log}`" in README
    assert f"`{namespace_of('FLEET')}`" in README
    assert f"`ctr -n {namespace_of('rack1')} images import " in README
    assert f"`{settings.registries_dir}/HOST/hosts.toml`" in README


def test_the_readme_names_the_models_of_simulated_instances() -> None:
    *most, last = (f"`{model.name}`" for model in MODELS)

    assert f"{', '.join(most)} or {last}." in " ".join(README.split())


def test_the_exporters_settings_in_the_readme_have_three_provisioners_as_one_inventory(
    tmp_path: Path,
) -> None:
    (text,) = re.findall(r"```yaml\n(inventory: .*?)```", README, re.DOTALL)
    path = tmp_path / "exporter.yml"
    path.write_text(text)

    given, faults = read_file(path)
    config = build(given, faults=faults)

    (inventory,) = config.inventory
    assert [inventory] == [source.name for source in sources_for([inventory])]
    assert 3 == len(urls_of(inventory))


def test_the_readme_says_which_token_file_several_provisioners_share_and_commands_need() -> None:
    unit = systemd.provisioner(Path("/opt/ollama-fleet"))
    path = f"{systemd.STATE_DIR}/provisioner.token"
    user = systemd.USER

    assert f"Environment={variable_of('web.token-file')}={path}\n" in unit
    assert f"\ninstall -o {user} -g {user} -m 600 provisioner.token {path}\n" in README
    assert f"`{TOKEN_OPTION}`" in README
    assert f"`{PREFIX}PROVISIONER_TOKEN_FILE`" in README
    assert f"`{PREFIX}PROVISIONER_URL`" in README


def test_the_readmes_provisioner_has_its_key_where_the_commands_for_it_put_it() -> None:
    for option, name in (("ca", "authority"), ("certificate", "certificate"), ("key", "key")):
        variable = variable_of(f"nodes.{option}-file")
        assert f"\n{variable}={CLIENT_DIR}/{name}.pem\n" in README
    assert f"`{node_setup.UNIT}`" in README


def variable_of(option: str) -> str:
    """Return the environment variable of an option of `provisioner run`."""
    (found,) = [one.variable for one in OPTIONS if one.name == option]
    return found


def test_the_readmes_rack_loads_its_models_from_the_folder_that_is_mounted(tmp_path: Path) -> None:
    """Its mount is read-only: a pull would be of each generation anew."""
    (tmp_path / "developers.txt").write_text("ada\n")
    (text,) = [text for text in SPECIFICATIONS if text.startswith("name: rack1\n")]
    (tmp_path / "fleet.yml").write_text(text)

    (pool,) = load_fleet(tmp_path / "fleet.yml").pools

    workload = pool.workload
    assert [dict(workload.environment)["OLLAMA_MODELS"]] == [
        target for _, target in workload.mounts
    ]
    assert warm_up_of("ollama", Preset.LOAD, workload.model) == workload.warm_up
