from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.bench.bench import BenchError, cpu_by_cycle, output_of
from tests.bench.dead import with_port
from tests.bench.fleet import parse_announcement
from tests.waiting import eventually


def _python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


async def test_the_output_of_a_command_is_returned() -> None:
    assert b"7\n" == await output_of(_python("print(7)"), within_s=90.0)


async def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(BenchError, match="status 3:\nbecause"):
        await output_of(
            _python("import sys; print('because', file=sys.stderr); sys.exit(3)"), within_s=90.0
        )


async def test_a_command_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    # Written whole: a busy machine may end it at any moment.
    code = f"echo $$ > {file}.new && mv {file}.new {file} && exec sleep 600"
    within_s = 0.25
    while not file.exists():
        within_s *= 2
        with pytest.raises(BenchError, match=f"did not end within {within_s:g} s"):
            await output_of(("sh", "-c", code), within_s=within_s)

    with pytest.raises(ProcessLookupError):
        os.kill(int(file.read_text()), 0)


async def test_cpu_time_is_told_cycle_by_cycle() -> None:
    started_s = time.monotonic()
    cycles = await cpu_by_cycle(os.getpid(), n_cycles=3, interval_s=0.05)

    assert 3 == len(cycles)
    assert time.monotonic() - started_s >= 0.15
    assert all(cycle.total_s >= 0 for cycle in cycles)


def test_the_announcement_is_found_among_the_words() -> None:
    said = (
        'simulating 2\n{"listen_port":5,"control_url":"http://x","token_file":"t","instances":2}\n'
    )

    assert 5 == parse_announcement(said).listen_port


def test_a_simulator_without_an_announcement_is_an_error() -> None:
    with pytest.raises(BenchError, match="announced nothing"):
        parse_announcement("Error: port taken\n")


def test_a_share_of_the_inventory_moves_spread_over_the_whole() -> None:
    entries: list[dict[str, object]] = [
        {"id": str(n), "url": f"http://127.1.0.{n}:80"} for n in range(1, 5)
    ]

    moved = with_port(entries, 9, share=0.5)

    assert [80, 9, 80, 9] == [urlsplit(str(entry["url"])).port for entry in moved]
    assert [entry["id"] for entry in entries] == [entry["id"] for entry in moved]
    assert "http://127.1.0.2:9" == moved[1]["url"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_run_that_is_stopped_leaves_no_process(number: signal.Signals) -> None:
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench", "--instances=4", "--only=ours"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await eventually(lambda: _runs_two(run), within_s=90.0)
        children = _children_of(run.pid)
        run.send_signal(number)
        output, errors = await asyncio.wait_for(run.communicate(), timeout=90.0)
    finally:
        if run.returncode is None:
            run.kill()
        await run.wait()

    assert (1, b"", b"Aborted!\n") == (run.returncode, output, errors)
    assert [] == [pid for pid in children if Path(f"/proc/{pid}").exists()]


async def _runs_two(run: asyncio.subprocess.Process) -> bool:
    """Return whether a run has both of its processes; fail with its words if it has ended."""
    if run.returncode is not None:
        raise AssertionError(await run.communicate())
    return 2 == len(_children_of(run.pid))


def _children_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in children.read_text().split()] if children.exists() else []


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    command = [sys.executable, "-m", "tests.bench", "--only=nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 2 == done.returncode
    assert "'ours'" in done.stderr
