"""The demo itself, smaller: what `make demo` starts, with its two real LLM servers."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from provisioning.stack import status
from tests.waiting import eventually

DEMO_S = 90.0
SEEN_S = 20.0


@asynccontextmanager
async def _demo(run_dir: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run the demo; give it and what it has said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ollama_fleet", "up", f"--run-dir={run_dir}"),
        *("--simulated=30", "--llama-servers=2", "--poll-interval=1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        said = await asyncio.wait_for(process.stdout.readuntil(b"Ctrl-C stops"), DEMO_S)
        yield process, said.decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.timeout(DEMO_S + 60)
async def test_what_the_demo_says_is_true_and_it_leaves_nothing(
    prometheus_binary: Path, tmp_path: Path
) -> None:
    """That the alert fires after its two minutes is left to the rules' own tests."""
    async with _demo(tmp_path) as (process, said), aiohttp.ClientSession() as session:
        assert "32 of 32 instances healthy" in said
        assert "tokens/s; no alert fires (Prometheus says so)" in said
        assert [] == [url for url in _urls(said) if not await _answers(session, url)]
        break_command, heal_command = (line for line in said.splitlines() if "curl" in line)
        unreachable = next(url for url in _urls(said) if url.endswith("status=unreachable"))

        (alert,) = re.findall(r"wait about two minutes: (\w+) fires", said)
        rule = _rule(tmp_path, alert)
        assert ("2m", "6m") == (rule["for"], rule["keep_firing_for"])
        (received,) = (url for url in _urls(said) if url.endswith("/api/v2/alerts"))
        await eventually(lambda: _has_alert(session, received, "Watchdog"), within_s=SEEN_S)

        await _run(session, break_command)
        await eventually(lambda: _n_listed(session, unreachable, 20), within_s=SEEN_S)
        await eventually(lambda: _is_pending(session, said, alert), within_s=SEEN_S)
        await _run(session, heal_command)
        await eventually(lambda: _n_listed(session, unreachable, 0), within_s=SEEN_S)

        members = _members(process.pid)
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 20)

    assert 0 == process.returncode
    assert 6 <= len(members)  # fleet, two LLM servers, exporter, Prometheus, Alertmanager
    assert [] == [pid for pid in members if Path(f"/proc/{pid}").exists()]


def _urls(said: str) -> list[str]:
    """Return the URLs to look at, which stand at the end of lines after a few words."""
    return re.findall(r"^  [^\n]*  (http://\S+)$", said, re.MULTILINE)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(url) as answer:
        return answer.status == 200


async def _run(session: aiohttp.ClientSession, command: str) -> None:
    """Send what a printed curl command sends; curl itself is not on every machine."""
    (token_file,) = re.findall(r"\$\(cat (.+?)\)", command)
    token = Path(*shlex.split(token_file)).read_text().strip()
    words = shlex.split(re.sub(r"\$\(cat .+?\)", token, command))
    header = dict([words[words.index("-H") + 1].split(": ", 1)])
    method = words[words.index("-X") + 1] if "-X" in words else "POST"
    data = words[words.index("-d") + 1] if "-d" in words else None
    async with session.request(method, words[-1], headers=header, data=data) as answer:
        answer.raise_for_status()


async def _n_listed(session: aiohttp.ClientSession, url: str, n: int) -> bool:
    async with session.get(url) as answer:
        return len(await answer.json()) == n


def _rule(run_dir: Path, alert: str) -> dict[str, Any]:
    """Return the rule that was built for an alert."""
    (found,) = (
        rule
        for path in run_dir.glob("alerts/rules/*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if rule.get("alert") == alert
    )
    return dict(found)


async def _has_alert(session: aiohttp.ClientSession, url: str, name: str) -> bool:
    async with session.get(url) as answer:
        return name in [alert["labels"]["alertname"] for alert in await answer.json()]


async def _is_pending(session: aiohttp.ClientSession, said: str, name: str) -> bool:
    (prometheus_url,) = re.findall(r"(http://\S+)/api/v1/query\?", said)
    seen = await status.ask(session, prometheus_url)
    return name in [alert.name for alert in seen.pending]


def _members(pid: int) -> list[int]:
    """Return the process and all that it and its children have started."""
    children = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(text) for text in path.read_text().split()]
    return [pid, *(member for child in children for member in _members(child))]
