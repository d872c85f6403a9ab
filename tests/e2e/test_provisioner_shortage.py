"""What a provisioner's own troubles do to the instances that it watches: nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.provisioner import Lab, Provisioner, lab
from tests.waiting import eventually

N = 4
N_FILES, N_STRANGERS = 200, 260


@pytest.fixture
def fleet_lab(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


async def test_idle_strangers_use_up_no_descriptors_that_health_checks_need(
    fleet_lab: Lab,
) -> None:
    limited = ("prlimit", f"--nofile={N_FILES}:{N_FILES}")
    one = await fleet_lab.started(wrapper=limited)
    await fleet_lab.done("provisioner", "apply", str(fleet_lab.spec(N)))
    before = sorted(fleet_lab.units())

    with ExitStack() as strangers:
        for _ in range(N_STRANGERS):
            strangers.enter_context(connected(one))
        await asyncio.sleep(6.0)  # a dozen health checks of each; three are a replacement
        n_open = n_descriptors(one)
    await eventually(one.is_ready)

    page = (await one.answer("/metrics")).body.decode()
    assert 'ollama_provisioner_replacements_total{reason="unhealthy"} 0.0' in page, one.said[-900:]
    assert before == sorted(fleet_lab.units())
    assert n_open < N_FILES / 2
    assert len(one.said) < 20_000


def connected(one: Provisioner) -> socket.socket:
    address = urlsplit(one.url)
    assert address.hostname
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=10)


def n_descriptors(one: Provisioner) -> int:
    assert one.process
    return len(list(Path(f"/proc/{one.process.pid}/fd").iterdir()))
