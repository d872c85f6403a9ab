"""Log to stderr, one line per event, whatever text instances, files and clients put into it."""

from __future__ import annotations

import logging
import sys
import textwrap

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure(level: str, *, format_: str = FORMAT) -> None:
    """Log to stderr from the given level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter(format_))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


class PlainFormatter(logging.Formatter):
    """Escapes what could steer a terminal, hide text or forge a further line of the log."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the event's line."""
        return escaped(super().formatMessage(record))

    def formatException(self, *args: object) -> str:  # noqa: N802 - logging's name
        """Return a traceback; its lines are indented, so that none passes for an event."""
        lines = super().formatException(*args).splitlines()  # type: ignore[arg-type]
        return textwrap.indent("\n".join(map(escaped, lines)), "  ")


def escaped(text: str) -> str:
    r"""Return a text with control characters, line ends among them, written as `\x1b` or `\n`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
