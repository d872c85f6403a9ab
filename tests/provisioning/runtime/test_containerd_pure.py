"""What is decided without a daemon: the specification of a container, and what a list means."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from provisioning.errors import PermanentError
from provisioning.model import ContainerSpec, ContainerState, ObservedContainer
from provisioning.runtime import containerd_messages_pb2 as messages
from provisioning.runtime.containerd import client as api
from provisioning.runtime.containerd import containers as containers
from provisioning.runtime.containerd import oci_spec as spec
from provisioning.runtime.containerd.images import ImageConfig

UNIT = ContainerSpec(
    name="pool-7.2",
    fleet="llms",
    instance_id="pool-7",
    generation=2,
    pool="pool",
    host="10.0.0.1",
    port=20_007,
    image="llm:1",
    command=("serve",),
    environment=(("OLLAMA_HOST", "10.0.0.1:20007"),),
    mounts=(("/models", "/root/models"),),
    cpus=1.5,
    memory_bytes=8 * 2**30,
)
ACTIVE, COMMITTED = 2, 3


def record(name: str, **labels: str) -> messages.Container:
    return messages.Container(
        id=name, labels={f"ollama-fleet/{key}": labels[key] for key in labels}
    )


def snapshot(name: str, kind: int, fleet: str = "llms") -> messages.Snapshot:
    return messages.Snapshot(name=name, kind=kind, labels={containers.FLEET: fleet})


def rendered(container: ContainerSpec = UNIT, config: ImageConfig | None = None) -> Any:
    return spec.render(container, config or ImageConfig(), cgroup="/llms/pool-7.2")


def test_limits_are_those_of_the_container() -> None:
    limits = rendered()["linux"]["resources"]

    assert {"limit": 8 * 2**30, "swap": 8 * 2**30} == limits["memory"]
    assert {"shares": 1536, "quota": 150_000, "period": 100_000} == limits["cpu"]


def test_zero_is_no_limit() -> None:
    limits = spec.resources(cpus=0.0, memory_bytes=0)

    assert {"devices"} == limits.keys()


@given(st.floats(0.001, 512.0), st.integers(1, 2**45))
def test_limits_are_never_below_what_the_kernel_takes(cpus: float, memory_bytes: int) -> None:
    limits = spec.resources(cpus=cpus, memory_bytes=memory_bytes)

    assert limits["cpu"]["shares"] >= 2
    assert limits["cpu"]["quota"] >= 1000
    assert memory_bytes == limits["memory"]["limit"]


def test_the_container_has_its_own_of_everything_but_the_network() -> None:
    kinds = {namespace["type"] for namespace in rendered()["linux"]["namespaces"]}

    assert {"pid", "ipc", "uts", "mount"} == kinds
    assert "/llms/pool-7.2" == rendered()["linux"]["cgroupsPath"]
    assert {} == rendered()["process"]["capabilities"]
    assert rendered()["process"]["noNewPrivileges"]


def test_no_device_is_allowed_but_those_that_the_runtime_makes() -> None:
    assert [{"allow": False, "access": "rwm"}] == rendered()["linux"]["resources"]["devices"]


def test_it_starts_in_the_images_folder() -> None:
    assert "/" == rendered()["process"]["cwd"]
    assert "/app" == rendered(config=ImageConfig(WorkingDir="/app"))["process"]["cwd"]


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_a_variable_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(PermanentError, match="no environment can hold"):
        rendered(msgspec.structs.replace(UNIT, environment=((name, "value"),)))


@pytest.mark.parametrize("mount", [("models", "/models"), ("/models", "models")])
def test_a_mount_without_a_place_is_refused(mount: tuple[str, str]) -> None:
    with pytest.raises(PermanentError, match="must begin with a slash"):
        rendered(msgspec.structs.replace(UNIT, mounts=(mount,)))


def test_mounts_are_read_only() -> None:
    mount = rendered()["mounts"][-1]

    assert ("/models", "/root/models") == (mount["source"], mount["destination"])
    assert {"rbind", "ro", "rro"} <= set(mount["options"])


def test_the_containers_command_replaces_all_that_the_image_would_run() -> None:
    config = ImageConfig(Entrypoint=("/entry",), Cmd=("default",))

    assert ["serve"] == rendered(config=config)["process"]["args"]
    bare = msgspec.structs.replace(UNIT, command=())
    assert ["/entry", "default"] == rendered(bare, config)["process"]["args"]


def test_of_variables_the_containers_counts_then_the_images_then_the_usual() -> None:
    config = ImageConfig(Env=("PATH=/opt/bin", "OLLAMA_HOST=0.0.0.0", "LANG=C"))

    lines = rendered(config=config)["process"]["env"]

    assert ["LANG=C", "OLLAMA_HOST=10.0.0.1:20007", "PATH=/opt/bin"] == sorted(lines)
    assert spec.PATH in rendered()["process"]["env"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [("", (0, 0)), ("0", (0, 0)), ("1000", (1000, 1000)), ("1000:50", (1000, 50))],
)
def test_a_numeric_user_of_the_image_is_taken(user: str, expected: tuple[int, int]) -> None:
    process = rendered(config=ImageConfig(User=user))["process"]

    assert expected == (process["user"]["uid"], process["user"]["gid"])


def test_a_user_without_a_number_is_refused() -> None:
    with pytest.raises(PermanentError, match="'ollama' has no number"):
        rendered(config=ImageConfig(User="ollama"))


def test_a_host_name_is_never_too_long() -> None:
    long = msgspec.structs.replace(UNIT, instance_id="x" * 70)

    assert 63 == len(rendered(long)["hostname"])


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (3, 3), (128, 128), (137, -9)])
def test_a_signal_is_a_negative_status(status: int, expected: int) -> None:
    assert expected == containers.exit_status(status)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (messages.CREATED, ContainerState.CREATED),
        (messages.RUNNING, ContainerState.RUNNING),
        (messages.PAUSED, ContainerState.RUNNING),
        (messages.STOPPED, ContainerState.EXITED),
        (messages.UNKNOWN, ContainerState.RUNNING),
    ],
)
def test_a_tasks_state_is_the_containers(status: messages.Status, expected: ContainerState) -> None:
    ours = record("pool-7.2", fleet="llms", instance="pool-7", generation="2")
    task = messages.Task(id="pool-7.2", status=status, exit_status=3)

    (found,) = containers.found_containers("llms", [ours], [task], [])

    assert expected == found.state
    assert (3 if expected is ContainerState.EXITED else None) == found.exit_status


def test_whatever_is_left_of_a_container_is_found() -> None:
    records = [
        record("a.1", fleet="llms"),
        record("other.1", fleet="others"),
        record("stranger"),
    ]
    tasks = [
        messages.Task(id="b.1", status=messages.RUNNING),
        messages.Task(id="stranger", status=messages.RUNNING),
    ]
    snapshots = [
        snapshot("c.1", ACTIVE),
        snapshot("d.1", COMMITTED),
        snapshot("e.1", ACTIVE, fleet="others"),
        snapshot("a.1", ACTIVE),
    ]

    found = containers.found_containers("llms", records, tasks, snapshots)

    assert (
        ObservedContainer("a.1", "a", 1, ContainerState.EXITED),
        ObservedContainer("b.1", "b", 1, ContainerState.RUNNING),
        ObservedContainer("c.1", "c", 1, ContainerState.CREATED),
    ) == found


@pytest.mark.parametrize(
    ("kind", "figures"),
    [
        ("v1", messages.MetricsOfV1(memory_oom_control=messages.OomControl(oom_kill=3))),
        ("v2", messages.MetricsOfV2(memory_events=messages.MemoryEvents(oom_kill=3))),
    ],
)
def test_kills_are_counted_by_both_versions_of_cgroups(kind: str, figures: Message) -> None:
    data = api.wrapped(f"io.containerd.cgroups.{kind}.Metrics", figures)

    assert 3 == containers.oom_kills(messages.Metric(id="a.1", data=data))


def test_a_name_that_is_no_containers_is_told_all_the_same() -> None:
    task = messages.Task(id="odd", status=messages.RUNNING)

    (found,) = containers.found_containers("llms", [], [task], [])

    assert ("odd", 0) == (found.name, found.generation)
