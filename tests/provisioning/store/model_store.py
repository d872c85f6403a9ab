"""A store as simple as can be, to compare the real ones with, and histories to put both through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hypothesis import strategies as st

from provisioning.model import Instance
from provisioning.store.base import (
    NEW,
    Change,
    ChangeRefusal,
    ChangeResult,
    Delete,
    Put,
    PutSpec,
    Store,
    Term,
)
from tests.provisioning.store.examples import applied, commit_one, content, instance, watched

NAMES = ("a", "b", "c", "d")
NODES = ("n1", "n2")
PORTS = (1, 2, 3)
SPEC = "the specification"


class Expected(StrEnum):
    """Which version a change names."""

    PRESENT = "present"
    NEW = "new"
    FORMER = "former"
    """One that the record had, and has no more."""


@dataclass(frozen=True)
class Wish:
    """A change whose version is not known yet; name SPEC: of the specification."""

    name: str
    place: tuple[str, int] | None
    """None: delete it."""
    expected: Expected


wishes = st.builds(
    Wish,
    name=st.sampled_from((*NAMES, SPEC)),
    place=st.none() | st.tuples(st.sampled_from(NODES), st.sampled_from(PORTS)),
    expected=st.sampled_from((Expected.PRESENT, Expected.PRESENT, Expected.NEW, Expected.FORMER)),
)
histories = st.lists(st.lists(wishes, min_size=1, max_size=6), min_size=1, max_size=8)


@dataclass
class ModelStore:
    """Records by name, with the versions that the real store gave them."""

    instances: dict[str, Instance] = field(default_factory=dict)
    spec: str | None = None
    versions: dict[str, list[int]] = field(default_factory=dict)
    """All that a name ever had; the last one is present while the name exists."""

    def change(self, wish: Wish, n: int) -> Change:
        """Return the wish as a change; n makes its content unlike all others."""
        expected = self._version(wish)
        if wish.name == SPEC:
            return PutSpec(f"text {n}", expected)
        if wish.place is None:
            return Delete(wish.name, expected)
        node, port = wish.place
        return Put(instance(wish.name, node=node, port=port, generation=n), expected)

    def _version(self, wish: Wish) -> int:
        had = self.versions.get(wish.name, [])
        match wish.expected:
            case Expected.PRESENT if self._exists(wish.name):
                return had[-1]
            case Expected.FORMER if len(had) > 1:
                return had[-2]
        return NEW

    def _exists(self, name: str) -> bool:
        return self.spec is not None if name == SPEC else name in self.instances

    def refusal(self, change: Change) -> ChangeRefusal | None:
        """Make the change, or say why not; versions of this commit are not known to anybody."""
        name = _name(change)
        if change.expected != (self.versions[name][-1] if self._exists(name) else NEW):
            return ChangeRefusal.CONFLICT
        match change:
            case Put(made):
                others = [one for one in self.instances.values() if one.id != made.id]
                if (made.node, made.port) in [(one.node, one.port) for one in others]:
                    return ChangeRefusal.PORT_TAKEN
                self.instances[name] = made
            case Delete():
                if name not in self.instances:
                    return ChangeRefusal.CONFLICT
                del self.instances[name]
            case PutSpec(text):
                self.spec = text
        self.versions.setdefault(name, []).append(UNKNOWN)
        return None

    def learn(self, changes: Sequence[Change], results: Sequence[ChangeResult]) -> None:
        """Take over the versions that the real store gave."""
        for change, one in zip(changes, results, strict=True):
            if one.refusal is None:
                self.versions[_name(change)].remove(UNKNOWN)
                self.versions[_name(change)].append(one.version)


UNKNOWN = -1


def _name(change: Change) -> str:
    match change:
        case Put(made):
            return made.id
        case Delete(name):
            return name
        case PutSpec():
            return SPEC


async def check_history(store: Store, term: Term, history: Sequence[Sequence[Wish]]) -> None:
    """Put both through a history; they must agree on every change and at every end."""
    model = ModelStore()
    start = await store.load()
    n = 0
    for commit in history:
        changes = [model.change(wish, n := n + 1) for wish in commit]
        refusals = [model.refusal(change) for change in changes]
        results = await store.commit(changes, term=term)
        assert refusals == [one.refusal for one in results]
        model.learn(changes, results)
    last = await store.load()

    assert model.instances == {name: one.instance for name, one in last.stored.items()}
    assert {name: model.versions[name][-1] for name in model.instances} == {
        name: one.version for name, one in last.stored.items()
    }
    assert model.spec == (last.spec.text if last.spec else None)
    # A change that all stores tell: the end of the history may have been refused.
    await commit_one(store, term, Put(instance("last", node="n3"), NEW))
    updates = await watched(
        store, start.revision, lambda seen: "last" in applied(start, seen).stored
    )
    assert content(await store.load()) == content(applied(start, updates))
