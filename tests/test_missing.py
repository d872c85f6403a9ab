"""What this machine lacks fails tests in continuous integration, and skips them elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.containerd import running_containerd

BOTH = (pytest.fail.Exception, pytest.skip.Exception)
"""A skip that is not expected would skip this test."""


@pytest.mark.parametrize(("ci", "outcome"), [("true", BOTH[0]), ("", BOTH[1])])
def test_without_root_there_is_no_containerd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(BOTH, match="containerd needs root") as given, running_containerd(tmp_path):
        pass

    assert outcome is given.type
