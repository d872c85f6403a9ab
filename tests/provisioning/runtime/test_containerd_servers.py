"""A real LLM server in a real container: nothing in it but what is mounted from the node."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from provisioning.errors import TransientError
from provisioning.model import ContainerSpec, Probe, WarmUp
from provisioning.runtime.probe import HttpProber
from tests.conftest import ROOT
from tests.containerd import image_archive, layer_of, package
from tests.provisioning.runtime.containers import ContainerdLab
from tests.provisioning.runtime.contract import running
from tests.waiting import eventually

IMAGE = "mounts-only:1"
NOBODY = "65534:65534"
MIB = 2**20


@pytest.fixture
def lab(containerd_lab: ContainerdLab) -> ContainerdLab:
    return containerd_lab


@pytest.fixture
async def prober() -> AsyncIterator[HttpProber]:
    prober = HttpProber()
    yield prober
    await prober.close()


def empty_image(folder: Path) -> Path:
    """Return an archive of an image with the places of a system, and nothing in them."""
    layer = layer_of(
        folders=("usr", "proc", "sys", "dev", "tmp"),
        links={name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")},
    )
    return image_archive(folder / "empty.tar", layer, User=NOBODY)


def llama_container(lab: ContainerdLab, model: Path) -> ContainerSpec:
    """Return a container that runs this interpreter, with these packages, on the node's files."""
    container = lab.container()
    library = next(package("libgomp1").glob("usr/lib/*/libgomp.so.1")).parent
    interpreter, packages = Path(sys.executable).resolve(), sysconfig.get_path("purelib")
    return msgspec.structs.replace(
        container,
        image=IMAGE,
        command=(
            *(str(interpreter), "-m", "ollama_fleet", "llama-server"),
            *("--model=/model.gguf", f"--port={container.port}"),
        ),
        environment=(
            ("HOME", "/tmp"),  # noqa: S108 # the container's
            ("LD_LIBRARY_PATH", str(library)),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("PYTHONPATH", f"/project:{packages}"),
        ),
        mounts=(
            ("/usr", "/usr"),
            *((folder, folder) for folder in (sys.base_prefix, packages, str(library))),
            *((str(ROOT / name), f"/project/{name}") for name in ("ollama_fleet", "provisioning")),
            (str(model), "/model.gguf"),
        ),
        memory_bytes=512 * MIB,
    )


async def test_a_real_llama_server_serves_from_a_container(
    lab: ContainerdLab, prober: HttpProber, tiny_model: Path, tmp_path: Path
) -> None:
    runtime, container = lab.open(), llama_container(lab, tiny_model)
    await runtime.images.import_archive(IMAGE, empty_image(tmp_path))

    await runtime.start(container)

    async def is_healthy() -> bool:
        return "" == await prober.probe("127.0.0.1", container.port, Probe())

    try:
        await eventually(is_healthy)
    except AssertionError:
        pytest.fail(lab.log(container).read_text())
    warm_up = WarmUp(path="/completion", body='{"prompt": "a", "n_predict": 4}')
    await prober.warm_up("127.0.0.1", container.port, (warm_up,))
    assert (running(container),) == await runtime.containers()
    status = Path(f"/proc/{await lab.pid(container)}/status").read_text()
    assert "Uid:\t65534" in status

    await runtime.remove(container.name, grace_s=10.0)

    with pytest.raises(TransientError):
        await prober.warm_up("127.0.0.1", container.port, (warm_up,))
