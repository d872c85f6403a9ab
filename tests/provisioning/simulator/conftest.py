from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from tests.loops import uvloop_only


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return uvloop_only()
