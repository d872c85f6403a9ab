"""The API over the real mirror of a store, which the reconciler uses as well."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp

from ollama_fleet.clock import SystemClock
from provisioning.api.app import Api
from provisioning.api.auth import Tokens
from provisioning.api.commands import Commands, Source, StoreCommands
from provisioning.api.orphans import LeaderOrphans
from provisioning.api.server import bound, serving
from provisioning.cache import Cache
from provisioning.metrics import Metrics
from provisioning.model import NodeReport
from provisioning.spec import encode_fleet
from provisioning.store.base import NEW, Put, PutSpec
from provisioning.store.memory import MemoryBackend, MemoryLeadership, MemoryStore
from tests.provisioning.api.board import FLEET, INSTANCES


async def test_whoever_writes_reads_it_at_once(tmp_path: Path) -> None:
    clock, backend = SystemClock(), MemoryBackend()
    store, leadership = MemoryStore(backend), MemoryLeadership(backend, holder="us")
    cache = Cache(store, clock)
    source: Source = cache
    async with leadership.lead() as leading:
        puts = [Put(one, NEW) for one in INSTANCES]
        await store.commit([PutSpec(encode_fleet(FLEET), NEW), *puts], term=leading.term)
        following = asyncio.create_task(cache.follow())
        await source.changed(None)
        commands: Commands = StoreCommands(
            store,
            source,
            clock,
            fleet=FLEET.name,
            term=lambda: leading.term,
            leader=leadership.leader,
            written=cache.apply_local_write,
        )
        tokens = Tokens(tmp_path / "token")
        metrics = Metrics(clock, version="")
        api = Api(
            source,
            commands,
            tokens,
            metrics,
            clock,
            reports=_silence,
            orphans=LeaderOrphans(
                seen=list, delete=lambda: None, leads=lambda: True, leader=leadership.leader
            ),
            fleet=FLEET.name,
            version="",
        )
        headers = {"Authorization": f"Bearer {tokens.path.read_text().strip()}"}
        async with AsyncExitStack() as stack:
            sockets = stack.enter_context(bound("127.0.0.1", 0))
            url = await stack.enter_async_context(serving(api, sockets))
            session = aiohttp.ClientSession(url, headers=headers)
            await stack.enter_async_context(session)
            async with session.post("/instances/llama-00001/drain") as response:
                assert 202 == response.status
            async with session.get("/instances?state=draining") as response:
                found = [entry["id"] for entry in await response.json()]
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following

    assert ["llama-00001", "llama-00003", "tiny-00002"] == found


async def _silence() -> dict[str, NodeReport]:
    return {}
