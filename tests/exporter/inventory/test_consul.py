"""Instances from Consul's catalogue, and what its agent may answer.

The answers are as its API documentation describes `/v1/health/service/:service`, the headers as its
pages on ACLs and on tokens do (developer.hashicorp.com/consul/api-docs).
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import InputError, SourceError
from exporter.inventory import Inventory, Source, SourceSettings, sources_for
from exporter.model import State, Target
from tests.exporter.inventory.kubernetes_api import template
from tests.exporter.inventory.serving import Answer, InventoryServer

ITEM: dict[str, Any] = template("consul_health")[0]


def agent(server: InventoryServer) -> str:
    return server.url.removesuffix("/instances").replace("http", "consul", 1)


def source_of(text: str, **settings: Any) -> Source:
    (source,) = sources_for([text], SourceSettings(**settings))
    return source


async def listed(text: str, **settings: Any) -> tuple[Target, ...]:
    inventory = Inventory([source_of(text, **settings)])
    try:
        await inventory.load()
    finally:
        await inventory.close()
    return inventory.targets


def say(server: InventoryServer, *items: object) -> None:
    server.answer = Answer(json.dumps(items).encode(), headers={"X-Consul-Index": "14"})


def item(node: str, service: str = "ollama-1", *checks: str) -> dict[str, Any]:
    made = copy.deepcopy(ITEM)
    made["Node"]["Node"], made["Service"]["ID"] = node, service
    made["Checks"] += [{"CheckID": check, "Status": "critical"} for check in checks]
    return made


async def test_a_service_is_an_instance_with_what_its_metadata_says(
    server: InventoryServer, tmp_path: Path
) -> None:
    """Asked for with the token, by tag and data centre."""
    (tmp_path / "token").write_text("s3cret")
    say(server, ITEM)

    (target,) = await listed(
        f"{agent(server)}/ollama?tag=a b&dc=dc1", token_file=tmp_path / "token"
    )

    assert target == Target(
        id="gpu-01/ollama-1",
        host="10.1.10.12",
        port=11_434,
        node="gpu-01",
        model="llama3.1:8b",
        labels={"hardware": "l40s"},
    )
    assert ["/v1/health/service/ollama?tag=a%20b&dc=dc1"] == server.paths
    assert "Bearer s3cret" == server.requests[0]["Authorization"]


async def test_an_agent_is_asked_by_https_where_the_url_says_so(
    tls_server: InventoryServer, certificate: Path
) -> None:
    text = agent(tls_server).replace("consuls", "consul+https", 1)

    say(tls_server, ITEM)

    assert 1 == len(await listed(f"{text}/ollama", ca_file=certificate))


async def test_maintenance_drains_and_a_failed_check_does_not(server: InventoryServer) -> None:
    """Whether an instance is healthy the exporter finds out itself."""
    say(
        server,
        item("a", "1", "_service_maintenance:1"),
        item("b", "1", "_node_maintenance"),
        item("c", "1", "service:1"),
    )

    states = {target.id: target.state for target in await listed(f"{agent(server)}/ollama")}

    assert {"a/1": State.DRAINING, "b/1": State.DRAINING, "c/1": State.RUNNING} == states


async def test_a_service_without_an_address_is_at_its_node(server: InventoryServer) -> None:
    say(server, at_node := item("a"))
    at_node["Service"] |= {"Address": "", "Meta": None}

    (target,) = await listed(f"{agent(server)}/ollama")

    assert "10.1.10.12:11434" == target.netloc


async def test_a_list_is_given_once_in_whatever_order_it_comes(server: InventoryServer) -> None:
    source = source_of(f"{agent(server)}/ollama")
    say(server, item("a"), item("b"))
    assert await source.read() is not None
    say(server, item("b"), item("a"))

    assert await source.read() is None
    await source.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(b"ACL not found", status=403), "answered 403: ACL not found"),
        (Answer(b"No cluster leader", status=500), "answered 500: No cluster leader"),
        (
            Answer(headers={"X-Consul-Results-Filtered-By-ACLs": "true"}),
            "hides instances: its token needs service:read and node:read",
        ),
        (Answer(b"{}"), "answered what is no list of a service's instances: Expected `array`"),
        (Answer(b'[{"Node": {}}]'), "answered what is no list of a service's instances: "),
        (Answer(b"[" * 100_000), "sent more than 90,000 bytes"),
        (Answer(hangs_before_s=60.0), "sent no complete answer within 0.2 s (the timeout)"),
    ],
)
async def test_whatever_else_the_agent_answers_is_one_plain_failure(
    server: InventoryServer, answer: Answer, message: str
) -> None:
    server.answer = answer
    timeout_s = 0.2 if answer.hangs_before_s else 100.0
    source = source_of(f"{agent(server)}/ollama", timeout_s=timeout_s, max_body_bytes=90_000)

    with pytest.raises(SourceError) as caught:
        await source.read()

    assert message in str(caught.value)
    await source.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("consul://127.0.0.1:8500", "must name one service, such as consul://"),
        ("consul://127.0.0.1:8500/v1/ollama", "must name one service"),
        ("consul:///ollama", "must name a host"),
        ("consul://127.0.0.1:0/ollama", "must name a host, and a port from 1 to 65535"),
        ("consul://127.0.0.1:8500/ollama?token=s3cret", "unknown option; known: tag, dc"),
        ("consul://ada:s3cret@127.0.0.1/ollama", "must hold no user, password or fragment"),
        ("consul://a:1/x|consul://b:1/x", "must name one service"),
    ],
)
def test_a_url_that_asks_for_something_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        sources_for([text])

    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)
