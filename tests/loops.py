"""The event loop that our programs run on, for the tests of their parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import uvloop


def uvloop_only() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return what a conftest's `pytest_asyncio_loop_factories` returns to use uvloop alone."""
    return {"uvloop": uvloop.new_event_loop}
