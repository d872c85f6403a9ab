from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from provisioning.stack import rundir
from provisioning.stack.errors import RunDirError


def test_a_run_folder_is_made_where_it_is_missing(tmp_path: Path) -> None:
    with rundir.claimed(tmp_path / "a" / "b") as run_dir:
        assert run_dir.path.is_dir()


def test_without_a_choice_it_is_dot_demo_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with rundir.claimed(None) as run_dir:
        assert tmp_path / ".demo" == run_dir.path


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    with (
        rundir.claimed(tmp_path),
        pytest.raises(RunDirError, match=r"another `ollama-fleet up` uses .* with --run-dir"),
        rundir.claimed(tmp_path),
    ):
        pass

    with rundir.claimed(tmp_path):
        pass


def test_what_the_programs_kept_and_the_rules_of_the_run_before_are_gone(tmp_path: Path) -> None:
    with rundir.claimed(tmp_path) as run_dir:
        kept = (run_dir.prometheus_data, run_dir.alertmanager_data, run_dir.alerts)
        for folder in kept:
            folder.mkdir()
        run_dir.alertmanager_config.touch()

    with rundir.claimed(tmp_path):
        assert not any(folder.exists() for folder in kept)


def test_a_folder_that_cannot_be_made_is_told_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(RunDirError, match=r"cannot use the run folder .*/file/run.* --run-dir"),
        rundir.claimed(tmp_path / "file" / "run"),
    ):
        pass


def test_a_file_that_cannot_be_written_is_told_with_the_option(tmp_path: Path) -> None:
    with rundir.claimed(tmp_path) as run_dir:
        run_dir.spec.mkdir()

        with pytest.raises(RunDirError, match=r"fleet\.yml\); choose another with --run-dir"):
            rundir.write(run_dir.spec, "[]")


def test_no_room_for_a_temporary_folder_is_told_with_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # as in a folder that root alone writes
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))

    with pytest.raises(RunDirError, match="--run-dir"), rundir.claimed(None):
        pass
