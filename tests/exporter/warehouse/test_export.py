"""`warehouse export` from a real Prometheus with a past, into a folder and a real object store."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
import s3fs
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from exporter.warehouse import export
from exporter.warehouse.cli import warehouse
from exporter.warehouse.errors import StorageError
from exporter.warehouse.export import Export, Span
from exporter.warehouse.rollups import Naming
from exporter.warehouse.schema import INSTANCE_HOURS, TABLES, Table
from exporter.warehouse.storage import Warehouse
from ollama_fleet.prometheus import PrometheusClient
from tests.alerts.past import Programs, prometheus_with
from tests.exporter.warehouse.history import ABSENT, HOURS, N_NODES, ON_NODE, first_hour, past
from tests.s3 import BUCKET, object_store

Exporting = Callable[..., Result]


async def run(url: str, place: str | Path, *options: str) -> Mapping[str, Any]:
    arguments = ["export", "--prometheus.url", url, "--warehouse", str(place), "--json", *options]
    done = await asyncio.to_thread(CliRunner().invoke, warehouse, arguments)
    assert 0 == done.exit_code, done.output
    return dict(json.loads(done.stdout))


def rows(place: Path, statement: str) -> list[tuple[Any, ...]]:
    """Return what DuckDB reads; `{table}` stands for the files of a table."""
    for table in TABLES:
        files = f"read_parquet('{place}/{table.name}/*/*.parquet', hive_partitioning = true)"
        statement = statement.replace(f"{{{table.name}}}", files)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(statement).fetchall()


def contents(place: Path) -> Mapping[str, bytes]:
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}


async def test_a_real_history_becomes_tables_that_duckdb_reads(
    tmp_path: Path, prometheus_binary: Path, promtool_binary: Path
) -> None:
    now_s, place = time.time(), tmp_path / "warehouse"
    programs = Programs(prometheus_binary, promtool_binary)
    with object_store(tmp_path / "s3") as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environ.items():
            patch.setenv(name, value)
        patch.setattr(time, "time", lambda: now_s)  # no hour may end meanwhile
        bucket = s3fs.S3FileSystem(endpoint_url=store.endpoint_url, use_listings_cache=False)
        await asyncio.to_thread(bucket.makedirs, BUCKET, exist_ok=True)
        async with prometheus_with(past(now_s), tmp_path, programs) as url:
            first = await run(url, place, "--settle", "0s")
            written = contents(place)
            again = await run(url, place, "--settle", "0s")
            settling = await run(url, tmp_path / "late", "--settle", "400d")
            in_store = await run(
                url, store.url, "--settle", "0s", "--s3.endpoint-url", store.endpoint_url
            )
            stored = {
                name.removeprefix(f"{BUCKET}/hours/"): await asyncio.to_thread(
                    bucket.cat_file, name
                )
                for name in await asyncio.to_thread(bucket.find, BUCKET)
            }
            (gone,) = list(place.glob(f"instance_hours/date={first_hour(now_s).date()}/*"))
            gone.unlink()
            repaired = await run(url, place, "--settle", "0s")

    assert (HOURS, 1) == (first["hours"], first["empty_hours"])
    assert 0 == again["hours"] == settling["hours"]
    assert HOURS == in_store["hours"]
    assert repaired["hours"]
    assert written == contents(place) == stored  # whatever was there before, equal hours
    _check(place, first_hour(now_s))


def _check(place: Path, first: datetime) -> None:
    n = N_NODES * ON_NODE
    hours = [first + timedelta(hours=one) for one in range(HOURS) if one != ABSENT]
    assert [(hour, n) for hour in hours] == rows(
        place, "SELECT hour, count(*) FROM {instance_hours} GROUP BY hour ORDER BY hour"
    )
    assert {(hour.date(),) for hour in hours} == {
        *rows(place, "SELECT DISTINCT date FROM {instance_hours}")
    }
    # An extrapolated hour of 60 tokens a minute; replicas are not added up.
    assert [(True,)] == rows(
        place,
        "SELECT DISTINCT abs(generated_tokens - 3600) < 61 FROM {instance_hours}",
    )
    assert [("east", 40.0, 44.0), ("east", 20.0, 22.0)] == rows(
        place,
        "SELECT DISTINCT cluster, tokens_per_second_median, round(tokens_per_second_mean)"
        " FROM {instance_hours} WHERE tokens_per_second_mean IS NOT NULL ORDER BY 2 DESC",
    )
    of_first = "FROM {instance_hours} WHERE instance_id = 'n0-0' ORDER BY hour"
    assert [("1",)] * ABSENT + [("2",)] * (HOURS - ABSENT - 1) == rows(
        place, f"SELECT version {of_first}"
    )
    assert [1.0, 1.0, 1.0, 0.0, 1.0, 1.0] == [
        one for (one,) in rows(place, f"SELECT uptime_ratio {of_first}")
    ]
    assert [("r0", "epyc", "epyc", ["m:8b"], True)] == rows(
        place,
        "SELECT DISTINCT labels['rack'], labels['hardware'], hardware, loaded_models,"
        " observed_ratio > 0.98 FROM {instance_hours} WHERE instance_id = 'n0-0'",
    )
    assert [("n1-1", hours[1], first + timedelta(seconds=4940))] == rows(
        place,
        "SELECT instance_id, hour, started_at FROM {instance_hours} WHERE restarts > 0",
    )
    _check_rolled_up(place, n)


def _check_rolled_up(place: Path, n: int) -> None:
    assert [("n0", 80.0, {"rack": "r0", "hardware": "epyc"}, ["m:8b"])] == rows(
        place,
        "SELECT DISTINCT node, 2 * tokens_per_second_median, labels, models FROM {node_hours}"
        " WHERE node = 'n0' AND tokens_per_second IS NOT NULL",
    )
    assert [("m:8b", n, n, 40.0)] == rows(
        place,
        "SELECT DISTINCT model, instances, loaded_instances, tokens_per_second_median"
        " FROM {model_hours}",
    )
    # 98 of 100 requests are within 0.1 s, the next within 0.15: half of that bucket is the 99th.
    assert [(0.125,)] == rows(
        place,
        "SELECT DISTINCT round(request_duration_p99_seconds, 3) FROM {model_hours}",
    )


# What can go wrong


class Answering:
    """Answers as a Prometheus that has one instance in each hour, and counts what it is asked."""

    def __init__(self, first: datetime, n_hours: int) -> None:
        self.ends_s = [first.timestamp() + 3600 * (n + 1) for n in range(n_hours)]
        self.n_asked = 0

    async def range(self, request: web.Request) -> web.Response:
        """Answer for the presence of exporters."""
        values = [[end_s - 0.001, "1"] for end_s in self.ends_s]
        return _answer([{"metric": {}, "values": values}])

    async def instant(self, request: web.Request) -> web.Response:
        """Answer for one column."""
        self.n_asked += 1
        if "ollama_instance_up" not in request.query["query"]:
            return _answer([])
        metric = {"instance_id": "i", "node": "n"}
        return _answer([{"metric": metric, "value": [float(request.query["time"]), "1"]}])

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_get("/api/v1/query_range", self.range)
        app.router.add_get("/api/v1/query", self.instant)
        self._server = TestServer(app)
        await self._server.start_server()
        return str(self._server.make_url("")).rstrip("/")

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()


def _answer(result: Sequence[Mapping[str, Any]]) -> web.Response:
    return web.json_response({"status": "success", "data": {"result": result}})


class FullDisk(Warehouse):
    """Takes so many files, and then none."""

    n_left = 0

    def add(self, table: Table, hour: datetime, rows: Sequence[Mapping[str, Any]]) -> int:
        if not self.n_left:
            raise StorageError("no space left")
        self.n_left -= 1
        return super().add(table, hour, rows)


FIRST = datetime(2026, 1, 31, 21, tzinfo=UTC)
LAST_S = FIRST.timestamp() + 5 * 3600
SPAN = Span(since_s=864_000.0, settle_s=300.0)


@pytest.fixture
async def answering() -> AsyncIterator[tuple[Answering, Callable[[Warehouse], Export]]]:
    server = Answering(FIRST, 5)
    async with server as url, PrometheusClient(url, timeout_s=100.0) as client:
        yield server, lambda store: Export(client, store, Naming())


@pytest.mark.parametrize("n_files", range(0, 15, 2))
async def test_an_export_that_broke_off_is_finished_by_the_next(
    answering: tuple[Answering, Callable[[Warehouse], Export]], tmp_path: Path, n_files: int
) -> None:
    _, exporting = answering
    full = FullDisk(str(tmp_path / "broken"))
    full.n_left = n_files
    with pytest.raises(StorageError):
        await exporting(full).run(SPAN, now_s=LAST_S + 300)
    full.n_left = 100

    done = await exporting(full).run(SPAN, now_s=LAST_S + 300)
    await exporting(Warehouse(str(tmp_path / "whole"))).run(SPAN, now_s=LAST_S + 300)

    assert 5 - n_files // len(TABLES) == done.n_hours
    assert contents(tmp_path / "whole") == contents(tmp_path / "broken")


async def test_an_hour_is_exported_when_it_is_complete_and_settled(
    answering: tuple[Answering, Callable[[Warehouse], Export]], tmp_path: Path
) -> None:
    server, exporting = answering
    store = Warehouse(str(tmp_path))
    job = exporting(store)

    before = await job.run(SPAN, now_s=LAST_S + 299)
    asked, after = server.n_asked, await job.run(SPAN, now_s=LAST_S + 300)
    asked_once = server.n_asked
    nothing = await job.run(SPAN, now_s=LAST_S + 3000)

    assert (4, 1, 0) == (before.n_hours, after.n_hours, nothing.n_hours)
    assert asked < asked_once == server.n_asked
    assert [date(2026, 1, 31), date(2026, 2, 1)] == store.days()
    assert {0, 1} == store.hours(INSTANCE_HOURS, date(2026, 2, 1))


class Steps:
    """A clock that moves when somebody waits; the third wait is cancelled, as by Ctrl-C."""

    def __init__(self, now_s: float, store: FullDisk) -> None:
        self.now_s = now_s
        self.waits_s: list[float] = []
        self._store = store

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        self.waits_s.append(duration_s)
        self.now_s += duration_s
        if len(self.waits_s) == 2:
            self._store.n_left = 100
        if len(self.waits_s) == 3:
            raise asyncio.CancelledError


async def test_an_export_every_so_often_goes_on_after_a_failure(
    answering: tuple[Answering, Callable[[Warehouse], Export]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = FullDisk(str(tmp_path))
    store.n_left = 4 * len(TABLES)
    clock, done = Steps(LAST_S + 299, store), list[int]()

    with pytest.raises(asyncio.CancelledError):
        await answering[1](store).run_every(
            600.0, SPAN, clock, lambda one: done.append(one.n_hours)
        )

    assert ([4, 1], [600.0] * 3) == (done, clock.waits_s)
    assert ["export failed: no space left"] == [
        one.message for one in caplog.records if one.levelname == "ERROR"
    ]


def test_gaps_are_filled_from_the_first_hour_that_prometheus_has() -> None:
    hours = [FIRST + timedelta(hours=n) for n in range(6)]
    held = {FIRST.date(): {22}}

    found = export.missing({hours[0], hours[4]}, hours[4], lambda day: held.get(day, set()))

    assert [hours[0], *hours[2:5]] == found
    assert [] == export.missing(set(), hours[4], lambda _: set())


def test_a_prometheus_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    arguments = ["export", "--prometheus.url", "http://me:secret@127.0.0.1:9", "--warehouse"]

    done = CliRunner().invoke(warehouse, [*arguments, str(tmp_path)])

    assert 2 == done.exit_code
    assert "http://127.0.0.1:9 cannot be asked" in done.stderr
    assert "secret" not in done.stderr
