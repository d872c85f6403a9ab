from __future__ import annotations

import sys

from provisioning.demo import ourselves


def test_the_shell_s_options_for_our_commands_do_not_reach_the_children() -> None:
    kept = {"PATH": "/usr/bin", "OLLAMA_FLEET_PROGRAMS_DIR": "/programs", "OLLAMA_HOST": "gpu-1"}
    options = {"OLLAMA_FLEET_SHARD": "0/2", "OLLAMA_FLEET_SIMULATE_FAULT": "kill:count=1"}

    assert kept == ourselves.our_environ(kept | options)


def test_our_commands_are_run_by_this_python_and_never_by_what_lies_in_the_folder() -> None:
    assert (sys.executable, "-P", "-m", "ollama_fleet", "up") == ourselves.our_command("up")
