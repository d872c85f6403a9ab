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


MARK = rundir.MARK.encode()
LEFT_BEFORE_THE_MARK = (
    *(".lock", "alerts", "alertmanager", "audit.jsonl", "control.token", "exporter.log"),
    *("fleet.yml", "prometheus", "prometheus.yml", "provisioner", "provisioner.log"),
    "provisioner.token",
)


@pytest.mark.parametrize(
    ("names", "lock", "is_ours"),
    [
        ((), None, True),
        ((".lock", "alerts", "notes"), MARK, True),
        ((".lock",), b"", True),
        (LEFT_BEFORE_THE_MARK, b"", True),
        ((*LEFT_BEFORE_THE_MARK, "notes"), b"", False),
        (LEFT_BEFORE_THE_MARK, b"17\n", False),
        ((*LEFT_BEFORE_THE_MARK[1:],), None, False),
        # An earlier version's run that was refused left its lock in a person's own folder.
        ((".lock", "alerts", "fleet.yml", "prometheus.yml"), b"", False),
        (("prometheus",), None, False),
        (("poetry.lock",), None, False),
    ],
)
def test_a_folder_is_taken_that_is_new_or_was_left_by_a_run(
    names: tuple[str, ...], lock: bytes | None, *, is_ours: bool
) -> None:
    assert is_ours == rundir.is_ours(names, lock)


@pytest.mark.parametrize("lock", [None, "", "17\n"])
def test_in_a_persons_own_folder_nothing_is_touched(tmp_path: Path, lock: str | None) -> None:
    for name in ("alerts/mine.yml", "prometheus/mine.db", "alertmanager/mine", "provisioner/mine"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("precious")
    if lock is not None:
        (tmp_path / ".lock").write_text(lock)
    before = contents(tmp_path)

    with pytest.raises(RunDirError), rundir.claimed(tmp_path):
        pass

    assert before == contents(tmp_path)


def contents(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("names", "told"), [("alerts c b a", "a, b, c"), ("alerts c b d a", "a, b, c and 1 more")]
)
def test_a_folder_that_is_refused_is_told_with_what_is_in_it_and_the_option(
    tmp_path: Path, names: str, told: str
) -> None:
    for name in names.split():
        (tmp_path / name).mkdir()

    with pytest.raises(RunDirError) as caught, rundir.claimed(tmp_path):
        pass

    assert (
        f"cannot use the run folder {tmp_path}: it holds {told}, and no run of "
        "`ollama-fleet up` is known to have made it; as a run replaces what it finds, give an "
        "empty folder, or a new one, with --run-dir"
    ) == str(caught.value)


def test_a_folder_of_an_earlier_version_gets_the_mark(tmp_path: Path) -> None:
    for name in (".lock", "exporter.log"):
        (tmp_path / name).touch()
    with rundir.claimed(tmp_path):
        pass
    (tmp_path / "notes").touch()  # from here on there may be anything beside it

    for _ in range(2):
        with rundir.claimed(tmp_path):
            assert rundir.MARK == (tmp_path / ".lock").read_text()


def test_a_lock_that_cannot_be_read_is_told_with_the_option(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()

    with pytest.raises(RunDirError, match=r"Is a directory .*--run-dir"), rundir.claimed(tmp_path):
        pass


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
