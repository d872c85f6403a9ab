"""The web UI over HTTP."""

from __future__ import annotations

import asyncio
import base64
import gzip
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import bcrypt
import msgspec
import pytest

from exporter import app
from exporter.app import STATIC_FOLDER, Exporter
from exporter.config import Config, Given, build
from exporter.errors import ExporterError
from exporter.model import Status
from exporter.ui import handlers
from exporter.ui import worst as worst_of
from exporter.ui.handlers import INDEX, MAX_KEPT, PATH, ResultCache, read
from exporter.ui.prometheus import QUERIES
from exporter.web import HEADERS
from tests.exporter.fetching import Fetched, fetch
from tests.exporter.pollers import patient
from tests.exporter.servers import answering, serving
from tests.exporter.ui.building import written
from tests.exporter.ui.prometheuses import Asked, result, threshold
from tests.waiting import eventually

HEALTHY = {
    "/health": b"{}",
    "/api/metrics": b'{"tokens_per_second":42,"latency_p99":0.089,"error_count":0}',
}
ANSWERS = ("/fleet/map", "/fleet/changes?layout=l&revision=1", "/fleet/worst")
QUICK = {
    "poll.interval": "400ms",
    "inventory.refresh-interval": "50ms",
    "web.listen-address": "127.0.0.1:0",
    "log.level": "warning",
}


@dataclass(frozen=True, slots=True)
class Site:
    """A running exporter over an inventory file."""

    exporter: Exporter
    inventory: Path

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> Fetched:
        return await fetch(self.exporter.port, path, method=method, **headers)

    async def map(self, **query: str) -> dict[str, Any]:
        return await self._json("/fleet/map", **query)

    async def changes(self, since: dict[str, Any], **query: str) -> Fetched:
        known = {"layout": since["layout"], "revision": since["revision"]}
        return await self.get(f"/fleet/changes?{urlencode({**known, **query})}")

    async def worst(self, **query: str) -> dict[str, Any]:
        return await self._json("/fleet/worst", **query)

    async def until_seen(self, *statuses: Status) -> None:
        """Return once the cells have these statuses."""

        async def are_seen() -> bool:
            told = await self.map()
            return list(statuses) == [told["statuses"][code] for code in told["status"]]

        await eventually(are_seen)

    async def is_judged(self) -> bool:
        indicators = (await self.map())["summary"]["indicators"]
        return all(indicator["is_met"] is not None for indicator in indicators)

    async def _json(self, path: str, **query: str) -> dict[str, Any]:
        answer = await self.get(f"{path}?{urlencode(query)}")
        assert 200 == answer.status, answer.text
        told: dict[str, Any] = answer.json
        return told


def listed(path: Path, *instances: dict[str, Any]) -> Path:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.encode(instances))
    return fresh.replace(path)


def instance(id_: str, port: int, **rest: str) -> dict[str, Any]:
    return {"id": id_, "url": f"http://127.0.0.1:{port}", "engine": "fleet", **rest}


def config(inventory: Path, **settings: str) -> Config:
    given = {name.replace("__", ".").replace("_", "-"): text for name, text in settings.items()}
    texts = {**QUICK, "inventory": str(inventory), **given}
    return patient(build({name: Given((text,), name) for name, text in texts.items()}))


@asynccontextmanager
async def site(folder: Path, *instances: dict[str, Any], **settings: str) -> AsyncIterator[Site]:
    inventory = listed(folder / "fleet.json", *instances)
    async with Exporter(config(inventory, **settings)) as exporter:
        yield Site(exporter, inventory)


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the limit of open files of the process that runs the tests alone."""
    monkeypatch.setattr(app, "raise_limit", lambda: 4096)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Return the port of an instance that is healthy."""
    async with serving(answering(HEALTHY)) as port:
        yield port


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Site]:
    """Serve the page of a fleet of none."""
    async with site(tmp_path) as pages:
        yield pages


