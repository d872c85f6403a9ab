"""Show at / what the exporter polls, how that is, and what to do next."""

from __future__ import annotations

import html
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from exporter.model import Condition, Status
from exporter.page import page
from exporter.status import FAILING, NOT_EXPECTED
from exporter.steps import run_in_steps
from ollama_fleet import upstreams
from ollama_fleet.durations import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from exporter.inventory import SourceState
    from exporter.poller import Poller
    from exporter.snapshot import Row
    from exporter.ui.summary import UiConfig
    from ollama_fleet.clock import Clock

METRICS = "/metrics"
PATHS = {
    "/fleet": "the whole fleet at a glance",
    METRICS: "exposition that Prometheus scrapes",
    "/instances": "every instance with its last outcome, conditions and models, as JSON, "
    "filtered by status, condition, node, model",
    upstreams.PATH: "the healthy instances with their models, for gateways, as JSON",
    "/runbooks/": "what to do when an alert fires",
    "/config": "settings in force and where each was set, as JSON",
    "/-/healthy": "200 while the process runs",
    "/-/ready": "200 once every inventory was read and every instance polled",
}
DOCS = "https://github.com/ollama-fleet/ollama-fleet/tree/main/docs"
SCRAPED_WITHIN_S = 300.0
MAX_SHOWN = 3
"""Statuses and conditions that the line of health names."""
SCRAPE_JOB = """scrape_configs:
  - job_name: ollama-fleet-exporter
    scheme: {scheme}
{path}    scrape_interval: 15s
    static_configs: [{{targets: ["{host}"]}}]"""
