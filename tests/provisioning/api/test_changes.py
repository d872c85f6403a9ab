"""Clients that follow the changes hear of each, and none of them can hold up the others."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from ollama_fleet.clock import SystemClock
from provisioning.api import handlers
from provisioning.api.errors import TooManyStreamsError
from provisioning.api.inventory import MAX_PENDING, Directory, Feed, change
from provisioning.model import Phase
from provisioning.spec import encode_fleet
from provisioning.store.base import Stored, StoredSpec, View
from tests.provisioning.api.board import FLEET, INSTANCES, Board, instance, running_board
from tests.waiting import eventually

Event = tuple[int, str, dict[str, Any]]


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """Yield each event's id, kind and data."""
    fields: dict[str, str] = {}
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


async def following(board: Board) -> None:
    """Wait until the feed knows what the store has."""
    await eventually(lambda: board.api.feed._told.revision == board.backend.revision)


async def test_a_follower_gets_everything_first_and_then_what_changes(board: Board) -> None:
    await following(board)
    async with board.session.get("/instances/changes") as response:
        assert "text/event-stream" == response.content_type
        stream = events(response)
        _, kind, data = await anext(stream)
        assert ("snapshot", 6, []) == (kind, len(data["instances"]), data["removed"])
        assert await board.ask("GET", "/instances?details=1") == data["instances"]

        await board.put(instance(2))
        _, kind, data = await anext(stream)
        assert ("change", []) == (kind, data["removed"])
        assert [("llama-00002", "running")] == [
            (entry["id"], entry["phase"]) for entry in data["instances"]
        ]

        await board.delete("tiny-00002")
        _, kind, data = await anext(stream)
        assert ("change", [], ["tiny-00002"]) == (kind, data["instances"], data["removed"])


async def test_a_follower_that_comes_again_gets_only_what_it_lacks(board: Board) -> None:
    await following(board)
    known = {"Last-Event-ID": str(board.backend.revision)}
    async with board.session.get("/instances/changes", headers=known) as response:
        await board.put(instance(2))
        _, kind, _ = await anext(events(response))
        assert "change" == kind

    async with board.session.get("/instances/changes", headers=known) as response:
        _, kind, _ = await anext(events(response))
        assert "snapshot" == kind


async def test_a_revision_that_is_none_is_refused(board: Board) -> None:
    headers = {"Last-Event-ID": "x"}

    problem = await board.ask("GET", "/instances/changes", expect=400, headers=headers)

    assert "Last-Event-ID must be a revision, got 'x'" == problem["detail"]


async def test_a_quiet_stream_shows_that_it_lives(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "LOOK_S", 0.01)
    monkeypatch.setattr(handlers, "HEARTBEAT_S", 0.03)
    await following(board)
    async with board.session.get("/instances/changes") as response:
        async with asyncio.timeout(30):
            async for line in response.content:
                if line.startswith(b":"):
                    break

    assert b": still here\n" == line


