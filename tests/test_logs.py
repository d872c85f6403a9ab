"""A line per event, with its fields: no text that others send forges a line or a field."""

from __future__ import annotations

import ast
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_fleet.logs import JsonFormatter, LogfmtFormatter, escaped

ROOT = Path(__file__).parent.parent
NASTY = 'a b="c" d=e\\f\r\n2026-01-01 INFO forged\x1b[2J\x9b\u202e\ud800'


def record(msg: str, *args: object, name: str = "exporter.poller") -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, "", 0, msg, args, None)


def line(msg: str, *args: object, name: str = "exporter.poller") -> str:
    """Return an event as logfmt, after its time, level and logger."""
    return LogfmtFormatter().format(record(msg, *args, name=name)).split(" ", 3)[3]


def test_an_event_has_time_with_zone_level_logger_message_and_fields() -> None:
    event = record("instance fails id=%s polls=%d window=%.0fs: %s", "a-1", 6, 60.0, "no answer")

    expected = r'level=warning logger=exporter\.poller msg="instance fails" id=a-1 polls=6 '
    expected += 'window=60s reason="no answer"'
    time = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.fullmatch(f"time={time} {expected}", LogfmtFormatter().format(event))
    as_json = json.loads(JsonFormatter().format(event))
    assert re.fullmatch(time, as_json.pop("time"))
    assert {
        "level": "warning",
        "logger": "exporter.poller",
        "msg": "instance fails",
        "id": "a-1",
        "polls": 6,
        "window": "60s",
        "reason": "no answer",
    } == as_json


SHOWN = {
    ("plain",): "msg=plain",
    ("two words",): 'msg="two words"',
    ("100 % sure",): 'msg="100 % sure"',
    ("all 100%% sure n=%d", 1): 'msg="all 100% sure" n=1',
    ("lease lost: %s", "no answer: gone"): 'msg="lease lost" reason="no answer: gone"',
    ("read file=%s n=%g s=%.2f", "", 0.5, float("nan")): 'msg=read file="" n=0.5 s=nan',
    ("began n=%d is_new=%s: a=%s", -5, True, "b"): 'msg=began n=-5 is_new=True reason="a=b"',
    ("reconcile n=3 ready=2",): "msg=reconcile n=3 ready=2",
    ("listening url=http://%s:%d", "h", 80): "msg=listening url=http://h:80",
    ("%s", "a b=c: d"): 'msg="a b=c: d"',
}


@pytest.mark.parametrize(("given", "shown"), SHOWN.items())
def test_the_template_says_what_is_a_field(given: tuple[str, ...], shown: str) -> None:
    assert shown == line(*given)


def test_a_message_of_a_library_is_text() -> None:
    assert 'msg="lost name=x: gone"' == line("lost name=%s: gone", "x", name="asyncio")


@pytest.mark.parametrize(
    "template", ["%s", "got %s", "got key=%s", "got key=x: %s", "got n=%s a=1"]
)
def test_nothing_that_is_filled_in_forges_a_line_or_a_field(template: str) -> None:
    plain, nasty = (line(template, text) for text in ("x", NASTY))

    assert nasty.isprintable()
    assert list(keys(plain)) == list(keys(nasty))
    (value,) = [one for one in keys(nasty).values() if "forged" in one]
    assert value.endswith(NASTY)
    as_json = JsonFormatter().format(record(template, NASTY))
    assert as_json.isprintable()
    assert as_json.isascii()
    assert any(str(one).endswith(NASTY) for one in json.loads(as_json).values())


def keys(text: str) -> dict[str, str]:
    """Read a line as a parser of logfmt does: quoted values are JSON's."""
    found = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^\s"=]+)(?: |$)', text)
    assert text == " ".join(f"{key}={value}" for key, value in found)
    return {key: json.loads(value) if value[0] == '"' else value for key, value in found}


def test_a_traceback_is_a_field() -> None:
    event = record("failed")
    try:
        raise ValueError(NASTY)
    except ValueError:
        event.exc_info = sys.exc_info()

    for text in (LogfmtFormatter().format(event), JsonFormatter().format(event)):
        assert text.isprintable()
        assert "Traceback (most recent call last):" in text


def templates() -> Iterator[tuple[str, str]]:
    """Yield each template of a log line that stands in the code, with its place."""
    for path in ROOT.glob("*/**/*.py"):
        if path.parts[len(ROOT.parts)] in ("exporter", "ollama_fleet", "provisioning"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and re.search(r"\blog\.\w+$", ast.unparse(node.func)):
                    for one in node.args[:2]:
                        if isinstance(one, ast.Constant) and isinstance(one.value, str):
                            yield f"{path}:{node.lineno}", one.value


def test_every_line_says_first_what_happened_and_no_field_hides_another() -> None:
    found = list(templates())
    faults = []
    for place, template in found:
        fields = re.findall(r" (\w+)=", template.partition(": ")[0])
        if re.match(r"\w+=|%s[: ]", template) or {*fields} & {"time", "level", "logger", "msg"}:
            faults.append(f"{place}: {template}")
        if len(fields) > len({*fields}):
            faults.append(f"{place}: {template}")

    assert len(found) > 50
    assert [] == faults


ESCAPED = {
    "plain text, 12 µs – 日本": "plain text, 12 µs – 日本",
    "a\x1b[2Jb": r"a\x1b[2Jb",
    "a\r\nINFO forged": r"a\r\nINFO forged",
    "\x9b31m\x7f": r"\x9b31m\x7f",
    "invoice\u202efdp.exe": r"invoice\u202efdp.exe",
    "lone\ud800": r"lone\ud800",
}


@pytest.mark.parametrize(("text", "shown"), ESCAPED.items())
def test_what_a_terminal_cannot_show_is_escaped(text: str, shown: str) -> None:
    assert shown == escaped(text)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("exporter --inventory=/dev/null", r' msg="a\u001b[2J"'),
        ("exporter --inventory=/dev/null --log.format=json", r'"msg": "a\u001b[2J"'),
        ("provisioner run", r' msg="a\u001b[2J"'),
        ("provisioner run --log.format=json", r'"msg": "a\u001b[2J"'),
        ("simulate", r' msg="a\u001b[2J"'),
    ],
)
def test_every_server_logs_so(command: str, message: str) -> None:
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
main({command.split()!r})
"""
    done = subprocess.run(
        (sys.executable, "-c", program), capture_output=True, text=True, timeout=100, check=False
    )

    assert 7 == done.returncode, done.stderr
    assert message in done.stderr
    assert "\x1b" not in done.stderr
