"""The README's fleet on one machine: Ollama on PATH, a file of ten lines, two commands."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import stub_ollama
from tests.e2e.provisioner import InstanceProcess, Lab, Provisioner, command_lines, fetch, words_of
from tests.e2e.running import Running, running
from tests.test_docs import README
from tests.waiting import eventually

(LAB,) = re.findall(r"`lab\.yml`:\n\n```yaml\n(.*?)```", README, re.DOTALL)
N, MODEL = 6, "llama3.1:8b"
OWN = {"OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_LOADED_MODELS": "1"}
TINY = "tiny"


class OllamaLab(Lab):
    """A Lab whose instances are `ollama serve`, with a home folder of the lab's own."""

    @property
    def home(self) -> Path:
        """Return where Ollama keeps models; in each instance's environment, in no other lab's."""
        return self.folder / "home"

    def processes(self) -> list[InstanceProcess]:
        """Return all processes of the lab but provisioners: servers, and the runners they made."""
        mark = f"HOME={self.home}".encode()
        own = {one.process.pid for one in self.provisioners if one.process}
        return [
            InstanceProcess(pid, "", "", 0)
            for pid, _ in command_lines()
            if pid not in own and mark in environment_of(pid)
        ]

    def pids(self, word: bytes) -> set[int]:
        """Return the processes with a word in their command lines: `serve` or `runner`."""
        return {one.pid for one in self.processes() if word in words_of(one.pid)}

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
    assert [] == made.processes()


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


@pytest.fixture(params=["stub", "real"])
def either(request: pytest.FixtureRequest) -> None:
    """Have what answers as Ollama does on PATH, then a real one."""
    if request.param == "stub":
        request.getfixturevalue("stub")
    elif shutil.which("ollama") is None:
        pytest.skip("no ollama on PATH: https://ollama.com/download installs it")


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
    for begun, *_ in asked:
        assert ["serve"] == begun["arguments"]
        assert OWN.items() <= begun["environment"].items()
    requests = [(each["path"], each["body"]) for _, *rest in asked for each in rest]
    assert {"/api/show": N, "/api/pull": 1, "/api/generate": N} == Counter(
        path for path, _ in requests
    )
    assert ("/api/pull", {"model": MODEL, "stream": False}) in requests
    assert ("/api/generate", {"model": MODEL, "stream": False, "keep_alive": -1}) in requests


@pytest.mark.nightly
@pytest.mark.usefixtures("either")
async def test_an_ollama_that_has_its_model_needs_no_registry_and_leaves_no_runner_behind(
    ollama_lab: OllamaLab, tiny_model: Path
) -> None:
    """As the README's, with a model that is made here, and is in no registry."""
    one = await ollama_lab.started()
    empty = LAB.replace(MODEL, TINY).replace(f"count: {N}", "count: 1") + "    warm_up: none\n"
    loaded = f"  - {{name: loaded, model: {TINY}, count: 2, rotation: {{drain: 0s}}}}\n"
    await ollama_lab.done("provisioner", "apply", str(ollama_lab.write(empty)))
    (first,) = await one.instances()
    create(first["url"], ollama_lab, tiny_model)

    await ollama_lab.done("provisioner", "apply", str(ollama_lab.write(empty + loaded)))

    before, runners = ollama_lab.pids(b"serve"), ollama_lab.pids(b"runner")
    assert [[f"{TINY}:latest"]] * 2 == await models_of(one)
    async with running(ollama_lab.folder, f"{one.url}/instances") as exporter:
        await eventually(lambda: are_recognised(exporter, n=3))

    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: is_whole_again(one, n=3))

    assert [[f"{TINY}:latest"]] * 2 == await models_of(one)
    assert set() == (before | runners) & {each.pid for each in ollama_lab.processes()}

    assert [] == pulls(ollama_lab.folder / "bin")
    none = empty + loaded.replace("count: 2", "count: 0")
    await ollama_lab.done("provisioner", "apply", "--yes", str(ollama_lab.write(none)))
    await eventually(lambda: len(ollama_lab.processes()) == 1)


CANARY = "health: {interval: 1s, canary: {period: 5s, timeout: 5s, failures: 2}}"


