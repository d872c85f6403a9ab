"""The README's fleet on one machine: Ollama on PATH, a file of ten lines, two commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import stub_ollama
from tests.e2e.provisioner import Lab, UnitProcess, command_lines, fetch
from tests.test_readme import README

(LAB,) = re.findall(r"`lab\.yml`:\n\n```yaml\n(.*?)```", README, re.DOTALL)
N, MODEL = 6, "llama3.1:8b"
OWN = {"OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_LOADED_MODELS": "1"}
TINY = "tiny"


class OllamaLab(Lab):
    """A Lab whose units are `ollama serve`, with a home folder of the lab's own."""

    @property
    def home(self) -> Path:
        """Return where Ollama keeps models; in each unit's environment, and in no other lab's."""
        return self.folder / "home"

    def units(self) -> list[UnitProcess]:
        mark = f"HOME={self.home}".encode()
        serving = (pid for pid, words in command_lines() if b"serve" in words)
        return [UnitProcess(pid, "", "", 0) for pid in serving if mark in environment_of(pid)]

    def write(self, text: str) -> Path:
        """Write a specification, whose nodes have this lab's ports: `up` takes the usual ones."""
        own = {key: self.node()[key] for key in ("address", "first_port", "last_port")}
        document = yaml.safe_load(text)
        document["nodes"] = [{**node, **own} for node in document["nodes"]]
        path = self.folder / "lab.yml"
        path.write_text(yaml.safe_dump(document))
        return path


@pytest.fixture
def ollama_lab(tmp_path: Path) -> Iterator[OllamaLab]:
    made = OllamaLab(tmp_path)
    made.home.mkdir()
    made.environment["HOME"] = str(made.home)
    try:
        yield made
    finally:
        made.clean_up()


@pytest.fixture
def stub(ollama_lab: OllamaLab) -> Path:
    """Put something that answers as Ollama does first on PATH; return its folder."""
    folder = ollama_lab.folder / "bin"
    folder.mkdir()
    program = folder / "ollama"
    program.write_text(f"#!{sys.executable} -IS\n{Path(stub_ollama.__file__).read_text()}")
    program.chmod(0o755)
    ollama_lab.environment["PATH"] = f"{folder}:{os.environ['PATH']}"
    return folder


async def test_the_readmes_fleet_has_six_ollamas_each_with_its_model_loaded(
    ollama_lab: OllamaLab, stub: Path
) -> None:
    one = await ollama_lab.started()

    applied = await ollama_lab.run("provisioner", "apply", str(ollama_lab.write(LAB)))

    assert 0 == applied.returncode, applied.stderr
    assert f"{N} of {N} instances ready" in applied.stderr
    instances = await one.instances()
    asked = [noted(path) for path in stub.glob("*.asked")]
    addresses = {each["url"].removeprefix("http://") for each in instances}
    assert N == len(asked) == len(addresses)
    assert addresses == {begun["environment"]["OLLAMA_HOST"] for begun, *_ in asked}
    for begun, *requests in asked:
        assert ["serve"] == begun["arguments"]
        assert OWN.items() <= begun["environment"].items()
        assert [
            {"path": "/api/pull", "body": {"model": MODEL, "stream": False}},
            {
                "path": "/api/generate",
                "body": {"model": MODEL, "stream": False, "keep_alive": -1},
            },
        ] == requests


async def test_a_real_ollama_is_started_and_has_its_model_loaded(
    ollama_lab: OllamaLab, tiny_model: Path
) -> None:
    """As the README's, with a model that is made here, not pulled."""
    if shutil.which("ollama") is None:
        pytest.skip("no ollama on PATH: https://ollama.com/download installs it")
    one = await ollama_lab.started()
    empty = LAB.replace(MODEL, TINY).replace(f"count: {N}", "count: 1") + "    warm_up: none\n"
    loaded = f"  - {{name: loaded, model: {TINY}, count: 2, warm_up: load}}\n"

    await ollama_lab.done("provisioner", "apply", str(ollama_lab.write(empty)))
    (first,) = await one.instances()
    create(first["url"], ollama_lab, tiny_model)
    await ollama_lab.done("provisioner", "apply", str(ollama_lab.write(empty + loaded)))

    urls = [each["url"] for each in await one.instances() if each["pool"] == "loaded"]
    models = [fetch(f"{url}/api/ps").json["models"] for url in urls]
    assert [[f"{TINY}:latest"]] * 2 == [[model["name"] for model in some] for some in models]


def create(url: str, made: OllamaLab, model: Path) -> None:
    """Make a model of a file, which all Ollamas of one home folder have then."""
    modelfile = made.folder / "Modelfile"
    modelfile.write_text(f"FROM {model}\n")
    environment = {**made.environment, "OLLAMA_HOST": url}
    command = ("ollama", "create", TINY, "-f", modelfile)
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)


def noted(path: Path) -> list[dict[str, Any]]:
    """Return what one process has written down."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def environment_of(pid: int) -> list[bytes]:
    """Return a process's environment; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
