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
            QUERIES[3]: result(),
        }
        self.rules: list[dict[str, object]] = []

    @property
    def queries(self) -> list[str]:
        asked = [parse_qs(urlsplit(path).query) for path in self.paths]
        return [query["query"][0] for query in asked if "query" in query]

    async def until(self, times: int) -> None:
        await eventually(lambda: times == len(self.queries))

    def _rules(self) -> bytes:
        groups = [{"name": "g", "rules": self.rules}]
        return msgspec.json.encode({"status": "success", "data": {"groups": groups}})

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (path := await read_request(reader)) is not None:
            self.paths.append(path)
            is_query = "/query" in path
            writer.write(response(self.results[self.queries[-1]] if is_query else self._rules()))
            await writer.drain()


def rule(name: str, for_s: float, **annotations: str) -> dict[str, object]:
    """Return a rule as Prometheus tells it."""
    return {
        "name": name,
        "duration": for_s,
        "labels": {"severity": "warning"},
        "annotations": annotations,
        "type": "alerting",
    }


def firing(*names: str, since: float) -> dict[str, bytes]:
    """Return what a Prometheus answers where these alerts fire, and the first is pending too."""
    alerts = [alert(name, since=str(since), node="node-004") for name in names]
    count = [number(str(len(names)))] if names else []
    answers = (result(), result(*alerts), result(*count), result(*alerts[:1]))
    return dict(zip(QUERIES, answers, strict=True))
