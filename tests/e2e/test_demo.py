"""The demo itself, smaller: what `make demo` starts, with its two real LLM servers; and `up` with
a specification of one's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from provisioning.demo import programs, report
from provisioning.demo.report import FleetStatus
from tests.e2e.provisioner import Lab
from tests.provisioning.demo.standin import is_running
from tests.waiting import eventually

DEMO = ("--simulated=30", "--llama-servers=2")
DEMO_S = 200.0
ENDS_S = 100.0
PAGED_S = 400.0
QUIET_S = 400.0
"""A single late poll stays in an alert's window for as long as five minutes."""
TEST_S = 900.0


@asynccontextmanager
async def _up(run_dir: Path, *options: str) -> AsyncIterator[tuple[Process, str]]:
    """Run `up`; give it and what it has said once all runs."""
    async with _started(run_dir, *options) as process:
        assert process.stdout is not None
        yield process, await _until_up(process, process.stdout)


@asynccontextmanager
async def _started(run_dir: Path, *options: str) -> AsyncIterator[Process]:
    """Start `up`; kill it at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ollama_fleet", "up", f"--run-dir={run_dir}"),
        *("--poll.interval=1s", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.timeout(TEST_S)
async def test_what_the_demo_prints_is_true_and_works_and_it_leaves_nothing(
    prometheus_binary: Path, tmp_path: Path
) -> None:
    async with _up(tmp_path, *DEMO) as (process, said), aiohttp.ClientSession() as session:
        await _until_all_healthy(said, 32)
        assert "(Prometheus says so)" in said
        await eventually(lambda: _is_quiet(said), within_s=QUIET_S)
        assert [] == [url for url in _urls(said) if not await _answers(session, url)]
        (received,) = (url for url in _urls(said) if url.endswith("/api/v2/alerts"))
        await eventually(lambda: _has_alert(session, received, "Watchdog"))

        listing, replacing, applying = _lines(said, "ollama-fleet ")
        environment = {**os.environ, **_exported(said)}
        spec = tmp_path / "fleet.yml"
        spec.write_text(spec.read_text().replace("count: 16", "count: 18"))
        assert "llama-server-00002" in await _said(listing, environment)
        await _said(replacing, environment)
        await eventually(lambda: _n_replaced(session, said, 1))
        assert "34 of 34 instances ready" in await _said(applying, environment)

        kill_command, break_command, heal_command, freeze_command = _lines(said, "curl")
        unreachable = next(url for url in _urls(said) if url.endswith("status=unreachable"))
        (alert,) = re.findall(r"wait about two minutes: (\w+) fires", said)
        stalled = next(url for url in _urls(said) if url.endswith("condition=stalled"))
        await _run(session, freeze_command)
        await _run(session, kill_command)
        await eventually(lambda: _n_replaced(session, said, 21))
        await eventually(lambda: _n_listed(session, stalled, 1))
        metrics, counted = (url for url in _urls(said) if url.endswith("/metrics"))
        asked = 'ollama_gateway_generated_tokens_total{model="gemma3:270m"'
        await eventually(lambda: _contains(session, counted, asked))
        await eventually(
            lambda: _contains(session, metrics, "ollama_fleet_request_duration_seconds_bucket")
        )
        await _run(session, break_command)
        await asyncio.wait_for(_until_said(process, f"page firing: {alert}: "), PAGED_S)
        await _run(session, heal_command)
        await eventually(lambda: _n_listed(session, unreachable, 0))

        members = {*_members(process.pid), *_naming(str(process.pid))}
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(_until_said(process, "service level of this run ("), ENDS_S)
        await asyncio.wait_for(process.wait(), ENDS_S)

    assert 0 == process.returncode
    # up, simulation, provisioner, exporter, Prometheus, Alertmanager, two LLM servers
    assert 8 <= len(members)
    assert [] == [pid for pid in members if is_running(pid)]


@pytest.fixture
def own_model(tiny_model: Path) -> Iterator[Path]:
    """A model whose servers end with the test, also where it fails with some kept."""
    yield tiny_model
    for pid in _naming(str(tiny_model)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.nightly
@pytest.mark.timeout(TEST_S)
async def test_up_keeps_instances_also_if_killed_and_takes_them_over_or_ends_them_as_asked(
    prometheus_binary: Path, own_model: Path, tmp_path: Path
) -> None:
    run_dir, option = tmp_path / "run", f"--spec={_own_spec(tmp_path, own_model)}"

    async with _up(run_dir, option, "--keep-instances") as (process, said):
        await _until_all_healthy(said, 2)
        assert "curl" not in said
        kept = _naming(str(own_model))
        process.kill()  # of which no instance may notice anything
        await asyncio.wait_for(process.wait(), ENDS_S)
    assert 2 == len(kept)
    assert all(map(is_running, kept))

    async with _up(run_dir, option, "--keep-instances") as (process, said):
        await _until_all_healthy(said, 2)
        assert sorted(kept) == sorted(_naming(str(own_model)))
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), ENDS_S)
    assert all(map(is_running, kept))

    async with _started(run_dir, option) as process:
        await eventually(lambda: 2 == len({*_naming(str(own_model))} - {*kept}))
        assert not any(map(is_running, kept))
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), ENDS_S)

    assert 0 == process.returncode
    assert [] == _naming(str(own_model))


def _exported(said: str) -> dict[str, str]:
    """Return the variables that the printed `export` lines set."""
    words = (shlex.split(line)[1].partition("=") for line in _lines(said, "export "))
    return {name: value for name, _, value in words}


async def _until_up(process: Process, output: asyncio.StreamReader) -> str:
    """Return what `up` has said once all runs; where it ends instead, fail with why it does."""
    try:
        return (await asyncio.wait_for(output.readuntil(b"Ctrl-C stops"), DEMO_S)).decode()
    except asyncio.IncompleteReadError as error:
        _, words = await process.communicate()
        pytest.fail(f"`up` ended ({process.returncode}): {error.partial!r}\n{words.decode()}")


async def _until_said(process: Process, words: str) -> None:
    assert process.stderr is not None
    await process.stderr.readuntil(words.encode())


async def _until_all_healthy(said: str, n: int) -> None:
    """What was said is true of its moment: on a busy machine a poll may have timed out then."""
    assert f" of {n} instances healthy" in said
    unreachable = next(url for url in _urls(said) if url.endswith("status=unreachable"))
    healthy = unreachable.replace("unreachable", "healthy")
    async with aiohttp.ClientSession() as session:
        await eventually(lambda: _n_listed(session, healthy, n))


def _own_spec(folder: Path, model: Path) -> Path:
    """Write a specification of two real LLM servers on this machine."""
    command = [
        *(sys.executable, "-P", "-m", "ollama_fleet", "llama-server"),
        *(f"--model={model}", "--host={host}", "--port={port}", "--alias={model}"),
    ]
    environment = {programs.DIR_VARIABLE: os.environ[programs.DIR_VARIABLE]}
    pool = {"engine": "llamacpp", "command": command, "environment": environment}
    return Lab(folder).spec(2, pool={**pool, "cpus": 1, "memory": "1GiB"})


def _lines(said: str, beginning: str) -> list[str]:
    """Return the commands that are told; of our own program the path does not matter."""
    words = [line.strip() for line in said.splitlines()]
    return [line for line in words if re.match(rf"(\S*/)?{beginning}", line)]


async def _said(command: str, environment: Mapping[str, str]) -> str:
    """Run a printed command of ours; return all that it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ollama_fleet", *shlex.split(command)[1:]),
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), ENDS_S)
    assert 0 == process.returncode, output.decode()
    return output.decode()


