"""`gateway check` and `gateway render`, and that what docs/gateway.md says works."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from provisioning.gateway import nginx
from provisioning.gateway.cli import gateway as command
from provisioning.gateway.render import UNIT_FILE, unit
from provisioning.gateway.settings import Settings
from tests.conftest import ROOT, program
from tests.provisioning.gateway.nginx import (
    MODEL,
    Listed,
    Source,
    ask,
    nginx_with_lua,
    running_gateway,
    upstreams,
)
from tests.provisioning.gateway.servers import running_servers

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs/gateway.md"
SH = re.compile(r"(?ms)^ *```sh\n(.*?)^ *```")
FILE = re.compile(r'(?ms)^ *```yaml title="gateway.yml"\n(.*?)^ *```')


@pytest.fixture(autouse=True)
def real_nginx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands find the nginx of the tests."""
    found = nginx_with_lua()
    monkeypatch.setattr(nginx, "installed", lambda: found)


def run(*words: str) -> Result:
    return CliRunner().invoke(command, words)


def check(folder: Path, **sections: object) -> Result:
    file = folder / "gateway.yml"
    file.write_text(json.dumps(sections))
    return run("check", "--config.file", str(file))


def test_check_says_what_the_first_source_that_answers_lists(tmp_path: Path) -> None:
    with Source(upstreams([Listed(1), Listed(2, loaded=("qwen3:4b",))])) as source:
        sources = ["http://127.0.0.1:1/upstreams", source.url]
        result = check(tmp_path, upstreams={"sources": sources, "timeout": "100s"})

    assert (0, f"ok instances=2 models=2 source={source.url}\n") == (
        result.exit_code,
        result.stdout,
    )


def test_check_says_everything_that_is_wrong(tmp_path: Path) -> None:
    with Source(b'{"format": 2}') as source:
        result = check(
            tmp_path,
            upstreams={"sources": ["http://127.0.0.1:1/x", source.url], "timeout": "100s"},
            listen={"tls_certificate": "/no/chain.pem", "tls_key": "/no/key.pem"},
        )

    assert 1 == result.exit_code
    for words in (
        "nginx refuses",
        "/no/chain.pem",
        "http://127.0.0.1:1/x gives no list: ",
        f"{source.url} gives no list: it is no list of format 1",
    ):
        assert words in result.stderr


def test_check_names_wrong_settings_and_their_lines(tmp_path: Path) -> None:
    result = check(tmp_path, limits={"vllm": {"rate": 0}})

    assert 1 == result.exit_code
    assert "1: limits.vllm.rate: must be greater than 0" in result.stderr


def test_systemd_accepts_the_unit_which_may_write_to_one_folder_only(tmp_path: Path) -> None:
    run("render", "--output-dir", str(tmp_path))
    lines = (tmp_path / UNIT_FILE).read_text().splitlines()
    elsewhere = Settings.model_validate({"nginx": {"state_dir": "/srv/gateway"}})
    verified = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", tmp_path / UNIT_FILE],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (verified.returncode, verified.stdout + verified.stderr)
    assert {"DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes"} <= set(lines)
    assert {"CapabilityBoundingSet=", "StateDirectory=ollama-fleet-gateway"} <= set(lines)
    assert "ReadWritePaths=/srv/gateway" in unit(elsewhere, nginx_with_lua(), tmp_path)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    result = run("render", "--output-dir", str(tmp_path / "file" / "folder"))

    assert 1 == result.exit_code
    assert f"cannot write to {tmp_path}/file" in result.stderr


def test_the_commands_of_the_page_work_one_after_the_other(tmp_path: Path) -> None:
    (text,) = FILE.findall(PAGE.read_text())
    with running_servers(1) as (server,), running_gateway(tmp_path, [Listed(server.port)]) as real:
        places = {
            "http://127.0.0.1:11440/upstreams": real.source.url,
            "http://127.0.0.1:11430": real.url,
            "http://127.0.0.1:11431": real.ops_url,
            "$(command -v ollama-fleet)": "ollama-fleet",
            "/etc/ollama-fleet": str(tmp_path / "etc"),
            "gateway.yml": str(tmp_path / "gateway.yml"),
            "keys.json": str(tmp_path / "keys.json"),
        }
        sources = f'["{real.source.url}"]'
        patient = _replaced(text, places).replace(sources, f"{sources}, timeout: 100s")
        (tmp_path / "gateway.yml").write_text(patient)
        lines = _replaced("".join(SH.findall(PAGE.read_text())), places).splitlines()
        results = [run(*words) for line in lines if (words := _of_gateway(line))]
        (curl,) = (line for line in lines if "curl" in line)
        models = json.loads(ask(shlex.split(curl)[-1])[2])["models"]

    assert [0] * 6 == [one.exit_code for one in results], [one.output for one in results]
    assert f"ok instances=1 models=1 source={real.source.url}\n" == results[0].stdout
    assert "ann" in results[3].stdout
    assert [MODEL] == [model["name"] for model in models]
    assert (tmp_path / "etc/gateway/nginx.conf").exists()


def _replaced(text: str, places: dict[str, str]) -> str:
    for ours, theirs in places.items():
        text = text.replace(ours, theirs)
    return text


def _of_gateway(line: str) -> list[str]:
    """Return the words after `ollama-fleet gateway`, if the line has it."""
    return shlex.split(line.partition("ollama-fleet gateway ")[2])
