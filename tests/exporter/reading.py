"""Read a page as bad clients do: slowly, in part, or not at all."""

from __future__ import annotations

import asyncio
import socket
from typing import ClassVar

SMALL_BUFFER_BYTES = 4096
"""What a reader's kernel takes of an answer that is not read."""


class Reader:
    """A connection that asked for a page and leaves the answer where it is."""

    opened: ClassVar[list[Reader]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(self)
        self._reader = reader
        self._writer = writer

    @classmethod
    async def asking(cls, port: int, path: str = "/metrics", *headers: str) -> Reader:
        """Connect and ask for a page."""
        ours = socket.socket()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        ours.setblocking(False)
        await asyncio.get_running_loop().sock_connect(ours, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=ours, limit=SMALL_BUFFER_BYTES)
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        return cls(reader, writer)

    async def status(self) -> int:
        """Return the answer's status; what follows stays unread."""
        return int((await self.head()).split()[1])

    async def head(self) -> str:
        """Return the answer's head; what follows stays unread."""
        return (await self._reader.readuntil(b"\r\n\r\n")).decode()

    async def rest(self) -> bytes:
        """Return what follows until the server closes the connection."""
        try:
            return await self._reader.read()
        except ConnectionError:
            return b""

    def break_off(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()
