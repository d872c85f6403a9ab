"""What the README says of the alerts is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from alerts import config, rulebook
from alerts.durations import duration_text
from alerts.model import Alert
from alerts.settings import Settings
from tests.test_readme import README, table

SECTION = README[README.index("\n## Alerts\n") : README.index("\n## Dashboards\n")]
SECTIONS = ("prometheus", "fleet", "thresholds", "slo", "windows", "links", "routing")


def _variants() -> dict[str, list[Alert]]:
    variants: dict[str, list[Alert]] = {}
    for group in rulebook.groups(Settings()):
        for alert in group.alerts:
            variants.setdefault(alert.name, []).append(alert)
    return variants


def _hold(alert: Alert) -> str:
    return duration_text(alert.hold_s) if alert.hold_s else "–"


def test_every_alert_is_in_the_readme_in_one_line_that_leads_to_its_runbook() -> None:
    expected = [
        [
            f"[{name}](alerts/runbooks/{name}.md)",
            ", ".join(dict.fromkeys(str(alert.severity) for alert in alerts)),
            ", ".join(dict.fromkeys(_hold(alert) for alert in alerts)),
            alerts[0].summary,
        ]
        for name, alerts in _variants().items()
    ]

    assert expected == table("alert")


def _settings() -> Iterator[list[str]]:
    values = Settings().model_dump(mode="json", by_alias=True)
    for section in SECTIONS:
        for name, field in type(getattr(Settings(), section)).model_fields.items():
            value = values[section][name]
            told = "–" if value in (None, [], ()) else str(value)
            yield [f"{section}.{name}", told, (field.description or "").replace("`", "")]


def test_every_setting_of_the_alerts_is_in_the_readme_with_its_default_and_meaning() -> None:
    assert list(_settings()) == table("setting")


def test_no_section_of_the_settings_is_left_out_of_the_readme() -> None:
    assert {*SECTIONS, "alerts"} == set(Settings.model_fields)


def test_the_readme_counts_the_alerts_right() -> None:
    assert f"holds {len(_variants())} alerts" in SECTION


@pytest.fixture
def yaml_blocks() -> list[str]:
    return re.findall(r"(?m)^```yaml\n(.*?)^```", SECTION, flags=re.DOTALL)


def test_the_example_of_settings_is_accepted_and_means_what_it_shows(
    yaml_blocks: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "alerts.yml"
    path.write_text(yaml_blocks[-1])

    settings = config.load(path)

    assert Settings().thresholds == settings.thresholds
    assert 1 == len(settings.routing.page)
    assert 2 == len(settings.routing.ticket)
    assert "OllamaFleetQueueSaturated" in settings.alerts
    assert set(yaml.safe_load(yaml_blocks[-1])) <= set(Settings.model_fields)
