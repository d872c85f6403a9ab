"""What the README says of the provisioner is what it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from provisioning.fleet.api.operations import OPERATIONS
from provisioning.fleet.api.reads import AGE_HEADER
from provisioning.fleet.cli.run_options import OPTIONS
from provisioning.fleet.clock import SystemClock
from provisioning.fleet.metrics import Metrics
from provisioning.fleet.spec import form, load_fleet
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


@pytest.mark.parametrize("text", SPECIFICATIONS)
def test_a_specification_in_the_readme_is_a_good_one(text: str, tmp_path: Path) -> None:
    (tmp_path / "developers.txt").write_text("ada\nbob\n")
    (tmp_path / "fleet.yml").write_text(text)

    assert load_fleet(tmp_path / "fleet.yml").pools


def test_the_readme_shows_every_key_that_a_specification_may_have() -> None:
    sections = (
        form.FleetForm,
        form.NodeForm,
        form.PoolForm,
        form.HealthForm,
        form.MountForm,
        form.PlacementForm,
        form.RotationForm,
        form.LimitsForm,
    )
    expected = {key for section in sections for key in section.model_fields}

    shown = set().union(*(keys_in(yaml.safe_load(text)) for text in SPECIFICATIONS))

    assert set() == expected - shown


def test_the_readme_names_the_header_that_tells_the_lists_age() -> None:
    assert f"`{AGE_HEADER}`" in README
