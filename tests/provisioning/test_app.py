"""A whole provisioner in this process: what it needs, what it leaves, how soon it acts."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import resource
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ollama_fleet.tokens import TokenFileError
from ollama_fleet.version import VERSION, revision
from provisioning import controller
from provisioning.app import Settings, running
from provisioning.errors import ListenError, ProvisionerError, StoreError
from provisioning.model import Fleet, Node, Pool, Probe, RuntimeKind, Workload
from provisioning.runtime.factory import RuntimePaths
from provisioning.spec.document import encode_fleet
from tests.ports import free_port
from tests.waiting import eventually

FLEET = Fleet(
    name="lab",
    nodes=(Node(name="n1", runtime=RuntimeKind.SIMULATED, cpus=64.0, memory_bytes=2**40),),
    pools=(
        Pool(
            name="web",
            count=3,
            workload=Workload(model="toy", engine="fleet", probe=Probe(interval_s=1.0)),
        ),
    ),
)


def settings(folder: Path, **changes: Any) -> Settings:
    chosen = Settings(
        fleet="lab",
        store_url="memory:",
        host="127.0.0.1",
        port=0,
        token_file=folder / "token",
        paths=RuntimePaths(state_dir=folder / "state", simulation_token_file=folder / "simulation"),
    )
    return dataclasses.replace(chosen, **changes)


@asynccontextmanager
async def client(chosen: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """Run a provisioner, and give a session that may write to it."""
    async with running(chosen) as url:
        token = chosen.token_file.read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(url, headers=headers) as session:
            yield session


async def leads(session: aiohttp.ClientSession) -> bool:
    async with session.get("/metrics") as response:
        return "\nollama_provisioner_leader 1.0\n" in await response.text()


async def put_spec(session: aiohttp.ClientSession, fleet: Fleet = FLEET) -> int:
    async with session.put("/spec", data=encode_fleet(fleet).encode()) as response:
        return response.status


async def n_running(session: aiohttp.ClientSession, state: str = "running") -> int:
    async with session.get("/instances", params={"state": state}) as response:
        return len(await response.json())


async def has_running(session: aiohttp.ClientSession, count: int) -> bool:
    return count == await n_running(session)


async def test_what_a_person_orders_is_begun_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next reconcile would be an hour away: a specification, a scaling, a replacement."""
    monkeypatch.setattr(controller, "INTERVAL_S", 3600.0)
    async with client(settings(tmp_path)) as session:
        await eventually(lambda: leads(session))
        assert 202 == await put_spec(session)
        await eventually(lambda: has_running(session, 3))

        async with session.post("/pools/web/scale", json={"count": 5}) as response:
            assert 202 == response.status
        await eventually(lambda: has_running(session, 5))

        async with session.post("/instances/web-00001/replace") as response:
            assert 202 == response.status
        await eventually(lambda: is_draining(session))


async def is_draining(session: aiohttp.ClientSession) -> bool:
    return 1 == await n_running(session, "draining")


async def test_own_writes_wake_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "INTERVAL_S", 3600.0)
    async with client(settings(tmp_path)) as session:
        await eventually(lambda: leads(session))
        await put_spec(session)
        await eventually(lambda: has_running(session, 3))

        # What the node tells of them comes when it comes, and wakes somebody rightly.
        await eventually(lambda: is_quiet(session))


async def is_quiet(session: aiohttp.ClientSession) -> bool:
    """Say whether none comes for as long as three take that wake each other."""
    before = await n_reconciles(session)
    await asyncio.sleep(3 * controller.SHORTEST_GAP_S)
    return before == await n_reconciles(session)


async def n_reconciles(session: aiohttp.ClientSession) -> str:
    async with session.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    (line,) = [
        line
        for line in lines
        if line.startswith("ollama_provisioner_reconcile_duration_seconds_count")
    ]
    return line


async def test_the_token_is_made_and_only_its_path_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with client(settings(tmp_path)):
        pass

    token = (tmp_path / "token").read_text().strip()
    assert f"API token created file={tmp_path / 'token'}" in caplog.text
    assert token not in caplog.text


