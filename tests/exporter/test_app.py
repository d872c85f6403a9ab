""""""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import app, catalogue, descriptors
from exporter.app import Exporter
from exporter.catalogue import Series
from exporter.check import inventory_text, read_settings
from exporter.config import Config, Given, build
from exporter.descriptors import RESERVE
from exporter.errors import ExporterError, SourceError
from ollama_fleet.clock import SystemClock
from tests.exporter.fetching import fetch
from tests.exporter.gateways import Counted, page
from tests.exporter.pollers import patient
from tests.exporter.servers import Handler, answering, hanging, saying, serving
from tests.ports import free_port
from tests.waiting import eventually

FLEET = {
    "/health": b"{}",
    "/api/metrics": b'{"tokens_per_second":42,"latency_p99":0.089,"error_count":0}',
}
QUICK = {
    "poll.interval": "400ms",
    "inventory.refresh-interval": "50ms",
    "web.listen-address": "127.0.0.1:0",
    "web.max-connections": "20",
}
RESERVED = RESERVE + 20
"""Of the limit of open files, beside the instances."""


def config(inventory: Path | str, **settings: str) -> Config:
    """Return a configuration with short intervals; `log__window` stands for `log.window`."""
    given = {name.replace("__", ".").replace("_", "-"): text for name, text in settings.items()}
    texts = {**QUICK, "inventory": str(inventory), **given}
    return patient(build({name: Given((text,), name) for name, text in texts.items()}))


class Fleet:
    """The inventory file of a fleet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write_list()

    def write_list(self, *names: str, port: int = 1) -> None:
        """List instances in the file; all of them listen on one port."""
        instances = [{"id": name, "url": f"http://127.0.0.1:{port}"} for name in names]
        self.write(msgspec.json.encode(instances).decode())

    def write(self, text: str) -> None:
        """Put another file in place of the one there is, as one should."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)


class Pages:
    """What a running exporter shows."""

    def __init__(self, exporter: Exporter) -> None:
        self._port = exporter.port

    async def instances(self) -> dict[str, dict[str, Any]]:
        answer = await fetch(self._port, "/instances")
        return {view["id"]: view for view in answer.json}

    async def statuses(self) -> dict[str, str]:
        return {key: view["status"] for key, view in (await self.instances()).items()}

    async def values(self, series: Series) -> list[float]:
        """Return the values of a series' samples, in the order of the page."""
        page = (await fetch(self._port, "/metrics")).text
        samples = (sample for family in parse_text(page) for sample in family.samples)
        return [sample.value for sample in samples if sample.name == series.name]

    async def has(self, line: str) -> bool:
        """Return whether the page has a line."""
        return line in (await fetch(self._port, "/metrics")).text.splitlines()

    async def ready(self) -> tuple[int, str]:
        page = await fetch(self._port, "/-/ready")
        return page.status, page.text

    async def has_many_connections(self) -> bool:
        return (await self.values(catalogue.EXPORTER_OPEN_CONNECTIONS))[0] > 10

    async def until_statuses(self, expected: dict[str, str]) -> None:
        await _until(self.statuses, expected)

    async def until_values(self, series: Series, expected: object) -> None:
        async def values() -> list[float]:
            return await self.values(series)

        await _until(values, expected)


async def _until(read: Callable[[], Awaitable[object]], expected: object) -> None:
    async def is_read() -> bool:
        return expected == await read()

    await eventually(is_read)


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the limit of open files of the process that runs the tests alone."""
    monkeypatch.setattr(app, "raise_limit", lambda: 4096)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet.json")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Return the port of a server that is healthy."""
    async with serving(answering(FLEET)) as port:
        yield port


@asynccontextmanager
async def running(of: Config) -> AsyncIterator[Pages]:
    async with Exporter(of) as exporter:
        yield Pages(exporter)


async def test_a_fleet_is_polled_and_published(fleet: Fleet, port: int) -> None:
    fleet.write_list("a", "b", port=port)
    async with running(config(fleet.path)) as pages:
        await pages.until_statuses({"a": "healthy", "b": "healthy"})
        await pages.until_values(catalogue.FLEET_TOKENS_PER_SECOND, [84.0])
        assert [1.0, 1.0] == await pages.values(catalogue.INSTANCE_UP)
        assert [2.0] == await pages.values(catalogue.EXPORTER_INVENTORY_INSTANCES)