async def _n_replaced(session: aiohttp.ClientSession, said: str, n: int) -> bool:
    """Return whether at least this many later generations were started and all instances run."""
    (url,) = (url for url in _urls(said) if re.search(r":\d+/instances$", url))
    async with session.get(f"{url}?details=1") as answer:
        listed = await answer.json()
    n_later = sum(one["generation"] - 1 for one in listed)
    return n <= n_later and {"running"} == {one["state"] for one in listed}


def _naming(text: str) -> list[int]:
    """Return the processes with an argument that ends so."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if any(word.endswith(f"={text}") for word in path.read_text().split("\0")):
                found.append(int(path.parent.name))
    return found


def _urls(said: str) -> list[str]:
    """Return the URLs to look at, which stand at the end of lines after a few words."""
    return re.findall(r"^  [^\n]*  (http://\S+)$", said, re.MULTILINE)


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(url) as answer:
        return answer.status == 200


async def _contains(session: aiohttp.ClientSession, url: str, words: str) -> bool:
    async with session.get(url) as answer:
        return words in await answer.text()


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


async def _has_alert(session: aiohttp.ClientSession, url: str, name: str) -> bool:
    async with session.get(url) as answer:
        return name in [alert["labels"]["alertname"] for alert in await answer.json()]


async def _is_quiet(said: str) -> bool:
    """Say whether no alert fires or is pending; one that a late poll has made pending goes."""
    return not (await _status(said)).alerts


async def _status(said: str) -> FleetStatus:
    (prometheus_url,) = re.findall(r"(http://\S+)/api/v1/query\?", said)
    return await report.ask(prometheus_url)


def _members(pid: int) -> list[int]:
    """Return the process and all that it and its children have started."""
    children = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += [int(text) for text in path.read_text().split()]
    return [pid, *(member for child in children for member in _members(child))]
