"""Instances to store, and ways to store them and to see what was stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from provisioning.errors import StoreUnavailableError
from provisioning.model import Event, Instance, InventoryEntry, Phase, Reason
from provisioning.store.base import (
    NEW,
    Change,
    ChangeResult,
    LeaderSession,
    Leadership,
    Put,
    Store,
    StoredInstance,
    StoredSpec,
    Term,
    Update,
    View,
)

PATIENCE_S = 100.0
"""Ends a hang; no promise is as long."""

Opened = tuple[Store, Leadership]
Open = Callable[[str], Opened]
"""`open("alice")`: a store and a leadership for alice, as a process of its own would have them."""


def instance(name: str = "chat-0001", *, port: int = 20_000, **fields: Any) -> Instance:
    """Return an instance; what is not given is plausible."""
    given = {"node": "n1", "generation": 1, "phase": Phase.STARTING, "phase_since_s": 1.5, **fields}
    return Instance(id=name, pool="chat", port=port, workload="sha256:0", **given)


def rich_instance(name: str = "chät/ 日本-😀%2F") -> Instance:
    """Return an instance with a value in every field."""
    return Instance(
        id=name,
        pool="größe",
        node="rack 1/node·7",
        port=65_535,
        generation=12,
        phase=Phase.DRAINING,
        phase_since_s=1_700_000_000.123_456,
        workload="sha256:ä",
        started_s=1e-9,
        reason=Reason.ROTATED,
        developer='Zoë\n"O\'Neil"\\',
        n_failures=3,
        retry_at_s=1e12,
        fault="no such image: «x»\0",
        is_replace_asked=True,
        history=(Event(1.0, "started", "ok", 1), Event(2.5, "drained", "日本")),
        cpus=0.1,
        memory_bytes=2**40,
        failed_on=("n1", "日本"),
        inventory_entry=InventoryEntry(
            "qwen/«ü»:8b", "ollama", "fe80::1%eth0", (("größe", "ä"), ("x", ""))
        ),
        n_stop_tries=7,
    )


def instances(n: int, *, first_port: int = 1) -> list[Instance]:
    """Return n instances, 1,000 on each node."""
    return [
        instance(f"chat-{i:05}", node=f"n{i // 1000}", port=first_port + i % 1000) for i in range(n)
    ]


async def put(store: Store, term: Term, *made: Instance) -> tuple[StoredInstance, ...]:
    """Store new instances, all of which must be accepted."""
    results = await store.commit([Put(one, NEW) for one in made], term=term)
    assert [None] * len(made) == [one.refusal for one in results]
    return tuple(
        StoredInstance(one, result.version) for one, result in zip(made, results, strict=True)
    )


async def commit_one(store: Store, term: Term, change: Change) -> ChangeResult:
    """Make one change and return what became of it."""
    (result,) = await store.commit([change], term=term)
    return result


@asynccontextmanager
async def leading(opened: Opened) -> AsyncIterator[tuple[Store, Term]]:
    """Lead, and give what is needed to write."""
    store, leadership = opened
    async with AsyncExitStack() as stack:
        current = await entered(stack, leadership)
        yield store, current.term


async def entered(stack: AsyncExitStack, leadership: Leadership) -> LeaderSession:
    """Lead until the stack is left; wait again whenever the store cannot be reached."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(StoreUnavailableError):
                return await stack.enter_async_context(leadership.lead())
            await asyncio.sleep(0.05)


async def watched(
    store: Store, after: int, until: Callable[[Sequence[Update]], bool]
) -> list[Update]:
    """Watch until what was seen is enough; fail where it never is."""
    seen: list[Update] = []
    updates = store.watch(after)
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not until(seen):
                seen.append(await anext(updates))
    finally:
        await updates.aclose()  # type: ignore[attr-defined]
    return seen


def applied(view: View, updates: Sequence[Update]) -> View:
    """Return the view after the updates."""
    stored, spec, revision = dict(view.stored), view.spec, view.revision
    for update in updates:
        assert revision < update.revision
        revision = update.revision
        stored.update({one.instance.id: one for one in update.stored})
        for gone in update.deleted:
            stored.pop(gone, None)
        spec = update.spec or spec
    return View(revision, stored, spec)


def content(view: View) -> tuple[Mapping[str, StoredInstance], StoredSpec | None]:
    """Return what a view holds; in etcd, revisions grow by what others write as well."""
    return view.stored, view.spec
