"""Keep tables as Parquet: one file for each day and table, with one row group for each hour.

Whoever reads sees a whole file, of before or of after: locally it is renamed into place, in an
object store it is one PUT. Equal rows give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError

from exporter.warehouse.errors import StorageError
from exporter.warehouse.schema import INSTANCE_HOURS, VERSION, Table
from ollama_fleet.files import write_whole

PROTOCOLS = ("file", "s3")
FILE = "hours.parquet"
PARTITION = "date="
MAX_DAY_BYTES = 4 * 2**30
VERSION_KEY = b"ollama_fleet.schema_version"
HOURS_KEY = b"ollama_fleet.hours"
"""Hours that the file holds, with their numbers of rows: 0 for one that Prometheus lacks."""
DAY_HOURS = 24


@dataclass(frozen=True, slots=True)
class Day:
    """One file: the hours that it holds, and the rows of each."""

    rows_by_hour: Mapping[int, int]
    file: Any = None
    """None where there is no file yet."""

    def hour(self, hour: int, columns: Sequence[str] | None = None) -> Any:
        """Return the rows of an hour that has some."""
        filled = [one for one in sorted(self.rows_by_hour) if self.rows_by_hour[one]]
        return self.file.read_row_group(filled.index(hour), columns=columns)


class Warehouse:
    """A folder, or a prefix of a bucket, with the tables."""

    def __init__(self, url: str, *, endpoint_url: str | None = None) -> None:
        """Take a folder or `s3://bucket/prefix`; credentials come from the environment.

        Raises:
            StorageError: It is another kind of store.
        """
        protocol, _, place = url.partition("://") if "://" in url else ("file", "", url)
        if protocol not in PROTOCOLS or (not place.strip("/") and protocol == "s3"):
            raise StorageError(
                f"{url} is neither a folder nor an address such as s3://bucket/fleet"
            )
        options: dict[str, Any] = {"use_listings_cache": False} if protocol == "s3" else {}
        if protocol == "s3" and endpoint_url:
            options["endpoint_url"] = endpoint_url
        self.url = url.rstrip("/") if "://" in url else str(Path(url))
        self._is_local = protocol == "file"
        with _storage_errors(self.url):
            self._fs, self._root = fsspec.url_to_fs(self.url, **options)

    def days(self, table: Table = INSTANCE_HOURS) -> list[date]:
        """Return the days that a table has a file of, oldest first.

        Raises:
            StorageError: The warehouse cannot be listed.
        """
        with _storage_errors(self.url):
            try:
                found = self._fs.ls(f"{self._root}/{table.name}", detail=False)
            except FileNotFoundError:
                return []
        return sorted(day for one in found if (day := _day_of(str(one))))

    def hours(self, table: Table, day: date) -> frozenset[int]:
        """Return the hours of a day that a table holds, empty ones included.

        Raises:
            StorageError: The file cannot be read, or is of another version.
        """
        with self._opened(table, day) as held:
            return frozenset(held.rows_by_hour)

    def add(self, table: Table, hour: datetime, rows: Sequence[Mapping[str, Any]]) -> int:
        """Put an hour into its day's file, whole or not at all; return the bytes of that file.

        Raises:
            StorageError: The file cannot be read or written.
        """
        new = pa.Table.from_pylist(list(rows), schema=table.schema)
        with self._opened(table, hour.date()) as held:
            counts = {**held.rows_by_hour, hour.hour: len(rows)}
            body = _encoded(table, counts, lambda one: new if one == hour.hour else held.hour(one))
        path = self._path(table, hour.date())
        with _storage_errors(path):
            self._put(path, body)
        return len(body)

    def read(
        self, table: Table, columns: Sequence[str], days: Collection[date]
    ) -> Iterator[tuple[date, Any]]:
        """Yield some columns of a table, day by day; a day without rows is left out.

        Raises:
            StorageError: A file cannot be read, or is of another version.
        """
        for day in sorted(days):
            with self._opened(table, day) as held:
                if any(held.rows_by_hour.values()):
                    yield day, held.file.read(columns=list(columns))

    @contextmanager
    def _opened(self, table: Table, day: date) -> Iterator[Day]:
        path = self._path(table, day)
        with _storage_errors(path):
            try:
                file = self._fs.open(path, "rb")
            except FileNotFoundError:
                yield Day({})
                return
            with file:
                if file.size > MAX_DAY_BYTES:
                    raise StorageError(f"{path} is larger than {MAX_DAY_BYTES:,} bytes")
                parquet = pq.ParquetFile(file)
                yield Day(_hours_of(table, parquet, path), parquet)

    def _path(self, table: Table, day: date) -> str:
        return f"{self._root}/{table.name}/{PARTITION}{day.isoformat()}/{FILE}"

    def _put(self, path: str, body: bytes) -> None:
        if self._is_local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(Path(path), body, is_durable=True)
        else:
            self._fs.pipe_file(path, body)


def _encoded(table: Table, counts: Mapping[int, int], rows_of: Callable[[int], Any]) -> bytes:
    metadata = {
        VERSION_KEY: str(VERSION).encode(),
        HOURS_KEY: json.dumps({str(hour): counts[hour] for hour in sorted(counts)}).encode(),
    }
    sink = pa.BufferOutputStream()
    schema = table.schema.with_metadata(metadata)
    with pq.ParquetWriter(sink, schema, compression="zstd", version="2.6") as writer:
        for hour in sorted(counts):
            if counts[hour]:
                writer.write_table(rows_of(hour).cast(schema), row_group_size=counts[hour])
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def _hours_of(table: Table, parquet: Any, path: str) -> dict[int, int]:
    metadata = parquet.schema_arrow.metadata or {}
    version = metadata.get(VERSION_KEY, b"").decode(errors="replace")
    if version != str(VERSION):
        raise StorageError(
            f"{path} has schema version {version or 'none'}, this release writes and reads "
            f"{VERSION}; keep the old tables, and export into another folder"
        )
    try:
        found = {int(hour): int(n) for hour, n in json.loads(metadata[HOURS_KEY]).items()}
        counts = [found[hour] for hour in sorted(found) if found[hour]]
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise StorageError(f"{path} does not say which hours it holds; remove it") from error
    groups = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
    if counts != groups or not parquet.schema_arrow.equals(table.schema):
        raise StorageError(f"{path} has not the rows and columns of {table.name}; remove it")
    return found


def _day_of(path: str) -> date | None:
    name = path.rstrip("/").rpartition("/")[2]
    try:
        return date.fromisoformat(name.removeprefix(PARTITION)) if PARTITION in name else None
    except ValueError:
        return None


@contextmanager
def _storage_errors(place: str) -> Iterator[None]:
    """Raise what storage raises as one line about a place."""
    try:
        yield
    except (OSError, BotoCoreError, ClientError, pa.ArrowException, ValueError) as error:
        raise StorageError(f"{place}: {str(error).strip() or type(error).__name__}") from error
