"""The folder of one run: logs, specification, configuration, what the programs keep.

In:   the folder that was asked for, or none. Out: an existing folder that is this run's alone until
the block ends, without the data of the run before it.
Fails with RunDirError.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provisioning.stack.errors import RunDirError

DEFAULT = Path(".demo")


@dataclass(frozen=True, slots=True)
class RunDir:
    """Where each thing of a run is."""

    path: Path

    @property
    def spec(self) -> Path:
        """Return the specification of the demonstration's fleet."""
        return self.path / "fleet.yml"

    @property
    def provisioner_state(self) -> Path:
        """Return the folder of the fleet as the provisioner knows it, and of its processes."""
        return self.path / "provisioner"

    @property
    def provisioner_store(self) -> Path:
        """Return the database in there."""
        return self.provisioner_state / "fleet.db"

    @property
    def provisioner_units(self) -> Path:
        """Return the records and logs of processes in there."""
        return self.provisioner_state / "units"

    @property
    def provisioner_token(self) -> Path:
        """Return the file with the token for changes of the fleet."""
        return self.path / "provisioner.token"

    @property
    def provisioner_audit(self) -> Path:
        """Return the file that tells who has changed the fleet, and how."""
        return self.path / "audit.jsonl"

    @property
    def token(self) -> Path:
        """Return the file with the token for the simulated fleet's control API."""
        return self.path / "control.token"

    @property
    def prometheus_config(self) -> Path:
        """Return Prometheus' configuration."""
        return self.path / "prometheus.yml"

    @property
    def prometheus_data(self) -> Path:
        """Return the folder of Prometheus' time series."""
        return self.path / "prometheus"

    @property
    def alerts(self) -> Path:
        """Return the folder that `ollama-fleet alerts build` fills."""
        return self.path / "alerts"

    @property
    def rule_files(self) -> str:
        """Return the rule files in there, as a pattern for Prometheus."""
        return f"{glob.escape(str(self.alerts))}/rules/*.yml"

    @property
    def alertmanager_config(self) -> Path:
        """Return Alertmanager's configuration, which lies in there too."""
        return self.alerts / "alertmanager.yml"

    @property
    def alertmanager_data(self) -> Path:
        """Return the folder of Alertmanager's silences and of what it has sent."""
        return self.path / "alertmanager"


@contextmanager
def claimed(wanted: Path | None) -> Iterator[RunDir]:
    """Hold a run folder: `wanted`, else `.demo` here, else a temporary one.

    Raises:
        RunDirError: The folder cannot be made, or another run holds it.
    """
    try:
        run_dir = RunDir((wanted or _default()).resolve())
        run_dir.path.mkdir(parents=True, exist_ok=True)
        lock = (run_dir.path / ".lock").open("w")
    except OSError as error:
        raise _unusable(wanted or DEFAULT, error) from error
    with lock:
        _lock(lock.fileno(), run_dir.path)
        # Prometheus would show the end of the run before as the fleet's present state, Alertmanager
        # would keep its silences, and rules that are no longer built would be loaded.
        for folder in (run_dir.prometheus_data, run_dir.alertmanager_data, run_dir.alerts):
            shutil.rmtree(folder, ignore_errors=True)
        yield run_dir


def write(path: Path, text: str) -> None:
    """Write one of the run's files.

    Raises:
        RunDirError: It cannot be written.
    """
    try:
        path.write_text(text)
    except OSError as error:
        raise _unusable(path.parent, error) from error


def _default() -> Path:
    return DEFAULT if os.access(Path.cwd(), os.W_OK) else Path(tempfile.mkdtemp())


def _unusable(path: Path, error: OSError) -> RunDirError:
    where = f" ({error.filename})" if error.filename else ""
    return RunDirError(
        f"cannot use the run folder {path}: {error.strerror}{where}; choose another with --run-dir"
    )


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunDirError(
            f"another `ollama-fleet up` uses the run folder {path}; stop it, or choose another "
            "folder with --run-dir"
        ) from error