async def test_canaries_are_sent_where_they_are_switched_on(fleet: Fleet) -> None:
    pinned = b'{"models":[{"name":"m","expires_at":"2318-01-01T00:00:00Z"}]}'
    bodies = {
        "/": b"Ollama is running",
        "/api/version": b'{"version":"0.23.0"}',
        "/api/tags": pinned,
        "/api/ps": pinned,
        "/api/generate": b'{"done":true,"eval_count":8,"eval_duration":200000000}',
    }
    switches = {"canary__period": "300ms"}
    async with serving(answering(bodies)) as port:
        fleet.write_list("a", port=port)
        async with running(config(fleet.path)) as without:
            await without.until_values(catalogue.INSTANCE_UP, [1.0])
            assert [] == await without.values(catalogue.FLEET_CANARY_RESULTS)
        often = replace(config(fleet.path, **switches), canary_timeout=100.0)
        async with running(often) as pages:
            await pages.until_values(catalogue.INSTANCE_CANARY_SUCCESS, [1.0])
            await pages.until_values(catalogue.FLEET_TOKENS_PER_SECOND, [40.0])
            assert "ok" == (await pages.instances())["a"]["canary_outcome"]


async def test_series_per_instance_can_be_switched_off(fleet: Fleet, port: int) -> None:
    fleet.write_list("a", port=port)
    async with running(config(fleet.path, metrics__per_instance="false")) as pages:
        await pages.until_values(catalogue.FLEET_TOKENS_PER_SECOND, [42.0])
        assert [] == await pages.values(catalogue.INSTANCE_UP)


async def test_nodes_are_compared_by_the_label_of_the_inventory_that_names_their_hardware(
    fleet: Fleet, port: int
) -> None:
    """Of the second kind is one node, which then has no peers."""
    entries = [
        {"id": kind, "url": f"http://127.0.0.1:{port}", "node": node, "labels": {"gpu": kind[0]}}
        for node, kind in (("n1", "a1"), ("n2", "a2"), ("n3", "a3"), ("n4", "b"))
    ]
    fleet.write(msgspec.json.encode(entries).decode())
    for label, n_compared in (("hardware", 4), ("gpu", 3)):
        async with running(config(fleet.path, metrics__hardware_label=label)) as pages:
            await pages.until_values(catalogue.NODE_MEASURED_INSTANCES, 4 * [1.0])
            expected = n_compared * [42.0]
            assert expected == await pages.values(catalogue.NODE_PEERS_TOKENS_PER_SECOND)


async def test_gateways_count_for_shard_0_and_no_other(fleet: Fleet) -> None:
    reporting = {**FLEET, "/api/metrics": b'{"error_count":0,"generated_tokens_total":5}'}
    bodies = {"/metrics": page({})}
    async with serving(answering(reporting)) as port, serving(answering(bodies)) as gateway:
        fleet.write_list("a", "b", "c", "d", port=port)
        settings = {"gateway__url": f"http://127.0.0.1:{gateway}"}
        async with running(config(fleet.path, shard="0/2", **settings)) as first:
            async with running(config(fleet.path, shard="1/2", **settings)) as second:
                await first.until_values(catalogue.EXPORTER_GATEWAY_UP, [1.0])
                bodies["/metrics"] = page({("m", "n1"): Counted({"200": 3}, (3, 0, 0), 60)})
                await first.until_values(catalogue.FLEET_GENERATED_TOKENS, [60.0])
                requests = await first.values(catalogue.FLEET_REQUESTS)
                await second.until_values(catalogue.EXPORTER_SHARDS, [2.0])
                elsewhere = await second.values(catalogue.FLEET_GENERATED_TOKENS)

    assert ([3.0], []) == (requests, elsewhere)


async def test_shards_divide_the_fleet(fleet: Fleet, port: int) -> None:
    names = {f"i{n}" for n in range(20)}
    fleet.write_list(*names, port=port)
    async with running(config(fleet.path, shard="0/2")) as first:
        async with running(config(fleet.path, shard="1/2")) as second:
            parts = await first.instances(), await second.instances()
            shards = [await pages.values(catalogue.EXPORTER_SHARDS) for pages in (first, second)]
            labelled = [
                await pages.has('ollama_exporter_shard_info{shard="1"} 1.0')
                for pages in (first, second)
            ]

    assert ([[2.0], [2.0]], [False, True]) == (shards, labelled)
    assert names == parts[0].keys() | parts[1].keys()
    assert not parts[0].keys() & parts[1].keys()