def static_paths() -> Iterator[str]:
    """Yield the paths of the page's own files."""
    yield PATH
    for path in sorted(STATIC_FOLDER.iterdir()):
        if path.suffix in (".css", ".js", ".svg"):
            yield f"{PATH}/{path.name}"


STATIC_PATHS = list(static_paths())


# Headers


@pytest.mark.parametrize(
    "path",
    [
        *STATIC_PATHS,
        *ANSWERS,
        "/fleet/map?colour=red",
        "/fleet/nothing",
        "/fleet/",
        "/nothing",
        "/",
        "/metrics",
        "/instances",
        "/instances?colour=red",
        "/-/healthy",
        "/-/ready",
    ],
)
async def test_whatever_is_answered_the_browser_is_forbidden_what_it_does_not_need(
    empty: Site, path: str
) -> None:
    answer = await empty.get(path)

    assert HEADERS == {name: answer.headers.get(name) for name in HEADERS}


def test_the_policy_lets_nothing_in_but_the_pages_own_files() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))

    assert "'none'" == policy.pop("default-src")
    assert {"script-src", "style-src", "connect-src", "img-src"} == {
        name for name, source in policy.items() if source == "'self'"
    }
    assert {"base-uri", "form-action", "frame-ancestors"} == {
        name for name, source in policy.items() if source == "'none'"
    }
    assert 7 == len(policy)


async def test_headers_of_the_web_configuration_come_before_the_pages(tmp_path: Path) -> None:
    web_config = tmp_path / "web.yml"
    web_config.write_text(
        "http_server_config:\n  headers:\n    Content-Security-Policy: default-src 'self'\n"
    )
    async with site(tmp_path, web__config__file=str(web_config)) as pages:
        answer = await pages.get(PATH)

    assert "default-src 'self'" == answer.headers["Content-Security-Policy"]
    assert "nosniff" == answer.headers["X-Content-Type-Options"]


# Files


@pytest.mark.parametrize("path", STATIC_PATHS)
async def test_a_file_is_asked_for_again_only_where_it_changed(empty: Site, path: str) -> None:
    for headers in ({}, {"Accept_Encoding": "gzip"}):
        answer = await empty.get(path, **headers)
        again = await empty.get(path, If_None_Match=answer.headers["ETag"], **headers)

        assert (200, "no-cache") == (answer.status, answer.headers["Cache-Control"])
        assert "Accept-Encoding" == answer.headers["Vary"]
        assert (304, b"") == (again.status, again.body)
        assert answer.headers["ETag"] == again.headers["ETag"]


@pytest.mark.parametrize(
    ("query", "wanted"), [("", ""), ("?value=speed", "value=speed"), ("?value=%3E%0Aa", "")]
)
async def test_the_page_lets_the_map_be_loaded_at_once(
    query: str, wanted: str, empty: Site
) -> None:
    answer = await empty.get(PATH + query)

    assert f"<{PATH}/map?{wanted}>; rel=preload; as=fetch; crossorigin" == answer.headers["Link"]


async def test_whatever_the_page_names_is_there(empty: Site) -> None:
    """Scripts are modules, which name each other."""
    wanted, seen = {PATH, "/"}, set()
    while wanted:
        path = wanted.pop()
        answer = await empty.get(path)
        assert 200 == answer.status, path
        seen.add(path)
        named = re.findall(r'(?:src|href)="([^"#:]+)"|from "\./([^"]+)"', answer.text)
        links = {link if link.startswith("/") else f"{PATH}/{link}" for link in map(max, named)}
        wanted |= {link for link in links if link.startswith(PATH)} - seen

    assert {*STATIC_PATHS, "/"} == seen


# The map and what changes


