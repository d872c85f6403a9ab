"""The configuration that a node gets, and a real logrotate."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from provisioning.runtime import node_setup
from provisioning.runtime.node_setup import NodeAccess
from tests.conftest import program

LIMIT = 1000
ACCESS = NodeAccess(node="node-1", address="127.0.0.1", max_log_bytes=LIMIT)


def rotate(folder: Path) -> None:
    """Do once what a node's timer does."""
    access = msgspec.structs.replace(ACCESS, log_dir=str(folder / "log"))
    config = folder / "logrotate.conf"
    config.write_text(node_setup.log_rotation(access))
    config.chmod(0o644)
    command = (program("logrotate"), "-s", folder / "state", config)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (0, "") == (done.returncode, done.stderr)


def log_of(folder: Path, instance_id: str, size_bytes: int) -> Path:
    log = folder / "log" / "rack1" / f"{instance_id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("x" * size_bytes)
    return log


def test_a_log_above_its_bound_is_emptied_under_its_writer_and_kept_once(tmp_path: Path) -> None:
    log = log_of(tmp_path, "chat-00001", LIMIT + 1)
    with log.open("a") as writer:
        rotate(tmp_path)
        writer.write("next\n")

    assert "next\n" == log.read_text()
    old = log.with_name(f"{log.name}.1")
    assert "x" * (LIMIT + 1) == old.read_text()

    log.write_text("y" * (LIMIT + 1))
    rotate(tmp_path)

    assert "y" * (LIMIT + 1) == old.read_text()
    assert {log, old} == set(log.parent.iterdir())


def test_a_log_within_its_bound_is_left_alone(tmp_path: Path) -> None:
    log = log_of(tmp_path, "chat-00001", LIMIT - 1)

    rotate(tmp_path)

    assert [log] == list(log.parent.iterdir())
    assert LIMIT - 1 == log.stat().st_size


def test_a_node_without_containers_has_nothing_to_rotate(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()

    rotate(tmp_path)
