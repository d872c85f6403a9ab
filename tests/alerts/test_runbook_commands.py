"""The commands and queries of the runbooks run, where all that they ask is running.

That is a simulated fleet in which things are wrong, with its exporter, a provisioner, Prometheus
with our rules, and Alertmanager. Commands of Linux that ask a node what it went through are known
by name only.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import promql_parser
import pytest

from alerts.cli import CONFIG_FILE_VARIABLE
from provisioning.demo import observers, processes
from provisioning.demo.observers import PrometheusSettings
from provisioning.demo.processes import Children, ChildSpec
from tests import keeper
from tests.alerts import runbooks
from tests.conftest import ROOT, program
from tests.ports import free_ports
from tests.waiting import eventually

PAGES = runbooks.read_all()
TOOLS = ("bash", "curl", "date", "grep", "head", "sort", "tail", "uniq")
LOOKS = ("free", "ps", "ss", "top", "uname")
"""Commands of Linux that only look, and that not every machine has."""
OTHERS = ("cat", "df", "dmesg", "ip", "nvidia-smi", "systemctl")
"""Those that say something on the machine in question only, or to root only."""
PREAMBLE = """
set -u
note() { printf '%s\\n' "$*" >> "$FAILURES"; }
command_not_found_handle() { note "there is no command $1"; return 127; }
ollama-fleet() {
  local said="$SAID/${*//\\//_}"
  [ -e "$said" ] || "$PYTHON" -P -m ollama_fleet "$@" > "$said" || note "ollama-fleet $*"
  cat "$said"
}
python3() { "$PYTHON" "$@" || note "python3 $*"; }
"""
WATCHED = '{0}() {{ command {0} "$@" || note "{0} $*"; }}\n'
SILENT = "{0}() {{ :; }}\n"
FOREIGN = re.compile(r"\b(?:alertmanager|prometheus)_[a-z_]+")


@dataclass(frozen=True, slots=True)
class Live:
    """A simulated fleet in which things are wrong, and all that watches it."""

    environ: dict[str, str]
    session: aiohttp.ClientSession

    async def query(self, expression: str) -> dict[str, Any]:
        """Return Prometheus' answer, its error included."""
        url = f"{self.environ['PROMETHEUS']}/api/v1/query"
        async with self.session.post(url, data={"query": expression}) as answer:
            body: dict[str, Any] = await answer.json()
        return body

    async def has(self, expression: str) -> bool:
        body = await self.query(expression)
        return bool(body.get("data", {}).get("result"))


@asynccontextmanager
async def live(folder: Path) -> AsyncIterator[Live]:
    """Run everything that runbooks ask, on free ports."""
    urls = [f"127.0.0.1:{port}" for port in free_ports(6)]
    simulated, control, exporter, observer, notifier, provisioner = urls
    inventory = folder / "fleet.json"
    settings = PrometheusSettings(
        exporter,
        observer,
        interval_s=1,
        rule_files=(str(folder / "alerts/rules/*.yml"),),
        alertmanager_address=notifier,
        provisioner_address=provisioner,
    )
    rules = folder / "rules.yml"
    rules.write_text(
        "prometheus: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
    )
    observers.build_alerts(observers.alerts_command(folder / "alerts", interval_s=1, options=()))
    (folder / "prometheus.yml").write_text(observers.prometheus_config(settings))
    environ = {
        "EXPORTER": f"http://{exporter}",
        "PROMETHEUS": f"http://{observer}",
        "ALERTMANAGER": f"http://{notifier}",
        "INVENTORY": str(inventory),
        CONFIG_FILE_VARIABLE: str(rules),
        "PROVISIONER": f"http://{provisioner}",
        **keeper.environ(folder, provisioner),
    }
    async with Children(folder) as children, aiohttp.ClientSession() as session:
        await children.start(_fleet(folder, inventory, simulated, control))
        await children.start(
            _exporter(inventory, exporter),
            _prometheus(folder, settings),
            _notifier(folder, notifier),
        )
        await keeper.start(children, folder, provisioner)
        yield Live(environ, session)


def _fleet(folder: Path, inventory: Path, address: str, control: str) -> ChildSpec:
    command = processes.our_command(
        *("simulate", "--instances=40", "--nodes=4", "--request-histogram"),
        *("--fault=kill:count=3", "--fault=no_metrics:count=2"),
        f"--listen-port={address.rpartition(':')[2]}",
        f"--control.listen-address={control}",
        f"--control.token-file={folder / 'token'}",
        f"--inventory={inventory}",
    )
    return ChildSpec("simulate", command, f"http://{control}/-/healthy")


def _exporter(inventory: Path, address: str) -> ChildSpec:
    command = processes.our_command(
        *("exporter", f"--inventory={inventory}", f"--web.listen-address={address}"),
        *("--poll.interval=1s", "--poll.health-timeout=900ms", "--poll.metrics-timeout=950ms"),
    )
    return ChildSpec("exporter", command, f"http://{address}/-/ready")


