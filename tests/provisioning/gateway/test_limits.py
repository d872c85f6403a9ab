"""Real nginx: no instance ever gets more than its limit, and 429 means that the fleet is full."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.provisioning.gateway.counting import Counting, Wrk, counting_server, excess
from tests.provisioning.gateway.nginx import MODEL, Gateway, Listed, running_gateway, wait_until
from tests.provisioning.gateway.series import samples
from tests.provisioning.gateway.servers import running_servers

pytestmark = pytest.mark.slow

ASK = {"model": MODEL, "prompt": "Why?", "stream": False}
AT_ONCE = {"wait": "0"}
SELDOM: dict[str, Any] = {"rate": 0.1, "burst": 2}
"""So few that a slow machine overloads the fleet, too."""
ONCE = {"rate": 1 / 3000, "burst": 1}
"""More often than once only after 50 minutes."""


def statuses(gateway: Gateway, n: int) -> list[int]:
    return [gateway.ask("/api/generate", ASK)[0] for _ in range(n)]


def test_no_instance_of_an_overloaded_fleet_gets_more_than_its_limit(tmp_path: Path) -> None:
    with (
        counting_server(tmp_path / "servers", answer_s=0.05) as servers,
        running_gateway(
            tmp_path, servers.instances(500), limits={"default": SELDOM}, requests=AT_ONCE
        ) as gateway,
    ):
        started_s = time.monotonic()
        with Wrk(gateway.url, tmp_path, connections=50, seconds=600) as wrk:
            wait_until(lambda: samples(gateway).total("rejected_total", reason="fleet_full") > 500)
            seen = wrk.stopped()
        counts, most_at_once = servers.report()
        seconds = time.monotonic() - started_s

    assert seen.refused > 0
    assert sum(counts.values()) >= seen.requests - seen.refused
    assert [] == excess([*counts.values()], seconds=seconds, **SELDOM)
    assert {1} == set(most_at_once.values())


def test_no_instance_has_more_requests_in_flight_than_its_limit(tmp_path: Path) -> None:
    with (
        counting_server(tmp_path / "servers", answer_s=0.05) as servers,
        running_gateway(
            tmp_path,
            servers.instances(20),
            limits={"default": {"rate": 1000, "burst": 1000}},
            requests=AT_ONCE,
        ) as gateway,
        Wrk(gateway.url, tmp_path, connections=50, seconds=600),
    ):
        wait_until(lambda: samples(gateway).total("rejected_total", reason="fleet_full") > 500)
        _, most_at_once = servers.report()

    assert [1] * 20 == [*most_at_once.values()]


@pytest.mark.nightly
def test_no_instance_of_ten_thousand_gets_more_than_its_limit(tmp_path: Path) -> None:
    with (
        counting_server(tmp_path / "servers", answer_s=0.05) as servers,
        running_gateway(tmp_path, servers.instances(10_000), limits={"default": SELDOM}) as gateway,
    ):
        started_s = time.monotonic()
        with Wrk(gateway.url, tmp_path, connections=300, seconds=600) as wrk:
            wait_until(lambda: n_asked(servers) > 22_000)
            wrk.stopped()
        counts, most_at_once = servers.report()
        seconds = time.monotonic() - started_s

    assert 10_000 == len(counts)
    assert [] == excess([*counts.values()], seconds=seconds, **SELDOM)
    assert {1} == set(most_at_once.values())


def test_a_request_is_refused_only_when_no_instance_has_room(tmp_path: Path) -> None:
    """Also the last of many instances is found, and the refusal says when to come back."""
    with (
        counting_server(tmp_path / "servers") as servers,
        running_gateway(
            tmp_path, servers.instances(300), limits={"default": ONCE}, requests=AT_ONCE
        ) as gateway,
    ):
        taken = statuses(gateway, 300)
        status, headers, body = gateway.ask("/api/generate", ASK)

    assert [200] * 300 == taken
    assert 429 == status
    assert 1000 < int(headers["Retry-After"]) <= 3000
    assert b'{"error":"all instances are busy, try again later"}\n' == body


def test_an_engine_has_its_own_limits(tmp_path: Path) -> None:
    limits = {"default": ONCE, "vllm": ONCE | {"burst": 5, "concurrency": 3}}
    with running_servers(1) as (server,):
        server.pause_s = 100.0
        with running_gateway(
            tmp_path, [Listed(server.port, engine="vllm")], limits=limits, requests=AT_ONCE
        ) as gateway:
            found: list[int] = []
            threads = [
                threading.Thread(target=lambda: found.extend(statuses(gateway, 1)))
                for _ in range(5)
            ]
            for thread in threads:
                thread.start()
            wait_until(lambda: server.n_requests + len(found) == 5)
            server.go_on.set()
            for thread in threads:
                thread.join()
            found += statuses(gateway, 3)

    assert [200] * 3 + [429] * 2 == sorted(found[:5])
    assert [200, 200, 429] == found[5:]
    assert 3 == server.most_at_once


def test_a_request_waits_for_room_and_is_answered(tmp_path: Path) -> None:
    with running_servers(1) as (server,):
        limits = {"default": {"rate": 4, "burst": 1}}
        with running_gateway(
            tmp_path, [Listed(server.port)], limits=limits, requests={"wait": "60s"}
        ) as gateway:
            assert [200] * 4 == statuses(gateway, 4)

    assert server.times_s[3] - server.times_s[0] > 0.5


def test_what_a_killed_worker_held_is_free_again(tmp_path: Path) -> None:
    with running_servers(1) as (server,):
        server.pause_s = 60.0
        limits = {"default": {"rate": 100, "burst": 100}}
        with running_gateway(
            tmp_path, [Listed(server.port)], limits=limits, requests={"wait": "60s"}
        ) as gateway:
            thread = threading.Thread(target=lambda: _quietly(gateway))
            thread.start()
            wait_until(lambda: server.n_at_once == 1)
            server.pause_s = 0.0
            for worker in gateway.workers():
                os.kill(worker, signal.SIGKILL)
            thread.join()

            assert [200] * 3 == statuses(gateway, 3)


def _quietly(gateway: Gateway) -> None:
    with contextlib.suppress(OSError):  # the worker is killed
        gateway.ask("/api/generate", ASK)


def test_limits_hold_and_no_request_fails_while_nginx_reloads(tmp_path: Path) -> None:
    """Old and new workers share what instances have taken."""
    with (
        counting_server(tmp_path / "servers", answer_s=0.05) as servers,
        running_gateway(tmp_path, servers.instances(200)) as gateway,
    ):
        started_s = time.monotonic()
        with asking(gateway, 8) as found:
            for _ in range(4):
                old = {*gateway.workers()}
                gateway.reload()
                wait_until(lambda old=old: not old & {*gateway.workers()})
                wait_more(found, 20)
        counts, most_at_once = servers.report()
        seconds = time.monotonic() - started_s

    assert {200} == set(found)
    assert [] == excess([*counts.values()], seconds=seconds)
    assert {1} == set(most_at_once.values())


def test_killed_workers_cost_what_they_had_in_flight_and_limits_hold(tmp_path: Path) -> None:
    n_threads, n_kills = 6, 3
    with (
        counting_server(tmp_path / "servers", answer_s=0.02) as servers,
        running_gateway(tmp_path, servers.instances(200)) as gateway,
    ):
        started_s = time.monotonic()
        with asking(gateway, n_threads) as found:
            for _ in range(n_kills):
                wait_more(found, 20)
                wait_until(lambda: len(gateway.workers()) == 2)
                os.kill(gateway.workers()[0], signal.SIGKILL)
            wait_more(found, 20)
        counts, _ = servers.report()
        seconds = time.monotonic() - started_s

    assert {200} == set(found) - {0}
    assert found.count(0) <= n_threads * n_kills
    assert [] == excess([*counts.values()], seconds=seconds)


@contextlib.contextmanager
def asking(gateway: Gateway, n: int) -> Iterator[list[int]]:
    """Ask from n threads until the block ends; yield the statuses, 0 where a connection broke."""
    found: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                found.extend(statuses(gateway, 1))
            except (OSError, HTTPException):
                found.append(0)

    threads = [threading.Thread(target=ask) for _ in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def wait_more(found: Sequence[int], n: int) -> None:
    """Return when n more requests have been answered."""
    enough = found.count(200) + n
    wait_until(lambda: found.count(200) >= enough)


def test_limits_survive_a_reload(tmp_path: Path) -> None:
    with running_servers(1) as (server,):
        with running_gateway(
            tmp_path, [Listed(server.port)], limits={"default": ONCE}, requests=AT_ONCE
        ) as gateway:
            assert [200, 429] == statuses(gateway, 2)
            old = set(gateway.workers())
            gateway.reload()
            wait_until(lambda: not old & set(gateway.workers()))

            assert [429] * 4 == statuses(gateway, 4)


@pytest.mark.parametrize("n", [pytest.param(500), pytest.param(10_000, marks=pytest.mark.nightly)])
def test_no_request_fails_when_a_sixth_of_the_fleet_vanishes(tmp_path: Path, n: int) -> None:
    n_vanishing = n * 16 // 100
    with (
        counting_server(tmp_path / "stay", answer_s=0.02) as stay,
        counting_server(tmp_path / "vanish", answer_s=0.02) as vanish,
        running_gateway(
            tmp_path,
            [*stay.instances(n - n_vanishing), *vanish.instances(n_vanishing, first=n)],
            limits={"default": {"rate": 1000, "burst": 1000}},
            requests={"wait": "20s", "max_waiting": 10_000},
        ) as gateway,
    ):
        n_clients = 16 if n < 1000 else 200
        with Wrk(gateway.url, tmp_path, connections=n_clients, seconds=600) as wrk:
            wait_until(lambda: n_asked(vanish) > 50)
            vanish.process.kill()
            before = n_asked(stay)
            wait_until(lambda: n_asked(stay) > before + 2 * n)
            wait_until(lambda: samples(gateway).total("retries_total") > 0)
            seen = wrk.stopped()

    assert (0, 0) == (seen.refused, seen.broken)


def n_asked(servers: Counting) -> int:
    """Return how many requests all instances of a server have had."""
    return sum(servers.report()[0].values())
