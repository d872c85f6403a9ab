"""The files of the warehouse: whole, alike, of one version."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exporter.warehouse.errors import StorageError
from exporter.warehouse.schema import NODE_HOURS, VERSION
from exporter.warehouse.storage import HOURS_KEY, VERSION_KEY, Warehouse

DAY = date(2026, 3, 1)
FILE = "node_hours/date=2026-03-01/hours.parquet"
OURS = {VERSION_KEY: str(VERSION).encode()}


def moment(hour: int) -> datetime:
    return datetime(2026, 3, 1, hour, tzinfo=UTC)


def row(hour: int, node: str = "n") -> dict[str, object]:
    labels = [("rack", "r1"), ("bios", "2.1")]
    return {"hour": moment(hour), "cluster": "", "node": node, "labels": labels, "instances": 1}


def test_hours_in_any_order_give_the_same_file(tmp_path: Path) -> None:
    for folder, hours in (("a", (3, 0, 23)), ("b", (23, 3, 0)), ("c", (0, 0, 3, 23, 3))):
        for hour in hours:
            Warehouse(str(tmp_path / folder)).add(NODE_HOURS, moment(hour), [row(hour)])

    assert 1 == len({(tmp_path / one / FILE).read_bytes() for one in "abc"})
    assert {0, 3, 23} == Warehouse(str(tmp_path / "a")).hours(NODE_HOURS, DAY)
    assert 3 == pq.ParquetFile(tmp_path / "a" / FILE).num_row_groups


def test_an_hour_without_rows_is_remembered(tmp_path: Path) -> None:
    store = Warehouse(str(tmp_path))
    store.add(NODE_HOURS, moment(1), [])
    store.add(NODE_HOURS, moment(2), [row(2, "a"), row(2, "b")])

    assert {1, 2} == store.hours(NODE_HOURS, DAY)
    ((_, table),) = store.read(NODE_HOURS, ["node"], store.days(NODE_HOURS))
    assert ["a", "b"] == table["node"].to_pylist()


def test_a_file_that_cannot_be_written_leaves_the_one_of_before(tmp_path: Path) -> None:
    store = Warehouse(str(tmp_path))
    store.add(NODE_HOURS, moment(1), [row(1)])
    before = (tmp_path / FILE).read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.replace", _refuse)
        with pytest.raises(StorageError, match="no space"):
            store.add(NODE_HOURS, moment(2), [row(2)])

    assert [tmp_path / FILE] == [one for one in tmp_path.rglob("*") if one.is_file()]
    assert before == (tmp_path / FILE).read_bytes()


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    """After a loss of power it might be empty otherwise, and every export refused."""
    sizes: list[int] = []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
        patch.setattr("os.replace", _refuse)
        with pytest.raises(StorageError):
            Warehouse(str(tmp_path)).add(NODE_HOURS, moment(1), [row(1)])

    assert 1 == len(sizes)
    assert sizes[0]


def _refuse(*_: object) -> None:
    raise OSError("no space left on device")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"PAR1 is not enough", "magic bytes|footer|smaller"),
        (b"", "smaller|0 bytes"),
        (None, f"schema version none, this release writes and reads {VERSION}"),
        ({VERSION_KEY: b"99"}, "schema version 99"),
        ({VERSION_KEY: str(VERSION).encode()}, "does not say which hours"),
        (OURS | {HOURS_KEY: b'{"1": "x"}'}, "does not say which hours"),
        (OURS | {HOURS_KEY: b'{"1": 1}'}, "has not the rows and columns of node_hours"),
    ],
)
def test_a_file_that_is_not_ours_is_named_and_kept(
    tmp_path: Path, body: bytes | dict[bytes, bytes] | None, says: str
) -> None:
    path = tmp_path / FILE
    path.parent.mkdir(parents=True)
    if isinstance(body, bytes):
        path.write_bytes(body)
    else:
        pq.write_table(pa.table({"node": ["n"]}).replace_schema_metadata(body), path)
    before = path.read_bytes()

    with pytest.raises(StorageError, match=says) as caught:
        Warehouse(str(tmp_path)).add(NODE_HOURS, moment(1), [row(1)])

    assert FILE in str(caught.value)
    assert before == path.read_bytes()


def test_a_file_that_lost_rows_is_named(tmp_path: Path) -> None:
    store = Warehouse(str(tmp_path))
    store.add(NODE_HOURS, moment(1), [row(1)])
    file = pq.ParquetFile(tmp_path / FILE)
    two = file.schema_arrow.with_metadata(OURS | {HOURS_KEY: b'{"1": 1, "2": 1}'})
    pq.write_table(file.read().cast(two), tmp_path / FILE)

    with pytest.raises(StorageError, match="has not the rows"):
        list(store.read(NODE_HOURS, ["node"], [DAY]))


@pytest.mark.parametrize("url", ["ftp://example.org/fleet", "s3://"])
def test_another_kind_of_store_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="neither a folder nor"):
        Warehouse(url)


def test_a_wrong_address_of_an_object_store_is_named() -> None:
    with pytest.raises(StorageError, match="Invalid endpoint: nonsense"):
        Warehouse("s3://fleet/hours", endpoint_url="nonsense").days()
