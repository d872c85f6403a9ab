"""The built files: the same for the same settings, whole or not there, and never left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dashboards import build
from dashboards.choices import Uid
from dashboards.kit.board import BANNER
from dashboards.settings import DashboardSettings
from ollama_fleet.generated import GeneratedError
from tests.conftest import ROOT

SHIPPED = ROOT / "dashboards" / "out"
SETTINGS = DashboardSettings()
NAMES = sorted(f"{uid}.json" for uid in Uid)
OURS = json.dumps({"uid": "old", "description": f"Of old. {BANNER}"})
PRINT_ALL = """
import hashlib
from dashboards.build import files
from dashboards.settings import DashboardSettings
print(hashlib.sha256(repr(files(DashboardSettings())).encode()).hexdigest())
"""


def test_the_committed_files_are_as_the_default_settings_make_them() -> None:
    build.check(SETTINGS, SHIPPED)


def test_the_files_are_the_same_whatever_order_hashes_give() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", PRINT_ALL],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }

    assert 1 == len(digests)


def test_a_file_is_named_by_its_uid_and_easy_to_compare() -> None:
    """A line for each value and keys in order, so that a diff shows what changed."""
    for name, text in build.files(SETTINGS).items():
        content = json.loads(text)
        assert f"{content['uid']}.json" == name
        assert json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n" == text


def test_what_was_written_is_found_to_be_right_and_writing_again_changes_nothing(
    tmp_path: Path,
) -> None:
    written = build.write(SETTINGS, tmp_path)

    assert NAMES == sorted(written)
    assert () == build.write(SETTINGS, tmp_path)
    build.check(SETTINGS, tmp_path)


@pytest.mark.parametrize(
    ("changed", "drifted"),
    [
        ({"cluster_label": "region"}, NAMES),
        ({"scrape_interval": "1m"}, NAMES),
        ({"prometheus_job": "llms"}, ["ollama-fleet-exporter.json"]),
    ],
)
def test_another_setting_is_drift_and_names_the_files(
    tmp_path: Path, changed: dict[str, str], drifted: list[str]
) -> None:
    build.write(SETTINGS, tmp_path)

    with pytest.raises(GeneratedError) as caught:
        build.check(DashboardSettings(**changed), tmp_path)

    assert drifted == [name for name in NAMES if f"{tmp_path / name} differs" in str(caught.value)]
    assert "Run `ollama-fleet dashboards build`" in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda path: path.write_text(""), "ollama-fleet-nodes.json is empty"),
        (lambda path: path.unlink(), "ollama-fleet-nodes.json is missing"),
        (lambda path: path.write_text(path.read_text() + "\n"), "ollama-fleet-nodes.json differs"),
        (lambda path: path.write_text("{}"), "ollama-fleet-nodes.json differs"),
        (lambda path: (path.parent / "old.json").write_text(OURS), "old.json is left over"),
    ],
)
def test_a_file_that_is_not_as_made_is_found(
    tmp_path: Path, spoil: Callable[[Path], object], fault: str
) -> None:
    build.write(SETTINGS, tmp_path)
    spoil(tmp_path / "ollama-fleet-nodes.json")

    with pytest.raises(GeneratedError, match=fault):
        build.check(SETTINGS, tmp_path)


def test_a_dashboard_that_nothing_makes_any_more_is_removed_and_others_files_stay(
    tmp_path: Path,
) -> None:
    build.write(SETTINGS, tmp_path)
    (tmp_path / "old.json").write_text(OURS)
    mine = {"mine.json": '{"description": "Mine."}', "list.json": "[]", "broken.json": "{"}
    for name, text in mine.items():
        (tmp_path / name).write_text(text)

    assert ("old.json",) == build.write(SETTINGS, tmp_path)
    assert mine == {name: (tmp_path / name).read_text() for name in mine}
    build.check(SETTINGS, tmp_path)


@pytest.mark.parametrize("text", ['{"title": "precious"}', "[]", "no JSON"])
def test_a_file_that_somebody_else_has_made_is_never_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ollama-fleet-models.json"
    path.write_text(text)

    with pytest.raises(
        GeneratedError, match="not made by this command, so left alone, and nothing"
    ):
        build.write(SETTINGS, tmp_path)

    assert [path] == list(tmp_path.iterdir())
    assert text == path.read_text()


def test_a_file_that_a_person_changed_is_drift_and_made_anew(tmp_path: Path) -> None:
    build.write(SETTINGS, tmp_path)
    path = tmp_path / "ollama-fleet-models.json"
    path.write_text(path.read_text().replace("Models", "My models"))

    assert ("ollama-fleet-models.json",) == build.write(SETTINGS, tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(GeneratedError, match="choose another --output-dir"):
        build.write(SETTINGS, tmp_path / "file")
