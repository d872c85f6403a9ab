"""Colour what a person should see first, where a terminal shows colours."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click


def has_colours(stream: TextIO) -> bool:
    """Say whether a stream is a terminal whose user has not turned colours off."""
    is_wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return is_wanted and stream.isatty()


def red(text: str) -> str:
    """Return a text for stdout, red if it is a terminal: it says what has failed."""
    return click.style(text, fg="red") if has_colours(sys.stdout) else text
