"""GET /upstreams of the exporter, over real servers."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from exporter import poller
from exporter.model import State, Target
from tests.exporter.pollers import target
from tests.exporter.servers import answering, serving
from tests.exporter.test_web import FLEET, Site, polled_site, site
from tests.ports import free_port

UPSTREAMS = "/upstreams"
OLLAMA = {
    "/": b"Ollama is running",
    "/api/version": b'{"version":"0.23.0"}',
    "/api/ps": b'{"models":[{"name":"phi3:latest","size":1}]}',
    "/api/tags": b'{"models":[{"name":"phi3:latest"},{"name":"qwen3:8b"}]}',
}


async def entries(pages: Site) -> list[list[Any]]:
    answer = await pages.get(UPSTREAMS)
    assert 200 == answer.status
    found: list[list[Any]] = answer.json["instances"]
    return found


async def test_gateways_get_healthy_instances_that_run_with_their_models() -> None:
    async with serving(answering(FLEET)) as port, serving(answering(OLLAMA)) as ollama:
        targets = (
            target("a", port, node="n1", model="llama3.1:8b", developer="ada"),
            target("b", ollama, engine="ollama", node="n2"),
            target("c", port, state=State.DRAINING),
            target("d", free_port()),
        )
        async with polled_site(*targets) as pages:
            answer = await pages.get(UPSTREAMS)

    document = answer.json
    assert "application/json" == answer.headers["Content-Type"]
    assert ["n1", "n2"] == document["nodes"]
    fleet, of_ollama = document["instances"]
    assert ["a", "127.0.0.1", port, 0, "fleet", [0], [], "ada"] == fleet
    assert ["b", "127.0.0.1", ollama, 1, "ollama"] == of_ollama[:5]
    loaded, installed = [[document["models"][n] for n in some] for some in of_ollama[5:7]]
    assert ["phi3"] == loaded
    assert ["phi3", "qwen3:8b"] == installed


async def test_names_are_resolved_and_what_a_gateway_cannot_ask_is_counted() -> None:
    behind_a_path = {f"/proxy{path}": body for path, body in FLEET.items()}
    async with serving(answering({**FLEET, **behind_a_path})) as port:
        targets = (
            Target("a", "localhost", port, engine="fleet"),
            Target("b", "127.0.0.1", port, path="/proxy", engine="fleet"),
        )
        async with polled_site(*targets) as pages:
            # Polls over kept connections may need no address for longer than it is known.
            await pages.polled.options.transport.resolver.close()
            listed = await entries(pages)
            page = (await pages.get("/metrics")).text

    assert [["a", "127.0.0.1", port]] == [entry[:3] for entry in listed]
    assert "ollama_exporter_upstreams 1.0\n" in page
    assert 'ollama_exporter_upstreams_left_out{reason="path"} 1.0\n' in page
    assert 'ollama_exporter_upstreams_left_out{reason="unresolved"} 0.0\n' in page


async def test_there_is_no_list_before_the_whole_fleet_was_polled() -> None:
    async with site(target("a", 1)) as pages:
        answer = await pages.get(UPSTREAMS)

    assert 503 == answer.status
    assert "/-/ready" in answer.text


async def test_there_is_no_list_while_polls_are_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering(FLEET)) as port, polled_site(target("a", port)) as pages:
        before = await pages.get(UPSTREAMS)
        monkeypatch.setattr(poller, "MIN_STALE_S", -1.0)
        monkeypatch.setattr(poller, "STALE_INTERVALS", -1)
        after = await pages.get(UPSTREAMS)

    assert (200, 503) == (before.status, after.status)


async def test_a_list_is_made_once_while_it_is_new_enough() -> None:
    async with serving(answering(FLEET)) as port:
        async with polled_site(target("a", port), list_max_age_s=1000.0) as pages:
            first = await pages.get(UPSTREAMS)
            await pages.polled.update(target("a", port), target("b", port))
            await pages.polled.polled_all()
            second = await pages.get(UPSTREAMS)

    assert first.body == second.body


async def test_who_has_the_list_is_sent_no_body_until_it_changes() -> None:
    async with serving(answering(FLEET)) as port, polled_site(target("a", port)) as pages:
        first = await pages.get(UPSTREAMS)
        again = await pages.get(UPSTREAMS, If_None_Match=first.headers["ETag"])
        await pages.polled.update(target("a", port), target("b", port))
        await pages.polled.polled_all()
        changed = await pages.get(UPSTREAMS, If_None_Match=first.headers["ETag"])

    assert (304, b"", first.headers["ETag"]) == (again.status, again.body, again.headers["ETag"])
    assert ["a", "b"] == [entry[0] for entry in changed.json["instances"]]


async def test_the_list_is_compressed_for_who_takes_that() -> None:
    async with serving(answering(FLEET)) as port, polled_site(target("a", port)) as pages:
        plain = await pages.get(UPSTREAMS)
        compressed = await pages.get(UPSTREAMS, Accept_Encoding="gzip")

    assert "gzip" == compressed.headers["Content-Encoding"]
    assert plain.body == gzip.decompress(compressed.body)
    assert plain.headers["ETag"] == compressed.headers["ETag"]
