"""The web server: what it serves, and to whom."""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from unittest.mock import AsyncMock

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import instances
from exporter.config import Given, build
from exporter.counters import Delta
from exporter.errors import ExporterError
from exporter.exposition import Format
from exporter.instances import Filter
from exporter.inventory import SourceState
from exporter.landing import DOCS, PATHS, Landing
from exporter.model import State, Target
from exporter.operations import Operations
from exporter.probe import Prober
from exporter.publisher import RenderedScrape
from exporter.responses import MAX_OWN_BYTES, MAX_RESPONSES, ResponseSender
from exporter.runbooks import Runbooks
from exporter.selfmetrics import Refusal
from exporter.snapshot import Row
from exporter.ui.summary import UiConfig
from exporter.upstreams import Upstreams
from exporter.web import MAX_LOGGED, HostCheck, Web
from ollama_fleet.clock import SystemClock
from tests.exporter.fetching import Fetched, fetch
from tests.exporter.pollers import Polled, polling, target, value_of, watching
from tests.exporter.servers import answering, response, saying, serving
from tests.exporter.ui.building import fleet_ui, ui_config
from tests.ports import free_port

PROMETHEUS_2_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_TEXT_ACCEPT = "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.2"

FLEET = {
    "/health": b"{}",
    "/api/metrics": b'{"tokens_per_second":42,"latency_p99":0.089,"error_count":0}',
}


@dataclass(frozen=True, slots=True)
class Site:
    """The pages of a fleet, over a real socket."""

    polled: Polled
    port: int

    async def get(self, path: str, **headers: str) -> Fetched:
        return await fetch(self.port, path, **headers)

    async def instances(self, query: str = "") -> list[dict[str, Any]]:
        answer = await self.get(f"/instances{query}")
        assert 200 == answer.status
        views: list[dict[str, Any]] = answer.json
        return views

    async def publish_with_counters(self) -> RenderedScrape:
        """Publish a page that differs between the formats: counters are named otherwise."""
        self.polled.fleet_counters.record("n1", "m", Delta(generated_tokens=7.0))
        rendered_scrape = await self.publish()
        assert rendered_scrape.plain(Format.TEXT) != rendered_scrape.plain(Format.OPENMETRICS)
        return rendered_scrape

    async def publish(self) -> RenderedScrape:
        await self.polled.publisher.publish()
        assert self.polled.publisher.rendered_scrape is not None
        return self.polled.publisher.rendered_scrape


def port_of(addresses: Sequence[tuple[str, int]]) -> int:
    ((_, port),) = addresses
    return port


def web_of(
    polled: Polled,
    *,
    sources: Callable[[], Sequence[SourceState]] = tuple,
    prometheus_url: str = "",
    of: UiConfig | None = None,
    write_timeout_s: float = 100.0,
    max_own_bytes: int = MAX_OWN_BYTES,
    max_responses: int = MAX_RESPONSES,
    max_connections: int = 200,
    list_max_age_s: float = 0.0,
    **settings: Any,
) -> Web:
    operations = Operations(AsyncMock(), lambda: build({"inventory": Given(("a.yml",), "")}))
    page = fleet_ui(polled.poller, polled.fleet_counters, polled.metrics)
    clock = SystemClock()
    sender, scrape_sender = [
        ResponseSender(
            polled.metrics,
            timeout_s=write_timeout_s,
            max_own_bytes=max_own_bytes,
            max_responses=max_responses,
        )
        for _ in range(2)
    ]
    return Web(
        polled.poller,
        polled.publisher,
        polled.metrics,
        clock,
        page,
        sender,
        scrape_sender,
        sources=sources,
        landing=Landing(
            of or ui_config(), polled.poller, sources, clock, prometheus_url=prometheus_url
        ),
        runbooks=Runbooks(),
        max_connections=max_connections,
        others=(
            operations,
            Prober(polled.poller, clock),
            upstreams_of(polled, sender, list_max_age_s),
        ),
        **settings,
    )


