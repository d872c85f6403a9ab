"""Fetch pages as a scraper does, with the bytes as they came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer whose body is still compressed where the server compressed it."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


async def fetch(port: int, path: str, *, method: str = "GET", **headers: str) -> Fetched:
    """Ask a server on loopback; header names are written with `_`."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession(
        auto_decompress=False, skip_auto_headers=("Accept-Encoding", "Accept")
    ) as session:
        url = f"http://127.0.0.1:{port}{path}"
        async with session.request(method, url, headers=fields) as answer:
            return Fetched(answer.status, answer.headers, await answer.read())
