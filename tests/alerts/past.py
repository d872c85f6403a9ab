"""A real Prometheus with a past of days, made by promtool from the series of a test."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from provisioning.demo.processes import Children, ChildSpec
from tests.ports import free_port

DATA = "data"
Past = Iterable[tuple[str, Mapping[int, float]]]
"""Series, each with its values by time."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The real programs."""

    prometheus: Path
    promtool: Path


@asynccontextmanager
async def prometheus_with(
    past: Past, folder: Path, programs: Programs, *, rule_files: str = ""
) -> AsyncIterator[str]:
    """Run a Prometheus with a past; give its address."""
    await asyncio.to_thread(_write, past, folder, programs.promtool)
    async with running(folder, programs, rule_files=rule_files) as url:
        yield url


@asynccontextmanager
async def running(folder: Path, programs: Programs, *, rule_files: str = "") -> AsyncIterator[str]:
    """Run a Prometheus on what a folder holds; give its address."""
    configuration = folder / "prometheus.yml"
    configuration.write_text(yaml.safe_dump({"rule_files": [rule_files]} if rule_files else {}))
    address = f"127.0.0.1:{free_port()}"
    command = (
        str(programs.prometheus),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / DATA}",
        "--storage.tsdb.retention.time=60d",
        f"--web.listen-address={address}",
        "--log.level=warn",
    )
    async with Children(folder) as children:
        await children.start(ChildSpec("prometheus", command, f"http://{address}/-/ready"))
        yield f"http://{address}"


def _write(past: Past, folder: Path, promtool: Path) -> None:
    source = folder / "past.txt"
    with source.open("w") as file:
        for series, values in past:
            file.writelines(f"{series} {value} {at_s}\n" for at_s, value in values.items())
        file.write("# EOF\n")
    # By itself it makes a block of every two hours, which takes a minute.
    command = [promtool, "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=672h"]
    subprocess.run(
        [*map(str, (*command, source, folder / DATA))], check=True, stdout=subprocess.DEVNULL
    )
