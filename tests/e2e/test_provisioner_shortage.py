"""A provisioner that is short of descriptors."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from provisioning.runtime import cgroups
from tests.conftest import refuse
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
    asked = count_checks(fleet_lab)
    limited = ("prlimit", f"--nofile={N_FILES}:{N_FILES}")
    one = await fleet_lab.started(wrapper=limited)
    await fleet_lab.done("provisioner", "apply", str(fleet_lab.spec(N)))
    before = sorted(fleet_lab.units())

    with ExitStack() as strangers:
        for _ in range(N_STRANGERS):
            strangers.enter_context(connected(one))
        n_open, n_before = n_descriptors(one), asked.stat().st_size
        # Three that fail are a replacement.
        await eventually(lambda: asked.stat().st_size >= n_before + 12 * N)
    await eventually(one.is_ready)

    page = (await one.answer("/metrics")).body.decode()
    assert 'ollama_provisioner_replacements_total{reason="unhealthy"} 0.0' in page, one.said[-900:]
    assert before == sorted(fleet_lab.units())
    assert n_open < N_FILES / 2
    assert len(one.said) < 20_000


async def test_an_instance_that_lost_a_child_for_want_of_memory_is_replaced_while_it_serves(
    fleet_lab: Lab,
) -> None:
    if cgroups.find() is None:
        refuse("memory can be limited by cgroups, as root")
    flag = fleet_lab.folder / "eat"
    eater = f"{sys.executable} -S -c 'x = []\nwhile True: x.append(bytearray(2**20))'"
    command = (
        f"(until rmdir {flag}; do kill -0 $$ || exit; sleep 0.1; done 2>&-; {eater}) & "
        f"exec {sys.executable} -I -S {fleet_lab.server} {{host}} {{port}} {{id}}"
    )
    one = await fleet_lab.started()
    pool = {"command": ["sh", "-c", command], "memory": "48MiB"}
    await fleet_lab.done("provisioner", "apply", str(fleet_lab.spec(2, pool=pool)))

    flag.mkdir()  # whoever removes it eats

    async def is_replaced() -> bool:
        listed = await one.instances()
        return [1, 2] == sorted(each["generation"] for each in listed) and fleet_lab.is_whole(
            listed, 2
        )

    await eventually(is_replaced, within_s=60.0)
    page = (await one.answer("/metrics")).body.decode()
    assert 'ollama_provisioner_replacements_total{reason="out_of_memory"} 1.0' in page
    assert "the kernel killed a process of it for want of memory" in one.said


def count_checks(made: Lab) -> Path:
    """Let each instance add a byte to a file whenever it is asked; return the file."""
    asked = made.folder / "asked"
    asked.touch()
    note = f"        open({str(asked)!r}, 'a').write('.')\n"
    asks = "        client.recv(65536)\n"
    made.server.write_text(made.server.read_text().replace(asks, asks + note))
    return asked


def connected(one: Provisioner) -> socket.socket:
    address = urlsplit(one.url)
    assert address.hostname
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=10)


def n_descriptors(one: Provisioner) -> int:
    assert one.process
    return len(list(Path(f"/proc/{one.process.pid}/fd").iterdir()))