BUILD_ALERTS = r"""ollama-fleet alerts build --profile small \
  --set links.exporter={scheme}://{host} --output-dir /etc/prometheus/ollama-fleet"""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do next: why, and what to type."""

    why: str
    code: str


class Landing:
    """The page at /."""

    def __init__(
        self,
        ui_config: UiConfig,
        poller: Poller,
        sources: Callable[[], Sequence[SourceState]],
        clock: Clock,
        *,
        prometheus_url: str = "",
        telemetry_path: str = METRICS,
    ) -> None:
        self._telemetry_path = telemetry_path
        self._ui_config = ui_config
        self._poller = poller
        self._sources = sources
        self._clock = clock
        self.prometheus_url = prometheus_url
        self._started_at_s = clock.monotonic_s()
        self._scraped_at_s: float | None = None

    def add_to(self, app: web.Application) -> None:
        """Add the route to an application."""
        app.add_routes([web.get("/", self._page)])

    def scraped(self) -> None:
        """Note that /metrics was asked for."""
        self._scraped_at_s = self._clock.monotonic_s()

    async def _page(self, request: web.Request) -> web.Response:
        rows, _cpu_s = await run_in_steps(self._poller.rows())
        parts = [
            "<h1>ollama-fleet exporter</h1>",
            self._health(rows),
            _table("What it polls", self._sources_rows()),
            _steps(self._next_steps(request.scheme, request.host, len(rows))),
            _table("Configuration", self._config_rows()),
            _links(self._telemetry_path),
        ]
        return page("Exporter", "\n".join(parts))

    def _health(self, rows: Sequence[Row]) -> str:
        counts = Counter([row.status for row in rows])
        conditions = Counter([condition for row in rows for condition in row.conditions])
        is_good = bool(rows) and not conditions and not FAILING & counts.keys()
        now_s = self._clock.monotonic_s()
        facts = [
            f"version {self._ui_config.version}",
            f"up {duration_text(round(now_s - self._started_at_s))}",
            self._scrape_words(now_s),
        ]
        return (
            f'<p class="health {"good" if is_good else "bad"}">'
            f"{_escaped(health(counts, conditions))}</p>"
            f'<p class="facts">{_escaped(" · ".join(facts))}</p>'
        )

    def _scrape_words(self, now_s: float) -> str:
        if self._scraped_at_s is None:
            return "not scraped yet"
        return f"scraped {duration_text(round(now_s - self._scraped_at_s))} ago"

    def _sources_rows(self) -> Iterator[tuple[str, str]]:
        for state in self._sources():
            yield state.source, self._source_words(state)
        shard = self._ui_config.shard
        if shard.count > 1:
            yield "shard", f"{shard.index} of {shard.count}, counted from 0"

    def _source_words(self, state: SourceState) -> str:
        if not state.last_success_s:
            return f"never read: {state.last_error}"
        age_s = max(0, round(self._clock.unix_s() - state.last_success_s))
        read = f"{_counted(state.n_instances, 'instance')}, read {duration_text(age_s)} ago"
        return f"{read}; since then: {state.last_error}" if state.last_error else read

    def _config_rows(self) -> Iterator[tuple[str, str]]:
        config = self._ui_config
        yield "poll.interval", duration_text(config.poll_interval_s)
        yield "inventory.refresh-interval", duration_text(config.inventory_refresh_s)
        yield "canary.period", duration_text(config.canary_period_s)
        yield "ui.prometheus-url", self.prometheus_url or "none"

    def _next_steps(self, scheme: str, host: str, n: int) -> Iterator[Step]:
        """Yield what has not been done yet, as far as the exporter can know."""
        path = self._telemetry_path
        given = {
            "scheme": scheme,
            "host": host,
            "path": "" if path == METRICS else f"    metrics_path: {path}\n",
        }
        rules = "Build the alert rules, with links to these runbooks."
        if not n:
            yield Step("List your servers: the inventory is empty.", "- url: http://gpu-1:11434")
        if not self._is_scraped():
            yield Step("Let Prometheus scrape it.", SCRAPE_JOB.format(**given))
            yield Step(rules, BUILD_ALERTS.format(**given))
        if not self._ui_config.canary_period_s:
            yield Step(
                "Stock Ollama reports neither speed nor latency. Canaries measure them: each "
                "instance generates a few tokens now and then.",
                "ollama-fleet exporter --canary.period 5m …",
            )
        if not self.prometheus_url:
            yield Step(
                "Show the alerts on /fleet.",
                "ollama-fleet exporter --ui.prometheus-url http://127.0.0.1:9090 …",
            )

    def _is_scraped(self) -> bool:
        at_s = self._scraped_at_s
        return at_s is not None and self._clock.monotonic_s() - at_s < SCRAPED_WITHIN_S


def health(counts: Counter[Status], conditions: Counter[Condition]) -> str:
    """Return a fleet's health in a line: how many are healthy, what is wrong most often."""
    if not counts:
        return "No instance is known."
    n_expected = counts.total() - sum([counts[status] for status in NOT_EXPECTED])
    others: Counter[str] = Counter({str(status): n for status, n in counts.items()})
    del others[Status.HEALTHY]
    others.update({_words(condition): n for condition, n in conditions.items()})
    named = [f"{n:,} {words}" for words, n in others.most_common(MAX_SHOWN)]
    line = f"{counts[Status.HEALTHY]:,} of {_counted(n_expected, 'instance')} healthy"
    return f"{': '.join([line, ', '.join(named)]) if named else line}."


def _words(condition: Condition) -> str:
    return condition.replace("_", " ").replace("cpu", "CPU").replace("kv", "KV")


def _table(title: str, rows: Iterator[tuple[str, str]]) -> str:
    cells = [
        f'<tr><th scope="row">{_escaped(name)}</th><td>{_escaped(text)}</td></tr>'
        for name, text in rows
    ]
    return f"<h2>{title}</h2><table>{''.join(cells)}</table>" if cells else ""


def _steps(steps: Iterator[Step]) -> str:
    items = [
        f'<li>{_escaped(step.why)}<pre tabindex="0"><code>{_escaped(step.code)}</code></pre></li>'
        for step in steps
    ]
    return f"<h2>Next</h2><ol>{''.join(items)}</ol>" if items else ""


def _links(telemetry_path: str) -> str:
    named = ((telemetry_path if path == METRICS else path, text) for path, text in PATHS.items())
    items = [f'<li><a href="{path}">{path}</a> – {_escaped(text)}</li>' for path, text in named]
    docs = f'<li><a href="{DOCS}">Documentation</a></li>'
    return f"<h2>Links</h2><ul>{''.join(items)}{docs}</ul>"


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _escaped(text: str) -> str:
    return html.escape(text)