async def test_a_map_tells_where_each_instance_stands(tmp_path: Path, port: int) -> None:
    async with site(
        tmp_path,
        instance("a", port, node="n2", model="m2"),
        instance("b", port, node="n1", model="m1", developer="ada"),
        instance("c", 1, node="n2", model="m1"),
    ) as pages:
        await pages.until_seen(Status.HEALTHY, Status.HEALTHY, Status.UNREACHABLE)
        told = await pages.map(value="p99")

    assert list(Status) == told["statuses"]
    assert [
        ("b", "n1", "m1", "ada", "healthy", 89),
        ("a", "n2", "m2", "", "healthy", 89),
        ("c", "n2", "m1", "", "unreachable", None),
    ] == [
        (
            id_,
            told["nodes"][node],
            told["models"][model],
            told["developers"][developer],
            told["statuses"][status],
            value,
        )
        for id_, node, model, developer, status, value in zip(
            *[told["cells"][name] for name in ("id", "node", "model", "developer")],
            told["status"],
            told["value"]["values"],
            strict=True,
        )
    ]
    assert "p99" == told["value"]["name"]
    assert (0.4, 1.0) == (told["poll_interval_seconds"], told["refresh_seconds"])
    assert 0.05 == told["inventory_refresh_seconds"]
    assert 2 == told["summary"]["instances"]["healthy"]


@pytest.mark.parametrize(
    "after",
    [
        [instance("a", 1)],
        [instance("a", 1), instance("b", 1), instance("c", 1)],
        [instance("a", 1), instance("b", 1, node="n2")],
    ],
    ids=["gone", "new", "moved"],
)
async def test_once_the_cells_are_others_only_the_name_of_their_layout_is_told(
    tmp_path: Path, after: list[dict[str, Any]]
) -> None:
    async with site(tmp_path, instance("a", 1), instance("b", 1)) as pages:
        before = await pages.map()
        assert 200 == (await pages.changes(before)).status
        listed(pages.inventory, *after)

        async def is_other() -> bool:
            return bool((await pages.changes(before)).json["layout"] != before["layout"])

        await eventually(is_other)
        told = await pages.map()
        answer = await pages.changes(before)

    assert (200, {"layout": told["layout"]}) == (answer.status, answer.json)
    assert [each["id"] for each in after] == told["cells"]["id"]
    assert before["layout"] != told["layout"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/fleet/map?value=heat", "there is no value 'heat', only speed, p99, canary, errors, age"),
        ("/fleet/map?x=1", "there is no parameter 'x', only value"),
        ("/fleet/changes", "layout is required, as /fleet/map gives it"),
        ("/fleet/changes?layout=l", "revision is required, as /fleet/map gives it"),
        ("/fleet/changes?layout=l&revision=1&full=all", "full can only be value, not 'all'"),
        (
            "/fleet/worst?value=heat",
            "no value 'heat', only status, speed, p99, canary, errors, age",
        ),
        ("/fleet/worst?status=red", "no status 'red', only healthy"),
    ],
)
async def test_a_question_that_cannot_be_is_refused_with_what_can(
    empty: Site, path: str, expected: str
) -> None:
    answer = await empty.get(path)

    assert 400 == answer.status
    assert expected in answer.json["error"]


async def test_answers_are_packed_where_that_pays_and_never_kept(tmp_path: Path) -> None:
    async with site(tmp_path, *[instance(f"i{n:03}", 1) for n in range(100)]) as pages:
        plain = await pages.get("/fleet/map")
        packed = await pages.get("/fleet/map", Accept_Encoding="gzip, br")
        refused = await pages.get("/fleet/map", Accept_Encoding="gzip;q=0")
        small = await pages.get("/fleet/worst?id=nobody", Accept_Encoding="gzip")

    cells = plain.json["cells"]
    assert cells == msgspec.json.decode(gzip.decompress(packed.body))["cells"]
    assert "gzip" == packed.headers["Content-Encoding"]
    assert len(packed.body) < len(plain.body) / 2
    for answer in (plain, refused, small):
        assert "Content-Encoding" not in answer.headers
    for answer in (plain, packed, small):
        assert ("no-store", "Accept-Encoding", "application/json") == tuple(
            answer.headers[name] for name in ("Cache-Control", "Vary", "Content-Type")
        )


# The worst


