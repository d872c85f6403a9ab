"""A served API for clients that ask and wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provisioning.model import Instance
from tests.provisioning.api.board import Board, running_board


class Served:
    """An API that is served from a thread of its own, for clients that block."""

    def __init__(self, folder: Path, *, is_leading: bool = True) -> None:
        self._folder = folder
        self._is_leading = is_leading
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.board: Board
        self.url = ""
        self.token = ""

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        async with running_board(self._folder) as board:
            self.board, self.url, self.token = board, board.url, board.token
            board.is_leading = self._is_leading
            self._is_up.set()
            await self._stopped.wait()

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._is_up.wait(100)
        return self

    def put(self, changed: Instance) -> None:
        """Write a record, as a leader would."""
        asyncio.run_coroutine_threadsafe(self.board.put(changed), self.loop).result(100)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Have it take connections and answer nothing until the block ends."""
        goes_on = threading.Event()
        self.loop.call_soon_threadsafe(goes_on.wait, 600)
        try:
            yield
        finally:
            goes_on.set()

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
