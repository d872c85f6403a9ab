"""What others say ends up in the log as text that steers no terminal and forges no line."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from ollama_fleet.logs import PlainFormatter, escaped

SHOWN = {
    "plain text, 12 µs – 日本": "plain text, 12 µs – 日本",
    "a\x1b[2Jb": r"a\x1b[2Jb",
    "a\r\nINFO forged": r"a\r\nINFO forged",
    "\x9b31m\x7f": r"\x9b31m\x7f",
    "invoice\u202efdp.exe": r"invoice\u202efdp.exe",
    "lone\ud800": r"lone\ud800",
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.items())
def test_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert shown == escaped(text)


def test_a_traceback_keeps_its_lines_and_none_of_them_passes_for_an_event() -> None:
    try:
        raise ValueError("a\x1b[2J\n2026-01-01 INFO forged")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})

    first, *others = PlainFormatter("%(message)s").format(record).splitlines()

    assert "failed" == first
    assert others[-2:] == [r"  ValueError: a\x1b[2J", "  2026-01-01 INFO forged"]
    assert all(line.startswith("  ") for line in others)


@pytest.mark.parametrize("command", ["exporter", "provisioner run", "simulate"])
def test_every_server_logs_so(command: str) -> None:
    """The commands that go on; each is refused here by what is in its way."""
    program = f"""
import logging
from ollama_fleet import logs
from ollama_fleet.cli import main
configure = logs.configure
def configured(*args, **kwargs):
    configure(*args, **kwargs)
    logging.getLogger("x").warning("a\\x1b[2J")
    raise SystemExit(7)
logs.configure = configured
main({command.split()!r} + {["--inventory=/dev/null"] if command == "exporter" else []!r})
"""
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, timeout=60, check=False
    )

    assert 7 == done.returncode, done.stderr
    assert r"a\x1b[2J" in done.stderr
    assert "\x1b" not in done.stderr
