"""The built files: the same for the same settings, whole or not there, and never left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from dashboards import build
from dashboards.choices import Uid
from dashboards.kit.board import BANNER
from dashboards.settings import DashboardSettings
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
        for seed in ("0", "4711")
    }

    assert 1 == len(digests)


def test_a_file_is_named_by_its_uid_and_easy_to_compare() -> None:
    """A line for each value and keys in order, so that a diff shows what changed."""
    for name, text in build.files(SETTINGS).items():
        content = json.loads(text)
        assert f"{content['uid']}.json" == name
        assert json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n" == text


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