async def test_a_changed_inventory_is_followed_without_a_restart(
    fleet: Fleet, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "exporter")
    fleet.write_list("a", "b", port=port)
    async with running(config(fleet.path)) as pages:
        await pages.until_statuses({"a": "healthy", "b": "healthy"})

        fleet.write_list("b", "c", port=port)

        await pages.until_statuses({"b": "healthy", "c": "healthy"})
    assert "inventory changed added=1 removed=1 changed=0" in caplog.text


@pytest.mark.parametrize("content", ["[{", '[{"id": "a"}]', '{"colour": 1}', '["a", "a"]', ""])
async def test_a_bad_inventory_keeps_the_last_good_list_and_says_so(
    fleet: Fleet, port: int, content: str
) -> None:
    reload_successful = catalogue.EXPORTER_INVENTORY_LAST_RELOAD_SUCCESSFUL
    fleet.write_list("a", port=port)
    async with running(config(fleet.path)) as pages:
        await pages.until_statuses({"a": "healthy"})
        assert [1.0] == await pages.values(reload_successful)

        fleet.write(content)
        await pages.until_values(reload_successful, [0.0])
        assert ["a"] == list(await pages.instances())
        assert [1.0] == await pages.values(catalogue.EXPORTER_INVENTORY_INSTANCES)

        fleet.write_list("b", port=port)
        await pages.until_values(reload_successful, [1.0])
        await pages.until_statuses({"b": "healthy"})


