"""Run commands against a served API, in this process or on a terminal of their own."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ollama_fleet.cli import main
from tests.provisioning.api.served import Served

QUESTION = b"[y/N]"
CTRL_C = b"\x03"
WITHIN_S = 100.0
ON_TERMINAL = """\
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal the session's own, so that Ctrl-C reaches it, and lets it be heard: a shell
has all that it runs in the background ignore it."""


def environment(served: Served) -> dict[str, str]:
    return {
        "OLLAMA_FLEET_INSTANCES_PROVISIONER_URL": served.url,
        "OLLAMA_FLEET_INSTANCES_PROVISIONER_TOKEN_FILE": str(served.board.tokens.path),
    }


def run(served: Served, *words: object, env: Mapping[str, str] | None = None) -> Result:
    """Run a command where there is no terminal."""
    return CliRunner().invoke(main, [*map(str, words)], env={**environment(served), **(env or {})})


def on_terminal(
    served: Served,
    words: Sequence[str],
    answer: bytes = b"",
    seen: Callable[[bytes], object] = lambda _: None,
    *,
    question: bytes = QUESTION,
    env: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a command on a terminal, where a person answers its first question.

    Args:
        served: The API.
        words: After `ollama-fleet`.
        answer: To the question.
        seen: Gets the whole screen whenever there is more on it.
        question: What is on the screen when the answer is typed.
        env: More variables.

    Returns:
        Its exit status and the screen.
    """
    program = (sys.executable, "-P", "-m", "ollama_fleet", *words)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        (sys.executable, "-c", ON_TERMINAL, *program),
        env={**os.environ, **environment(served), "TERM": "xterm", **(env or {})},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            give_up_s = time.monotonic() + WITHIN_S
            screen = _screen(ours, answer, seen, question=question, give_up_s=give_up_s)
            process.wait(WITHIN_S)
        finally:
            process.kill()
            os.close(ours)
    return process.returncode, screen.decode()


def _screen(
    terminal: int,
    answer: bytes,
    seen: Callable[[bytes], object],
    *,
    question: bytes,
    give_up_s: float,
) -> bytes:
    """Return all that is shown until the other side is closed."""
    screen = b""
    is_answered = False
    with suppress(OSError):  # the other side is closed
        while time.monotonic() < give_up_s:
            if select.select([terminal], [], [], 1.0)[0]:
                screen += os.read(terminal, 4096)
                seen(screen)
            if question in screen and not is_answered:
                is_answered = True
                os.write(terminal, answer)
        pytest.fail(f"it does not end; on the screen: {screen.decode(errors='replace')}")
    return screen


def spec(folder: Path, count: int = 1, name: str = "lab") -> Path:
    """Write a specification of a pool that needs nothing but a simulated node."""
    document = {
        "name": name,
        "nodes": [{"name": "n1", "runtime": "simulated", "cpus": 8, "memory": "64GiB"}],
        "pools": [
            {"name": "web", "model": "toy", "engine": "fleet", "count": count}
            | {"cpus": 0.001, "memory": "1MiB"}
        ],
    }
    path = folder / "fleet.yml"
    path.write_text(json.dumps(document))
    return path
