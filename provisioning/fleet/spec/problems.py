"""What is wrong with a specification, and where.

In:   a path into the document, as keys and indices, and words.
Out:  Problems that read `pools[2].count: must be …`; `did_you_mean`. Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

Path = tuple[str | int, ...]
LineByPath = Mapping[Path, int]


class Problem(NamedTuple):
    """One thing to mend."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{path_text(self.path)}: {self.message}"


def path_text(path: Path) -> str:
    """Return a path as people write it: `pools[2].health.path`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "the specification"


def placed(problem: Problem, line_by_path: LineByPath, source: str) -> str:
    """Return a problem with its line, or the line of the nearest thing around it."""
    for n in range(len(problem.path), 0, -1):
        if line := line_by_path.get(problem.path[:n]):
            return f"{source}:{line}: {problem}"
    return f"{source}: {problem}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the known word that is closest, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