def _prometheus(folder: Path, settings: PrometheusSettings) -> ChildSpec:
    command = observers.prometheus_command(
        program("prometheus"),
        config=folder / "prometheus.yml",
        data_dir=folder / "prometheus",
        settings=settings,
    )
    return ChildSpec("prometheus", command, f"http://{settings.address}/-/ready")


def _notifier(folder: Path, address: str) -> ChildSpec:
    command = observers.alertmanager_command(
        program("alertmanager"),
        config=folder / "alerts/alertmanager.yml",
        data_dir=folder / "alertmanager",
        address=address,
    )
    return ChildSpec("alertmanager", command, f"http://{address}/-/ready")


async def _query_faults(running: Live) -> list[tuple[str, str, Any]]:
    """Return which queries err; series of others that pages name must really be there."""
    await eventually(lambda: running.has("fleet:ollama_generated_tokens:rate"))
    await eventually(lambda: running.has("count(up == 1) == 4"))
    queries = [(page.name, query) for page in PAGES for query in page.queries]
    assert 100 < len(queries)
    answers = [(name, query, await running.query(query)) for name, query in queries]
    foreign = {
        selector.name
        for query in dict.fromkeys(query for _, query in queries)
        for selector in runbooks.selectors(promql_parser.parse(query))
        if selector.name and "ollama_" not in selector.name
    }
    foreign |= {name for page in PAGES for name in FOREIGN.findall(page.text)}
    # One after the other: a scrape that takes too long ends a target's series until the next.
    for name in sorted(foreign):
        await eventually(partial(running.has, name))
    return [(n, q, a) for n, q, a in answers if a["status"] != "success" or "warnings" in a]


def _give_up(what_to_install: str) -> NoReturn:
    """Skip the test, or in continuous integration fail it, as `program` does."""
    if os.environ.get("CI") == "true":
        pytest.fail(what_to_install, pytrace=False)
    pytest.skip(what_to_install)


def _bin(folder: Path) -> Path:
    """Make a folder with the programs that runbooks may use, and no others."""
    if not shutil.which("curl"):
        _give_up("install curl, which the runbooks' commands need: apt-get install curl")
    folder.mkdir()
    (folder / "promtool").symlink_to(program("promtool"))
    for name in (*TOOLS, *LOOKS):
        if path := shutil.which(name):
            (folder / name).symlink_to(path)
    return folder


@pytest.mark.parametrize(
    ("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_without_curl_continuous_integration_fails_and_others_are_told_to_install_it(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", str(tmp_path))

    # Of both kinds: a skip that is not expected would skip this test.
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception), match="curl") as given:
        _bin(tmp_path / "bin")

    assert outcome is given.type


def _preamble() -> str:
    """Return functions that note what fails, in place of the programs."""
    present = [name for name in LOOKS if shutil.which(name)]
    absent = [name for name in LOOKS if name not in present]
    watched = [WATCHED.format(name) for name in ("curl", "promtool", *present)]
    return "".join([PREAMBLE, *watched, *(SILENT.format(name) for name in (*OTHERS, *absent))])


async def _run(script: str, folder: Path, environ: dict[str, str]) -> str:
    """Run a script as a reader would; return what failed, or why it ended early."""
    folder.mkdir()
    failures = folder / "failures"
    failures.touch()
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"{_preamble()}{script}\necho reached the end"),
        env={**environ, "FAILURES": str(failures), "PYTHON": sys.executable},
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    failed = failures.read_text()
    if said.decode().endswith("reached the end\n") and not failed:
        return ""
    return f"{failed}{errors.decode()}" or "ended early"


@pytest.mark.timeout(300)
async def test_every_command_and_query_runs_against_a_live_fleet(tmp_path: Path) -> None:
    """All shell blocks of a page, one after the other in one shell, with only what they set.

    A command of ours that several pages have runs once.
    """
    path, said = _bin(tmp_path / "bin"), tmp_path / "said"
    said.mkdir()
    async with live(tmp_path) as running:
        await eventually(lambda: running.has('ALERTS{alertname="Watchdog"}'))
        query_faults = await _query_faults(running)
        environ = {
            **processes.our_environ(running.environ),
            **running.environ,
            "PATH": str(path),
            "PYTHONPATH": str(ROOT),
            "SAID": str(said),
        }
        failed = {
            page.name: text
            for page in PAGES
            if (text := await _run(page.script, tmp_path / page.name, environ))
        }
        wrong = {
            "curl": 'curl -fsS "$EXPORTER/instances?status=miserable"',
            "promtool": "promtool query instant \"$PROMETHEUS\" 'up{'",
            "command": "misery --now",
            "variable": 'echo "$MISERY"',
            "ollama-fleet": "ollama-fleet alerts improve",
            "syntax": "for x in 1 2; do",
        }
        found = {
            name: await _run(script, tmp_path / f"wrong-{name}", environ)
            for name, script in wrong.items()
        }

    assert [] == query_faults
    assert {} == failed
    assert [] == [name for name, text in found.items() if not text]
