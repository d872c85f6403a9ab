"""What is complained of in the same words, wherever it stands in a specification.

In:   a path in the document, and what was read there.
Out:  Problems. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from provisioning.fleet.spec import words
from provisioning.fleet.spec.problems import Path, Problem


def named(path: Path, name: str, max_characters: int) -> Iterator[Problem]:
    """Yield a problem where a name cannot be used as one."""
    yield from complaint(path, words.name_fault(name, max_characters))


def complaint(path: Path, fault: str) -> Iterator[Problem]:
    """Yield a problem where there is a fault; an empty one is none."""
    if fault:
        yield Problem(path, fault)


def above_zero(path: Path, **amounts: float) -> Iterator[Problem]:
    """Yield a problem for each amount, by its key, that is not finite and above zero."""
    for key, amount in amounts.items():
        if not 0 < amount < float("inf"):
            yield Problem((*path, key), f"must be more than 0, got {amount:g}")


def at_least(least: int, path: Path, **amounts: float) -> Iterator[Problem]:
    """Yield a problem for each amount, by its key, that is less than the least."""
    for key, amount in amounts.items():
        if amount < least:
            yield Problem((*path, key), f"must be {least} or more, got {amount:g}")


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
