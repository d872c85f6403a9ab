"""The store of a running fleet is lost: nobody's server ends by that, whatever comes next."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.provisioner import Lab, Provisioner, lab
from tests.waiting import eventually

N = 4
KEPT = (
    f"orphans={N}: they run without a record in the store, or with an older one, and are "
    "not deleted; no instance"
)


@pytest.fixture
def fleet_lab(tmp_path: Path) -> Iterator[Lab]:
    with lab(tmp_path) as made:
        yield made


async def whole(made: Lab, one: Provisioner) -> None:
    async def is_whole() -> bool:
        return made.is_whole(await one.instances(), N)

    await eventually(is_whole)


def remove_database(made: Lab) -> None:
    for path in made.folder.glob("fleet.db*"):
        path.unlink()


def has_told_again(one: Provisioner, n_before: int) -> bool:
    return one.said.count(KEPT) > n_before


async def lists_all(made: Lab) -> bool:
    return f"{N} orphans" in await made.done("provisioner", "orphans", "list")


async def test_a_lost_database_ends_no_instance_until_a_person_says_so(fleet_lab: Lab) -> None:
    """It is removed under a provisioner, which stops accepting orders; then all begins anew."""
    one = await fleet_lab.started()
    await fleet_lab.done("provisioner", "apply", str(fleet_lab.spec(N)))
    await whole(fleet_lab, one)
    servers = {unit.pid for unit in fleet_lab.units()}

    remove_database(fleet_lab)
    refused = await fleet_lab.run("instances", "replace", "web-00001", "--yes")
    assert 0 != refused.returncode, refused.stdout
    await eventually(lambda: "it was removed since this provisioner opened it" in one.said)
    one.ended(signal.SIGTERM)

    again = ("provisioner", "apply", "--no-wait", "--yes")
    for _ in range(2):  # as often as it is restarted
        one.start()
        n_told = one.said.count(KEPT)
        await eventually(one.leads)
        await fleet_lab.done(*again, str(fleet_lab.spec(N)))
        await eventually(partial(has_told_again, one, n_told))
        assert [] == await one.instances()
        one.ended(signal.SIGTERM)
    assert servers == {unit.pid for unit in fleet_lab.units()}

    one.start()
    await eventually(one.leads)
    await eventually(partial(lists_all, fleet_lab))
    unasked = await fleet_lab.run("provisioner", "orphans", "delete")
    assert 1 == unasked.returncode, unasked.stdout
    assert servers == {unit.pid for unit in fleet_lab.units()}

    await fleet_lab.done("provisioner", "orphans", "delete", "--yes")
    await whole(fleet_lab, one)
    assert not servers & {unit.pid for unit in fleet_lab.units()}
