"""An engine is added as docs/engines.md says: one file and one line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path

import aiohttp
import pytest

from exporter.engines import ENGINES
from tests.exporter.engines.bodies import ANSWERS
from tests.exporter.servers import answering, serving
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "engines.md").read_text()
CODE, LINE = re.findall(r"(?s)```(?:python|text)\n(.*?)```", PAGE)
ACME = {
    "/health": b"ok",
    "/about": b'{"version":"2.1"}',
    "/metrics": b"""\
# HELP acme_running Requests.
# TYPE acme_running gauge
acme_running{model="m",gpu="0"} 1
acme_running{model="m",gpu="1"} 2
# TYPE acme_queue_length gauge
acme_queue_length{model="m"} 4
# TYPE acme_failures_total counter
acme_failures_total{reason="oom"} 5
# TYPE acme_request_seconds histogram
acme_request_seconds_bucket{le="0.3"} 1
acme_request_seconds_bucket{le="+Inf"} 2
acme_request_seconds_sum 0.9
acme_request_seconds_count 2
""",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the product with the page's engine added."""
    for package in ("exporter", "ollama_fleet"):
        shutil.copytree(ROOT / package, tmp_path / package)
    folder = tmp_path / "exporter" / "engines"
    (folder / "acme.py").write_text(CODE)
    registry = folder / "__init__.py"
    text = registry.read_text()
    assert '    "tgi",\n' in text
    registry.write_text(text.replace('    "tgi",\n', f'    "tgi",\n{LINE}'))
    return tmp_path


async def test_the_engine_of_the_page_is_recognised_read_and_published(tree: Path) -> None:
    async with serving(answering(ACME)) as port:
        fleet = [{"id": "a", "host": "127.0.0.1", "port": port}]
        (tree / "fleet.json").write_text(json.dumps(fleet))
        exporter = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ollama_fleet", "exporter", "--inventory", "fleet.json"),
            *("--poll.interval", "6s", "--web.listen-address", "127.0.0.1:0"),
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            page = await published(await address_of(exporter))
        finally:
            exporter.terminate()
            await exporter.wait()

    of_a = 'instance_id="a",node="127.0.0.1"'
    assert f"ollama_instance_requests_running{{{of_a}}} 3.0\n" in page
    assert f"ollama_instance_requests_queued{{{of_a}}} 4.0\n" in page
    assert f'ollama_instance_errors_total{{{of_a},error_type="oom"}} 5.0\n' in page
    assert f'{{{of_a},model="m",engine="acme",version="2.1",developer=""}} 1\n' in page
    assert 'ollama_fleet_request_duration_seconds_bucket{shard="0",model="m",le="0.3"}' in page


async def address_of(exporter: asyncio.subprocess.Process) -> str:
    assert exporter.stderr is not None
    log = ""
    while line := (await exporter.stderr.readline()).decode():
        log += line
        if found := re.search(r"(127\.0\.0\.1:[1-9]\d*)", line):
            return found[1]
    raise AssertionError(log)


async def published(address: str) -> str:
    pages: list[str] = []

    async def is_read() -> bool:
        async with session.get(f"http://{address}/metrics") as response:
            pages.append(await response.text())
        return 'engine="acme"' in pages[-1]

    async with aiohttp.ClientSession() as session:
        await eventually(is_read)
    return pages[-1]


def test_every_engine_reads_the_answers_of_its_own_server_and_no_other_takes_them() -> None:
    assert {engine.name for engine in ENGINES} == set(ANSWERS)
    for name, answers in ANSWERS.items():
        takers = [engine.name for engine in ENGINES if engine.recognise(answers)]
        assert [name] == takers


def test_an_engine_asks_for_nothing_that_it_does_not_read() -> None:
    """Each path that it asks for has an answer here, and its health check comes first."""
    for engine in ENGINES:
        answers = ANSWERS[engine.name]
        asked = {*engine.requests, *engine.identity_requests, *engine.costly_requests}
        assert asked == set(answers) - {"/metrics"} | (asked & {"/metrics"})
        assert set(engine.requests_for(answers)) <= asked
