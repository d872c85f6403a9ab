"""A real Ollama, where one is installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provisioning.demo.processes import Children, ChildSpec
from tests.e2e.running import running
from tests.ports import free_port
from tests.waiting import eventually


@pytest.fixture
async def ollama_url(tmp_path: Path) -> AsyncIterator[str]:
    binary = shutil.which("ollama")
    if binary is None:
        pytest.skip("no ollama on PATH: https://ollama.com/download installs it")
    port = free_port()
    settings = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_MODELS": str(tmp_path / "models")}
    command = (*("env", *(f"{key}={value}" for key, value in settings.items())), binary, "serve")
    logs = tmp_path / "ollama"
    logs.mkdir()
    async with Children(logs) as children:
        await children.start(ChildSpec("ollama", command, f"http://127.0.0.1:{port}/"))
        yield f"http://127.0.0.1:{port}"


async def test_a_stock_ollama_is_recognised_and_healthy(ollama_url: str, tmp_path: Path) -> None:
    inventory = tmp_path / "fleet.json"
    inventory.write_text(json.dumps([{"id": "a", "url": ollama_url, "engine": "auto"}]))

    async with running(tmp_path, inventory) as stack:
        await eventually(lambda: stack.instances(status="healthy"))
        seen = (await stack.instances())[0]

    assert "ollama" == seen["engine"]
    assert seen["version"]
