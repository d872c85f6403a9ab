from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from provisioning.demo import rundir
from provisioning.demo.errors import ChildError, RunDirError
from provisioning.demo.processes import Children, ChildSpec


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


@pytest.mark.parametrize(
    ("names", "lock", "is_ours"),
    [
        ((), None, True),
        ((".lock", "alerts", "notes"), MARK, True),
        ((".lock",), b"", True),
        ((".lock", "exporter.log"), b"", False),
        ((".lock", "alerts"), b"17\n", False),
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
    ("names", "told"), [("c b a", "a, b, c"), ("c b d a", "a, b, c and 1 more")]
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


def test_only_its_owner_can_enter_the_folder_and_read_what_is_written(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    empty.chmod(0o775)  # as a shell makes it where users have a group of their own

    for path in (empty, tmp_path / "new"):
        with rundir.claimed(path) as run_dir:
            rundir.write(run_dir.spec, "[]")

            modes = [each.stat().st_mode & 0o777 for each in (path, path / ".lock", run_dir.spec)]
            assert [0o700, 0o600, 0o600] == modes


def other_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)


def replaced_by_a_link(path: Path, _: pytest.MonkeyPatch) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to(path.parent / "elsewhere")


def folder_open_to_all(path: Path, _: pytest.MonkeyPatch) -> None:
    (path / "provisioner").mkdir()
    (path / "provisioner").chmod(0o777)


PREPARED: dict[str, Callable[[Path, pytest.MonkeyPatch], object]] = {
    "it belongs to the user": other_user,
    "others can write in it": lambda path, _: path.chmod(0o770),
    "everybody can replace it": lambda path, _: path.parent.chmod(0o777),
    r"\.lock for a run: everybody can write it": lambda path, _: (path / ".lock").chmod(0o666),
    "provisioner for a run: everybody can write it": folder_open_to_all,
    r"exporter\.log for a run: it is a symbolic link": lambda path, _: (
        path / "exporter.log"
    ).symlink_to(path.parent / "precious"),
    "it is neither a file nor a folder": lambda path, _: os.mkfifo(path / "exporter.log"),
    "run for a run: it is a symbolic link": replaced_by_a_link,
}


@pytest.mark.parametrize(("why", "prepare"), PREPARED.items(), ids=PREPARED.keys())
def test_what_another_user_may_have_prepared_is_refused_and_stays_as_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    why: str,
    prepare: Callable[[Path, pytest.MonkeyPatch], object],
) -> None:
    """A run as root would start the commands of its specification."""
    path = tmp_path / "run"
    with rundir.claimed(path) as run_dir:
        rundir.write(run_dir.spec, "precious")
    (tmp_path / "precious").write_text("precious")
    prepare(path, monkeypatch)
    before = contents(tmp_path)

    with pytest.raises(RunDirError, match=f"{why}.*--run-dir"), rundir.claimed(path):
        pass

    assert before == contents(tmp_path)


def test_what_comes_into_an_open_folder_while_it_is_checked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, closing = tmp_path / "run", Path.chmod
    path.mkdir()
    path.chmod(0o777)

    def chmod(closed: Path, mode: int) -> None:
        (closed / "fleet.yml").write_text("another user's")
        closing(closed, mode)

    monkeypatch.setattr(Path, "chmod", chmod)

    with pytest.raises(RunDirError, match="somebody has just written in it"), rundir.claimed(path):
        pass


async def test_no_log_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.log").symlink_to(tmp_path / "precious")

    async with Children(tmp_path) as children:
        with pytest.raises(ChildError, match="Too many levels of symbolic links"):
            await children.start(ChildSpec("a", ("true",), "http://127.0.0.1:1/"))

    assert "precious" == (tmp_path / "precious").read_text()


def test_a_lock_that_cannot_be_read_is_told_with_the_option(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()

    with pytest.raises(RunDirError, match=r"Is a directory .*--run-dir"), rundir.claimed(tmp_path):
        pass


def test_a_lock_that_is_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")

    with pytest.raises(RunDirError, match="neither a file nor a folder"), rundir.claimed(tmp_path):
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