@pytest.mark.usefixtures("either")
async def test_an_ollama_whose_runner_is_frozen_is_replaced_and_the_exporter_sees_it_start(
    ollama_lab: OllamaLab, tiny_model: Path
) -> None:
    """It answers all but generations, and lists its model as loaded."""
    one = await ollama_lab.started()
    empty = LAB.replace(MODEL, TINY).replace(f"count: {N}", "count: 1") + "    warm_up: none\n"
    loaded = f"  - {{name: loaded, model: {TINY}, count: 2, rotation: {{drain: 0s}}, {CANARY}}}\n"
    await ollama_lab.done("provisioner", "apply", str(ollama_lab.write(empty)))
    (first,) = await one.instances()
    create(first["url"], ollama_lab, tiny_model)
    await ollama_lab.done("provisioner", "apply", str(ollama_lab.write(empty + loaded)))
    async with running(ollama_lab.folder, f"{one.url}/instances") as exporter:
        await eventually(lambda: have_their_starts(one, exporter))
        frozen = min(ollama_lab.pids(b"runner"))

        os.kill(frozen, signal.SIGSTOP)

        await eventually(lambda: is_one_replaced(one))
        await eventually(lambda: have_their_starts(one, exporter))
    replaced, kept = sorted(await one.instances(), key=lambda each: -each["generation"])[:2]
    history = (await one.answer(f"/instances/{replaced['id']}")).json["history"]
    assert ["unhealthy"] == [each["what"] for each in history if "canary stalled" in each["detail"]]
    assert kept["generation"] == 1
    assert frozen not in ollama_lab.pids(b"runner")
    assert replaced["started"] > kept["started"]


async def have_their_starts(one: Provisioner, exporter: Running) -> bool:
    """Say whether the exporter has the start of each instance as the provisioner lists it."""
    name = "ollama_instance_start_time_seconds"
    seen = {
        dict(labels)["instance_id"]: at_s
        for (series, labels), at_s in (await exporter.samples()).items()
        if series == name
    }
    listed = {each["id"]: each["started"] for each in await one.instances()}
    return len(listed) == 3 and seen == listed


async def is_one_replaced(one: Provisioner) -> bool:
    """Say whether one instance of three runs again."""
    found = [(each["phase"], each["generation"]) for each in await one.instances()]
    return [("running", 1)] * 2 + [("running", 2)] == sorted(found)


async def are_recognised(exporter: Running, *, n: int) -> bool:
    """Say whether the exporter finds so many healthy Ollamas, and their versions."""
    seen = await exporter.instances(status="healthy")
    return n == len(seen) and {"ollama"} == {each["engine"] for each in seen if each["version"]}


async def is_whole_again(one: Provisioner, *, n: int) -> bool:
    """Say whether so many instances run that were started again."""
    again = [each for each in await one.instances() if each["generation"] > 1]
    return n == [each["phase"] for each in again].count("running")


async def models_of(one: Provisioner) -> list[list[str]]:
    """Return what each instance of the pool `loaded` has loaded."""
    urls = [each["url"] for each in await one.instances() if each["pool"] == "loaded"]
    answers = [await asyncio.to_thread(fetch, f"{url}/api/ps") for url in urls]
    return [[model["name"] for model in answer.json["models"]] for answer in answers]


def pulls(stub: Path) -> list[str]:
    """Return the models that were asked of registries, sorted; a real Ollama notes none."""
    requests = [each for path in stub.glob("*.asked") for each in noted(path)[1:]]
    return sorted(each["body"]["model"] for each in requests if each["path"] == "/api/pull")


def create(url: str, made: OllamaLab, model: Path) -> None:
    """Make a model of a file, which all Ollamas of one home folder have then."""
    modelfile = made.folder / "Modelfile"
    modelfile.write_text(f"FROM {model}\n")
    environment = {**made.environment, "OLLAMA_HOST": url}
    command = ("ollama", "create", TINY, "-f", modelfile)
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=100)


def noted(path: Path) -> list[dict[str, Any]]:
    """Return what one process has written down."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def environment_of(pid: int) -> list[bytes]:
    """Return a process's environment; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
