"""Stock Ollama mode answers as the real servers of three releases were measured to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from provisioning.simulator.app import RunningFleet, running_fleet
from provisioning.simulator.spec import FleetSpec, Mode
from tests.provisioning.simulator.client import connected, get

OLD, MAIN, NEW = "0.4.7", "0.23.0", "0.32.15"
POST_ONLY = (
    *("/api/generate", "/api/chat", "/api/embed", "/api/embeddings", "/api/show", "/api/pull"),
    *("/api/copy", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
)


@pytest.fixture
async def fleet() -> AsyncIterator[RunningFleet]:
    async with running_fleet(FleetSpec(n_instances=50, mode=Mode.OLLAMA)) as running:
        yield running


def _of(fleet: RunningFleet, version: str) -> int:
    return next(i.index for i in fleet.fleet.instances if i.release.version == version)


def _cases() -> Iterator[tuple[str, str, str, int]]:
    for version in (OLD, MAIN, NEW):
        for path in ("/", "/api/version", "/api/ps", "/api/tags", "/v1/models"):
            yield version, "GET", path, 200
        for path in ("/", "/api/version", "/api/tags"):
            yield version, "HEAD", path, 200
        for path in ("/health", "/metrics", "/api/metrics", "/nope"):
            yield version, "GET", path, 404
    for version, wrong_method, status_page in ((OLD, 404, 404), (MAIN, 405, 200), (NEW, 405, 200)):
        yield version, "HEAD", "/api/ps", wrong_method
        yield version, "OPTIONS", "/", wrong_method
        yield version, "POST", "/api/version", wrong_method
        for path in POST_ONLY:
            yield version, "GET", path, wrong_method
        yield version, "POST", "/api/delete", wrong_method
        yield version, "POST", "/v1/models/x", wrong_method
        yield version, "GET", "/api/status", status_page


@pytest.mark.parametrize(("version", "method", "path", "status"), [*_cases()])
async def test_status(
    fleet: RunningFleet, version: str, method: str, path: str, status: int
) -> None:
    async with connected(fleet, _of(fleet, version)) as client:
        assert status == (await client.get(path, method=method, host="127.0.0.1")).status


async def test_the_root_is_text_without_a_newline(fleet: RunningFleet) -> None:
    answer = await get(fleet, 0, "/")

    assert b"Ollama is running" == answer.body
    assert "text/plain; charset=utf-8" == answer.headers["content-type"]


async def test_an_unknown_path_is_plain_text(fleet: RunningFleet) -> None:
    answer = await get(fleet, 0, "/metrics")

    assert b"404 page not found" == answer.body
    assert "text/plain" == answer.headers["content-type"]


async def test_a_refused_method_is_told_which_ones_there_are(fleet: RunningFleet) -> None:
    async with connected(fleet, _of(fleet, MAIN)) as client:
        root = await client.get("/", method="OPTIONS", host="127.0.0.1")
        ps = await client.get("/api/ps", method="HEAD")

    assert b"405 method not allowed" == root.body
    assert "HEAD, GET" == root.headers["allow"]
    assert "GET" == ps.headers["allow"]


async def test_version_and_status_are_the_measured_bodies(fleet: RunningFleet) -> None:
    index = _of(fleet, MAIN)
    version = await get(fleet, index, "/api/version")

    assert b'{"version":"0.23.0"}' == version.body
    assert "application/json; charset=utf-8" == version.headers["content-type"]
    assert (
        b'{"cloud":{"disabled":true,"source":"env"}}'
        == (await get(fleet, index, "/api/status")).body
    )


@pytest.mark.parametrize(("version", "has_length"), [(OLD, False), (MAIN, True), (NEW, True)])
async def test_ps_lists_the_loaded_model_with_the_release_s_fields(
    fleet: RunningFleet, version: str, has_length: bool
) -> None:
    index = _of(fleet, version)
    (model,) = (await get(fleet, index, "/api/ps")).json["models"]

    fields = [*("name", "model", "size", "digest", "details", "expires_at", "size_vram")]
    assert fields + ["context_length"] * has_length == list(model)
    assert fleet.fleet.instances[index].model.name == model["name"]
    assert 64 == len(model["digest"])
    assert "Q4_0" == model["details"]["quantization_level"]


@pytest.mark.parametrize(
    ("version", "has_capabilities"), [(OLD, False), (MAIN, False), (NEW, True)]
)
async def test_tags_list_the_installed_model_with_the_release_s_fields(
    fleet: RunningFleet, version: str, has_capabilities: bool
) -> None:
    (model,) = (await get(fleet, _of(fleet, version), "/api/tags")).json["models"]

    assert has_capabilities == ("capabilities" in model)
    assert has_capabilities == ("embedding_length" in model["details"])


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:11434", "127.1.0.1:80", "[::1]:11434", "a.local", "b.internal", ""],
)
async def test_local_names_and_addresses_are_served(fleet: RunningFleet, host: str) -> None:
    async with connected(fleet) as client:
        assert 200 == (await client.get("/api/version", host=host)).status


@pytest.mark.parametrize("host", ["ollama", "example.com", "example.com:11434", "local.evil.org"])
async def test_a_foreign_host_name_is_refused_with_an_empty_body(
    fleet: RunningFleet, host: str
) -> None:
    async with connected(fleet) as client:
        for _ in range(2):
            answer = await client.get("/api/version", host=host)
            assert (403, b"") == (answer.status, answer.body)


@pytest.mark.parametrize(("version", "status"), [(OLD, 403), (MAIN, 200), (NEW, 200)])
async def test_only_the_old_release_minds_the_case_of_a_host(
    fleet: RunningFleet, version: str, status: int
) -> None:
    async with connected(fleet, _of(fleet, version)) as client:
        assert status == (await client.get("/", host="LocalHost:11434")).status


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost.evil.example"])
async def test_a_page_from_elsewhere_is_refused_with_an_empty_body(
    fleet: RunningFleet, method: str, origin: str
) -> None:
    async with connected(fleet) as client:
        answer = await client.get("/api/generate", method=method, more=f"Origin: {origin}\r\n")

    assert (403, b"") == (answer.status, answer.body)
    assert "access-control-allow-origin" not in answer.headers


async def test_a_local_page_is_served_and_its_preflight_answered(fleet: RunningFleet) -> None:
    more = "Origin: http://localhost:3000\r\n"
    async with connected(fleet) as client:
        preflight = await client.get("/api/generate", method="OPTIONS", more=more)
        _, answer = [await client.get("/api/ps", more=more) for _ in range(2)]
        own = await client.get("/api/ps", more="Origin: http://localhost\r\n")

    assert (204, b"") == (preflight.status, preflight.body)
    assert "content-length" not in preflight.headers
    assert "43200" == preflight.headers["access-control-max-age"]
    assert "Content-Type" in preflight.headers["access-control-allow-headers"].split(",")
    methods = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    assert methods == preflight.headers["access-control-allow-methods"]
    for one in (preflight, answer):
        assert "http://localhost:3000" == one.headers["access-control-allow-origin"]
    assert (200, "Origin") == (answer.status, answer.headers["vary"])
    assert "vary" not in own.headers


async def test_the_methods_of_a_local_name_are_not_told(fleet: RunningFleet) -> None:
    async with connected(fleet) as client:
        assert 204 == (await client.get("/api/ps", method="OPTIONS")).status


@pytest.mark.parametrize("path", ["//api/ps", "/api//ps", "/api/./ps", "/x/../api/ps"])
async def test_a_path_with_empty_or_dotted_steps_is_moved(fleet: RunningFleet, path: str) -> None:
    async with connected(fleet) as client:
        answer = await client.get(path)

    assert (301, "/api/ps") == (answer.status, answer.headers["location"])
    assert b'<a href="/api/ps">Moved Permanently</a>.\n\n' == answer.body


async def test_http_1_1_without_a_host_is_a_bad_request(fleet: RunningFleet) -> None:
    async with connected(fleet) as client:
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert 400 == (await client.read_answer()).status


async def test_a_model_that_is_still_loading_is_not_listed(fleet: RunningFleet) -> None:
    fleet.inject("loading", ids=["llm-00001"])

    assert {"models": []} == (await get(fleet, 0, "/api/ps")).json
    assert 200 == (await get(fleet, 0, "/")).status


async def test_the_inventory_names_the_engine() -> None:
    spec = FleetSpec(n_instances=1, mode=Mode.OLLAMA)
    async with running_fleet(spec) as fleet:
        assert "ollama" == fleet.inventory[0]["engine"]
