"""What a container is by its specification: limits, mounts, environment, privileges."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.errors import PermanentError
from provisioning.model import ContainerSpec
from provisioning.runtime.containerd import oci_spec
from provisioning.runtime.containerd.containers import Settings, new_record
from provisioning.runtime.containerd.images import Image, ImageConfig

CONTAINER = ContainerSpec(
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


def rendered(container: ContainerSpec = CONTAINER, config: ImageConfig | None = None) -> Any:
    return oci_spec.render(container, config or ImageConfig(), cgroup="/llms/pool-7.2")


def test_limits_are_those_of_the_container() -> None:
    limits = rendered()["linux"]["resources"]

    assert {"limit": 8 * 2**30, "swap": 8 * 2**30} == limits["memory"]
    assert {"shares": 1536, "quota": 150_000, "period": 100_000} == limits["cpu"]


@given(st.floats(0.001, 512.0), st.integers(1, 2**45))
def test_limits_are_never_below_what_the_kernel_takes(cpus: float, memory_bytes: int) -> None:
    limits = oci_spec.resources(cpus=cpus, memory_bytes=memory_bytes)

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


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_a_variable_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(PermanentError, match="no environment can hold"):
        rendered(msgspec.structs.replace(CONTAINER, environment=((name, "value"),)))


@pytest.mark.parametrize("mount", [("models", "/models"), ("/models", "models")])
def test_a_mount_without_a_place_is_refused(mount: tuple[str, str]) -> None:
    with pytest.raises(PermanentError, match="must begin with a slash"):
        rendered(msgspec.structs.replace(CONTAINER, mounts=(mount,)))


def test_mounts_are_read_only() -> None:
    mount = rendered()["mounts"][-1]

    assert ("/models", "/root/models") == (mount["source"], mount["destination"])
    assert {"rbind", "ro", "rro"} <= set(mount["options"])


def test_the_containers_command_replaces_all_that_the_image_would_run() -> None:
    config = ImageConfig(Entrypoint=("/entry",), Cmd=("default",))

    assert ["serve"] == rendered(config=config)["process"]["args"]
    bare = msgspec.structs.replace(CONTAINER, command=())
    assert ["/entry", "default"] == rendered(bare, config)["process"]["args"]


def test_of_variables_the_containers_counts_then_the_images_then_the_usual() -> None:
    config = ImageConfig(Env=("PATH=/opt/bin", "OLLAMA_HOST=0.0.0.0", "LANG=C"))

    lines = rendered(config=config)["process"]["env"]

    assert ["LANG=C", "OLLAMA_HOST=10.0.0.1:20007", "PATH=/opt/bin"] == sorted(lines)
    assert oci_spec.PATH in rendered()["process"]["env"]


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


def test_fleets_of_one_node_have_no_cgroup_in_common() -> None:
    image = Image("sha256:1", "sha256:layer", ImageConfig())

    document = msgspec.json.decode(new_record(CONTAINER, image, Settings().of("n1")).spec.value)

    assert "/ollama-fleet.n1/llms.pool-7.2" == document["linux"]["cgroupsPath"]
