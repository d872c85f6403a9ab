"""What the benchmark's own tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning.demo.ports import Claims, Ports
from tests.bench.bench import Bench


def _be_quiet(_words: str) -> None:
    pass


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A run that is small."""
    with Claims() as claims:
        yield Bench(
            n_instances=4,
            n_cycles=1,
            interval_s=6,
            run_dir=tmp_path,
            ports=Ports(say=_be_quiet, claims=claims),
            say=_be_quiet,
        )