def upstreams_of(polled: Polled, sender: ResponseSender, max_age_s: float) -> Upstreams:
    return Upstreams(
        polled.poller,
        polled.options.transport.resolver,
        polled.metrics,
        SystemClock(),
        sender,
        max_age_s=lambda: max_age_s,
    )


@asynccontextmanager
async def site(
    *targets: Target,
    interval_s: float = 1000.0,
    **settings: Any,
) -> AsyncIterator[Site]:
    """Serve the pages of targets that, by default, nothing polls."""
    async with watching(*targets, interval_s=interval_s) as polled:
        web = web_of(polled, **settings)
        try:
            yield Site(polled, port_of(await web.start([("127.0.0.1", 0)])))
        finally:
            await web.close()
            await polled.publisher.close()


@asynccontextmanager
async def polled_site(*targets: Target, **settings: Any) -> AsyncIterator[Site]:
    """Serve the pages of targets that have all been polled once."""
    async with site(*targets, interval_s=0.4, **settings) as pages:
        await pages.polled.polled_all()
        yield pages


def joined(parts: Iterable[bytes]) -> bytes:
    return b"".join(parts)


def family_names(text: str) -> list[str]:
    return [family.name for family in parse_text(text)]


def own(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(("ollama_exporter_", "process_", "python_"))]


# /metrics


async def test_before_the_first_cycle_only_the_exporters_own_series_are_there() -> None:
    """Aggregates of a fleet that is half seen would page somebody."""
    async with site(target("a", 1)) as pages:
        for headers in ({}, {"Accept_Encoding": "gzip"}):
            answer = await pages.get("/metrics", **headers)

            assert 200 == answer.status
            assert "Content-Encoding" not in answer.headers
            names = family_names(answer.text)
            assert names
            assert own(names) == names


async def test_then_the_fleets_series_come_first_and_the_own_ones_follow() -> None:
    async with site(target("a", 1, node="n1")) as pages:
        rendered_scrape = await pages.publish()
        answer = await pages.get("/metrics")

    page = joined(rendered_scrape.plain(Format.TEXT))
    assert answer.body.startswith(page)
    rest = family_names(answer.body[len(page) :].decode())
    assert own(rest) == rest
    assert "ollama_exporter_polls" in rest
    assert "text/plain; version=0.0.4; charset=utf-8" == answer.headers["Content-Type"]


async def test_gzip_is_one_member_with_the_plain_page() -> None:
    async with site(target("a", 1)) as pages:
        rendered_scrape = await pages.publish()
        answer = await pages.get("/metrics", Accept_Encoding="gzip")

    decompressor = zlib.decompressobj(31)
    body = decompressor.decompress(answer.body)
    assert ("gzip", True, b"") == (
        answer.headers["Content-Encoding"],
        decompressor.eof,
        decompressor.unused_data,
    )
    assert body.startswith(joined(rendered_scrape.plain(Format.TEXT)))
    assert "ollama_exporter_polls" in family_names(body.decode())


@pytest.mark.parametrize("accept_encoding", ["identity", "br", "", "gzip;q=0", "gzip; q=0.0, br"])
async def test_without_gzip_in_accept_encoding_the_page_is_plain(accept_encoding: str) -> None:
    async with site(target("a", 1)) as pages:
        await pages.publish()
        answer = await pages.get("/metrics", Accept_Encoding=accept_encoding)

    assert "Content-Encoding" not in answer.headers
    assert answer.text.startswith("# HELP ollama_fleet_instances ")


@pytest.mark.parametrize("accept", [PROMETHEUS_2_ACCEPT, PROMETHEUS_3_ACCEPT])
@pytest.mark.parametrize("accept_encoding", ["gzip", "identity"])
async def test_prometheus_gets_openmetrics(accept: str, accept_encoding: str) -> None:
    async with site(target("a", 1, node="n1", model="m")) as pages:
        rendered_scrape = await pages.publish_with_counters()
        answer = await pages.get("/metrics", Accept=accept, Accept_Encoding=accept_encoding)

    body = gzip.decompress(answer.body) if accept_encoding == "gzip" else answer.body
    parsed = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]
    assert {"ollama_instance_info", "ollama_exporter_polls"} <= {family.name for family in parsed}
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.startswith(joined(rendered_scrape.plain(Format.OPENMETRICS)))


