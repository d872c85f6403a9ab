"""Have SIGHUP reload a server, and end it at no time."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

HANGUP = {signal.SIGHUP}


def hold_hangup() -> None:
    """Let SIGHUP wait until `on_hangup`: while a server starts, it would end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANGUP)


def on_hangup(act: Callable[[], object]) -> None:
    """Have the running loop call `act` at each SIGHUP, and at one that waits."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, act)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANGUP)
