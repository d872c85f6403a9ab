from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from provisioning.demo import llama, programs
from provisioning.demo.errors import DemoError, ProgramError
from tests.conftest import StartLlamaServer


async def _get(url: str) -> str:
    async with aiohttp.ClientSession(raise_for_status=True) as session, session.get(url) as answer:
        return await answer.text()


async def test_a_real_llama_server_answers_health_metrics_and_completion(
    start_llama_server: StartLlamaServer,
) -> None:
    server = await start_llama_server()

    text = await server.complete("abc", n_tokens=32)
    metrics = await _get(f"{server.url}/metrics")

    assert '{"status":"ok"}' == await _get(f"{server.url}/health")
    assert 32 == len(text)
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyz ")
    assert "llamacpp:tokens_predicted_total 32" in metrics.splitlines()


async def test_a_llama_server_ends_with_status_0_on_sigterm(
    start_llama_server: StartLlamaServer,
) -> None:
    server = await start_llama_server()

    server.process.send_signal(signal.SIGTERM)

    assert 0 == await asyncio.wait_for(server.process.wait(), 60)


async def test_a_llama_server_ends_with_its_owner(
    tiny_model: Path,
) -> None:
    owner = await asyncio.create_subprocess_exec("sleep", "600")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_fleet", "llama-server", f"--model={tiny_model}"),
        f"--ends-with={owner.pid}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert b"http://" in await asyncio.wait_for(process.stdout.readline(), 60)

    owner.kill()

    assert 0 == await asyncio.wait_for(process.wait(), 60)
    await owner.wait()


async def test_a_file_that_is_no_model_is_refused_with_its_path(tmp_path: Path) -> None:
    model = tmp_path / "empty.gguf"
    model.touch()

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_fleet", "llama-server", "--model", str(model)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()

    assert 1 == process.returncode
    assert f"cannot serve {model}" in stderr.decode()


class _ModelPackage:
    """Stands for the package that carries the model: this one writes a few bytes."""

    MODEL_NAME = "model.gguf"

    def __init__(self) -> None:
        self.n_assembled = 0
        self.failure: Exception | None = None

    def assemble(self, path: Path) -> Path:
        self.n_assembled += 1
        path.write_bytes(b"GGUF")
        if self.failure is not None:
            raise self.failure
        return path


@pytest.fixture
def model_package(monkeypatch: pytest.MonkeyPatch) -> _ModelPackage:
    package = _ModelPackage()
    monkeypatch.setitem(sys.modules, llama.MODEL_PACKAGE, package)
    return package


def test_the_model_is_put_together_once(tmp_path: Path, model_package: _ModelPackage) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}

    first, second = llama.model_file(environ), llama.model_file(environ)

    assert tmp_path / "ollama-fleet/models/model.gguf" == first == second
    assert b"GGUF" == first.read_bytes()
    assert 1 == model_package.n_assembled


def test_a_cache_that_cannot_be_written_is_reported_with_the_variable_that_moves_it(
    tmp_path: Path, model_package: _ModelPackage
) -> None:
    cache = tmp_path / "file"
    cache.touch()

    with pytest.raises(DemoError, match=rf"{cache}/ollama-fleet/models: .*XDG_CACHE_HOME"):
        llama.model_file({"XDG_CACHE_HOME": str(cache)})


def test_a_full_disk_is_reported_and_leaves_no_part_of_the_model(
    tmp_path: Path, model_package: _ModelPackage
) -> None:
    model_package.failure = OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DemoError, match="No space left on device; make room for 250 MB"):
        llama.model_file({"XDG_CACHE_HOME": str(tmp_path)})

    assert [] == list((tmp_path / "ollama-fleet/models").iterdir())


def test_a_missing_package_is_answered_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, llama.MODEL_PACKAGE, None)

    with pytest.raises(DemoError, match=r"pip install 'ollama-fleet\[demo\]'"):
        llama.model_file({"XDG_CACHE_HOME": str(tmp_path)})


def test_a_missing_library_is_fetched_and_found_by_its_name_from_then_on() -> None:
    """In a process of its own: what is loaded stays loaded."""
    script = f"""
import ctypes, pathlib
from provisioning.demo import llama
folder = pathlib.Path({str(programs.default_dir(os.environ))!r})
llama.load_library("libyajl.so.2", package="libyajl2", programs_dir=folder, say=print)
ctypes.CDLL("libyajl.so.2")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert (0, "") == (done.returncode, done.stderr)


def test_a_library_that_is_missing_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ProgramError, match="sudo apt-get install no-such-package-here"):
        llama.load_library(
            "libnothing.so.1", package="no-such-package-here", programs_dir=tmp_path, say=print
        )
