"""Answer the requests of the web UI, below /fleet."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from exporter.errors import ExporterError
from exporter.instances import Filter, view
from exporter.model import Condition, Status
from exporter.responses import Body, takes_gzip
from exporter.steps import run_in_steps
from exporter.ui import protocol
from exporter.ui.cells import CONDITIONS, STATUS
from exporter.ui.protocol import (
    VALUES,
    ChangedValue,
    ChangesAnswer,
    EncodedLayout,
    LayoutChanged,
    MapAnswer,
    as_json,
    whole,
)
from exporter.ui.worst import N_WORST, worst

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping

    from exporter.poller import Poller
    from exporter.responses import ResponseSender
    from exporter.ui.cells import Value
    from exporter.ui.protocol import ChangesQuery
    from exporter.ui.revisions import FleetView, Revision, Revisions
    from exporter.ui.summary import Summariser, Summary, UiConfig
    from ollama_fleet.clock import Clock


PATH = "/fleet"
INDEX = "index.html"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class File:
    """One file in the forms that browsers ask for."""

    content_type: str
    body: bytes
    gzipped: bytes
    etag: str
    """Of the plain form, without quotes."""


def read(folder: Path) -> Mapping[str, File]:
    """Return the files of a folder that a browser can use, by name.

    Raises:
        ExporterError: index.html is missing.
    """
    try:
        paths = [path for path in sorted(folder.iterdir()) if path.suffix in CONTENT_TYPES]
        bodies = {path.name: path.read_bytes() for path in paths}
    except OSError as error:
        raise ExporterError(f"cannot read the web UI's files in {folder}: {error}") from error
    if INDEX not in bodies:
        raise ExporterError(f"there is no {INDEX} in {folder}; reinstall ollama-fleet")
    bodies[INDEX] = _preloading(bodies[INDEX], (name for name in bodies if name.endswith(".js")))
    return {name: _file(CONTENT_TYPES[Path(name).suffix], body) for name, body in bodies.items()}


def _preloading(index: bytes, scripts: Iterable[str]) -> bytes:
    """Return the page with links to all modules: the browser asks for them before it runs one."""
    links = "".join(f'<link rel="modulepreload" href="{PATH}/{name}">\n' for name in scripts)
    return index.replace(b"</head>", links.encode() + b"</head>", 1)


def _file(content_type: str, body: bytes) -> File:
    etag = hashlib.blake2b(body, digest_size=16).hexdigest()
    # Without a time in its header, so that equal files stay equal.
    return File(content_type, body, gzip.compress(body, mtime=0), etag)


MAX_KEPT = 32
"""Who types filters must not fill the memory."""


@dataclass(slots=True)
class _Entry:
    made: object | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class ResultCache:
    """What was made of the revision that was asked about last."""

    def __init__(self) -> None:
        self._revision = 0
        self._entries: dict[Hashable, _Entry] = {}

    def __repr__(self) -> str:
        return f"<ResultCache: {len(self._entries)} of revision {self._revision}>"

    async def get(
        self, revision: int, wanted: Hashable, make: Callable[[], Awaitable[object]]
    ) -> object:
        """Return the cached result; the first caller makes it, or the next if that is cancelled."""
        if revision != self._revision:
            self._revision, self._entries = revision, {}
        entry = self._entries.setdefault(wanted, _Entry())
        if len(self._entries) > MAX_KEPT:
            del self._entries[next(iter(self._entries))]
        async with entry.lock:
            if entry.made is None:
                entry.made = await make()
            return entry.made


class FleetUi:
    """The web UI's files, and the requests of its scripts."""

    def __init__(
        self,
        files: Mapping[str, File],
        revisions: Revisions,
        summariser: Summariser,
        poller: Poller,
        ui_config: UiConfig,
        clock: Clock,
        sender: ResponseSender,
    ) -> None:
        self._files = files
        self._revisions = revisions
        self._summariser = summariser
        self._poller = poller
        self._ui_config = ui_config
        self._clock = clock
        self._sender = sender
        self._encoded_layout: tuple[str, EncodedLayout] | None = None
        """The layout that was written last, with its name."""
        self._shared = ResultCache()
        """Answers about the worst, for all who look at the same."""

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application."""
        app.add_routes(
            [
                web.get(PATH, self._index),
                web.get(f"{PATH}/map", self._map),
                web.get(f"{PATH}/changes", self._changes),
                web.get(f"{PATH}/worst", self._worst),
                web.get(f"{PATH}/{{name}}", self._file),
            ]
        )

    async def _index(self, request: web.Request) -> web.Response:
        response = _file_response(request, self._files[INDEX])
        # The browser asks for the map while it still loads the scripts, which use that answer.
        value = request.query.get("value")
        query = f"value={value}" if value in VALUES else ""
        response.headers["Link"] = f"<{PATH}/map?{query}>; rel=preload; as=fetch; crossorigin"
        return response

    async def _file(self, request: web.Request) -> web.Response:
        file = self._files.get(request.match_info["name"])
        if file is None or file is self._files[INDEX]:  # whose links begin at /fleet
            raise web.HTTPNotFound
        return _file_response(request, file)

    async def _map(self, request: web.Request) -> web.StreamResponse:
        try:
            value = protocol.parse_map(request.query)
        except ValueError as error:
            return _refusal(str(error), 400)
        return await self._sender.send(request, partial(self._map_body, request, value))

    async def _map_body(self, request: web.Request, value: Value | None) -> Body:
        revision = await self._revisions.latest(value)
        encoded = await self._layout_as_json(revision)
        summary = self._summariser.summary(revision.fleet_view)
        answer = await asyncio.to_thread(self._map_answer, revision, encoded, value, summary)
        return await _json_body(request, answer)

    def _map_answer(
        self, revision: Revision, encoded: EncodedLayout, value: Value | None, summary: Summary
    ) -> MapAnswer:
        fleet_view = revision.fleet_view
        return MapAnswer(
            layout=fleet_view.layout.name,
            revision=revision.number,
            poll_interval_seconds=self._ui_config.poll_interval_s,
            refresh_seconds=self._ui_config.refresh_s,
            inventory_refresh_seconds=self._ui_config.inventory_refresh_s,
            statuses=tuple(Status),
            nodes=encoded.nodes,
            models=encoded.models,
            developers=encoded.developers,
            cells=encoded.cells,
            status=as_json(fleet_view.columns[STATUS]),
            condition_names=tuple(Condition),
            conditions=protocol.not_zero(fleet_view.columns[CONDITIONS]),
            value=None if value is None else protocol.whole_value(revision, value),
            tokens_per_second=protocol.tokens_per_second(fleet_view),
            summary=summary,
        )

    async def _layout_as_json(self, revision: Revision) -> EncodedLayout:
        """Return the revision's layout, written; that is done once."""
        layout = revision.fleet_view.layout
        if self._encoded_layout is None or self._encoded_layout[0] != layout.name:
            self._encoded_layout = (
                layout.name,
                await asyncio.to_thread(protocol.encode_layout, layout),
            )
        return self._encoded_layout[1]

    async def _changes(self, request: web.Request) -> web.StreamResponse:
        try:
            since = protocol.parse_changes(request.query)
        except ValueError as error:
            return _refusal(str(error), 400)
        return await self._sender.send(request, partial(self._changes_body, request, since))

    async def _changes_body(self, request: web.Request, since: ChangesQuery) -> Body:
        revision = await self._revisions.latest(since.value)
        if since.layout != revision.fleet_view.layout.name:
            # No refusal: browsers would note it as an error, and it happens every day.
            return await _json_body(request, LayoutChanged(revision.fleet_view.layout.name))
        return await _json_body(request, self._changes_answer(since, revision))

    def _changes_answer(self, since: ChangesQuery, revision: Revision) -> ChangesAnswer:
        fleet_view = revision.fleet_view
        return ChangesAnswer(
            layout=fleet_view.layout.name,
            revision=revision.number,
            status=self._revisions.changes(since.revision, STATUS, revision),
            conditions=self._revisions.changes(since.revision, CONDITIONS, revision),
            value=self._changed_value(since, revision),
            tokens_per_second=protocol.tokens_per_second(fleet_view),
            summary=self._summariser.summary(fleet_view),
        )

    def _changed_value(self, since: ChangesQuery, revision: Revision) -> ChangedValue | None:
        if since.value is None:
            return None
        if since.is_value_whole:
            changed = whole(revision.fleet_view.columns[since.value])
        else:
            changed = self._revisions.changes(since.revision, since.value, revision)
        return ChangedValue(since.value, changed.cells, changed.to)

    async def _worst(self, request: web.Request) -> web.StreamResponse:
        try:
            value, wanted = protocol.parse_worst(request.query)
        except ValueError as error:
            return _refusal(str(error), 400)
        return await self._sender.send(request, partial(self._worst_body, request, value, wanted))

    async def _worst_body(self, request: web.Request, value: Value | None, wanted: Filter) -> Body:
        revision = await self._revisions.latest(value)
        answer = await self._shared.get(
            revision.number,
            (value, wanted),
            lambda: self._worst_answer(revision.fleet_view, value, wanted),
        )
        return await _json_body(request, answer)

    async def _worst_answer(
        self, fleet_view: FleetView, value: Value | None, wanted: Filter
    ) -> object:
        column = fleet_view.columns[value or STATUS]
        steps = worst(fleet_view.layout.ids, self._poller.scrape_targets, wanted, value, column)
        ranked, _ = await run_in_steps(steps)
        now_s = self._clock.unix_s()
        is_whole = value is None and wanted == Filter()
        views = [
            {
                **msgspec.to_builtins(
                    view(scrape_target.row, scrape_target.last_failure, now_s=now_s)
                ),
                "value": number,
            }
            for scrape_target, number in ranked.found
        ]
        return {
            "value": value or STATUS,
            "n_matching": ranked.n_matching,
            "n_ranked": ranked.n_ranked,
            "groups": ranked.groups,
            "slow_nodes": fleet_view.totals.slow_nodes[:N_WORST] if is_whole else (),
            "instances": views,
        }


