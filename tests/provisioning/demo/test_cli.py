"""What `up` refuses before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ollama_fleet.cli import main

SIMULATED_IN_MEMORY = """\
name: lab
nodes: [{name: n1, runtime: simulated, cpus: 4, memory: 64GiB}]
pools: [{name: llama, model: "llama3.1:8b", engine: fleet, count: 2}]
"""


def run(run_dir: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["up", f"--run-dir={run_dir}", *options])


@pytest.mark.parametrize(
    "option",
    ["--simulated=0", "--poll.interval=0", "--poll.interval=61s", "--provisioner-port=0"],
)
def test_an_option_out_of_range_is_refused(tmp_path: Path, option: str) -> None:
    result = run(tmp_path, option)

    assert 2 == result.exit_code
    assert option.partition("=")[0] in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SIMULATED_IN_MEMORY, "node n1: instances would be simulated in the provisioner's memory"),
        ("name: lab\n", "2 problems in "),
    ],
)
def test_a_specification_that_cannot_be_run_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    spec = tmp_path / "lab.yml"
    spec.write_text(text)

    result = run(tmp_path / "run", f"--spec={spec}")

    assert 1 == result.exit_code
    assert words in result.output


def test_a_size_beside_a_specification_is_refused(tmp_path: Path) -> None:
    spec = tmp_path / "lab.yml"
    spec.write_text(SIMULATED_IN_MEMORY)

    result = run(tmp_path, f"--spec={spec}", "--simulated=5")

    assert 2 == result.exit_code
    assert "--simulated has no effect with --spec" in result.output
