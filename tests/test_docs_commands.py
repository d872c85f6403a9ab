"""The commands and files of README, tutorials, how-to pages and the pages of programs work.

They run in a folder of their own beside a simulated fleet, an exporter, a provisioner, Prometheus,
Alertmanager and what answers as Grafana does.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from provisioning.demo import processes
from tests.alerts.test_runbook_commands import Live, live
from tests.conftest import ROOT, program
from tests.dashboards.grafana_server import TOKEN, grafana
from tests.ports import free_port
from tests.waiting import eventually

PAGES = (
    ROOT / "README.md",
    ROOT / "docs/upgrading.md",
    *(
        ROOT / f"docs/{name}.md"
        for name in ("exporter", "installation", "inventory", "provisioner")
    ),
    *sorted((ROOT / "docs/tutorials").glob("*.md")),
    *sorted((ROOT / "docs/how-to").glob("*.md")),
)
FENCE = re.compile(r'(?ms)^( *)```(\w+)(?: title="([^"]+)")?\n(.*?)^ *```')
ELSEWHERE = {
    "apt-get": "changes the machine",
    "pipx": "tests/test_install_real.py",
    "git": "needs the network",
    "make": "is what runs this",
    "systemctl": "needs systemd",
    "journalctl": "needs systemd",
    "kubectl": "needs a cluster",
    "skopeo": "needs a registry",
    "docker": "tests/test_image.py",
    "install": "needs the Debian package's user",
}
"""Commands that do not run here, and why, or where they do."""
OF_A_LAB = re.compile(r"(?m)^ollama-fleet .*(?:--fleet lab|lab\.yml|:8080/instances).*$")
"""Of the README's lab, which needs Ollama: tests/e2e/test_provisioner_ollama.py."""
OF_THE_MACHINE = ("alertmanager", "ollama-fleet", "prometheus", "systemd")
"""Folders of /etc that pages write to."""
ANSWERS_BY_STATUS = ("alerts check", "alerts backtest", "alerts tune", "slo report")
"""Commands whose exit status 1 is an answer; 2 would be a failure."""
THEIRS = """
route:
  receiver: mine
receivers:
  - name: mine
"""
"""An Alertmanager's configuration before ours is merged into it."""
PREAMBLE = """
set -u
note() { printf '%s\\n' "$*" >> "$FAILURES"; }
trap 'jobs -p | xargs -r kill' EXIT
command_not_found_handle() { note "there is no command $1"; return 127; }
sudo() { while [[ "$1" == *=* ]]; do shift; done; "$@"; }
curl() { command curl "$@" || note "curl $*"; }
promtool() { "$PROMTOOL" "$@" || note "promtool $*"; }
amtool() { "$AMTOOL" "$@" || note "amtool $*"; }
python3() { "$PYTHON" "$@" || note "python3 $*"; }
is_answer() { [ "$1" = 0 ] || { [ "$1" = 1 ] && [[ " $ANSWERS " == *" $2 $3 "* ]]; }; }
ollama-fleet() {
  if [ "$1" = exporter ] && [[ "$*" != *--check* && "$*" != *systemd* ]]; then
    "$PYTHON" -P -m ollama_fleet "$@" >> "$FAILURES.log" 2>&1 &
    command curl -fsS --retry 300 --retry-delay 1 --retry-all-errors "$STARTED/-/ready" \\
      > "$FAILURES.ready" 2>&1 ||
      note "ollama-fleet $*: $(tail -n 3 "$FAILURES.log")"
    return
  fi
  "$PYTHON" -P -m ollama_fleet "$@"; local status=$?
  is_answer "$status" "$1" "${2-}" || note "ollama-fleet $* ended with $status"
}
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: commands, or a file with its name."""

    language: str
    name: str
    text: str


def blocks(text: str) -> list[Block]:
    """Return commands and named files of a page, in its order."""
    found = [
        Block(language, name, re.sub(f"(?m)^{indent}", "", body))
        for indent, language, name, body in FENCE.findall(text)
    ]
    return [one for one in found if one.name or one.language == "sh"]


def script(page: Path) -> str:
    """Return what a reader of the page does."""
    return "".join(
        f"mkdir -p $(dirname {one.name}); cat > {one.name} <<'END'\n{one.text}END\n"
        if one.name
        else OF_A_LAB.sub("", one.text)
        for one in blocks(page.read_text(encoding="utf-8"))
    )


def places(running: Live, folder: Path, grafana_url: str, exporter: str) -> Mapping[str, str]:
    """Return what stands in the documentation, and what there is instead."""
    urls = [one["url"] for one in json.loads(Path(running.environ["INVENTORY"]).read_text())]
    return {
        **{f"http://192.168.1.{n}:11434": urls[n] for n in range(11, 17)},
        "http://127.0.0.1:9090": running.environ["PROMETHEUS"],
        "http://127.0.0.1:11440": exporter,
        ":11440": f":{exporter.rpartition(':')[2]}",
        "https://grafana.example.org": grafana_url,
        **{f"/etc/{one}": f"{folder}/etc/{one}" for one in OF_THE_MACHINE},
    }


async def failure(page: Path, folder: Path, running: Live, grafana_url: str) -> str:
    """Do what a page says; return what failed, or why it ended early."""
    folder.mkdir()
    for name in ("alertmanager", "systemd/system"):
        (folder / "etc" / name).mkdir(parents=True)
    (folder / "grafana.token").write_text(TOKEN)
    (folder / "alerts.yml").touch()
    (folder / "fleet.yml").write_text(Path(running.environ["INVENTORY"]).read_text())
    (folder / "exporter.yml").write_text("inventory: fleet.yml\n")
    (folder / "etc/alertmanager/alertmanager.yml").write_text(THEIRS)
    text = script(page)
    exporter = f"http://127.0.0.1:{free_port()}"
    for ours, theirs in places(running, folder, grafana_url, exporter).items():
        text = text.replace(ours, theirs)
    silent = "".join(f"{name}() {{ :; }}\n" for name in ELSEWHERE)
    failures = folder / "failures"
    failures.touch()
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"{PREAMBLE}{silent}{text}\necho reached the end"),
        env={
            **processes.our_environ(running.environ),
            **running.environ,
            "ANSWERS": " ".join(ANSWERS_BY_STATUS),
            "AMTOOL": str(program("amtool")),
            "FAILURES": str(failures),
            "OLLAMA_FLEET_WEB_LISTEN_ADDRESS": exporter.removeprefix("http://"),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PROMTOOL": str(program("promtool")),
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "STARTED": exporter,
        },
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    if said.decode().endswith("reached the end\n") and not failures.read_text():
        return ""
    return f"{failures.read_text()}{errors.decode()[-3000:]}" or "ended early"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_what_the_documentation_says_works(tmp_path: Path) -> None:
    async with live(tmp_path) as running:
        await eventually(lambda: running.has('ALERTS{alertname="Watchdog"}'))
        with grafana() as server:
            failed = {
                page.name: text
                for page in PAGES
                if (text := await failure(page, tmp_path / f"of-{page.stem}", running, server.url))
            }

    assert {} == failed


def test_every_file_in_a_page_is_yaml() -> None:
    named = [one for page in PAGES for one in blocks(page.read_text()) if one.name]

    assert 5 < len(named)
    assert all(yaml.safe_load(one.text) for one in named if one.name.endswith(".yml"))
