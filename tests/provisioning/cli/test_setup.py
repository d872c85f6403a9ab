"""Files for machines: what a node needs."""

from __future__ import annotations

from pathlib import Path, PurePath

from click.testing import CliRunner, Result

from ollama_fleet.cli import main


def run(*arguments: str | PurePath) -> Result:
    return CliRunner().invoke(main, ["provisioner", *map(str, arguments)])


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


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
    assert "is a file" in run(*good[:-1], tmp_path / "file").stderr
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc").touch()

    done = run("node-files", "n1", "192.0.2.7", "--output-dir", tmp_path)

    assert 1 == done.exit_code
    assert f"cannot write {tmp_path / 'etc'}" in done.stderr
    assert "--output-dir" in done.stderr
