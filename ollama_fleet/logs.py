"""Log to stderr as logfmt or JSON: a line per event, whatever text others put into it."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Iterator
from datetime import datetime

FORMATS = ("logfmt", "json")
LEVELS = ("debug", "info", "warning", "error")
Scalar = str | int | float

PLACEHOLDER = re.compile(r"%(?:%|[-#0 +]*\d*(?:\.\d+)?[a-z])", re.ASCII | re.IGNORECASE)
HEAD = re.compile(r"[A-Za-z].*?(?=: | [a-z_]+=|$)", re.ASCII | re.DOTALL)
"""What happened: the text before the first field or colon."""
FIELD = re.compile(r" ([a-z_]+)=(\S*?)(?=:? |$)", re.ASCII)
PLAIN = re.compile(r'[^\s"=]+')
OWN_LOGGERS = frozenset({"exporter", "ollama_fleet", "provisioning"})


def configure(level: str, format_: str = "logfmt") -> None:
    """Log to stderr from the given level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format_ == "json" else LogfmtFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


class LogfmtFormatter(logging.Formatter):
    """Writes an event as `time=… level=… logger=… msg=…` and its fields; a traceback is one too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the event's line."""
        return " ".join(f"{key}={_logfmt(str(value))}" for key, value in _event(self, record))


class JsonFormatter(logging.Formatter):
    """Writes an event as an object of JSON, with the keys of logfmt."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the event's line, which is ASCII."""
        return json.dumps(dict(_event(self, record)))


def _event(formatter: logging.Formatter, record: logging.LogRecord) -> Iterator[tuple[str, Scalar]]:
    """Yield what is known of an event, in reading order."""
    yield "time", datetime.fromtimestamp(record.created).astimezone().isoformat("T", "milliseconds")
    yield "level", record.levelname.lower()
    yield "logger", record.name
    yield from _fields(record)
    if record.exc_info:
        yield "traceback", formatter.formatException(record.exc_info)


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Scalar]]:
    """Yield a message's parts: `msg key=%s: reason`, as our own templates are written.

    The template decides what is a field: no text that is put into it can add one.
    """
    template, args = str(record.msg), record.args or ()
    head = HEAD.match(template) if record.name.partition(".")[0] in OWN_LOGGERS else None
    if head is None or not isinstance(args, tuple):
        yield "msg", record.getMessage()
        return
    parts = _Parts(args)
    yield "msg", parts.text(head[0])
    position = head.end()
    while field := FIELD.match(template, position):
        yield field[1], parts.value(field[2])
        position = field.end()
    if rest := template[position:].removeprefix(":").lstrip():
        yield "reason", parts.text(rest)


class _Parts:
    """Fills the parts of a template, in order, with its arguments."""

    def __init__(self, args: tuple[object, ...]) -> None:
        self._is_template = bool(args)  # as logging has it: else a percent sign is just that
        self._left = list(args)

    def text(self, template: str) -> str:
        """Return a part with its arguments."""
        if not self._is_template:
            return template
        n = sum(one != "%%" for one in PLACEHOLDER.findall(template))
        args, self._left = self._left[:n], self._left[n:]
        return template % tuple(args)

    def value(self, template: str) -> Scalar:
        """Return a field's value; a number where the template holds nothing else."""
        arg = self._left[0] if self._left and PLACEHOLDER.fullmatch(template) else None
        text = self.text(template)
        if isinstance(arg, int):
            return int(text) if text.lstrip("-").isdecimal() else text
        return float(text) if isinstance(arg, float) and math.isfinite(arg) else text


def _logfmt(value: str) -> str:
    """Return a value as logfmt has it: quoted, with JSON's escapes, unless it is one plain word."""
    if PLAIN.fullmatch(value) and value.isprintable():
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in quoted)


def escaped(text: str) -> str:
    r"""Return a text with control characters, line ends among them, written as `\x1b` or `\n`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
