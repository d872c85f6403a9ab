from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provisioning.runtime import probe
from tests.containerd import busybox_archive
from tests.provisioning.runtime.processes import ProcessLab


@pytest.fixture(autouse=True)
def _no_port_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports here are on this machine: who does not answer within a second is slow, and there."""
    monkeypatch.setattr(probe, "CONNECT_LIMIT_S", 60.0)


@pytest.fixture
async def process_lab(tmp_path: Path) -> AsyncIterator[ProcessLab]:
    lab = ProcessLab(tmp_path / "state")
    yield lab
    await lab.close()


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI archive of an image with a static busybox."""
    return busybox_archive(tmp_path_factory.mktemp("image"))
