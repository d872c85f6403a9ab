from __future__ import annotations

import subprocess
from pathlib import Path, PurePath

import pytest

from provisioning.stack import systemd
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


def test_the_exporter_checks_its_settings_before_it_replaces_a_running_one() -> None:
    lines = systemd.exporter(COMMAND).splitlines()

    run = f"ExecStart={COMMAND} exporter --config.file /etc/ollama-fleet/exporter.yml"
    check = run.replace("ExecStart", "ExecStartPre") + " --check"
    assert lines.index(run) == lines.index(check) + 1


def test_a_percent_sign_in_the_commands_path_is_one_for_systemd_too() -> None:
    for text in systemd.units(PurePath("/opt/a%b/ollama-fleet")).values():
        assert "=/opt/a%%b/ollama-fleet " in text


@pytest.mark.parametrize("path", ["ollama-fleet", "bin/x", "/opt/a b/x", "/a\nb", "/a$b", '/a"b'])
def test_a_command_that_systemd_would_take_for_another_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must be an absolute path without spaces"):
        systemd.units(PurePath(path))
