"""A served API over a real store, with a small fleet in it; nothing reconciles."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import aiohttp
import msgspec

from ollama_fleet.clock import SystemClock
from ollama_fleet.tokens import Tokens
from provisioning.api.commands import Commands
from provisioning.api.server import Api, bound, serving
from provisioning.cache import Cache
from provisioning.controller import ReconcileLoop
from provisioning.errors import StoreUnavailableError
from provisioning.metrics import Metrics
from provisioning.model import (
    Event,
    Fleet,
    Instance,
    InventoryEntry,
    Node,
    NodeReport,
    Phase,
    Pool,
    RuntimeKind,
    Workload,
)
from provisioning.spec.document import encode_fleet
from provisioning.state import Orphan
from provisioning.store.base import NEW, Change, ChangeResult, Delete, Put, PutSpec, Term, View
from provisioning.store.memory import MemoryBackend, MemoryStore
from provisioning.workload import instance_id, inventory_entry_of

LEADER = "http://127.0.0.1:8081"
WORKLOAD = Workload(model="llama3.1:8b", engine="ollama", memory_bytes=2**30, cpus=1.0)
FLEET = Fleet(
    name="lab",
    nodes=(
        Node(
            name="n1",
            runtime=RuntimeKind.SIMULATED,
            address="127.0.0.1",
            cpus=8.0,
            memory_bytes=2**33,
            labels={"rack": "r1"},
        ),
        Node(name="n2", runtime=RuntimeKind.SIMULATED, address="::1", cpus=8.0, memory_bytes=2**33),
    ),
    pools=(
        Pool(name="llama", count=4, workload=WORKLOAD, developers=("ann",)),
        Pool(name="tiny", count=2, workload=WORKLOAD),
    ),
)

SPEC: dict[str, Any] = json.loads(encode_fleet(FLEET))
"""As clients send it."""
JSON = {"Content-Type": "application/json"}


def instance(number: int, pool: str = "llama", node: str = "n1", **changes: Any) -> Instance:
    nodes = [one for one in FLEET.nodes if one.name == node]
    made = Instance(
        id=instance_id(pool, number),
        pool=pool,
        node=node,
        port=20_000 + number + 100 * len(pool),
        generation=1,
        phase=Phase.RUNNING,
        phase_since_s=1000.0,
        workload=WORKLOAD.digest,
        started_s=1000.0,
        inventory_entry=inventory_entry_of(WORKLOAD, nodes[0]) if nodes else InventoryEntry(),
        history=(Event(990.0, "placed", "n1", 1), Event(1000.0, "started", "in 1.0 s", 1)),
    )
    return msgspec.structs.replace(made, **changes)


INSTANCES = (
    instance(1, developer="ann"),
    instance(2, phase=Phase.STARTING, started_s=0.0),
    instance(3, phase=Phase.DRAINING),
    instance(4, node="n2", phase=Phase.FAILED, fault="exited with status 1", n_failures=1),
    instance(1, "tiny"),
    instance(2, "tiny", phase=Phase.STOPPING, started_s=0.0),
)


class StagedCache(Cache):
    """A cache whose view can be old, or not there yet."""

    age_s = 0.0
    is_known = True

    @property
    def view(self) -> View | None:
        return super().view if self.is_known else None

    @property
    def as_of_s(self) -> float:
        return super().as_of_s - self.age_s


class FragileStore(MemoryStore):
    """A store that can be away, and into which others write just before we do."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend)
        self.is_away = False
        self.before_commit: list[Sequence[Change]] = []

    async def commit(self, changes: Sequence[Change], *, term: Term) -> tuple[ChangeResult, ...]:
        if self.is_away:
            raise StoreUnavailableError("the store is away")
        if self.before_commit:
            await super().commit(self.before_commit.pop(0), term=term)
        return await super().commit(changes, term=term)


class Board:
    """One provisioner as its API's clients see it; what commands need of its reconciler."""

    def __init__(self, folder: Path) -> None:
        clock = SystemClock()
        self.backend = MemoryBackend()
        self.store = FragileStore(self.backend)
        self.cache = StagedCache(self.store, clock)
        self.tokens = Tokens(folder / "token", option="--web.token-file")
        self.audit_path = folder / "audit.jsonl"
        self.metrics = Metrics(clock)
        self.is_leading = True
        self.leader = LEADER
        self.reports: dict[str, NodeReport] = {}
        self.orphans: list[Orphan] | None = []
        self.n_orphan_orders = 0
        self.n_wakes = 0
        self._term = self.backend.begin_term("us").term
        self.api = Api(
            self.cache,
            Commands(
                self.store,
                self.cache,
                cast("ReconcileLoop", self),
                leader=self._leader,
                fleet=FLEET.name,
            ),
            self.tokens,
            self.metrics,
            clock,
            fleet=FLEET.name,
            version="0.0",
            own_names={"fleet.example"},
            audit_path=self.audit_path,
        )
        self.url = ""
        self.session: aiohttp.ClientSession

    @property
    def term(self) -> Term | None:
        return self._term if self.is_leading else None

    def delete_orphans(self) -> None:
        self.n_orphan_orders += 1

    def wake(self) -> None:
        self.n_wakes += 1

    @property
    def token(self) -> str:
        return self.tokens.path.read_text().strip()

    async def _leader(self) -> str | None:
        return self.leader

    async def fill(self) -> None:
        puts = [Put(one, NEW) for one in INSTANCES]
        await self.store.commit([PutSpec(encode_fleet(FLEET), NEW), *puts], term=self._term)

    async def commit(self, change: Change) -> None:
        """Write as a leader would."""
        (done,) = await self.store.commit([change], term=self._term)
        assert done.refusal is None
        await self.cache.load()

    async def put(self, changed: Instance) -> None:
        known = self.backend.stored.get(changed.id)
        await self.commit(Put(changed, known.version if known else NEW))

    async def delete(self, id_: str) -> None:
        await self.commit(Delete(id_, self.backend.stored[id_].version))

    def stored(self, id_: str) -> Instance:
        return self.backend.stored[id_].instance

    def audited(self) -> list[dict[str, Any]]:
        text = self.audit_path.read_text() if self.audit_path.exists() else ""
        return [json.loads(line) for line in text.split("\n") if line]

    async def ask(
        self, method: str, path: str, order: Any = None, *, expect: int = 200, **others: Any
    ) -> Any:
        """Send a request with the token; return the JSON of an answer of the expected status."""
        sent = {} if order is None else {"json": order}
        async with self.session.request(method, path, **sent, **others) as response:
            body = await response.read()
            assert expect == response.status, body
            return json.loads(body)


@asynccontextmanager
async def running_board(folder: Path, *, is_filled: bool = True) -> AsyncIterator[Board]:
    board = Board(folder)
    if is_filled:
        await board.fill()
    following = asyncio.create_task(board.cache.follow())
    await board.cache.tried()
    headers = {"Authorization": f"Bearer {board.token}"}
    with bound("127.0.0.1", 0) as sockets:
        async with serving(board.api, sockets) as board.url:
            async with aiohttp.ClientSession(board.url, headers=headers) as board.session:
                yield board
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following
