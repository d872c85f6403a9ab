"""A shell completes commands, alerts, and the names of the fleet; never with an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ollama_fleet.cli import COMMANDS, Part, main
from tests.provisioning.api.served import Served
from tests.provisioning.cli.running import environment

DEAD = {"OLLAMA_FLEET_INSTANCES_PROVISIONER_URL": "http://127.0.0.1:9"}


def completed(line: str, env: dict[str, str], shell: str = "zsh") -> list[str]:
    """Return what click suggests for the last word of a line: the value of each."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    asking = {"_OLLAMA_FLEET_COMPLETE": f"{shell}_complete", **words}
    result = CliRunner().invoke(main, [], env={**env, **asking}, prog_name="ollama-fleet")
    assert (0, "") == (result.exit_code, result.stderr), result.exception
    return result.stdout.strip().split("\n")[1::3]


def test_commands_alerts_and_choices_are_completed_without_a_fleet() -> None:
    assert ["completion"] == completed("ollama-fleet com", DEAD)
    assert ["events"] == completed("ollama-fleet instances ev", DEAD)
    assert ["Watchdog"] == completed("ollama-fleet alerts explain Watch", DEAD)
    assert ["failed"] == completed("ollama-fleet instances list --phase fa", DEAD)
    assert [] == completed("ollama-fleet instances show lla", DEAD)


def test_a_command_whose_extra_is_missing_completes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(COMMANDS, "lost", Part("no_such_module:lost", "Is lost.", "demo"))

    assert ["lost"] == completed("ollama-fleet los", DEAD)
    assert [] == completed("ollama-fleet lost x", DEAD)


def test_names_of_the_fleet_are_completed_from_its_provisioner(served: Served) -> None:
    env = environment(served)

    def found(line: str) -> list[str]:
        return completed(f"ollama-fleet {line}", env)

    ids = [f"llama-0000{n}" for n in (1, 2, 3, 4)]
    assert ids == found("instances show lla")
    assert ids == found("instances drain tiny-00001 lla")
    assert ["n1", "n2"] == found("instances replace --node n")
    assert ["tiny"] == found("provisioner scale ti")
    assert ["ann"] == found("instances assign llama-00001 a")
    url = env.pop("OLLAMA_FLEET_INSTANCES_PROVISIONER_URL")
    assert ids == completed(f"ollama-fleet instances show --provisioner.url {url} lla", env | DEAD)


def test_a_provisioner_that_hangs_completes_nothing(served: Served) -> None:
    with served.hanging():
        assert [] == completed("ollama-fleet instances show lla", environment(served))


def test_bash_completes_by_the_script_that_is_printed(served: Served, tmp_path: Path) -> None:
    program = tmp_path / "ollama-fleet"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m ollama_fleet "$@"\n')
    program.chmod(0o755)
    script = """source <(ollama-fleet completion bash)
        COMP_WORDS=(ollama-fleet instances show tin) COMP_CWORD=3
        _ollama_fleet_completion ollama-fleet; printf '%s\n' "${COMPREPLY[@]}" """
    path = f"{tmp_path}:{os.environ['PATH']}"

    done = subprocess.run(
        ["/bin/bash", "-c", script],
        env={**os.environ, **environment(served), "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ("tiny-00001\ntiny-00002\n", "") == (done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("shell", "line"),
    [("zsh", "#compdef ollama-fleet\n"), ("fish", "complete --no-files --command ollama-fleet ")],
)
def test_other_shells_have_a_script_too(shell: str, line: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])

    assert 0 == result.exit_code
    assert line in result.stdout
    assert f"_OLLAMA_FLEET_COMPLETE={shell}_complete" in result.stdout
    wrong = CliRunner().invoke(main, ["completion", "bsh"]).stderr
    assert "'bsh' is not one of 'bash', 'zsh', 'fish'; did you mean bash?" in wrong
