"""`--check` asks each instance once, within a limit of time, and shows what it says."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from exporter import check
from exporter.check import InstanceCheck, inventory_text, read_settings
from exporter.config import Config, Given, build
from exporter.errors import SourceError
from ollama_fleet.clock import SystemClock
from tests.exporter.servers import Handler, answering, hanging, serving
from tests.waiting import eventually

FLEET = {"/health": b"{}", "/api/metrics": b'{"tokens_per_second":1042.25,"model":"m"}'}
OLLAMA = {
    "/": b"Ollama is running",
    "/api/version": b'{"version":"0.23.0"}',
    "/api/ps": b'{"models":[{"name":"llama3.1:8b","size":2,"size_vram":1}]}',
    "/api/tags": b'{"models":[{"name":"llama3.1:8b"}]}',
}
EMPTY = {**OLLAMA, "/api/ps": b'{"models":[]}'}
HOSTILE = {**OLLAMA, "/api/ps": b'{"models":[{"name":"a\\u001b[2J\\u202eb"}]}'}


def configured(path: Path, entries: object, **settings: str) -> Config:
    path.write_text(json.dumps(entries))
    texts = {"inventory": str(path), "web.listen-address": "127.0.0.1:0", **settings}
    return build({name: Given((text,), name) for name, text in texts.items()})


async def checked(
    path: Path, servers: Mapping[str, Handler], *, within_s: float = 100.0, **listed: object
) -> InstanceCheck:
    """Check an inventory of such servers, by id."""
    async with AsyncExitStack() as stack:
        entries = []
        for name, handler in servers.items():
            port = await stack.enter_async_context(serving(handler))
            entries.append({"id": name, "url": f"http://127.0.0.1:{port}", **listed})
        config = configured(path, entries)
        inventory = await read_settings(config, SystemClock())
        one = InstanceCheck(inventory, config, SystemClock())
        await one.run(lambda: None, within_s=within_s)
        return one


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet.json"


def cells(one: InstanceCheck) -> dict[str, list[str]]:
    """Return the table by id, without URLs."""
    head, *rows = [line.split("  ") for line in one.to_text().splitlines()[:-1]]
    assert "ID" == head[0]
    return {row[0]: [cell.strip() for cell in row if cell.strip()][2:] for row in rows}


async def test_the_table_has_engine_version_models_speed_and_error(path: Path) -> None:
    """What is not healthy comes last, next to the summary."""
    servers = {
        "a-bad": answering({"/": b"nginx"}),
        "b-fleet": answering(FLEET),
        "c-ollama": answering(OLLAMA),
        "d-empty": answering(EMPTY),
    }

    one = await checked(path, servers)

    table = cells(one)
    assert ["b-fleet", "c-ollama", "d-empty", "a-bad"] == list(table)
    assert ["healthy", "fleet", "-", "m", "1,042.2"] == table["b-fleet"]
    assert ["healthy", "ollama", "0.23.0", "llama3.1:8b (CPU)", "-", "on_cpu"] == table["c-ollama"]
    assert ["none loaded", "-", "nothing_loaded"] == table["d-empty"][3:]
    assert table["a-bad"][-1].startswith("unrecognised: ")
    assert (
        "3 of 4 instances healthy: 2 ollama 0.23.0, 1 fleet; 1 unrecognised (a-bad)"
        == one.to_text().splitlines()[-1]
    )
    by_id = {view["id"]: view for view in json.loads(one.to_json())}
    assert "0.23.0" == by_id["c-ollama"]["version"]
    assert 1042.25 == by_id["b-fleet"]["tokens_per_second"]


async def test_what_an_instance_says_steers_no_terminal(path: Path) -> None:
    text = (await checked(path, {"a": answering(HOSTILE)})).to_text()

    assert r"a\x1b[2J\u202eb" in text
    assert all(line.isprintable() for line in text.splitlines())


async def test_the_check_ends_in_time_and_says_who_was_not_asked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "AT_ONCE", 1)

    table: dict[str, list[str]] = {}

    async def is_one_asked() -> bool:
        servers = {"a": answering(FLEET), "b": hanging, "c": hanging}
        table.update(cells(await checked(path, servers, within_s=0.5)))
        return "healthy" == table["a"][0]

    await eventually(is_one_asked)
    assert [["unknown", "not asked: --check ends after 60 s"]] * 2 == [
        [table[name][0], table[name][-1]] for name in ("b", "c")
    ]


async def test_nobody_asks_what_is_still_provisioned(path: Path) -> None:
    one = await checked(path, {"a": hanging}, state="provisioning")

    assert ["provisioning", "auto", "-", "-", "-"] == cells(one)["a"]
    assert "0 of 1 instance healthy: 1 provisioning (a)" in one.to_text()


async def test_progress_counts_who_was_asked_and_each_connection_is_closed(path: Path) -> None:
    n_asked, n_open = 0, 0

    def count() -> None:
        nonlocal n_asked
        n_asked += 1

    def counting(handler: Handler) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal n_open
            n_open += 1
            await handler(reader, writer)
            n_open -= 1

        return handle

    async with serving(counting(answering(FLEET))) as port:
        entries = [{"id": f"i{k}", "url": f"http://127.0.0.1:{port}"} for k in range(300)]
        config = configured(path, entries)
        inventory = await read_settings(config, SystemClock())
        await InstanceCheck(inventory, config, SystemClock()).run(count)
        await eventually(lambda: n_open == 0)

    assert 300 == n_asked


async def test_an_empty_inventory_is_a_summary(path: Path) -> None:
    config = configured(path, [])
    inventory = await read_settings(config, SystemClock())

    assert f"0 instances (0 in {path})" == inventory_text(inventory)
    assert "0 of 0 instances healthy" == InstanceCheck(inventory, config, SystemClock()).to_text()


async def test_an_inventory_server_that_is_down_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        where = f"127.0.0.1:{unused.getsockname()[1]}"
    config = configured(path, [], inventory=f"http://{where}/instances")

    with pytest.raises(SourceError) as caught:
        await read_settings(config, SystemClock())

    why = f"http://{where}/instances: cannot connect to {where}: Connection refused"
    assert f"the inventory is not checked: {why}" == str(caught.value)
    assert [] == caplog.messages