async def test_the_worst_come_with_why(tmp_path: Path, port: int) -> None:
    async with (
        serving(answering(HEALTHY, status="500 Internal Server Error")) as ill,
        site(
            tmp_path,
            instance("a", port, node="n1"),
            instance("b", ill, node="n2"),
            instance("c", 1, node="n1"),
        ) as pages,
    ):
        await pages.until_seen(Status.HEALTHY, Status.UNREACHABLE, Status.UNHEALTHY)
        by_status = await pages.worst()
        by_p99 = await pages.worst(value="p99")
        of_node = await pages.worst(node="n2")
        named = (await pages.get("/instances?id=c")).json

    assert ("status", 3) == (by_status["value"], by_status["n_matching"])
    assert [("c", "unreachable", 2), ("b", "unhealthy", 1)] == [
        (view["id"], view["status"], view["value"]) for view in by_status["instances"]
    ]
    assert named[0]["last_error"] == by_status["instances"][0]["last_error"] != ""
    assert [("a", 89)] == [(view["id"], view["value"]) for view in by_p99["instances"]]
    assert (1, ["b"]) == (of_node["n_matching"], [view["id"] for view in of_node["instances"]])


async def test_the_same_question_about_a_revision_is_worked_out_once(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []

    def counted(*given: Any) -> Any:
        looks.append(given)
        return worst_of.worst(*given)

    monkeypatch.setattr(handlers, "worst", counted)
    async with site(tmp_path, instance("a", port), poll__interval="1h") as pages:
        same = await asyncio.gather(*[pages.worst(node="n1") for _ in range(5)])
        other = await pages.worst()

    assert 2 == len(looks)
    assert [same[0]] * 5 == same
    assert other != same[0]


# What an operator sets


@pytest.mark.parametrize("path", [PATH, "/fleet/style.css", "/fleet/nothing", *ANSWERS])
async def test_a_password_guards_the_page_as_it_does_the_instances(
    tmp_path: Path, path: str
) -> None:
    hash_ = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
    web_config = tmp_path / "web.yml"
    web_config.write_text(f"basic_auth_users:\n  ann: {hash_}\n")
    authorization = "Basic " + base64.b64encode(b"ann:secret").decode()
    async with site(tmp_path, instance("a", 1), web__config__file=str(web_config)) as pages:
        refused, instances = await pages.get(path), await pages.get("/instances")
        let_in = await pages.get(path, Authorization=authorization)

    assert (401, refused.body) == (instances.status, instances.body)
    assert 401 == refused.status
    assert '"a"' not in refused.text
    assert 401 != let_in.status


async def test_thresholds_are_those_of_the_settings(tmp_path: Path, port: int) -> None:
    async with site(
        tmp_path,
        instance("a", port),
        ui__healthy_instances="2",
        ui__request_latency_p99="50ms",
        ui__tokens_per_second="42 per instance",
    ) as pages:
        await pages.until_seen(Status.HEALTHY)
        await eventually(pages.is_judged)
        told = (await pages.map())["summary"]

    assert [
        ("healthy_instances", 1, 2, "floor", False),
        ("request_latency_p99_seconds", 0.089, 0.05, "ceiling", False),
        ("tokens_per_second", 42, 42, "floor", True),
    ] == [
        (each["name"], each["value"], each["threshold"], each["bound"], each["is_met"])
        for each in told["indicators"]
    ]
    assert ("settings", None) == (told["thresholds_from"], told["alerts"])


async def test_what_a_prometheus_tells_reaches_the_page(tmp_path: Path) -> None:
    asked = Asked()
    names = ("healthy_instances", "request_latency_seconds", "tokens_per_second")
    texts = ("9900", "0.2", "4e5")
    thresholds = [threshold(name, text) for name, text in zip(names, texts, strict=True)]
    asked.results = {**asked.results, QUERIES[0]: result(*thresholds)}
    async with (
        serving(asked.handle) as prometheus,
        site(tmp_path, ui__prometheus_url=f"http://127.0.0.1:{prometheus}") as pages,
    ):

        async def is_told() -> bool:
            return not (await pages.map())["summary"]["alerts"]["error"]

        await eventually(is_told)
        told = (await pages.map())["summary"]

    assert "prometheus" == told["thresholds_from"]
    assert [9900, 0.2, 4e5] == [each["threshold"] for each in told["indicators"]]
    assert 7 == told["alerts"]["n_firing"]
    assert [("OllamaA", "warning", {}, 17.5)] == [
        (each["name"], each["severity"], each["labels"], each["since_seconds"])
        for each in told["alerts"]["firing"]
    ]


def test_files_are_read_with_what_http_needs(tmp_path: Path) -> None:
    texts = {INDEX: "<p>größe", "style.css": "p{}", "main.js": "1;" * 1000, "a.svg": "<svg/>"}

    files = read(written(tmp_path, texts))

    assert {name: text.encode() for name, text in texts.items()} == {
        name: file.body for name, file in files.items()
    }
    assert {
        INDEX: "text/html; charset=utf-8",
        "style.css": "text/css; charset=utf-8",
        "main.js": "text/javascript; charset=utf-8",
        "a.svg": "image/svg+xml",
    } == {name: file.content_type for name, file in files.items()}
    assert all(file.body == gzip.decompress(file.gzipped) for file in files.values())


def test_the_page_names_every_module_before_one_runs(tmp_path: Path) -> None:
    texts = {INDEX: "<head></head><p>", "a.css": "", "a.js": "", "main.js": ""}

    index = read(written(tmp_path, texts))[INDEX].body.decode()

    assert (
        '<head><link rel="modulepreload" href="/fleet/a.js">\n'
        '<link rel="modulepreload" href="/fleet/main.js">\n</head><p>'
    ) == index


def test_a_tag_tells_contents_apart_and_stays(tmp_path: Path) -> None:
    folder = written(tmp_path, {INDEX: "a", "same.js": "a", "other.js": "b"})

    files = read(folder)

    assert files[INDEX].etag == files["same.js"].etag != files["other.js"].etag
    assert files == read(folder)


def test_without_a_page_the_exporter_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ExporterError, match=r"there is no index\.html"):
        read(written(tmp_path, {"main.js": ""}))
    with pytest.raises(ExporterError, match="cannot read the web UI"):
        read(tmp_path / "nowhere")


