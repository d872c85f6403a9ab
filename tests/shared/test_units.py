"""The systemd units that commands print."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ollama_fleet.cli import main
from tests.conftest import program

COMMAND = "/opt/ollama-fleet/bin/ollama-fleet"
SERVERS = ("exporter", "provisioner")


def printed(server: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [server, "systemd", *arguments])


def lines(server: str) -> list[str]:
    done = printed(server, "--command", COMMAND)
    assert (0, "") == (done.exit_code, done.stderr)
    return done.stdout.splitlines()


@pytest.mark.parametrize("server", SERVERS)
def test_systemd_accepts_the_service_and_its_socket(server: str, tmp_path: Path) -> None:
    command = tmp_path / "ollama-fleet"
    command.touch(mode=0o755)
    units = [tmp_path / f"ollama-fleet-{server}.{kind}" for kind in ("service", "socket")]
    units[0].write_text(printed(server, "--command", str(command)).stdout)
    units[1].write_text(printed(server, "--socket").stdout)

    verified = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (verified.returncode, verified.stdout + verified.stderr)


@pytest.mark.parametrize("server", SERVERS)
def test_a_service_says_how_it_does_is_reloaded_by_a_hangup_and_comes_back(server: str) -> None:
    assert {
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "WatchdogSec=60",
        "Restart=always",
    } <= set(lines(server))


def test_the_exporter_starts_while_no_provisioner_answers_and_may_little() -> None:
    """A check before it would fail then; the exporter itself waits."""
    found = lines("exporter")

    run = f"ExecStart={COMMAND} exporter --config.file /etc/ollama-fleet/exporter.yml"
    assert [run] == [line for line in found if line.startswith(("ExecStart", "ExecCondition"))]
    assert {"DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes"} <= set(found)
    assert "CapabilityBoundingSet=" in found


def test_instances_go_on_while_their_provisioner_is_restarted() -> None:
    found = lines("provisioner")

    assert f"ExecStart={COMMAND} provisioner run" in found
    assert "KillMode=process" in found


@pytest.mark.parametrize("server", SERVERS)
def test_a_command_is_an_absolute_path_that_systemd_takes_as_it_is(server: str) -> None:
    assert (
        "=/opt/a%%b/ollama-fleet " in printed(server, "--command", "/opt/a%b/ollama-fleet").stdout
    )
    for path in ("ollama-fleet", "bin/x", "/opt/a b/x", "/a\nb", "/a$b", '/a"b'):
        done = printed(server, "--command", path)
        assert (2, "") == (done.exit_code, done.stdout)
        assert "--command must be an absolute path without spaces" in done.stderr