async def test_the_log_says_which_provisioner_began_and_where(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provisioning")
    of = settings(tmp_path)
    async with running(of) as url:
        pass

    (line,) = [one for one in caplog.messages if one.startswith("provisioner started ")]
    assert line == (
        f"provisioner started version={VERSION} revision={revision()} fleet={of.fleet} "
        f"store={of.store_url} url={url}"
    )


async def test_a_provisioner_may_open_as_many_files_as_the_machine_lets_it(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
    try:
        async with running(settings(tmp_path)):
            assert (hard, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_the_state_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    async with client(settings(tmp_path)):
        assert 0o700 == (tmp_path / "state").stat().st_mode & 0o777


async def test_the_folder_around_it_is_made_for_its_owner_alone_too(tmp_path: Path) -> None:
    """The store lies there."""
    paths = RuntimePaths(tmp_path / "ollama-fleet" / "processes", tmp_path / "none")
    async with client(settings(tmp_path, paths=paths)):
        assert 0o700 == (tmp_path / "ollama-fleet").stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"store_url": "mysql://x"}, StoreError, "there is no such kind"),
        ({"store_url": "etcd://user@host:1"}, StoreError, "seen by everybody"),
        ({"store_url": "sqlite:/proc/none/x.db"}, StoreError, "see that its folder exists"),
        ({"token_file": Path("/proc/none/token")}, TokenFileError, "--web.token-file"),
        (
            {"paths": RuntimePaths(Path("/dev/null/x"), Path("/none"))},
            ProvisionerError,
            "choose another with --state-dir",
        ),
        ({"host": "203.0.113.1", "port": 9}, ListenError, "choose another with --web.listen-"),
    ],
)
async def test_what_cannot_be_used_is_said_and_nothing_is_left_open(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    tasks = asyncio.all_tasks()
    with pytest.raises(error, match=words):
        async with running(settings(tmp_path, **changes)):
            await asyncio.sleep(10.0)

    gc.collect()  # what is still open would warn here, and warnings are errors
    assert tasks == asyncio.all_tasks()


async def test_a_port_that_is_taken_leaves_the_store_to_others(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'fleet.db'}"
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        with pytest.raises(ListenError, match="Address already in use"):
            async with running(settings(tmp_path, store_url=store, port=port)):
                pass

    async with client(settings(tmp_path, store_url=store, port=port)) as session:
        await eventually(lambda: leads(session))


async def test_a_store_that_breaks_for_good_ends_the_provisioner_with_its_reason(
    tmp_path: Path,
) -> None:
    path = tmp_path / "fleet.db"
    async with client(settings(tmp_path, store_url=f"sqlite:{path}")) as session:
        await eventually(lambda: leads(session))
        await put_spec(session)
    path.write_bytes(b"no database, but long enough to look like something else" * 100)

    with pytest.raises(StoreError, match="it is no SQLite file"):
        async with running(settings(tmp_path, store_url=f"sqlite:{path}")):
            pytest.fail("it says that it runs")


async def test_a_store_that_will_not_do_is_known_before_anybody_tries_to_lead(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(StoreError, match="see that its folder exists"):
        async with running(settings(tmp_path, store_url="sqlite:/proc/none/x.db")):
            pytest.fail("it says that it runs")

    assert "lead" not in caplog.text


async def test_a_store_that_is_out_of_reach_at_first_leaves_the_api_to_say_so(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with client(settings(tmp_path, store_url=f"etcd://127.0.0.1:{port}")) as session:
        assert not await is_ready(session)
        async with session.get("/-/healthy") as response:
            assert 200 == response.status


async def test_a_provisioner_that_is_cancelled_hands_over_at_once(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'fleet.db'}"

    async def run() -> None:
        async with running(settings(tmp_path, store_url=store)):
            await asyncio.Event().wait()

    first = asyncio.create_task(run())
    await eventually((tmp_path / "fleet.db.lock").exists)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)

    assert first.cancelled()
    async with client(settings(tmp_path, store_url=store)) as session:
        await eventually(lambda: leads(session))
    with sqlite3.connect(tmp_path / "fleet.db") as database:
        assert ("ok",) == database.execute("PRAGMA integrity_check").fetchone()
    database.close()


async def test_others_get_the_url_that_was_given(tmp_path: Path) -> None:
    """The leader's own address may be one that only it can use."""
    store = f"sqlite:{tmp_path / 'fleet.db'}"
    leader = settings(tmp_path, store_url=store, advertised_url="https://fleet.example:8443")
    async with client(leader) as first:
        await eventually(lambda: leads(first))
        async with client(settings(tmp_path, store_url=store)) as standby:
            await eventually(lambda: is_ready(standby))
            async with standby.put("/spec", data=encode_fleet(FLEET).encode()) as response:
                problem = await response.json()
            async with standby.get("/nodes") as unknown, first.get("/nodes") as known:
                assert (503, 200) == (unknown.status, known.status)
                assert "https://fleet.example:8443" == (await unknown.json())["leader"]

    assert (503, "https://fleet.example:8443") == (response.status, problem["leader"])


async def test_others_get_the_port_that_the_system_has_chosen(tmp_path: Path) -> None:
    """The options say port 0, and an address that is none: both are for us to know better."""
    store = f"sqlite:{tmp_path / 'fleet.db'}"
    leader = settings(tmp_path, store_url=store, host="0.0.0.0")  # noqa: S104 - it is the case
    async with running(leader) as url, aiohttp.ClientSession(url) as first:
        await eventually(lambda: leads(first))
        async with client(settings(tmp_path, store_url=store)) as standby:
            await eventually(lambda: is_ready(standby))
            async with standby.put("/spec", data=encode_fleet(FLEET).encode()) as response:
                problem = await response.json()

    assert url == problem["leader"]
    assert url.startswith("http://127.0.0.1:")
    assert not url.endswith(":0")


async def test_it_answers_to_the_names_that_it_was_given(tmp_path: Path) -> None:
    chosen = settings(tmp_path, host="localhost", advertised_url="https://Fleet.Example:8443/")
    async with running(chosen) as url, aiohttp.ClientSession(url) as session:
        statuses = []
        for host in ("fleet.example:8443", "localhost", "evil.example"):
            async with session.get("/metrics", headers={"Host": host}) as response:
                statuses.append(response.status)

    assert [200, 200, 421] == statuses


async def test_a_specification_of_another_fleet_is_refused(tmp_path: Path) -> None:
    async with client(settings(tmp_path)) as session:
        await eventually(lambda: leads(session))

        assert 409 == await put_spec(session, FLEET.replace(name="other"))


async def is_ready(session: aiohttp.ClientSession) -> bool:
    async with session.get("/-/ready") as response:
        return response.status == 200


async def replaced(session: aiohttp.ClientSession) -> int:
    async with session.post("/instances/web-00001/replace") as response:
        return response.status


async def leads_no_more(session: aiohttp.ClientSession) -> bool:
    return not await leads(session)


async def test_nothing_is_accepted_any_more_and_another_provisioner_leads_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = f"sqlite:{tmp_path / 'fleet.db'}"
    async with client(settings(tmp_path, store_url=store)) as first:
        await eventually(lambda: leads(first))
        await put_spec(first)
        await eventually(lambda: has_running(first, 3))
        for path in tmp_path.glob("fleet.db*"):
            path.unlink()

        assert await replaced(first) in {500, 503}
        await eventually(lambda: leads_no_more(first))
        assert 503 == await replaced(first)
        assert await has_running(first, 3)
        await eventually(lambda: "store refused, cannot lead" in caplog.text)
        assert not (tmp_path / "fleet.db").exists()

        async with client(settings(tmp_path, store_url=store)) as second:
            await eventually(lambda: leads(second))
            assert not await leads(first)
