from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.runtime import cgroups
from provisioning.runtime.cgroups import Cgroups

MIB = 2**20
V1 = "25 20 0:21 / {mount} rw - cgroup cgroup rw,memory\n"
V2 = "30 20 0:26 {root} {mount} rw,nosuid - cgroup2 cgroup2 rw\n"


class Tree:
    """A /proc and a cgroup file system of plain files."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.mount = folder / "cgroup"
        self.proc.mkdir()
        self.mount.mkdir()

    def is_in(self, membership: str, mounts: str, *, root: str = "/") -> None:
        (self.proc / "cgroup").write_text(membership)
        (self.proc / "mountinfo").write_text(mounts.format(mount=self.mount, root=root))

    def group(self, path: str, *, controllers: str = "", below: str = "") -> Path:
        folder = self.mount / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.controllers").write_text(controllers)
        (folder / "cgroup.subtree_control").write_text(below)
        return folder


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize("hierarchy", ["", "memory", "cpu"])
def test_an_empty_group_is_removed_wherever_it_is_and_no_other(
    tmp_path: Path, hierarchy: str
) -> None:
    empty, full = (tmp_path / hierarchy / name for name in ("fleet.n1", "fleet.n2"))
    for folder in (empty, full / "lab.chat-00001.1"):
        folder.mkdir(parents=True)

    for path in ("/fleet.n1", "/fleet.n2", "/fleet.n3"):
        cgroups.remove_empty(path, tmp_path)

    assert [full] == list((tmp_path / hierarchy).iterdir())


@pytest.mark.parametrize("hierarchy", ["", "memory"])
def test_the_groups_in_a_group_are_found_in_any_hierarchy(tmp_path: Path, hierarchy: str) -> None:
    for name in ("fleet.n1/lab.a.1", "fleet.n1/lab.b.1/below", "fleet.n2/lab.c.1"):
        (tmp_path / hierarchy / name).mkdir(parents=True)
    (tmp_path / hierarchy / "fleet.n1/tasks").touch()

    assert {"lab.a.1", "lab.b.1"} == cgroups.names_in("/fleet.n1", tmp_path)
    assert set() == cgroups.names_in("/fleet.n3", tmp_path)


def test_version_1_makes_groups_below_our_own(tree: Tree) -> None:
    tree.is_in("8:pids:/\n4:cpu,memory:/system/fleet\n0::/\n", V1)
    own = tree.group("system/fleet")

    assert Cgroups(own, 1) == cgroups.find(tree.proc)


def test_version_2_makes_groups_beside_our_own_where_those_above_allow_it(tree: Tree) -> None:
    tree.is_in("0::/fleet.service/provisioner\n", V2)
    above = tree.group("fleet.service", controllers="cpu memory", below="memory")
    tree.group("fleet.service/provisioner", controllers="cpu")

    assert Cgroups(above, 2) == cgroups.find(tree.proc)


def test_version_2_is_asked_to_delegate_memory(tree: Tree) -> None:
    tree.is_in("0::/fleet\n", V2)
    own = tree.group("fleet", controllers="cpu memory")

    assert Cgroups(own, 2) == cgroups.find(tree.proc)
    assert "+memory" == (own / "cgroup.subtree_control").read_text()


def test_a_container_that_sees_only_its_part_of_the_hierarchy_is_no_trouble(tree: Tree) -> None:
    tree.is_in("0::/machine/box/inner\n", V2, root="/machine/box")
    inner = tree.group("inner", controllers="memory")

    assert Cgroups(inner, 2) == cgroups.find(tree.proc)


@pytest.mark.parametrize(
    ("membership", "mounts"),
    [
        ("0::/fleet\n", V2),  # the memory controller is not given to us
        ("0::/fleet\n", ""),
        ("8:pids:/\n", "25 20 0:21 / {mount} rw - cgroup cgroup rw,pids\n"),
    ],
)
def test_without_a_memory_controller_there_is_none(
    tree: Tree, membership: str, mounts: str
) -> None:
    tree.is_in(membership, mounts)
    tree.group("", controllers="cpu")
    tree.group("fleet", controllers="cpu")

    assert cgroups.find(tree.proc) is None


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (1, {"memory.limit_in_bytes": 64 * MIB, "memory.memsw.limit_in_bytes": 64 * MIB}),
        (2, {"memory.max": 64 * MIB, "memory.swap.max": 0}),
    ],
)
def test_a_group_limits_memory_and_swap(tree: Tree, version: int, expected: dict[str, int]) -> None:
    group = tree.group("container")
    for file in expected:
        (group / file).touch()

    Cgroups(tree.mount, version).make("container", 64 * MIB)

    assert expected == {file: int((group / file).read_text()) for file in expected}


@pytest.mark.parametrize("file", ["memory.oom_control", "memory.events"])
def test_the_kernels_count_of_kills_is_read(tree: Tree, file: str) -> None:
    (tree.group("container") / file).write_text("under_oom 1\noom 3\noom_kill 2\n")

    assert 2 == cgroups.n_killed(tree.mount / "container")
