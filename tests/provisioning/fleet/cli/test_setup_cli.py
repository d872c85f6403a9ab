from __future__ import annotations

from pathlib import Path

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


def test_a_nodes_files_stand_where_they_are_to_be_on_the_node(tmp_path: Path) -> None:
    done = run("node-files", "rack1-n01", "192.0.2.7", "--output-dir", tmp_path)

    assert 0 == done.exit_code
    assert [
        "etc/logrotate.d/ollama-fleet",
        "etc/nginx/modules-enabled/90-ollama-fleet.conf",
        "etc/ollama-fleet/node/request.cnf",
    ] == files_below(tmp_path)
    assert "openssl x509 -req" in done.stderr


def test_a_node_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    done = run("node-files", "a node", "not an address", "--output-dir", tmp_path)

    assert 2 == done.exit_code
    assert "a node" in done.stderr
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
