"""Files for machines: systemd units, and what a node needs."""

from __future__ import annotations

import subprocess
from pathlib import Path, PurePath

import pytest
from click.testing import CliRunner, Result

from ollama_fleet.cli import main
from provisioning.cli.setup import exporter_unit, provisioner_unit, systemd_units
from tests.conftest import program

COMMAND = PurePath("/opt/ollama-fleet/bin/ollama-fleet")


def run(*arguments: str | PurePath) -> Result:
    return CliRunner().invoke(main, ["provisioner", *map(str, arguments)])


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", systemd_units(COMMAND))
def test_systemd_accepts_a_unit(name: str, tmp_path: Path) -> None:
    command = tmp_path / "ollama-fleet"
    command.touch(mode=0o755)
    unit = tmp_path / name
    unit.write_text(systemd_units(command)[name])

    verified = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (verified.returncode, verified.stdout + verified.stderr)


def test_instances_go_on_while_their_provisioner_is_restarted() -> None:
    unit = provisioner_unit(COMMAND)

    assert "KillMode=process\n" in unit
    assert "Restart=always\n" in unit


def test_the_exporters_unit_starts_while_no_provisioner_answers() -> None:
    """A check before it would fail then; the exporter itself waits."""
    lines = exporter_unit(COMMAND).splitlines()

    run = f"ExecStart={COMMAND} exporter --config.file /etc/ollama-fleet/exporter.yml"
    assert [run] == [line for line in lines if line.startswith("Exec")]


def test_a_command_is_an_absolute_path_that_systemd_takes_as_it_is(tmp_path: Path) -> None:
    for text in systemd_units(PurePath("/opt/a%b/ollama-fleet")).values():
        assert "=/opt/a%%b/ollama-fleet " in text
    for path in ("ollama-fleet", "bin/x", "/opt/a b/x", "/a\nb", "/a$b", '/a"b'):
        done = run("systemd", "--output-dir", tmp_path, "--command", path)
        assert 2 == done.exit_code
        assert "--command must be an absolute path without spaces" in done.stderr
    assert [] == files_below(tmp_path)


def test_systemd_units_are_written_with_the_command_that_is_given(tmp_path: Path) -> None:
    done = run("systemd", "--output-dir", tmp_path, "--command", COMMAND)

    folder = tmp_path / "etc/systemd/system"
    assert 0 == done.exit_code
    assert sorted(systemd_units(COMMAND)) == files_below(folder)
    text = (folder / "ollama-fleet-provisioner.service").read_text()
    assert f"\nExecStart={COMMAND} provisioner run\n" in text
    assert "systemctl enable --now ollama-fleet-provisioner" in done.stderr


def test_a_nodes_files_are_written_and_its_commands_come_in_their_order(tmp_path: Path) -> None:
    """A certificate is signed after it was requested."""
    done = run("node-files", "rack1-n01", "192.0.2.7", "--output-dir", tmp_path)

    assert 0 == done.exit_code
    assert [
        "etc/logrotate.d/ollama-fleet",
        "etc/ollama-fleet/node/nginx.conf",
        "etc/systemd/system/ollama-fleet-node.service",
    ] == files_below(tmp_path)
    assert [f"{tmp_path}/{name}" for name in files_below(tmp_path)] == sorted(
        done.stdout.splitlines()
    )
    steps = [
        done.stderr.index(step)
        for step in (
            "req -x509",
            "-out /etc/ollama-fleet/node/request.pem",
            "adduser --system --group ollama-fleet",
            "install -d -o ollama-fleet -g ollama-fleet -m 700 /etc/ollama-fleet/nodes",
            "-out /etc/ollama-fleet/nodes/request.pem",
            "extendedKeyUsage=serverAuth subjectAltName=IP:192.0.2.7 | openssl x509 -req",
            "extendedKeyUsage=clientAuth | openssl x509 -req",
            "systemctl restart ollama-fleet-node",
            "chown -R ollama-fleet:ollama-fleet /etc/ollama-fleet/nodes",
            "systemctl try-restart ollama-fleet-provisioner",
        )
    ]
    assert sorted(steps) == steps


def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (tmp_path / "file").touch()
    good = ("node-files", "n1", "192.0.2.7", "--output-dir", folder)

    assert 2 == run("node-files", "a node", "no address", "--output-dir", folder).exit_code
    assert 2 == run(*good, "--port", "0").exit_code
    assert 2 == run(*good, "--port", "65536").exit_code
    assert "Missing option '--output-dir'" in run("systemd").stderr
    assert "is a file" in run("systemd", "--output-dir", tmp_path / "file").stderr
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc").touch()

    done = run("systemd", "--output-dir", tmp_path, "--command", COMMAND)

    assert 1 == done.exit_code
    assert f"cannot write {tmp_path / 'etc/systemd/system'}" in done.stderr
    assert "--output-dir" in done.stderr
