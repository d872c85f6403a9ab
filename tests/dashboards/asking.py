"""Ask a real Prometheus what a dashboard asks it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.dashboards.expansion import Asked, Choice, Origin, expanded


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A Prometheus, and the time range that Grafana shows."""

    session: aiohttp.ClientSession
    url: str
    range_s: float
    scrape_interval_s: float
    step_s: float | None = None
    """Where it is not Grafana's choice."""

    async def series(self, expr: str) -> list[dict[str, Any]]:
        """Return what an expression gives now."""
        async with self.session.post(f"{self.url}/api/v1/query", data={"query": expr}) as answer:
            found: list[dict[str, Any]] = (await answer.json())["data"]["result"]
        return found


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer:
    """What came back for one query."""

    asked: Asked
    expr: str
    """As it was sent."""
    labels: tuple[Mapping[str, str], ...]
    """Of each series."""
    complaint: str
    """An error, or warnings; empty where all is well."""
    duration_s: float

    def __repr__(self) -> str:
        return f"<{self.asked}: {len(self.labels)} series {self.complaint}>"


async def ask(source: Source, asked: Asked, choices: Mapping[str, Choice]) -> Answer:
    """Send one query as Grafana sends it."""
    step_s = source.step_s or asked.step_s(source.range_s, source.scrape_interval_s)
    expr = expanded(
        asked.expr, choices, step_s, source.range_s, scrape_interval_s=source.scrape_interval_s
    )
    now_s = time.time()
    if asked.origin is Origin.VARIABLE:
        # Grafana asks for the values of the label; whether there are series is what matters here.
        path, form = "query", {"query": f"group by ({asked.label}) ({expr})"}
    elif asked.is_instant:
        path, form = "query", {"query": expr}
    else:
        span = {"start": f"{now_s - source.range_s}", "end": f"{now_s}", "step": f"{step_s}"}
        path, form = "query_range", {"query": expr, **span}
    started_s = time.perf_counter()
    async with source.session.post(f"{source.url}/api/v1/{path}", data=form) as answer:
        body: dict[str, Any] = await answer.json(content_type=None)
    return Answer(
        asked=asked,
        expr=expr,
        labels=_labels(body),
        complaint="; ".join([body.get("error", ""), *body.get("warnings", [])]).strip("; "),
        duration_s=time.perf_counter() - started_s,
    )


def _labels(body: Mapping[str, Any]) -> tuple[Mapping[str, str], ...]:
    data = body.get("data", {})
    if data.get("resultType") == "scalar":
        return ({},)
    return tuple(series["metric"] for series in data.get("result", ()))
