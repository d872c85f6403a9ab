"""Checks that nodes, pools and limits share: of names, numbers and repetitions.

In:   a path in the document, and what was read there.
Out:  Problems. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from provisioning.spec import words
from provisioning.spec.problems import Path, Problem

MAX_COUNT = 1_000_000
"""Upper bound of all counts, and of CPUs."""
MAX_BYTES = 2**60
MAX_DURATION_S = 10 * 365 * 86_400
"""Ten years: nobody means a longer one, and sums of such stay finite."""


def named(path: Path, name: str, max_characters: int) -> Iterator[Problem]:
    """Yield a problem where a name cannot be used as one."""
    yield from complaint(path, words.name_fault(name, max_characters))


def complaint(path: Path, fault: str) -> Iterator[Problem]:
    """Yield a problem where there is a fault; an empty one is none."""
    if fault:
        yield Problem(path, fault)


def above_zero(path: Path, most: float, **amounts: float) -> Iterator[Problem]:
    """Yield a problem for each amount, by its key, that is not above zero and at most `most`."""
    for key, amount in amounts.items():
        if not amount > 0:
            yield Problem((*path, key), f"must be more than 0, got {_shown(amount)}")
        elif amount > most:
            yield _too_much((*path, key), amount, most)


def at_least(
    least: int, path: Path, most: float = MAX_COUNT, **amounts: float
) -> Iterator[Problem]:
    """Yield a problem for each amount, by its key, that is not from the least to the most."""
    for key, amount in amounts.items():
        if not amount >= least:
            yield Problem((*path, key), f"must be {least} or more, got {_shown(amount)}")
        elif amount > most:
            yield _too_much((*path, key), amount, most)


def _too_much(path: Path, amount: float, most: float) -> Problem:
    return Problem(path, f"must be at most {most:,}, got {_shown(amount)}")


def _shown(amount: float) -> str:
    """Return a number in few characters; JSON may hold one of a thousand digits."""
    try:
        return f"{amount:,.15g}"
    except OverflowError:
        return "a number of more than 300 digits"


def repeated_items(section: str, names: Sequence[str]) -> Iterator[Problem]:
    """Yield a problem for each name of a list of things that an earlier one has."""
    places: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        places[name].append(index)
    for name, indices in places.items():
        for index in indices[1:]:
            yield Problem((section, index, "name"), f"{name!r} is also the name of another one")


def repeated_names(path: Path, pairs: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """Yield a problem for each name of a mapping that comes once more."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            yield Problem(path, f"holds {name!r} twice")
        seen.add(name)