@pytest.mark.parametrize("fault", [hanging, saying(b"s3cret\r\n\r\n"), answering({}), None])
async def test_the_query_of_an_inventorys_url_is_shown_nowhere(
    fault: Handler | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be a token. Two that differ only there are told apart by a number."""
    caplog.set_level(logging.DEBUG)
    port = free_port()
    paths = [f"/instances?token=s3cret{n}" for n in (1, 2, 3, 4)]
    first, second, *others = [f"http://127.0.0.1:{port}{path}" for path in paths]
    of = replace(config("-"), inventory=(first, second, "|".join(others)), inventory_timeout=0.5)
    bodies = dict.fromkeys(paths, b"[]")
    shown: list[str] = []
    async with AsyncExitStack() as stack:
        async with serving(answering(bodies), port):
            unhurried = replace(of, inventory_timeout=100.0)
            shown.append(inventory_text(await read_settings(unhurried, SystemClock())))
            exporter = await stack.enter_async_context(Exporter(of))
        if fault is not None:
            await stack.enter_async_context(serving(fault, port))
        pages = Pages(exporter)
        reload_successful = catalogue.EXPORTER_INVENTORY_LAST_RELOAD_SUCCESSFUL
        await pages.until_values(reload_successful, [0.0, 0.0, 0.0])
        with pytest.raises(SourceError) as caught:
            inventory_text(await read_settings(of, SystemClock()))
        shown.append(str(caught.value))
        paths = ["/metrics", "/-/ready", "/instances", "/"]
        shown += [(await fetch(exporter.port, path)).text for path in paths]

    name = f"http://127.0.0.1:{port}/instances?***"
    for source in (name, f"{name} (2)", f"{name}|{name}"):
        assert f'{{source="{source}"}}' in shown[2]
    assert "s3cret" not in "".join(shown) + caplog.text + repr(exporter)


# Starting and stopping


def sockets() -> set[str]:
    """Return the sockets that this process has open."""
    return set(_sockets(os.listdir("/proc/self/fd")))


def _sockets(numbers: Iterable[str]) -> Iterator[str]:
    for number in numbers:
        try:
            link = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # it was the listing's own
            continue
        if link.startswith("socket:"):
            yield link


async def test_an_address_in_use_is_refused_and_nothing_is_left_open() -> None:
    """What was open by then: a connection to the provisioner, which lists the instances."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with serving(answering({"/instances": b"[]"})) as port:
            before = sockets(), asyncio.all_tasks()
            url = f"http://127.0.0.1:{port}/instances"

            with pytest.raises(ExporterError, match=f"{address}: .*web.listen-address"):
                async with Exporter(config(url, web__listen_address=address)):
                    pass

            await eventually(lambda: before == (sockets(), asyncio.all_tasks()))


async def test_nothing_is_left_open_after_a_stop_while_instances_hang(fleet: Fleet) -> None:
    before = sockets()
    async with serving(hanging) as port:
        # Of this many instances, more than a few are polled very soon.
        fleet.write_list(*[f"i{n}" for n in range(600)], port=port)
        of = config(fleet.path, poll__interval="60s")
        # Longer than a test may take.
        async with running(replace(of, poll_health_timeout=1e4, poll_metrics_timeout=1e4)) as pages:
            await eventually(pages.has_many_connections)

    assert {asyncio.current_task()} == asyncio.all_tasks()
    await eventually(lambda: before == sockets())


async def test_nothing_is_said_of_a_fleet_whose_inventory_was_never_read(port: int) -> None:
    """The provisioner is down when we start: a page of zeros would wake the on-call."""
    inventory_port = free_port()
    listed = msgspec.json.encode([{"id": "a", "url": f"http://127.0.0.1:{port}"}])
    told: list[list[float]] = []

    async with running(config(f"http://127.0.0.1:{inventory_port}/instances")) as pages:
        enough_s = asyncio.get_running_loop().time() + 1.5  # for three cycles

        async def is_over() -> bool:
            told.append(await pages.values(catalogue.FLEET_INVENTORY_INSTANCES))
            return asyncio.get_running_loop().time() > enough_s

        await eventually(is_over)
        async with serving(answering({"/instances": listed}), inventory_port):
            await pages.until_values(catalogue.FLEET_INVENTORY_INSTANCES, [1.0])

    assert [[]] * len(told) == told


async def test_a_fleet_of_which_a_part_is_unknown_is_polled_but_not_published(
    fleet: Fleet, port: int
) -> None:
    """Of two sources one is away at the start: half the fleet must not look like the whole."""
    fleet.write_list("a", port=port)
    url = f"http://127.0.0.1:{(url_port := free_port())}/instances"
    listed = msgspec.json.encode([{"id": "b", "url": f"http://127.0.0.1:{port}"}])
    seen: list[list[float]] = []
    async with running(replace(config("-"), inventory=(str(fleet.path), url))) as pages:

        async def has_polled_often() -> bool:
            seen.append(await pages.values(catalogue.FLEET_INVENTORY_INSTANCES))
            return (await pages.values(catalogue.EXPORTER_POLLS))[0] >= 3

        await pages.until_statuses({"a": "healthy"})
        await eventually(has_polled_often)
        # By this series the alerts know an exporter that watches its whole part of the fleet.
        assert [0.0] == await pages.values(catalogue.EXPORTER_POLL_LAST_COMPLETED)
        read_at_s = await pages.values(catalogue.EXPORTER_INVENTORY_LAST_SUCCESS)
        assert [True, False] == [at_s > 0 for at_s in read_at_s]
        status, text = await pages.ready()
        assert 503 == status
        assert f"inventory source {url} was never read: " in text
        assert "inventory.allow-partial" in text

        async with serving(answering({"/instances": listed}), url_port):

            async def is_published() -> bool:
                seen.append(await pages.values(catalogue.FLEET_INVENTORY_INSTANCES))
                return seen[-1] != []

            await eventually(is_published)
            assert {"a": "healthy", "b": "healthy"} == await pages.statuses()
            assert 200 == (await pages.ready())[0]

    assert [[]] * (len(seen) - 1) + [[2.0]] == seen


async def test_a_part_of_the_fleet_is_published_where_that_is_allowed(
    fleet: Fleet, port: int
) -> None:
    fleet.write_list("a", port=port)
    url = f"http://127.0.0.1:{free_port()}/instances"
    of = config("-", inventory__allow_partial="true")
    async with running(replace(of, inventory=(str(fleet.path), url))) as pages:
        await pages.until_values(catalogue.FLEET_INVENTORY_INSTANCES, [1.0])
        status, text = await pages.ready()

    assert 200 == status
    assert f"inventory source {url} was never read: " in text


async def test_it_can_be_started_again_in_the_same_process(fleet: Fleet, port: int) -> None:
    fleet.write_list("a", port=port)
    for _ in range(2):
        async with running(config(fleet.path)) as pages:
            await pages.until_statuses({"a": "healthy"})


async def test_a_part_that_breaks_ends_the_exporter(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an exporter would look alive; whoever runs it starts a new one."""

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("exporter.app.failure_lines", broken)
    async with Exporter(config(fleet.path, log__window="50ms")) as exporter:
        with pytest.raises(RuntimeError, match="a bug"):
            await asyncio.wait_for(exporter.wait(), 60.0)


# More instances than file descriptors


async def test_a_fleet_larger_than_the_limit_is_warned_about_and_still_polled(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    n_room, n_instances, n_open, n_open_most = 5, 40, 0, 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_open, n_open_most
        n_open += 1
        n_open_most = max(n_open, n_open_most)
        try:
            await answering(FLEET)(reader, writer)
        finally:
            n_open -= 1

    monkeypatch.setattr(app, "raise_limit", lambda: RESERVED + n_room)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(handle))
        names = [f"i{n}" for n in range(n_instances)]
        fleet.write_list(*names, port=port)
        slower = config(fleet.path, poll__interval="1s")
        pages = await stack.enter_async_context(running(slower))
        await pages.until_statuses(dict.fromkeys(names, "healthy"))
        for _ in range(2):  # it is not said again at each look at the inventory
            fleet.write_list(*names, "another", port=port)
            await pages.until_statuses(dict.fromkeys([*names, "another"], "healthy"))

    warnings = [record.message for record in caplog.records if "open files" in record.message]
    shortage = descriptors.descriptor_shortage(n_instances, RESERVED + n_room, n_others=20)
    assert [shortage] == warnings
    # The server sees a connection end a moment after the exporter closed it.
    assert 0 < n_open_most <= 2 * n_room


async def test_canaries_have_their_share_of_the_open_files(
    fleet: Fleet, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = RESERVED + 100
    monkeypatch.setattr(app, "raise_limit", lambda: limit)
    fleet.write_list("a", "b", port=port)
    switches = {"canary__period": "10m", "canary__concurrency": "11"}
    async with running(config(fleet.path)), running(config(fleet.path, **switches)):
        pass

    warnings = [record.message for record in caplog.records if "open files" in record.message]
    assert [descriptors.descriptor_shortage(2, limit, n_others=20 + 110)] == warnings


async def test_a_fleet_that_grows_beyond_the_limit_is_warned_about_then(
    fleet: Fleet,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(app, "raise_limit", lambda: RESERVED + 2)
    fleet.write_list("a", "b", port=port)
    async with running(config(fleet.path)) as pages:
        await pages.until_statuses({"a": "healthy", "b": "healthy"})
        assert "open files" not in caplog.text

        fleet.write_list("a", "b", "c", port=port)
        await pages.until_statuses({"a": "healthy", "b": "healthy", "c": "healthy"})

    assert descriptors.descriptor_shortage(3, RESERVED + 2, n_others=20) in caplog.text


@pytest.mark.parametrize(
    ("n_instances", "limit", "expected"),
    [
        (0, 1024, None),
        (1024 - RESERVE - 9, 1024, None),
        (1024 - RESERVE - 8, 1024, 1024 - RESERVE - 9),
        (100_000, 1024, 1024 - RESERVE - 9),
        (1, RESERVE, None),
        (2, RESERVE, 1),
        (2, 10, 1),
    ],
)
def test_a_fleet_that_does_not_fit_shares_the_room_there_is(
    n_instances: int, limit: int, expected: int | None
) -> None:
    assert expected == descriptors.instance_connections(n_instances, limit, n_others=9)


def test_the_warning_says_which_limit_and_what_helps() -> None:
    text = descriptors.descriptor_shortage(10_000, 1024, n_others=200)

    assert "10,000 instances" in text
    assert "limit of 1,024" in text
    assert f"to {10_000 + RESERVE + 200:,} (ulimit -n, LimitNOFILE=) or use --shard" in text


async def test_what_the_settings_say_of_failures_and_starts_is_in_the_exposition(
    tmp_path: Path,
) -> None:
    fleet = Fleet(tmp_path / "fleet.json")
    fleet.write_list("a", port=free_port())
    brief = config(fleet.path, poll__grace_period="1ms", poll__starting_timeout="1h")
    transient = config(fleet.path, inventory__transient="all", poll__starting_timeout="2s")
    async with Exporter(brief) as short, Exporter(transient) as all_transient:
        await Pages(short).until_values(catalogue.FLEET_RECENTLY_FAILED_INSTANCES, [0.0])
        await Pages(all_transient).until_values(catalogue.FLEET_TRANSIENT_INSTANCES, [1.0])
        fleet.write_list("a", "new", port=free_port())
        await Pages(short).until_statuses({"a": "unreachable", "new": "starting"})
        await Pages(all_transient).until_statuses({"a": "away", "new": "away"})
        assert (await Pages(all_transient).instances())["a"]["is_transient"]
