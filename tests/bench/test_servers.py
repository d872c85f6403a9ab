from __future__ import annotations

import asyncio

import pytest

from provisioning.simulator.app import running_fleet
from provisioning.simulator.spec import FleetSpec
from tests.bench import servers
from tests.bench.bench import Bench, BenchError
from tests.bench.nginx import running_nginx
from tests.bench.page import fetch
from tests.conftest import program

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX: y\r\n\r\nbody"


def test_only_whole_answers_count() -> None:
    assert 0 == servers.count_answers(b"")
    assert 0 == servers.count_answers(ANSWER[:-1])
    assert 1 == servers.count_answers(ANSWER)
    assert 1 == servers.count_answers(ANSWER + ANSWER[:-1])
    assert 2 == servers.count_answers(ANSWER + ANSWER)


def test_the_length_is_that_of_each_answer_itself() -> None:
    short = ANSWER.replace(b"4", b"1").replace(b"body", b"b")

    assert 2 == servers.count_answers(short + ANSWER)


def test_an_answer_without_length_is_refused() -> None:
    with pytest.raises(BenchError, match="without Content-Length"):
        servers.count_answers(ANSWER.replace(b"Content-Length: 4\r\n", b""))


def test_the_ratio_is_that_of_the_simulator_to_nginx() -> None:
    assert "9.0 µs" in servers.words(9e-6, 6e-6)
    assert servers.words(9e-6, 6e-6).endswith("6.0 µs, 1.5x")
    assert servers.words(9e-6, 0.0).endswith("0.0 µs")


async def test_pairs_are_answered_by_every_instance() -> None:
    async with running_fleet(FleetSpec(n_instances=3)) as fleet:
        hosts = [instance.address for instance in fleet.fleet.instances]
        await asyncio.to_thread(servers.ask_pairs, hosts, fleet.port, n_rounds=2)

        assert 3 == fleet.n_accepted


async def test_nginx_gives_the_same_texts_on_every_loopback_address(bench: Bench) -> None:
    binary = program("nginx")
    texts = {"/health": '{"status":"ok"}', "/api/metrics": '{"error_count":1}'}
    async with running_nginx(bench, binary, texts) as running:
        for host in ("127.0.0.1", "127.1.0.1"):
            fetched = await asyncio.to_thread(fetch, running.port, "/api/metrics", host=host)
            assert b'{"error_count":1}' == fetched.body
