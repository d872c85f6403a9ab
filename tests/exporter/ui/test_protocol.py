"""Whatever happens to a fleet, a browser that only asks for changes shows what it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from aiohttp.http_writer import StreamWriter
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.counters import FleetCounters
from exporter.model import Outcome
from exporter.ui.cells import Value
from exporter.ui.handlers import FleetUi
from exporter.ui.recent import RecentHistory
from tests.exporter.ui.building import (
    FakePoller,
    HeldClock,
    cell,
    fleet_ui,
    metrics,
    ui_config,
)

REFRESH_S = ui_config().refresh_s


class Written(StreamWriter):
    """Keeps a response's body."""

    def __init__(self) -> None:
        self.body = b""

    async def write_headers(self, *_: Any) -> None:
        pass

    def send_headers(self) -> None:
        pass

    async def write(self, chunk: Any, **_: Any) -> None:
        self.body += chunk

    async def write_eof(self, chunk: bytes = b"") -> None:
        self.body += chunk


class Site:
    """The page of a fake fleet, asked without a network."""

    def __init__(self) -> None:
        self.clock = HeldClock()
        self.poller = FakePoller()
        recent = RecentHistory(self.poller, FleetCounters(), self.clock)  # type: ignore[arg-type]
        page: FleetUi = fleet_ui(
            self.poller,  # type: ignore[arg-type]
            FleetCounters(),
            metrics(),
            clock=self.clock,
            recent=recent,
        )
        self._app = web.Application()
        page.add_to(self._app)
        self._app.freeze()

    async def get(self, path: str, **query: object) -> tuple[int, Any]:
        writer = Written()
        url = f"{path}?{urlencode(query)}"
        request = make_mocked_request("GET", url, app=self._app, writer=writer)
        match = await self._app.router.resolve(request)
        answer = await match.handler(request)
        if isinstance(answer, web.Response):
            await answer.prepare(request)
            await answer.write_eof()
        return answer.status, msgspec.json.decode(writer.body)


@dataclass(slots=True)
class Browser:
    """The copy of a fleet that a page holds, kept up to date as the page's scripts do."""

    site: Site
    layout: str = ""
    revision: int = 0
    value: Value | None = None
    status: list[int] = field(default_factory=list)
    numbers: list[int | None] = field(default_factory=list)

    async def load(self) -> None:
        _, told = await self.site.get("/fleet/map", **self._asked_for())
        self.layout, self.revision, self.status = told["layout"], told["revision"], told["status"]
        self.numbers = told["value"]["values"] if self.value else []

    async def show(self, value: Value | None) -> None:
        """Colour the cells by another value, with or without saying that it is new."""
        if value is self.value:
            await self.update()
            return
        self.value, self.numbers = value, []
        await self.update(**({"full": "value"} if value else {}))

    async def update(self, **full: str) -> None:
        since = {"layout": self.layout, "revision": self.revision, **self._asked_for(), **full}
        code, told = await self.site.get("/fleet/changes", **since)
        assert 200 == code
        if told["layout"] != self.layout:
            await self.load()
            return
        self.revision = told["revision"]
        self.status = _applied(self.status, told["status"])
        if self.value:
            assert self.value == told["value"]["name"]
            self.numbers = _applied(self.numbers, told["value"])

    def _asked_for(self) -> dict[str, str]:
        return {"value": self.value} if self.value else {}


def _applied(column: list[Any], change: dict[str, Any]) -> list[Any]:
    if change["cells"] is None:
        return list(change["to"])
    column = list(column)
    for place, number in zip(change["cells"], change["to"], strict=True):
        column[place] = number
    return column


INSTANCE = st.fixed_dictionaries(
    {
        "node": st.sampled_from(["n1", "n2"]),
        "model": st.sampled_from(["m1", "m1", "m1", "m2"]),
        "outcome": st.sampled_from([Outcome.OK, Outcome.OK, Outcome.REFUSED, None]),
        "speed": st.sampled_from([None, 20.0, 40.0, 50.0]),
        "p99_s": st.sampled_from([None, 0.1, 0.2]),
        "age_s": st.sampled_from([None, 3600.0, 7200.0]),
    }
)
FLEET = st.dictionaries(st.sampled_from("abcdefgh"), INSTANCE, max_size=8)
PATCH = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.fixed_dictionaries(
        {},
        optional={
            "outcome": st.sampled_from([Outcome.OK, Outcome.REFUSED]),
            "speed": st.sampled_from([10.0, 40.0, None]),
            "p99_s": st.sampled_from([0.1, 0.3, None]),
        },
    ),
    max_size=3,
)
"""What changes of instances that are there; mostly the layout stays."""
TURN = st.tuples(
    st.one_of(PATCH, PATCH, PATCH, FLEET),
    st.sets(st.integers(0, 2)),  # which browsers are awake
    st.sampled_from([None, *Value]),  # what they show
    st.booleans(),  # whether the time for another revision has come
)


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from("abcdefgh"), INSTANCE), st.lists(TURN, max_size=25))
def test_changes_lead_to_what_a_fresh_map_shows(
    fleet: dict[str, dict[str, Any]],
    turns: list[tuple[dict[str, dict[str, Any]], set[int], Value | None, bool]],
) -> None:
    asyncio.run(_live(fleet, turns))


async def _live(
    fleet: dict[str, dict[str, Any]],
    turns: list[tuple[dict[str, dict[str, Any]], set[int], Value | None, bool]],
) -> None:
    site = Site()
    _show(site, fleet)
    browsers = [Browser(site) for _ in range(3)]
    for browser in browsers:
        await browser.load()
    for change, awake, value, is_time in turns:
        fleet = _changed(fleet, change)
        _show(site, fleet)
        site.clock.move(REFRESH_S if is_time else 0.0)
        for n in sorted(awake):
            await browsers[n].show(value)
        await _compare([browsers[n] for n in sorted(awake)], value)


async def _compare(browsers: list[Browser], value: Value | None) -> None:
    """Hold what browsers show against a fresh map of the same revision."""
    if not browsers:
        return
    fresh = Browser(browsers[0].site, value=value)
    await fresh.load()
    for browser in browsers:
        assert (fresh.layout, fresh.revision) == (browser.layout, browser.revision)
        assert fresh.status == browser.status
        assert fresh.numbers == browser.numbers


def _changed(
    fleet: dict[str, dict[str, Any]], change: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    is_whole = all("node" in each for each in change.values())
    if is_whole:
        return change or fleet
    return {id_: {**each, **change.get(id_, {})} for id_, each in fleet.items()}


def _show(site: Site, fleet: dict[str, dict[str, Any]]) -> None:
    site.poller.show(*[cell(id_, **each) for id_, each in fleet.items()])
