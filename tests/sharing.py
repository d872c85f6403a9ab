"""How the tests are shared out between workers.

A file's tests stay together, as they share the servers that they start. The end-to-end tests make
two groups, which come first: they watch whole fleets in real time, and more of them at once would
disturb each other; begun last, they would keep one worker busy long after the others have ended.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling

LIVE = ("tests/e2e/test_provisioner", "tests/e2e/")
"""How the paths of each group begin; the first one that fits counts."""


class Sharing(LoadFileScheduling):
    """Gives each file to one worker, and each group of end-to-end tests."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def scope_of(nodeid: str) -> str:
    """Return what is given to a worker as one."""
    path = nodeid.split("::", 1)[0]
    return next((group for group in LIVE if path.startswith(group)), path)


def put_live_first(items: list[pytest.Item]) -> None:
    """Order the tests in place; otherwise their order stays."""
    items.sort(key=lambda item: scope_of(item.nodeid) not in LIVE)
