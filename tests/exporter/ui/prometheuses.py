"""A server that plays Prometheus, and what it may say."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import msgspec

from exporter.ui.prometheus import QUERIES
from ollama_fleet.prometheus import Series
from tests.exporter.servers import read_request, response
from tests.waiting import eventually


def alert(name: str, severity: str = "warning", since: str = "17.5", **labels: str) -> Series:
    named = {"__name__": "ALERTS_FOR_STATE", "alertname": name, "severity": severity}
    return Series({**named, **labels}, (1.0, since))


def threshold(name: str, value: str, **labels: str) -> Series:
    return Series({"__name__": f"fleet:ollama_{name}:threshold", **labels}, (1.0, value))


def number(text: str) -> Series:
    return Series({}, (1.0, text))


def result(*series: Series) -> bytes:
    data = {"resultType": "vector", "result": series}
    return msgspec.json.encode({"status": "success", "data": data})


class Asked:
    """A server that plays Prometheus and remembers what it was asked."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.results: Mapping[str, bytes] = {
            QUERIES[0]: result(threshold("tokens_per_second", "7")),
            QUERIES[1]: result(alert("OllamaA")),
            QUERIES[2]: result(number("7")),
        }

    @property
    def queries(self) -> list[str]:
        return [parse_qs(urlsplit(path).query)["query"][0] for path in self.paths]

    async def until(self, times: int) -> None:
        await eventually(lambda: times == len(self.paths))

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (path := await read_request(reader)) is not None:
            self.paths.append(path)
            writer.write(response(self.results[self.queries[-1]]))
            await writer.drain()
