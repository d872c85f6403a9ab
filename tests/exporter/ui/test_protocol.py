"""The web UI's queries and answers: changes applied one by one give the whole map."""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from aiohttp import web
from aiohttp.http_writer import StreamWriter
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import MultiDict

from exporter.counters import FleetCounters
from exporter.model import Condition, Outcome
from exporter.ui.cells import UNKNOWN, Value
from exporter.ui.handlers import FleetUi
from exporter.ui.protocol import (
    COMPARED_AT_ONCE,
    MOST_CARDS,
    Changes,
    ChangesQuery,
    changes,
    parse_changes,
    parse_map,
    parse_worst,
    whole,
)
from exporter.ui.recent import RecentHistory
from tests.exporter.ui.building import FakePoller, HeldClock, cell, fleet_ui, metrics, ui_config

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
    conditions: list[int] = field(default_factory=list)
    numbers: list[int | None] = field(default_factory=list)

    async def load(self) -> None:
        _, told = await self.site.get("/fleet/map", **self._asked_for())
        self.layout, self.revision, self.status = told["layout"], told["revision"], told["status"]
        self.conditions = _applied([0] * len(self.status), told["conditions"])
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
        self.conditions = _applied(self.conditions, told["conditions"])
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
        "conditions": st.sampled_from([(), (), (Condition.ON_CPU,)]),
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
            "conditions": st.sampled_from([(), (Condition.STALLED,)]),
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


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from("abcdefgh"), INSTANCE), st.lists(TURN, max_size=15))
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
        assert fresh.conditions == browser.conditions
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


@pytest.mark.parametrize("n", [MOST_CARDS, MOST_CARDS + 1])
async def test_speeds_of_each_instance_are_sent_as_long_as_cards_show_them(n: int) -> None:
    site = Site()
    site.poller.show(*[cell(f"i{i:04}", speed=40.04) for i in range(n - 1)], cell("z"))

    _, told = await site.get("/fleet/map")
    since = {"layout": told["layout"], "revision": told["revision"]}
    _, later = await site.get("/fleet/changes", **since)

    expected = [*[40.0] * (n - 1), None] if n == MOST_CARDS else None
    assert expected == told["tokens_per_second"] == later["tokens_per_second"]


async def test_conditions_are_sent_only_of_the_cells_that_have_them() -> None:
    """Also in a whole map: most fleets have few."""
    site = Site()
    site.poller.show(*[cell(id_) for id_ in "abcd"])
    _, at_first = await site.get("/fleet/map")
    site.poller.show(*[cell(id_) for id_ in "acd"], cell("b", conditions=(Condition.ON_CPU,)))
    site.clock.move(REFRESH_S)

    since = {name: at_first[name] for name in ("layout", "revision")}
    _, told = await site.get("/fleet/changes", **since)
    _, fresh = await site.get("/fleet/map")

    assert {"cells": [], "to": []} == at_first["conditions"]
    assert {"cells": [1], "to": [8]} == told["conditions"] == fresh["conditions"]
    assert [*Condition] == fresh["condition_names"]


def numbers(*values: int) -> array[int]:
    return array("i", values)


def test_only_cells_that_changed_are_told() -> None:
    before, now = numbers(1, 2, 3, 4), numbers(1, 9, 3, 8)

    assert Changes([1, 3], [9, 8]) == changes(before, now)


def test_what_is_not_known_is_told_as_null() -> None:
    assert Changes([0], [None]) == changes(numbers(5, 6, 7), numbers(UNKNOWN, 6, 7))
    assert Changes([0], [5]) == changes(numbers(UNKNOWN, 6, 7), numbers(5, 6, 7))
    assert Changes(None, [None, 0]) == whole(numbers(UNKNOWN, 0))


def test_of_more_than_half_of_the_cells_all_are_told() -> None:
    before = numbers(1, 1, 1, 1)

    assert Changes([0, 1], [2, 2]) == changes(before, numbers(2, 2, 1, 1))
    assert Changes(None, [2, 2, 2, 1]) == changes(before, numbers(2, 2, 2, 1))


def test_changes_are_found_wherever_they_are() -> None:
    n = 3 * COMPARED_AT_ONCE + 1
    changed = [0, COMPARED_AT_ONCE - 1, COMPARED_AT_ONCE, 2 * COMPARED_AT_ONCE + 5, n - 1]
    now = numbers(*[1] * n)
    for place in changed:
        now[place] = 2

    assert Changes(list(changed), [2] * 5) == changes(numbers(*[1] * n), now)


SINCE = {"layout": "l-1", "revision": "7"}


def test_changes_are_asked_for_since_a_revision_of_a_layout() -> None:
    assert ChangesQuery("l-1", 7, None, is_value_whole=False) == parse_changes(SINCE)
    assert ChangesQuery("l-1", 7, Value.AGE, is_value_whole=False) == parse_changes(
        {**SINCE, "value": "age"}
    )
    assert 10**15 - 1 == parse_changes({**SINCE, "revision": "9" * 15}).revision
    assert ChangesQuery("l-1", 7, Value.AGE, is_value_whole=True) == parse_changes(
        {**SINCE, "value": "age", "full": "value"}
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("colour=red", "there is no parameter 'colour', only value"),
        ("value=heat", "there is no value 'heat', only speed, p99, canary, errors, age"),
        ("value=", "there is no value ''"),
        ("value=status", "there is no value 'status'"),
        ("value=speed&value=age", "can take one value at a time"),
        ("layout=1", "there is no parameter 'layout'"),
    ],
)
def test_another_map_is_refused_with_what_there_is(query: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_map(dict_of(query))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "layout is required"),
        ("layout=1", "revision is required"),
        ("revision=1", "layout is required"),
        ("layout=1&revision=x", "revision must be a whole number"),
        ("layout=1&revision=", "revision must be a whole number"),
        ("layout=1&revision=-1", "revision must be a whole number"),
        ("layout=1&revision=1.5", "revision must be a whole number"),
        ("layout=1&revision=²", "revision must be a whole number"),
        ("layout=1&revision=1234567890123456", "revision must be a whole number"),
        ("layout=1&revision=1&revision=2", "can take one revision"),
        ("layout=1&revision=1&full=status", "full can only be value, not 'status'"),
        ("layout=1&revision=1&value=heat", "there is no value 'heat'"),
        ("layout=1&revision=1&node=n1", "no parameter 'node', only layout, revision, value, full"),
    ],
)
def test_other_changes_are_refused_with_what_there_is(query: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_changes(dict_of(query))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("value=heat", "there is no value 'heat', only status, speed, p99, canary, errors, age"),
        ("value=status&value=speed", "can take one value at a time"),
        ("status=red", "no status 'red', only healthy"),
        ("node=a&node=b", "can take one node at a time"),
        ("colour=red", "no parameter 'colour', only value, id, status, node, model, engine"),
    ],
)
def test_other_worst_ones_are_refused_with_what_there_is(query: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_worst(dict_of(query))


def dict_of(query: str) -> MultiDict[str]:
    pairs = [part.partition("=") for part in query.split("&") if part]
    return MultiDict([(key, text) for key, _, text in pairs])