async def test_a_stream_is_silent_until_its_heartbeat_is_due(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is looked whether the client is still there."""
    monkeypatch.setattr(handlers, "LOOK_S", 0.001)
    monkeypatch.setattr(handlers, "HEARTBEAT_S", 1e9)
    await following(board)
    seen: list[bytes] = []
    async with board.session.get("/instances/changes") as response:
        for number in range(3):
            await board.put(instance(2, generation=number + 2))
            async for line in response.content:
                seen.append(line)
                if line.startswith(b"event: change"):
                    break

    assert 3 == seen.count(b"event: change\n")
    assert b": still here\n" not in seen


async def test_whoever_leaves_is_forgotten_without_a_word(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    async with board.session.get("/instances/changes") as response:
        assert 200 == response.status
        await eventually(lambda: 1 == board.api.feed.n_streams)
        response.close()

    async def is_forgotten() -> bool:
        await board.put(instance(2, generation=board.stored("llama-00002").generation + 1))
        return 0 == board.api.feed.n_streams

    await eventually(is_forgotten)
    assert [] == [record for record in caplog.records if record.levelname == "ERROR"]


async def test_whoever_leaves_gives_up_their_place_although_nothing_changes(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "LOOK_S", 0.01)
    monkeypatch.setattr(handlers, "HEARTBEAT_S", 1e9)
    await following(board)
    async with board.session.get("/instances/changes") as response:
        await anext(events(response))
        assert 1 == board.api.feed.n_streams
        response.close()

    await eventually(lambda: 0 == board.api.feed.n_streams)


async def test_a_follower_that_does_not_read_is_dropped_and_the_others_go_on(
    board: Board,
) -> None:
    """Long faults fill the sockets' buffers; then messages wait until there are too many."""
    await following(board)
    address = urlsplit(board.url)
    sluggish = socket.create_connection((address.hostname, address.port))
    sluggish.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sluggish.sendall(b"GET /instances/changes HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await eventually(lambda: 1 == board.api.feed.n_streams)
    feed = board.api.feed

    with feed.subscribed(drop=lambda: None) as other:
        for n in range(10_000):
            if feed.n_dropped:
                break
            await board.put(instance(2, fault="x" * 100_000, generation=n + 2))
            feed._tell()
            other.pending.get_nowait()
            await asyncio.sleep(0)

    assert (1, 0) == (feed.n_dropped, feed.n_streams)
    sluggish.close()


# The feed by itself


def view(revision: int, *phases: Phase) -> View:
    stored = {
        one.id: Stored(msgspec.structs.replace(one, phase=phase), revision)
        for one, phase in zip(INSTANCES, phases, strict=False)
    }
    return View(revision, stored, StoredSpec(encode_fleet(FLEET), 1))


class StillSource:
    def __init__(self) -> None:
        self.view: View | None = view(1, Phase.RUNNING)
        self.as_of_s = 0.0

    async def changed(self, known: View | None) -> None:
        await asyncio.Event().wait()


def test_more_followers_than_allowed_are_refused() -> None:
    feed = Feed(StillSource(), Directory(), SystemClock(), max_streams=1)

    with feed.subscribed(drop=lambda: None):
        with pytest.raises(TooManyStreamsError, match="1 clients follow the changes, as many as"):
            with feed.subscribed(drop=lambda: None):
                pass
    with feed.subscribed(drop=lambda: None):
        assert "<Feed to 1 clients, 0 dropped, at <Inventory of 0 instances" in repr(feed)


def test_a_follower_may_be_behind_for_a_while() -> None:
    source = StillSource()
    feed = Feed(source, Directory(), SystemClock())
    dropped: list[str] = []

    with feed.subscribed(drop=lambda: dropped.append("it")) as slow:
        for n in range(MAX_PENDING - 1):
            source.view = view(n + 2, Phase.RUNNING if n % 2 else Phase.STARTING)
            feed._tell()
        assert ([], MAX_PENDING) == (dropped, slow.pending.qsize())

        source.view = view(999, Phase.DRAINING)
        feed._tell()

    assert (["it"], 1) == (dropped, feed.n_dropped)


def test_a_revision_that_changes_no_instance_is_not_told() -> None:
    source = StillSource()
    feed = Feed(source, Directory(), SystemClock())
    feed._tell()
    with feed.subscribed(drop=lambda: None) as subscription:
        subscription.pending.get_nowait()
        source.view = view(2, Phase.RUNNING)
        feed._tell()

    assert subscription.pending.empty()


def test_only_what_differs_is_told() -> None:
    directory = Directory()
    before = directory.inventory_of(view(1, Phase.RUNNING, Phase.RUNNING, Phase.RUNNING))
    after = directory.inventory_of(view(2, Phase.RUNNING, Phase.DRAINING))

    message = change(before, after)

    assert (2, False, ("llama-00003",)) == (message.revision, message.is_whole, message.removed)
    assert ["llama-00002"] == [json.loads(one)["id"] for one in message.changed]


def test_the_inventory_of_a_view_is_made_once() -> None:
    directory, one = Directory(), view(1, Phase.RUNNING)

    assert directory.inventory_of(one) is directory.inventory_of(one)


def test_another_view_of_the_same_revision_is_listed_as_it_is() -> None:
    directory = Directory()
    directory.inventory_of(view(1, Phase.STARTING))

    (row,) = directory.inventory_of(view(1, Phase.RUNNING)).rows.values()

    assert Phase.RUNNING == row.stored.instance.phase


@pytest.mark.parametrize("revision", [2, 1])
def test_who_knows_a_revision_that_was_told_of_other_contents_gets_all(revision: int) -> None:
    source = StillSource()
    feed = Feed(source, Directory(), SystemClock())
    for source.view in (view(2, Phase.STARTING), view(revision, Phase.RUNNING)):
        feed._tell()

    with feed.subscribed(drop=lambda: None, known=revision) as subscription:
        assert subscription.pending.get_nowait().is_whole
    source.view = view(3, Phase.DRAINING)
    feed._tell()
    with feed.subscribed(drop=lambda: None, known=3) as subscription:
        assert subscription.pending.empty()


def test_a_specification_that_cannot_be_read_leaves_the_last_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = Directory()
    directory.inventory_of(view(1, Phase.RUNNING))
    broken = msgspec.structs.replace(view(2, Phase.RUNNING), spec=StoredSpec("{}", 2))

    row = directory.inventory_of(broken).rows["llama-00001"]

    assert ("llama3.1:8b", FLEET) == (row.details.model, directory.fleet)
    assert "cannot read version 2 of the specification" in caplog.text


async def test_a_feed_that_breaks_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Feed) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Feed, "_tell", broken)
    async with running_board(tmp_path):
        await eventually(lambda: "changes are not told any more" in caplog.text)


async def test_the_server_stops_although_somebody_follows(tmp_path: Path) -> None:
    async with running_board(tmp_path) as board:
        async with aiohttp.ClientSession(board.url) as session:
            response = await session.get("/instances/changes")
            assert 200 == response.status
            response.close()
