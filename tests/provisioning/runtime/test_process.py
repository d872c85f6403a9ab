from __future__ import annotations

import pytest

from tests.provisioning.runtime.contract import RuntimeContract
from tests.provisioning.runtime.processes import ProcessLab


@pytest.fixture
def lab(process_lab: ProcessLab) -> ProcessLab:
    return process_lab


class TestProcessRuntime(RuntimeContract):
    """Processes of this machine keep the promises of every runtime."""
