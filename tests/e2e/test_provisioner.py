"""The provisioner as a user runs it: sqlite, processes of this machine, and the commands."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.provisioner import InstanceProcess, Lab, Provisioner, lab
from tests.e2e.running import Running, running
from tests.waiting import eventually

N = 4
LONG_DRAIN = {"every": "7d", "drain": "10m"}
"""It lasts until a test puts a shorter one in force, so no look comes too late for it."""


@pytest.fixture
def fleet_lab(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


async def applied(made: Lab, count: int = N, **changes: Any) -> Provisioner:
    """Return a provisioner that leads a whole fleet."""
    return await made.applied(made.spec(count, **changes), count)


def generations(instances: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {one["id"]: one["generation"] for one in instances}


def by_id(processes: Sequence[InstanceProcess]) -> dict[str, InstanceProcess]:
    return {process.instance_id: process for process in processes}


async def test_a_fleet_is_made_from_nothing_by_one_command(fleet_lab: Lab) -> None:
    await fleet_lab.started()

    ended = await fleet_lab.run("provisioner", "apply", str(fleet_lab.spec(N)))

    assert 0 == ended.returncode, ended.stderr
    assert f"{N} of {N} instances ready" in ended.stderr
    listed = json.loads(await fleet_lab.done("instances", "list", "--json"))
    assert [] == fleet_lab.faults(listed, N), fleet_lab.provisioners[0].said
    assert {"running"} == {one["state"] for one in listed}


async def test_the_exporter_sees_the_fleet_as_it_is(fleet_lab: Lab, tmp_path: Path) -> None:
    """Healthy; provisioning while it starts; draining while it ends what it has begun."""
    one = await applied(fleet_lab, pool={"rotation": LONG_DRAIN})
    async with running(tmp_path, f"{one.url}/instances") as exporter:
        await eventually(lambda: sees(exporter, healthy=N))

        await fleet_lab.done("instances", "drain", "web-00001")
        await eventually(lambda: sees(exporter, healthy=N - 1, draining=1))
        await fleet_lab.done("provisioner", "apply", str(fleet_lab.spec(N)))
        await eventually(lambda: sees(exporter, healthy=N))

        # It answers nobody before it is let go on: the instance is there, and not healthy yet.
        go = hold_back(fleet_lab)
        by_id(fleet_lab.processes())["web-00002"].kill()
        await eventually(lambda: sees(exporter, healthy=N - 1, provisioning=1))
        go.touch()
        await eventually(lambda: sees(exporter, healthy=N))


def hold_back(made: Lab) -> Path:
    """Let instances that start from now on wait until a file is there; return where."""
    go = made.folder / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.05)\n"
    made.server.write_text(wait + made.server.read_text())
    return go


async def sees(exporter: Running, **expected: int) -> bool:
    """Say whether the exporter counts so many instances by status, and no others."""
    counted = {
        dict(labels)["status"]: value
        for (name, labels), value in (await exporter.samples()).items()
        if name == "ollama_fleet_instances" and value
    }
    return expected == counted


async def test_a_killed_instance_is_replaced_by_the_next_generation(fleet_lab: Lab) -> None:
    one = await applied(fleet_lab)
    before = by_id(fleet_lab.processes())

    before["web-00003"].kill()
    await fleet_lab.whole(one, N)

    after = by_id(fleet_lab.processes())
    assert {"web-00003"} == {id_ for id_ in before if before[id_] != after[id_]}
    assert {"web-00001": 1, "web-00002": 1, "web-00003": 2, "web-00004": 1} == generations(
        await one.instances()
    )
    shown = await fleet_lab.done("instances", "show", "web-00003")
    assert "exited its container has exited, status -9" in shown


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, 8))]
)
async def test_a_killed_provisioner_loses_nothing_and_starts_nothing_twice(
    fleet_lab: Lab, seed: int
) -> None:
    """Killed at a random moment while it makes a fleet; its successor adopts what there is."""
    count = 8
    one = await fleet_lab.started()
    await fleet_lab.done("provisioner", "apply", "--no-wait", str(fleet_lab.spec(count)))

    await asyncio.sleep(random.Random(seed).uniform(0.0, 0.6))  # noqa: S311
    one.kill()
    there = by_id(fleet_lab.processes())
    one.start()
    await eventually(one.has_asked_nodes)
    await fleet_lab.whole(one, count)

    after = by_id(fleet_lab.processes())
    assert there == {id_: after[id_] for id_ in there}
    assert {1} == set(generations(await one.instances()).values())


async def test_instances_outlive_a_provisioner_that_is_stopped(fleet_lab: Lab) -> None:
    one = await applied(fleet_lab)
    before = by_id(fleet_lab.processes())

    assert 0 == one.ended(signal.SIGTERM)

    assert before == by_id(fleet_lab.processes())
    assert "stopped; instances keep running" in one.said
    assert "Traceback" not in one.said
    one.start()
    await eventually(one.has_asked_nodes)
    await fleet_lab.whole(one, N)
    assert before == by_id(fleet_lab.processes())


async def test_scaled_down_instances_drain_and_then_are_gone(fleet_lab: Lab) -> None:
    pool = {"rotation": LONG_DRAIN}
    one = await applied(fleet_lab, pool=pool)
    draining = ["draining"] * (N - 1)

    async def all_drain() -> bool:
        return draining == phases_of_leaving(await one.instances())

    fewer = str(fleet_lab.spec(1, pool=pool))
    await fleet_lab.done("provisioner", "apply", "--yes", "--no-wait", fewer)
    await eventually(all_drain)
    # By the time that another command has been started, they would have gone without a drain.
    listed = json.loads(await fleet_lab.done("instances", "list", "--json"))
    assert draining == phases_of_leaving(listed)
    assert N == len(fleet_lab.processes())

    await fleet_lab.done("provisioner", "apply", str(fleet_lab.spec(1)))
    await fleet_lab.whole(one, 1)


def phases_of_leaving(instances: Sequence[Mapping[str, Any]]) -> list[str]:
    return [one["phase"] for one in instances if one["reason"] == "scaled_down"]


async def test_a_changed_specification_rolls_through_within_its_limits(fleet_lab: Lab) -> None:
    """New instances wait until they are let go on, so the roll-out stops at its limit."""
    limits = {"unavailable": "50%"}
    one = await applied(fleet_lab, limits=limits)
    least = N

    async def is_rolled() -> bool:
        nonlocal least
        listed = await one.instances()
        running = [each["id"] for each in listed if each["phase"] == "running"]
        least = min(least, len(running)) if listed else least
        is_new = all(number > 1 for number in generations(listed).values())
        return is_new and fleet_lab.is_whole(listed, N)

    async def is_at_its_limit() -> bool:
        return await is_rolled() or least <= N // 2

    go = hold_back(fleet_lab)
    changed = fleet_lab.spec(N, pool={"environment": {"RELEASE": "2"}}, limits=limits)
    await fleet_lab.done("provisioner", "apply", "--yes", "--no-wait", str(changed))
    await eventually(is_at_its_limit)
    go.touch()
    await eventually(is_rolled)

    assert N // 2 == least


async def test_a_standby_answers_reads_and_names_the_leader_for_writes(fleet_lab: Lab) -> None:
    leader = await applied(fleet_lab, 2)
    standby = await fleet_lab.started(is_standby=True)
    fleet_lab.provisioners.sort(key=lambda one: one is leader)  # the client asks the standby first

    async def both_list_the_same() -> bool:
        return await standby.instances() == await leader.instances()

    await eventually(both_list_the_same)
    assert (True, False) == (await leader.leads(), await standby.leads())
    refused = await fleet_lab.run(
        "instances", "list", f"--provisioner.url={standby.url}", "--pool=web"
    )
    assert 0 == refused.returncode, refused.stderr
    ordered = await fleet_lab.done("instances", "replace", "web-00001")
    assert "web-00001: running, replacement requested\n" == ordered
    assert 1 == standby.said.count("standby leader=")
    assert f"standby leader={leader.url}" in standby.said

    leader.kill()
    ordered = await fleet_lab.done("instances", "replace", "web-00002")
    assert ordered.startswith("web-00002: ")
    assert await standby.leads()
    await fleet_lab.whole(standby, 2)


async def test_a_full_disk_stops_changes_until_there_is_room(fleet_lab: Lab) -> None:
    """The state folder is a file system of its own, of 1 MB, that only the provisioner sees."""
    state_dir = fleet_lab.folder / "state"
    state_dir.mkdir()
    mount = f"mount -t tmpfs -o size=1m none '{state_dir}' && exec \"$@\""
    wrapper = ("unshare", "-m", "sh", "-c", mount, "sh")
    can_mount = await asyncio.to_thread(
        subprocess.run, (*wrapper, "true"), check=False, capture_output=True
    )
    if can_mount.returncode:
        pytest.skip("needs to mount a tmpfs")
    one = await fleet_lab.started(f"--store.url=sqlite:{state_dir}/fleet.db", wrapper=wrapper)
    await fleet_lab.done("provisioner", "apply", str(fleet_lab.spec(2)))
    assert one.process is not None
    inside = Path(f"/proc/{one.process.pid}/root{state_dir}")
    before = by_id(fleet_lab.processes())

    fill(inside / "ballast")
    ended = await fleet_lab.run("provisioner", "apply", "--no-wait", str(fleet_lab.spec(3)))
    assert 1 == ended.returncode
    assert "full" in ended.stderr
    assert before == by_id(fleet_lab.processes())
    assert one.is_running

    (inside / "ballast").unlink()
    await fleet_lab.done("provisioner", "apply", str(fleet_lab.spec(3)))
    await fleet_lab.whole(one, 3)
    assert before.items() <= by_id(fleet_lab.processes()).items()


def fill(path: Path) -> None:
    """Write until the disk is full."""
    command = ("dd", "if=/dev/zero", f"of={path}", "bs=1k")
    assert subprocess.run(command, check=False, capture_output=True).returncode


KEPT = (
    "they run without a record in the store, or with an older one, and are not deleted; no instance"
)


async def lists_all(made: Lab) -> bool:
    return f"{N} orphans" in await made.done("provisioner", "orphans", "list")


async def test_a_lost_database_ends_no_instance_until_a_person_says_so(fleet_lab: Lab) -> None:
    """It is removed under a provisioner, which stops accepting orders; then all begins anew."""
    one = await fleet_lab.started()
    await fleet_lab.done("provisioner", "apply", str(fleet_lab.spec(N)))
    await fleet_lab.whole(one, N)
    servers = {process.pid for process in fleet_lab.processes()}

    for path in fleet_lab.folder.glob("fleet.db*"):
        path.unlink()
    await eventually(lambda: "it was removed since this provisioner opened it" in one.said)
    one.ended(signal.SIGTERM)

    one.start()
    await eventually(one.leads)
    spec = str(fleet_lab.spec(N))
    await fleet_lab.done("provisioner", "apply", "--no-wait", "--yes", spec)
    await eventually(lambda: KEPT in one.said)
    assert [] == await one.instances()
    await eventually(lambda: lists_all(fleet_lab))
    unasked = await fleet_lab.run("provisioner", "orphans", "delete")
    assert 1 == unasked.returncode, unasked.stdout
    assert servers == {process.pid for process in fleet_lab.processes()}

    await fleet_lab.done("provisioner", "orphans", "delete", "--yes")
    await fleet_lab.whole(one, N)
    assert not servers & {process.pid for process in fleet_lab.processes()}


N_FILES, N_CLIENTS = 200, 260


@pytest.mark.nightly
async def test_idle_clients_use_up_no_descriptors_that_health_checks_need(
    fleet_lab: Lab,
) -> None:
    asked = count_checks(fleet_lab)
    limited = ("prlimit", f"--nofile={N_FILES}:{N_FILES}")
    one = await fleet_lab.started(wrapper=limited)
    await fleet_lab.done("provisioner", "apply", str(fleet_lab.spec(N)))
    before = sorted(fleet_lab.processes())

    with ExitStack() as clients:
        for _ in range(N_CLIENTS):
            clients.enter_context(connected(one))
        n_before = asked.stat().st_size
        # Three that fail are a replacement.
        await eventually(lambda: asked.stat().st_size >= n_before + 12 * N)
        n_open = n_descriptors(one)
    await eventually(one.is_ready)

    page = (await one.answer("/metrics")).body.decode()
    assert 'ollama_provisioner_replacements_total{reason="unhealthy"} 0.0' in page, one.said[-900:]
    assert before == sorted(fleet_lab.processes())
    assert n_open < N_FILES / 2
    assert len(one.said) < 20_000


def count_checks(made: Lab) -> Path:
    """Let each instance add a byte to a file whenever it is asked; return the file."""
    asked = made.folder / "asked"
    asked.touch()
    note = f"        open({str(asked)!r}, 'a').write('.')\n"
    asks = "        client.recv(65536)\n"
    made.server.write_text(made.server.read_text().replace(asks, asks + note))
    return asked


def connected(one: Provisioner) -> socket.socket:
    host, port = one.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=100)


def n_descriptors(one: Provisioner) -> int:
    assert one.process
    return len(list(Path(f"/proc/{one.process.pid}/fd").iterdir()))
