from __future__ import annotations

import subprocess
from pathlib import Path, PurePath

import pytest

from provisioning.demo import systemd
from tests.conftest import program

COMMAND = PurePath("/opt/ollama-fleet/bin/ollama-fleet")


@pytest.mark.parametrize("name", systemd.units(COMMAND))
def test_systemd_finds_no_fault_in_a_unit(name: str, tmp_path: Path) -> None:
    command = tmp_path / "ollama-fleet"
    command.touch(mode=0o755)
    unit = tmp_path / name
    unit.write_text(systemd.units(command)[name])

    verified = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (verified.returncode, verified.stdout + verified.stderr)


def test_instances_go_on_while_their_provisioner_is_restarted() -> None:
    unit = systemd.provisioner(COMMAND)

    assert "KillMode=process\n" in unit
    assert "Restart=always\n" in unit


def test_the_exporters_unit_starts_while_no_provisioner_answers() -> None:
    """A check before it would fail then; the exporter itself waits."""
    lines = systemd.exporter(COMMAND).splitlines()

    run = f"ExecStart={COMMAND} exporter --config.file /etc/ollama-fleet/exporter.yml"
    assert [run] == [line for line in lines if line.startswith("Exec")]


def test_a_percent_sign_in_the_commands_path_is_one_for_systemd_too() -> None:
    for text in systemd.units(PurePath("/opt/a%b/ollama-fleet")).values():
        assert "=/opt/a%%b/ollama-fleet " in text


@pytest.mark.parametrize("path", ["ollama-fleet", "bin/x", "/opt/a b/x", "/a\nb", "/a$b", '/a"b'])
def test_a_command_that_systemd_would_take_for_another_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must be an absolute path without spaces"):
        systemd.units(PurePath(path))
