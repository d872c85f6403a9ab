"""The demo itself, smaller: what `make demo` starts, with its two real LLM servers."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

DEMO_S = 90.0


@pytest.mark.timeout(DEMO_S + 60)
async def test_the_demo_says_what_is_healthy_and_where_to_look(
    prometheus_binary: Path, tmp_path: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ollama_fleet", "up", f"--run-dir={tmp_path}"),
        *("--simulated=30", "--llama-servers=2", "--poll-interval=1"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        said = await asyncio.wait_for(process.stdout.readuntil(b"Ctrl-C stops"), DEMO_S)
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 20)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()

    assert b"32 of 32 instances healthy" in said
    assert b"/instances?status=unhealthy" in said
    assert 0 == process.returncode
