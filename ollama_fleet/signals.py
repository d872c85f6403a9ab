"""Ignore SIGHUP, which would end a server, and say so in its log."""

from __future__ import annotations

import asyncio
import logging
import signal

IGNORED = "signal=SIGHUP ignored: restart to read changed settings"

log = logging.getLogger(__name__)


def ignore_hangup() -> None:
    """Have the running loop log SIGHUP, which would end the process."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, log.warning, IGNORED)