def _refusal(message: str, status: int) -> web.Response:
    return web.json_response({"error": message}, status=status)


async def _json_body(request: web.Request, answer: object) -> Body:
    is_taken = takes_gzip(request.headers.get("Accept-Encoding", ""))
    # Beside the event loop: what 100,000 cells are takes a while.
    body, is_gzipped = await asyncio.to_thread(protocol.encode, answer, is_gzip_taken=is_taken)
    headers = {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "Vary": "Accept-Encoding",
    }
    if is_gzipped:
        headers["Content-Encoding"] = "gzip"
    return Body(headers, [body], own_bytes=len(body))


def _file_response(request: web.Request, file: File) -> web.Response:
    """Return a file, or word that the browser has it already."""
    is_gzipped = takes_gzip(request.headers.get("Accept-Encoding", ""))
    is_gzipped = is_gzipped and len(file.gzipped) < len(file.body)
    etag = f"{file.etag}-gzip" if is_gzipped else file.etag
    headers = {"ETag": f'"{etag}"', "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if etag in _known(request):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = file.content_type
    if is_gzipped:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=file.gzipped if is_gzipped else file.body, headers=headers)


def _known(request: web.Request) -> Iterable[str]:
    """Return the tags of what the browser has."""
    return [tag.value for tag in request.if_none_match or ()]
