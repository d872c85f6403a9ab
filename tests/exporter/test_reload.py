"""A reload takes over all settings that changed, or none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import bcrypt
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import catalogue
from exporter.app import Exporter
from exporter.catalogue import Series
from exporter.config import Config, Given, build, changed, restarts
from exporter.errors import ExporterError, InputError
from exporter.settings import SETTINGS
from tests.exporter.canaries import ANSWER, llama_server
from tests.exporter.canaries import answering as answering_canaries
from tests.exporter.fetching import Fetched, fetch
from tests.exporter.pollers import patient
from tests.exporter.servers import answering, serving
from tests.waiting import eventually

FLEET = {
    "/health": b"{}",
    "/api/metrics": b'{"tokens_per_second":42,"latency_p99":0.089,"error_count":0}',
}
QUICK = {
    "poll.interval": "400ms",
    "web.listen-address": "127.0.0.1:0",
}
TOKEN = "0123456789abcdef"  # noqa: S105
BEARER = f"Bearer {TOKEN}"


def config(**settings: str) -> Config:
    """Return a configuration; `log__window` stands for `log.window`."""
    given = {name.replace("__", ".").replace("_", "-"): text for name, text in settings.items()}
    return patient(build({name: Given((text,), name) for name, text in {**QUICK, **given}.items()}))


@dataclass
class Site:
    """A running exporter, and what it reads at its next reload."""

    exporter: Exporter
    wanted: Config

    async def get(self, path: str, **headers: str) -> Fetched:
        return await fetch(self.exporter.port, path, **headers)

    async def post(self, **headers: str) -> Fetched:
        return await fetch(self.exporter.port, "/-/reload", method="POST", **headers)

    async def reload(self, **settings: str) -> str:
        self.wanted = config(**settings)
        return await self.exporter.reread()

    async def ids(self) -> list[str]:
        return [view["id"] for view in (await self.get("/instances")).json]

    async def has_only_d_and_that_is_away(self) -> bool:
        views = (await self.get("/instances")).json
        return [("d", "away")] == [(view["id"], view["status"]) for view in views]

    async def has_canaries(self) -> bool:
        return "canary_outcome" in (await self.get("/instances")).json[0]

    async def values(self, series: Series) -> list[float]:
        page = (await self.get("/metrics")).text
        samples = (sample for family in parse_text(page) for sample in family.samples)
        return [sample.value for sample in samples if sample.name == series.name]

    async def reloads(self) -> list[float]:
        """Return whether the last reload succeeded, and when one last did."""
        return [
            *await self.values(catalogue.EXPORTER_CONFIG_LAST_RELOAD_SUCCESSFUL),
            *await self.values(catalogue.EXPORTER_CONFIG_LAST_RELOAD_SUCCESS),
        ]

    async def settings(self) -> dict[str, Any]:
        rows = (await self.get("/config")).json["settings"]
        return {row["name"]: (row["value"], row["source"]) for row in rows}


@asynccontextmanager
async def site(**settings: str) -> AsyncIterator[Site]:
    first = config(**settings)
    async with AsyncExitStack() as stack:
        exporter = Exporter(first, read_config=lambda: found.wanted)
        found = Site(exporter, first)
        await stack.enter_async_context(exporter)
        yield found


def fleet(folder: Path, *ids: str, port: int = 1, name: str = "fleet.json") -> str:
    path = folder / name
    path.with_suffix(".new").write_bytes(
        msgspec.json.encode([{"id": one, "url": f"http://127.0.0.1:{port}"} for one in ids])
    )
    path.with_suffix(".new").replace(path)
    return str(path)


# What is taken over


async def test_what_changed_is_taken_over_by_every_part(tmp_path: Path) -> None:
    async with serving(answering(FLEET)) as port:
        inventory = fleet(tmp_path, "a", "b", port=port)
        async with site(inventory=inventory, poll__interval="1h") as pages:
            done = await pages.reload(
                inventory=fleet(tmp_path, "b", "c", port=port, name="other.json"),
                poll__interval="100ms",
                inventory__refresh_interval="50ms",
                inventory__transient="all",
                poll__starting_timeout="1ms",
                metrics__per_instance="false",
                ui__healthy_instances="7",
                ui__prometheus_url="http://127.0.0.1:1",
                web__allowed_hosts="exporter.example.org",
                canary__period="10s",
                canary__timeout="1s",
            )

            assert done == (
                "settings=inventory,inventory.refresh-interval,inventory.transient,poll.interval,"
                "poll.starting-timeout,poll.grace-period,"
                "canary.period,canary.timeout,metrics.per-instance,web.allowed-hosts,"
                "ui.healthy-instances,ui.prometheus-url instances=2 added=1 removed=1 changed=0"
            )
            assert ["b", "c"] == await pages.ids()
            assert [0.1] == await pages.values(catalogue.EXPORTER_POLL_INTERVAL)
            assert 200 == (await pages.get("/config", Host="exporter.example.org")).status

            async def is_polled_again() -> bool:
                polls = await pages.values(catalogue.EXPORTER_POLLS)
                return polls[0] > 6 and bool(await pages.values(catalogue.FLEET_INSTANCES))

            await eventually(is_polled_again)
            assert [] == await pages.values(catalogue.INSTANCE_UP)
            assert 1 == len(await pages.values(catalogue.EXPORTER_INVENTORY_INSTANCES))
            summary = (await pages.get("/fleet/map")).json["summary"]
            assert [7.0] == [
                one["threshold"]
                for one in summary["indicators"]
                if "healthy_instances" == one["name"]
            ]
            assert 10.0 == summary["canary_period_seconds"]
            assert summary["alerts"] is not None

            fleet(tmp_path, "d", name="other.json")
            await eventually(pages.has_only_d_and_that_is_away)


async def test_canaries_can_be_switched_on_and_off(tmp_path: Path) -> None:
    async with serving(llama_server(answering_canaries(ANSWER))) as port:
        inventory = fleet(tmp_path, "a", port=port)
        async with site(inventory=inventory, poll__interval="100ms") as pages:
            on = {"canary__period": "100ms"}
            await pages.reload(inventory=inventory, poll__interval="100ms", **on)
            first = (await pages.settings())["canary.period"]
            await eventually(pages.has_canaries)
            await pages.reload(inventory=inventory, poll__interval="100ms")

            assert (("100ms", "canary.period"), ("0", "default")) == (
                first,
                (await pages.settings())["canary.period"],
            )
            assert not await pages.has_canaries()


async def test_a_url_that_does_not_answer_keeps_its_last_list(tmp_path: Path) -> None:
    document = b'[{"targets":["127.0.0.1:1"],"labels":{"id":"u"}}]'
    other = fleet(tmp_path, "a")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(AsyncExitStack())
        port = await server.enter_async_context(serving(answering({"/instances": document})))
        url = f"http://127.0.0.1:{port}/instances"
        pages = await stack.enter_async_context(site(inventory=url))
        before = await pages.ids()
        await server.aclose()
        pages.wanted = replace(config(inventory=url), inventory=(url, other))
        done = await pages.exporter.reread()

        assert done.endswith("instances=2 added=1 removed=0 changed=0")
        assert ["a", *before] == await pages.ids()
        pages.wanted = config(inventory=url)
        assert (await pages.exporter.reread()).endswith("added=0 removed=1 changed=0")
        assert before == await pages.ids()
        pages.wanted = config(inventory=other)
        assert (await pages.exporter.reread()).endswith("added=1 removed=1 changed=0")
        assert ["a"] == await pages.ids()


# What is refused


async def test_a_bad_configuration_is_refused_with_all_faults_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inventory, web_config = fleet(tmp_path, "a"), tmp_path / "web.yml"
    web_config.write_text("")
    bad = tmp_path / "bad.yml"
    bad.write_text("- {id: b, url: 'ftp://b'}\n")
    async with site(inventory=inventory, web__config__file=str(web_config)) as pages:
        before, at_start = await pages.settings(), await pages.reloads()
        web_config.write_text("basic_auth_userz: {}\n")
        with pytest.raises(InputError) as caught:
            await pages.reload(
                inventory=str(bad), web__config__file=str(web_config), shard="0/2", log__window="9s"
            )

        places = [problem.place for problem in caught.value.problems]
        assert ["shard", f"{web_config}: basic_auth_userz", f"{bad}:1"] == places
        refused = [r.message for r in caplog.records if "reload refused" in r.message]
        assert 1 == len(refused)
        assert all(place in refused[0] for place in places)
        assert before == await pages.settings()
        assert (1.0, 0.0) == (at_start[0], (after := await pages.reloads())[0])
        assert at_start[1] == after[1]
        assert ["a"] == await pages.ids()
        web_config.write_text("")
        assert "settings=log.window " in await pages.reload(
            inventory=inventory, web__config__file=str(web_config), log__window="9s"
        )
        reloaded = await pages.reloads()
        assert (1.0, True) == (reloaded[0], reloaded[1] > at_start[1])


def test_settings_that_need_a_restart_are_named_each() -> None:
    kept = {setting.name for setting in SETTINGS if setting.needs_restart}
    before = config(inventory="a.yml")
    after = config(
        inventory="b.yml",
        shard="0/2",
        gateway__url="http://127.0.0.1:11431",
        poll__max_body_bytes="9",
        poll__insecure_skip_verify="true",
        metrics__latency_unit="milliseconds",
        web__listen_address=":1",
        web__telemetry_path="/m",
        web__token_file="t",  # noqa: S106
        web__write_timeout="1s",
        web__max_connections="9",
        log__format="json",
    )

    assert kept - {"web.config.file"} == {one.place for one in restarts(changed(before, after))}
    assert [] == restarts(changed(before, config(inventory="b.yml", log__window="3s")))
    assert {"given", *(one.attribute for one in SETTINGS)} == {one.name for one in fields(Config)}


# Who may reload


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"ops {TOKEN}\n")
    path.chmod(0o600)
    return path


async def test_only_a_token_of_the_file_reloads(tmp_path: Path, token_file: Path) -> None:
    async with site(inventory=fleet(tmp_path, "a"), web__token_file=str(token_file)) as pages:
        assert [401, 401, 403, 405] == [
            (await pages.post()).status,
            (await pages.post(Authorization=f"{BEARER}x")).status,
            (await pages.post(Authorization=BEARER, Origin="http://evil.example")).status,
            (await pages.get("/-/reload", Authorization=BEARER)).status,
        ]
        answer = await pages.post(Authorization=BEARER)
        assert (200, "Reloaded: settings=none instances=1 added=0 removed=0 changed=0\n") == (
            answer.status,
            answer.text,
        )
        token_file.write_text("short")
        answer = await pages.post(Authorization=BEARER)
        assert (503, False) == (answer.status, TOKEN in answer.text)


async def test_without_tokens_and_passwords_nobody_reloads_over_http(tmp_path: Path) -> None:
    async with site(inventory=fleet(tmp_path, "a")) as pages:
        answer = await pages.post(Authorization=BEARER)

    assert 403 == answer.status
    assert "web.token-file" in answer.text


async def test_a_user_of_the_web_configuration_reloads(tmp_path: Path) -> None:
    web_config = tmp_path / "web.yml"
    hashed = bcrypt.hashpw(b"example", bcrypt.gensalt(4)).decode()
    web_config.write_text(f"basic_auth_users:\n  ops: {hashed}\n")
    inventory = fleet(tmp_path, "a")
    async with site(inventory=inventory, web__config__file=str(web_config)) as pages:
        pages.wanted = config(inventory=inventory, web__config__file=str(web_config), shard="0/2")
        answer = await pages.post(Authorization="Basic b3BzOmV4YW1wbGU=")

    assert 500 == answer.status
    assert "shard: needs a restart" in answer.text
    assert "the settings in force stay" in answer.text


def test_a_token_file_without_a_token_refuses_the_start(tmp_path: Path, token_file: Path) -> None:
    token_file.write_text("")

    async def start() -> None:
        async with site(inventory=fleet(tmp_path, "a"), web__token_file=str(token_file)):
            raise AssertionError

    with pytest.raises(ExporterError, match=r"it holds no token; .*web\.token-file"):
        asyncio.run(start())


# What is shown


async def test_the_settings_in_force_are_shown_without_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "s3cr3t"  # noqa: S105
    url = f"http://127.0.0.1:1/instances?token={secret}"
    async with site(inventory=url) as pages:
        answer = await pages.get("/config")
        settings = await pages.settings()
        await pages.reload(inventory=f"{url}2")

    assert {setting.name for setting in SETTINGS} == settings.keys()
    assert (["http://127.0.0.1:1/instances?***"], "inventory") == settings["inventory"]
    assert ("400ms", "poll.interval") == settings["poll.interval"]
    assert ("info", "default") == settings["log.level"]
    assert ([], "default") == settings["web.allowed-hosts"]
    assert secret not in answer.text + caplog.text
