from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme

from provisioning.runtime import probe
from provisioning.runtime.containerd import client
from tests.containerd import Containerd, busybox_archive, running_containerd
from tests.provisioning.runtime.containers import ContainerdLab
from tests.provisioning.runtime.contract import FLEET, OTHER_FLEET
from tests.provisioning.runtime.processes import ProcessLab


@pytest.fixture(autouse=True)
def _nobody_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is on this machine: who does not answer within seconds is slow, and there."""
    monkeypatch.setattr(probe, "CONNECT_LIMIT_S", 60.0)
    monkeypatch.setattr(probe, "PAGE_TIMEOUT_S", 100.0)
    monkeypatch.setattr(client, "DEADLINE_S", 100.0)


@pytest.fixture
async def process_lab(tmp_path: Path) -> AsyncIterator[ProcessLab]:
    lab = ProcessLab(tmp_path / "state")
    yield lab
    await lab.close()


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI archive of an image with a static busybox."""
    return busybox_archive(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def registry_authority() -> trustme.CA:
    """Who signs for registries."""
    return trustme.CA()


@pytest.fixture(scope="session")
def containerd(
    tmp_path_factory: pytest.TempPathFactory, registry_authority: trustme.CA
) -> Iterator[Containerd]:
    authorities = tmp_path_factory.mktemp("authorities") / "authority.pem"
    registry_authority.cert_pem.write_to_path(str(authorities))
    folder = tmp_path_factory.mktemp("containerd")
    with running_containerd(folder, authorities=authorities) as daemon:
        yield daemon


@pytest.fixture
async def containerd_lab(containerd: Containerd, busybox: Path) -> AsyncIterator[ContainerdLab]:
    """A node; whatever the test before did to its daemon is healed."""
    lab = ContainerdLab(containerd, busybox)
    await lab.prepare(FLEET, OTHER_FLEET)
    yield lab
    if containerd.process is None:
        containerd.start()
    await lab.close()
