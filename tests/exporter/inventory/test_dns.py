"""Instances from DNS: SRV records and addresses, from a real name server on loopback."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest
from dnslib.server import DNSServer
from dnslib.zoneresolver import ZoneResolver

from exporter.errors import InputError, SourceError
from exporter.inventory import Inventory, Source, SourceSettings, sources_for
from exporter.model import Target

MANY = 500
ZONE = """
_ollama._tcp.example.org. 60 IN SRV 10 10 11434 gpu-01.example.org.
_ollama._tcp.example.org. 60 IN SRV 20 10 8080 gpu-02.example.org.
_none._tcp.example.org. 60 IN SRV 0 0 0 .
ollama.example.org. 60 IN A 192.0.2.2
ollama.example.org. 60 IN A 192.0.2.1
ollama.example.org. 60 IN AAAA 2001:db8::1
""" + "\n".join(f"many.example.org. 60 IN A 198.51.{i // 250}.{i % 250}" for i in range(MANY))


@pytest.fixture(scope="module")
def name_server() -> Iterator[str]:
    """A name server by UDP and TCP: long answers come by TCP only."""
    resolver = ZoneResolver(ZONE)
    tcp = DNSServer(resolver, address="127.0.0.1", port=0, tcp=True)
    port = tcp.server.server_address[1]
    udp = DNSServer(resolver, address="127.0.0.1", port=port)
    for one in (tcp, udp):
        one.start_thread()
    yield f"127.0.0.1:{port}"
    for one in (tcp, udp):
        one.stop()
        one.server.server_close()


def source_of(text: str, server: str, timeout_s: float = 100.0) -> Source:
    (source,) = sources_for([f"{text}?server={server}"], SourceSettings(timeout_s=timeout_s))
    return source


async def listed(text: str, server: str) -> tuple[Target, ...]:
    inventory = Inventory([source_of(text, server)])
    await inventory.load()
    return inventory.targets


async def refusal(text: str, server: str, **settings: float) -> str:
    with pytest.raises(SourceError) as caught:
        await source_of(text, server, **settings).read()
    return str(caught.value)


async def test_an_srv_record_is_an_instance(name_server: str) -> None:
    """Its target is host and node; the exporter looks up its address when it polls."""
    targets = await listed("dns+srv://_ollama._tcp.example.org", name_server)

    assert {
        "gpu-01.example.org:11434": "gpu-01.example.org",
        "gpu-02.example.org:8080": "gpu-02.example.org",
    } == {target.id: target.node for target in targets}
    assert [11_434, 8_080] == [target.port for target in targets]


async def test_each_address_of_a_name_is_an_instance(name_server: str) -> None:
    """Also where they are too many for a datagram."""
    four = await listed("dns+a://ollama.example.org:11434", name_server)
    assert ["192.0.2.1:11434", "192.0.2.2:11434"] == [target.netloc for target in four]
    (six,) = await listed("dns+aaaa://ollama.example.org:11434", name_server)
    assert "[2001:db8::1]:11434" == six.netloc
    assert MANY == len(await listed("dns+a://many.example.org:11434", name_server))


async def test_a_name_says_that_there_are_none_by_a_root_target(name_server: str) -> None:
    assert () == await listed("dns+srv://_none._tcp.example.org", name_server)


async def test_a_name_without_such_records_is_a_failure_and_not_an_empty_list(
    name_server: str,
) -> None:
    gone = await refusal("dns+srv://_gone._tcp.example.org", name_server)
    async with answering(lambda query: dns.message.make_response(query).to_wire()) as server:
        other = await refusal("dns+srv://ollama.example.org", server)

    assert ("there is no such name in DNS", "has no SRV record in DNS") == (gone, other)


Reply = Callable[[dns.message.Message], bytes]


@asynccontextmanager
async def answering(reply: Reply) -> AsyncIterator[str]:
    """Run a name server by UDP that answers as badly as a test wants."""

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, address: Any) -> None:
            transport.sendto(reply(dns.message.from_wire(data)), address)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
    try:
        yield "127.0.0.1:{}".format(transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


async def test_records_in_another_order_are_the_same_list() -> None:
    addresses = ["192.0.2.1", "192.0.2.2"]

    def rotated(query: dns.message.Message) -> bytes:
        addresses.reverse()
        response = dns.message.make_response(query)
        name = query.question[0].name
        response.answer.append(dns.rrset.from_text_list(name, 0, "IN", "A", addresses))
        return bytes(response.to_wire())

    async with answering(rotated) as server:
        source = source_of("dns+a://ollama.example.org:1", server)

        assert 2 == len(json.loads(await source.read() or b""))
        assert await source.read() is None


def refused(query: dns.message.Message) -> bytes:
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.REFUSED)
    return bytes(response.to_wire())


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (refused, "cannot be looked up: All nameservers failed to answer the query ollama.exam"),
        (lambda _: b"garbage", "sent no complete answer within 0.5 s (the timeout)"),
        (lambda query: query.to_wire()[:-3], "sent no complete answer within 0.5 s"),
        (lambda _: b"\0" * 60_000, "sent no complete answer within 0.5 s"),
    ],
)
async def test_a_server_that_answers_badly_is_one_plain_failure(reply: Reply, message: str) -> None:
    async with answering(reply) as server:
        seen = await refusal("dns+a://ollama.example.org:1", server, timeout_s=0.5)

    assert message in seen
    assert "\n" not in seen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dns+srv://_ollama._tcp.example.org:53", "must be a name for SRV records, or NAME:PORT"),
        ("dns+srv:///_ollama._tcp.example.org", "must be a name for SRV records, or NAME:PORT"),
        ("dns+a://ollama.example.org", "must be a name for SRV records, or NAME:PORT"),
        ("dns+a://ollama.example.org:70000", "must have a port from 1 to 65535, got 70000"),
        ("dns+a://a b:1", "must be a name for SRV records, or NAME:PORT"),
        ("dns+a://a:1?server=ns.example.org:53", "must give the server by its IP address"),
        ("dns+a://a:1?server=127.0.0.1:0", "must give the server by its IP address"),
        ("dns+a://a:1?server=x", "must be HOST:PORT such as 10.0.0.2:53"),
        ("dns+mx://a", "or with k8s://, consul://, consul+https://, dns+srv://, dns+a://, dns+a"),
    ],
)
def test_a_url_that_asks_for_something_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        sources_for([text])

    assert message in str(caught.value)


def test_without_the_library_the_message_has_the_line_to_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)

    with pytest.raises(InputError, match=r"needs dnspython; install it with: .*\[dns\]"):
        sources_for(["dns+srv://_ollama._tcp.example.org"])
