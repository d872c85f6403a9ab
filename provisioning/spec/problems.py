"""What is wrong with a specification, and where.

In:   a path into the document, as keys and indices, and words.
Out:  Problems that read `pools[2].count: must be …`; `did_you_mean`; `refuse`. Pure.
Fails with SpecError, in `refuse`.
What is told is bounded: a stranger's document may hold a problem in every few of its bytes.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from itertools import islice
from typing import NamedTuple

from provisioning.errors import SpecError

MAX_TOLD = 100
"""Problems; of the others it is told that there are some."""
MAX_CHARACTERS = 1_000
"""Of a problem."""
MAX_WORD_CHARACTERS = 100
"""Nothing that is longer resembles a word of ours."""

Path = tuple[str | int, ...]
LineByPath = Mapping[Path, int]


class Problem(NamedTuple):
    """One thing to mend."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{path_text(self.path)}: {self.message}"


class Unknown(NamedTuple):
    """A word that there is none of; what it resembles is looked for when it is told."""

    path: Path
    message: str
    word: str
    known: Collection[str]

    def __str__(self) -> str:
        near = did_you_mean(self.word, self.known)
        return f"{path_text(self.path)}: {self.message}{near}"


def refuse(source: str, problems: Iterable[Problem | Unknown]) -> None:
    """Refuse what has problems; with none, do nothing. Looks no further than it tells.

    Raises:
        SpecError: It has: the first of them, and whether there are more.
    """
    remaining = iter(problems)
    told = [clipped(str(problem)) for problem in islice(remaining, MAX_TOLD)]
    if told:
        raise SpecError(source, told, has_more=next(remaining, None) is not None)


def clipped(text: str) -> str:
    """Return a text, or the beginning of one that is too long to be told."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}…"


def path_text(path: Path) -> str:
    """Return a path as people write it: `pools[2].health.path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "the specification"


def placed(problem: Problem | Unknown, line_by_path: LineByPath, source: str) -> str:
    """Return a problem with its line, or the line of the nearest thing around it."""
    for n in range(len(problem.path), 0, -1):
        if line := line_by_path.get(problem.path[:n]):
            return f"{source}:{line}: {problem}"
    return f"{source}: {problem}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the known word that is closest, or nothing."""
    if len(word) > MAX_WORD_CHARACTERS:
        return ""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
