from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ollama_fleet import main


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["provisioner", *map(str, arguments)])


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_systemd_units_name_the_command_that_is_asked_for(tmp_path: Path) -> None:
    done = run("systemd", "--output-dir", tmp_path, "--command", "/opt/fleet/bin/ollama-fleet")

    folder = tmp_path / "etc/systemd/system"
    assert 0 == done.exit_code
    assert ["ollama-fleet-exporter.service", "ollama-fleet-provisioner.service"] == files_below(
        folder
    )
    text = (folder / "ollama-fleet-provisioner.service").read_text()
    assert "\nExecStart=/opt/fleet/bin/ollama-fleet provisioner run\n" in text
    assert "systemctl enable --now ollama-fleet-provisioner" in done.stderr


def test_a_nodes_files_stand_where_they_are_to_be_on_the_node(tmp_path: Path) -> None:
    done = run("node-files", "rack1-n01", "192.0.2.7", "--output-dir", tmp_path)

    assert 0 == done.exit_code
    assert [
        "etc/logrotate.d/ollama-fleet",
        "etc/ollama-fleet/node/nginx.conf",
        "etc/systemd/system/ollama-fleet-node.service",
    ] == files_below(tmp_path)
    assert "openssl x509 -req" in done.stderr
    assert [f"{tmp_path}/{name}" for name in files_below(tmp_path)] == sorted(
        done.stdout.splitlines()
    )
    assert [
        "once, where the authority's key is kept:",
        "on rack1-n01, as root, with the files in place:",
        "where a provisioner runs, as root, if it was not done for another node:",
        "for rack1-n01's request.pem, where the authority's key is kept; certificate.pem and "
        "authority.pem then go where request.pem came from:",
        "for a provisioner's request.pem, likewise:",
        "on rack1-n01, as root, with them in place:",
        "where a provisioner runs, as root, if it was not done before, with them in place:",
    ] == [line for line in done.stderr.splitlines() if not line.startswith(" ")]
    assert "-keyout /etc/ollama-fleet/nodes/key.pem" in done.stderr


def test_a_certificate_is_signed_after_it_was_asked_for(tmp_path: Path) -> None:
    done = run("node-files", "rack1-n01", "192.0.2.7", "--output-dir", tmp_path)

    steps = [
        done.stderr.index(step)
        for step in (
            "once, where",
            "req -x509",
            "-out /etc/ollama-fleet/node/request.pem",
            "adduser --system --group ollama-fleet",
            "install -d -o ollama-fleet -g ollama-fleet -m 700 /etc/ollama-fleet/nodes",
            "-out /etc/ollama-fleet/nodes/request.pem",
            "for rack1-n01's request.pem",
            "extendedKeyUsage=serverAuth subjectAltName=IP:192.0.2.7 | openssl x509 -req",
            "for a provisioner's request.pem",
            "extendedKeyUsage=clientAuth | openssl x509 -req",
            "systemctl restart ollama-fleet-node",
            "chown -R ollama-fleet:ollama-fleet /etc/ollama-fleet/nodes",
            "systemctl try-restart ollama-fleet-provisioner",
        )
    ]
    assert sorted(steps) == steps


def test_a_node_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = run("node-files", "a node", "not an address", "--output-dir", tmp_path)

    assert 2 == done.exit_code
    assert "a node" in done.stderr
    assert [] == files_below(tmp_path)


@pytest.mark.parametrize("command", [("systemd",), ("node-files", "n1", "192.0.2.7")])
def test_the_folder_has_to_be_named_and_to_be_one(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").touch()

    missing, wrong = run(*command), run(*command, "--output-dir", tmp_path / "file")

    assert (2, 2) == (missing.exit_code, wrong.exit_code)
    assert "Missing option '--output-dir'" in missing.stderr
    assert "is a file" in wrong.stderr


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_port_that_cannot_be_is_a_wrong_option(tmp_path: Path, port: str) -> None:
    done = run("node-files", "n1", "192.0.2.7", "--output-dir", tmp_path, "--port", port)

    assert 2 == done.exit_code
    assert [] == files_below(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc").touch()

    done = run("systemd", "--output-dir", tmp_path)

    assert 1 == done.exit_code
    assert f"cannot write {tmp_path / 'etc/systemd/system'}" in done.stderr
    assert "--output-dir" in done.stderr


def test_a_command_that_systemd_would_not_find_is_a_wrong_option(tmp_path: Path) -> None:
    done = run("systemd", "--output-dir", tmp_path, "--command", "bin/ollama-fleet")

    assert 2 == done.exit_code
    assert "--command must be an absolute path" in done.stderr
    assert [] == files_below(tmp_path)
