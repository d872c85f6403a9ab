"""A question on a terminal hears Ctrl-C, whenever it comes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from provisioning.cli.common import wait_for_line


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard input on which nothing comes, and a handler of SIGINT that raises nothing.

    So it is here as in the moment in which Ctrl-C is lost: Python goes on to wait for the line.
    """
    reader, writer = os.pipe()
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with os.fdopen(reader) as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            yield
    finally:
        signal.signal(signal.SIGINT, before)
        os.close(writer)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("silent")
def test_a_signal_ends_the_wait_for_a_line_even_where_no_handler_raises() -> None:
    ended = threading.Event()

    def press() -> None:
        while not ended.wait(0.05):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    try:
        wait_for_line()
    finally:
        ended.set()
        pressing.join()

    assert -1 == signal.set_wakeup_fd(-1)  # as before