@pytest.mark.parametrize(
    "accept",
    [
        "*/*",
        "text/plain;version=0.0.4;q=0.3",
        PROMETHEUS_3_TEXT_ACCEPT,
        "application/openmetrics-text;version=1.0.0;q=0,*/*",
        "application/openmetrics-text;version=99.0.0",
    ],
)
async def test_others_get_text(accept: str) -> None:
    async with site(target("a", 1, node="n1", model="m")) as pages:
        rendered_scrape = await pages.publish_with_counters()
        answer = await pages.get("/metrics", Accept=accept)

    assert "text/plain; version=0.0.4; charset=utf-8" == answer.headers["Content-Type"]
    assert answer.body.startswith(joined(rendered_scrape.plain(Format.TEXT)))
    assert "ollama_instance_info" in family_names(answer.text)


@pytest.mark.parametrize(
    "accept", ["text/plain;version=new", "application/openmetrics-text;version=", ";;;", ",", "é"]
)
async def test_an_odd_accept_header_is_no_fault_of_ours(accept: str) -> None:
    async with site(target("a", 1)) as pages:
        await pages.publish()

        assert 200 == (await pages.get("/metrics", Accept=accept)).status


async def test_hostile_texts_are_escaped_on_the_page() -> None:
    hostile = 'a"b\\c\nd'
    async with site(target(hostile, 1, node=hostile, model=hostile)) as pages:
        await pages.publish()
        text = (await pages.get("/metrics")).text
        openmetrics = (await pages.get("/metrics", Accept=PROMETHEUS_3_ACCEPT)).text

    openmetrics_families = parse_openmetrics(openmetrics)  # type: ignore[no-untyped-call]
    for families in (parse_text(text), openmetrics_families):
        (info,) = (family for family in families if family.name == "ollama_instance_info")
        labels = info.samples[0].labels
        assert [hostile] * 3 == [labels[name] for name in ("instance_id", "node", "model")]


# Health


async def test_it_is_ready_once_every_instance_has_been_polled() -> None:
    async with site(target("a", 1)) as pages:
        before = await pages.get("/-/ready")
        await pages.publish()
        after = await pages.get("/-/ready")

    assert (503, 200) == (before.status, after.status)
    assert "first whole cycle" in before.text


# The landing page


