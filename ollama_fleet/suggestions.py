"""Suggest the known word that an unknown one was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_WORD_CHARACTERS = 100
"""Longer words are not compared: comparing them takes long, and no known word is like them."""
LIKENESS = 0.6


def closest(word: str, known: Iterable[str], *, likeness: float = LIKENESS) -> str | None:
    """Return the known word that is most like an unknown one, or None where none is like it."""
    if len(word) > MAX_WORD_CHARACTERS:
        return None
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=likeness)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?`, or nothing where no known word is like this one."""
    found = closest(word, known)
    return f"; did you mean {found}?" if found else ""