class Workshop:
    """Makes numbered things, and can be held up."""

    def __init__(self) -> None:
        self.n_made = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def make(self) -> object:
        await self.gate.wait()
        self.n_made += 1
        return self.n_made


async def test_what_was_made_is_kept_for_the_revision_and_what_was_wanted() -> None:
    shared, shop = ResultCache(), Workshop()

    made = [await shared.get(7, "a", shop.make) for _ in range(3)]
    other = await shared.get(7, "b", shop.make)
    later = await shared.get(8, "a", shop.make)

    assert ([1, 1, 1], 2, 3) == (made, other, later)
    assert "<ResultCache: 1 of revision 8>" == repr(shared)


async def test_who_asks_meanwhile_waits_for_the_same() -> None:
    shared, shop = ResultCache(), Workshop()
    shop.gate.clear()
    asking = [asyncio.create_task(shared.get(1, "a", shop.make)) for _ in range(5)]
    await asyncio.sleep(0)
    shop.gate.set()

    assert [1] * 5 == await asyncio.gather(*asking)


async def test_where_the_first_leaves_the_next_makes_it() -> None:
    shared, shop = ResultCache(), Workshop()
    shop.gate.clear()
    leaving, staying = [asyncio.create_task(shared.get(1, "a", shop.make)) for _ in range(2)]
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    shop.gate.set()

    assert 1 == await staying


async def test_of_many_questions_only_the_last_are_kept() -> None:
    shared, shop = ResultCache(), Workshop()
    for wanted in range(MAX_KEPT + 1):
        await shared.get(1, wanted, shop.make)

    assert MAX_KEPT + 1 == await shared.get(1, MAX_KEPT, shop.make)
    assert MAX_KEPT + 2 == await shared.get(1, 0, shop.make)
    assert f"<ResultCache: {MAX_KEPT} of revision 1>" == repr(shared)