class Links(HTMLParser):
    """Collects what a page links to, and its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str | None] = []
        self.tags: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "a":
            self.targets.append(dict(attrs)["href"])


async def test_the_landing_page_links_to_every_page() -> None:
    async with polled_site() as pages:
        await pages.publish()
        answer = await pages.get("/")

        assert answer.headers["Content-Type"].startswith("text/html")
        links = Links(answer.text).targets
        assert {*PATHS, DOCS} <= {*links}
        for path in PATHS:
            assert 200 == (await pages.get(path)).status


@pytest.mark.parametrize(
    ("states", "line"),
    [
        ({}, "No instance is known."),
        ({State.RUNNING: 1}, "0 of 1 instance healthy: 1 unknown."),
        ({State.PROVISIONING: 1200}, "0 of 0 instances healthy: 1,200 provisioning."),
        ({State.RUNNING: 1, State.DRAINING: 2}, "0 of 1 instance healthy: 2 draining, 1 unknown."),
    ],
)
async def test_the_landing_page_says_the_health_in_a_line(
    states: dict[State, int], line: str
) -> None:
    targets = [
        target(f"{state}{n}", 1, state=state) for state, many in states.items() for n in range(many)
    ]
    async with site(*targets) as pages:
        assert line in (await pages.get("/")).text


async def test_a_fleet_without_a_fault_is_shown_as_good() -> None:
    async with site() as pages:
        empty = (await pages.get("/")).text
    async with serving(answering(FLEET)) as port, polled_site(target("a", port)) as pages:
        whole = (await pages.get("/")).text

    assert 'class="health bad"' in empty
    assert 'class="health good">1 of 1 instance healthy.' in whole


async def test_the_landing_page_names_each_source_and_its_error() -> None:
    states = (
        SourceState("a.yml", SystemClock().unix_s(), True, 1234, ""),
        SourceState("b.yml", 0.0, False, 0, "no such file"),
    )
    async with site(sources=lambda: states) as pages:
        text = (await pages.get("/")).text

    assert '<th scope="row">a.yml</th><td>1,234 instances, read ' in text
    assert '<th scope="row">b.yml</th><td>never read: no such file</td>' in text


async def test_the_landing_page_says_what_to_do_next_until_it_is_done() -> None:
    async with site(target("a", 1)) as pages:
        text = (await pages.get("/", host="fleet.local")).text
        await pages.get("/metrics")
        then = (await pages.get("/")).text
    of = ui_config(canary_period_s=300.0)
    async with site(target("a", 1), of=of, prometheus_url="http://p:9090") as pages:
        await pages.get("/metrics")
        finished = (await pages.get("/")).text

    assert "fleet.local" in text
    assert "scrape_configs" in text
    assert "scrape_configs" not in then
    assert "--canary.period 5m" in then
    assert "<h2>Next</h2>" not in finished


async def test_nothing_on_the_landing_page_becomes_markup() -> None:
    hostile = '</p><script>alert("1")</script>{0}'
    states = (SourceState(hostile, 0.0, False, 0, hostile),)
    async with site(sources=lambda: states, prometheus_url=hostile, allowed_hosts=("*",)) as pages:
        page = (await pages.get("/", host=f"x{hostile}")).text

    assert "script" not in Links(page).tags
    assert page.count("&lt;script&gt;") >= 4


# Runbooks


async def test_each_runbook_is_a_page_that_the_index_links_to() -> None:
    async with site() as pages:
        index = Links((await pages.get("/runbooks/")).text).targets
        listed = {str(link) for link in index if str(link).startswith("/runbooks/Ollama")}
        texts = {path: (await pages.get(path)).text for path in listed}
        as_file = await pages.get("/runbooks/OllamaFleetCapacityLow.md")
        unknown = await pages.get("/runbooks/OllamaFleetCapacityLo")

    assert len(listed) > 50
    assert [] == [path for path, text in texts.items() if "<h1>" not in text]
    linked = {str(link) for text in texts.values() for link in Links(text).targets}
    assert {f"/runbooks/{name}" for name in re.findall(r"/runbooks/(\w+)", str(linked))} <= {
        *listed,
        "/runbooks/Watchdog",
    }
    assert texts["/runbooks/OllamaFleetCapacityLow"] == as_file.text
    assert (404, True) == (unknown.status, "did you mean OllamaFleetCapacityLow" in unknown.text)


# /instances


@pytest.fixture
async def mixed_fleet() -> AsyncIterator[Site]:
    """Return the pages of four instances in different states, each polled once."""
    ok = answering(FLEET)
    failing = saying(response(b"no", "500 Internal Server Error"))
    async with serving(ok) as port, serving(failing) as bad_port:
        async with polled_site(
            target("good", port, node="n1", model="m1", developer="ada"),
            target("bad", bad_port, node="n1", model="m2"),
            target("dead", free_port(), node="n2", model="m1"),
            target("new", 1, node="n2", state=State.PROVISIONING),
        ) as pages:
            yield pages


async def test_for_one_instance_the_others_are_not_looked_at(
    mixed_fleet: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []

    def to_json(seen: Iterable[tuple[Row, object]], wanted: Filter, *, now_s: float) -> bytes:
        looked_at.extend(row.target.id for row, _ in seen)
        return b"[]"

    monkeypatch.setattr(instances, "to_json", to_json)
    await mixed_fleet.instances("?id=dead")

    assert ["dead"] == looked_at


async def test_instances_say_why_they_are_red_since_when_and_how_slow(mixed_fleet: Site) -> None:
    by_id = {view["id"]: view for view in await mixed_fleet.instances()}

    good, bad, dead, new = (by_id[key] for key in ("good", "bad", "dead", "new"))
    assert ("http_status", "refused") == (bad["last_outcome"], dead["last_outcome"])
    assert "500" in bad["last_error"]
    assert dead["last_error"]
    assert "last_error" not in good
    assert 42.0 == good["tokens_per_second"]
    for view in (good, bad, dead):
        assert 0 < view["latency_seconds"] < 60
        assert 0 <= view["age_seconds"] < 60
    assert not {"latency_seconds", "age_seconds", "last_outcome"} & new.keys()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?colour=red", "there is no parameter 'colour', only id, status, node, model"),
        ("?status=red", "no status 'red', only healthy, unhealthy"),
        ("?status=", "no status ''"),
        ("?node=a&node=b", "can take one node at a time"),
        ("?<script>=1", "there is no parameter '<script>'"),
    ],
)
async def test_a_filter_that_cannot_be_is_refused_with_what_can(query: str, expected: str) -> None:
    async with site() as pages:
        answer = await pages.get(f"/instances{query}")

    assert 400 == answer.status
    assert answer.headers["Content-Type"].startswith("application/json")
    assert expected in answer.json["error"]


GARBAGE = [
    b"HTTP/1.1 200 \xff\xfe<script>\r\nContent-Length: 2\r\n\r\n\xff\xfe",
    response(b'{"\xff": "\x00\xed\xa0\x80"}'),
    response(b'{"status":"\\ud800"}', "503 \xff"),
    response(b'{"error":"\\ud800<script>"}', "500 Oops"),
    b"\xff\xfe\x00\r\n\r\n",
]


async def test_what_hostile_instances_said_can_be_shown() -> None:
    async with AsyncExitStack() as stack:
        servers = [serving(saying(garbage)) for garbage in GARBAGE]
        ports = [await stack.enter_async_context(server) for server in servers]
        targets = [target(f"i{n}", port) for n, port in enumerate(ports)]
        pages = await stack.enter_async_context(polled_site(*targets))

        views = await pages.instances()

    assert len(GARBAGE) == sum("last_outcome" in view for view in views)


# What is not there


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/instances/a", "/-/", "/../etc/passwd"])
async def test_an_unknown_path_is_not_found(path: str) -> None:
    async with site() as pages:
        assert 404 == (await pages.get(path)).status


@pytest.mark.parametrize("path", ["/", *PATHS])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_nothing_can_be_changed(path: str, method: str) -> None:
    async with site() as pages:
        assert 405 == (await fetch(pages.port, path, method=method)).status


async def test_the_exposition_is_at_the_telemetry_path_alone() -> None:
    async with site(telemetry_path="/own/path") as pages:
        statuses = [(await pages.get(path)).status for path in ("/own/path", "/metrics")]

    assert [200, 404] == statuses


# Listening


async def test_every_address_is_listened_at_or_the_sockets_of_systemd() -> None:
    async with polling() as polled:
        web = web_of(polled)
        with socket.socket() as passed:
            passed.bind(("127.0.0.1", 0))
            passed.listen()
            addresses = await web.start([("127.0.0.1", 0), ("127.0.0.2", 0)])
            for host, port in addresses:
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
                assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
                writer.close()
            assert ["127.0.0.1", "127.0.0.2"] == [host for host, _ in addresses]
            await web.close()

            web = web_of(polled)
            assert [passed.getsockname()] == await web.start([("127.0.0.1", 1)], [passed])
            assert 200 == (await fetch(passed.getsockname()[1], "/-/healthy")).status
            await web.close()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


async def test_a_taken_port_is_refused_with_the_setting_that_helps(taken_port: int) -> None:
    what = f"cannot listen on 127.0.0.1:{taken_port}: Address already in use"
    expected = re.escape(f"{what}; choose another --web.listen-address")
    async with polling() as polled:
        with pytest.raises(ExporterError, match=expected):
            await web_of(polled).start([("127.0.0.1", 0), ("127.0.0.1", taken_port)])


async def test_a_host_without_an_address_is_refused_in_the_resolvers_words() -> None:
    async with polling() as polled:
        with pytest.raises(ExporterError) as caught:
            await web_of(polled).start([("no such host", 80)])

    assert str(caught.value).startswith("cannot listen on no such host:80: ")
    assert "nknown error" not in str(caught.value)


async def test_closing_does_not_wait_for_scrapers_that_keep_their_connection() -> None:
    async with polling() as polled:
        web = web_of(polled)
        port = port_of(await web.start([("127.0.0.1", 0)]))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"runs.\n")

        await asyncio.wait_for(web.close(), 30.0)

        assert b"" == await reader.read()
        writer.close()
        await writer.wait_closed()


MALFORMED = {
    "a header without end": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
    "a length that is none": b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
}


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_request_is_refused_and_fills_no_log(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with site() as pages:
        reader, writer = await asyncio.open_connection("127.0.0.1", pages.port)
        writer.write(request_)
        assert b" 400 " in await reader.readline()
        writer.close()

    assert [] == caplog.messages


async def test_a_fault_of_ours_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with site() as pages:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(pages.polled.publisher, "rendered_scrape", "none")
            assert 500 == (await pages.get("/metrics")).status

    assert "AttributeError" in caplog.text


OURS = [
    *("", "127.0.0.1", "127.0.0.1:11440", "10.1.2.3:80", "[::1]:11440", "[::ffff:10.0.0.1]"),
    *("localhost", "LOCALHOST:80", "a.b.localhost:1", "exporter:11440", "exporter.local"),
    *("exporter.monitoring.svc.cluster.local:11440", "host.docker.internal", "localhost."),
]
STRANGERS = [
    *("evil.example", "evil.example:11440", "127.0.0.1.evil.example", "localhost.evil.example"),
    *(
        "evil.example@127.0.0.1",
        "evil.example#localhost",
        "127.0.0.1, evil.example",
        "[::1].evil.a",
    ),
]


@pytest.mark.parametrize("host", OURS)
def test_addresses_and_local_names_are_ours(host: str) -> None:
    assert HostCheck([]).is_ours(host)


@pytest.mark.parametrize("host", STRANGERS)
def test_names_that_can_be_registered_are_not(host: str) -> None:
    assert not HostCheck([]).is_ours(host)
    assert HostCheck(["*"]).is_ours(host)


def test_the_machines_own_name_and_those_of_the_setting_are_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Node7.example.org")
    check = HostCheck(["exporter.example.org"])

    for name in ("node7.example.org", "exporter.example.org"):
        assert check.is_ours(f"{name}:11440")
        assert not check.is_ours(f"other.{name}")


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/instances", "/fleet", "/fleet/map", "/nothing"]
)
async def test_a_page_is_not_told_to_a_strangers_name(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with site() as pages:
        answers = [await fetch(pages.port, path, Host="evil.example") for _ in range(2)]
        probe = await fetch(pages.port, "/-/healthy", Host="evil.example")
        refused = value_of(pages.polled.metrics.requests_refused[Refusal.HOST])

    assert [403, 403, 200] == [answer.status for answer in (*answers, probe)]
    assert "--web.allowed-hosts" in answers[0].text
    assert "nosniff" == answers[0].headers["X-Content-Type-Options"]
    assert 2 == refused
    assert ["evil.example" in record.message for record in caplog.records] == [True]


async def test_few_of_the_refused_names_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with site() as pages:
        for n in range(MAX_LOGGED + 5):
            await fetch(pages.port, "/", Host=f"{n}.evil.example")

    assert MAX_LOGGED == len(caplog.records)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.0", "200"),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example", "40[03]"),
    ],
)
async def test_no_name_is_ours_and_one_of_two_is_not_enough(head: str, status: str) -> None:
    async with site() as pages:
        reader, writer = await asyncio.open_connection("127.0.0.1", pages.port)
        writer.write(f"{head}\r\n\r\n".encode())
        assert re.match(rf"HTTP/1\.\d {status} ", (await reader.readline()).decode())
        writer.close()
