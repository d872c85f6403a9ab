"""Commands on a terminal of their own, where a person answers.

In:   the words of a command, its environment, what the person types.
Out:  its exit status and the whole screen. Fails, with the screen, when it takes too long.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import pytest

QUESTION = b"[y/N]"
CTRL_C = b"\x03"
WITHIN_S = 60.0
ON_TERMINAL = """\
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal the session's own, so that Ctrl-C reaches it, and lets it be heard: a shell
has all that it runs in the background ignore it."""


def on_terminal(
    words: Sequence[str],
    environment: Mapping[str, str],
    answer: bytes = b"",
    seen: Callable[[bytes], object] = lambda _: None,
    *,
    within_s: float = WITHIN_S,
) -> tuple[int, str]:
    """Run a command on a terminal, where a person answers its first question.

    Args:
        words: After `ollama-fleet`.
        environment: Variables besides our own.
        answer: To the question.
        seen: Is shown the whole screen whenever there is more on it.
        within_s: It has to end.
    """
    program = (sys.executable, "-P", "-m", "ollama_fleet", *words)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        (sys.executable, "-c", ON_TERMINAL, *program),
        env={**os.environ, **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            screen = _screen(ours, answer, seen, give_up_s=time.monotonic() + within_s)
            process.wait(within_s)
        finally:
            process.kill()
            os.close(ours)
    return process.returncode, screen.decode()


def _screen(
    terminal: int, answer: bytes, seen: Callable[[bytes], object], *, give_up_s: float
) -> bytes:
    """Return all that is shown until the other side is closed."""
    screen = b""
    is_answered = False
    with suppress(OSError):  # the other side is closed
        while time.monotonic() < give_up_s:
            if select.select([terminal], [], [], 1.0)[0]:
                screen += os.read(terminal, 4096)
                seen(screen)
            if QUESTION in screen and not is_answered:
                is_answered = True
                os.write(terminal, answer)
        pytest.fail(f"it does not end; on the screen: {screen.decode(errors='replace')}")
    return screen
