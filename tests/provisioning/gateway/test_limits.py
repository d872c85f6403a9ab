"""Real nginx: no instance ever gets more than its limit, and 429 means that the fleet is full."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.provisioning.gateway.counting import counting_server, excess, load
from tests.provisioning.gateway.nginx import MODEL, Gateway, Listed, running_gateway, wait_until
from tests.provisioning.gateway.servers import running_servers

pytestmark = pytest.mark.slow

ASK = {"model": MODEL, "prompt": "Why?", "stream": False}
AT_ONCE = {"wait": "0"}
ONCE = {"rate": 0.01, "burst": 1}


def statuses(gateway: Gateway, n: int) -> list[int]:
    return [gateway.ask("/api/generate", ASK)[0] for _ in range(n)]


def test_no_instance_of_an_overloaded_fleet_gets_more_than_its_limit(tmp_path: Path) -> None:
    with (
        counting_server(tmp_path / "servers", answer_s=0.05) as servers,
        running_gateway(tmp_path, servers.instances(500), requests=AT_ONCE) as gateway,
    ):
        started_s = time.monotonic()
        seen = load(gateway.url, tmp_path, connections=50, seconds=3)
        seconds = time.monotonic() - started_s
        counts, most_at_once = servers.report()

    assert seen.refused > 0
    assert sum(counts.values()) >= seen.requests - seen.refused
    assert [] == excess([*counts.values()], seconds=seconds)
    assert {1} == set(most_at_once.values())


@pytest.mark.nightly
def test_no_instance_of_ten_thousand_gets_more_than_its_limit(tmp_path: Path) -> None:
    with (
        counting_server(tmp_path / "servers", answer_s=0.05) as servers,
        running_gateway(tmp_path, servers.instances(10_000)) as gateway,
    ):
        started_s = time.monotonic()
        load(gateway.url, tmp_path, connections=300, seconds=30)
        seconds = time.monotonic() - started_s
        counts, most_at_once = servers.report()

    assert 10_000 == len(counts)
    assert [] == excess([*counts.values()], seconds=seconds)
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
    assert 50 < int(headers["Retry-After"]) <= 100
    assert b'{"error":"all instances are busy, try again later"}\n' == body


def test_an_engine_has_its_own_limits(tmp_path: Path) -> None:
    limits = {"default": ONCE, "vllm": {"rate": 0.01, "burst": 5, "concurrency": 3}}
    with running_servers(1) as (server,):
        server.pause_s = 3.0
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
        statuses_seen: list[int] = []
        end_s = started_s + 3
        threads = [
            threading.Thread(target=lambda: _ask_until(gateway, end_s, statuses_seen))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for _ in range(4):
            time.sleep(0.5)
            gateway.reload()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started_s
        counts, most_at_once = servers.report()

    assert {200} == set(statuses_seen)
    assert [] == excess([*counts.values()], seconds=seconds)
    assert {1} == set(most_at_once.values())


def test_killed_workers_cost_what_they_had_in_flight_and_limits_hold(tmp_path: Path) -> None:
    n_threads, n_kills = 6, 3
    with (
        counting_server(tmp_path / "servers", answer_s=0.02) as servers,
        running_gateway(tmp_path, servers.instances(200)) as gateway,
    ):
        started_s = time.monotonic()
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: _ask_or_fail_until(gateway, started_s + 3, found))
            for _ in range(n_threads)
        ]
        for thread in threads:
            thread.start()
        for _ in range(n_kills):
            time.sleep(0.7)
            os.kill(gateway.workers()[0], signal.SIGKILL)
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started_s
        counts, _ = servers.report()

    assert found.count(200) > 100
    assert {200} == set(found) - {0}
    assert found.count(0) <= n_threads * n_kills
    assert [] == excess([*counts.values()], seconds=seconds)


def _ask_or_fail_until(gateway: Gateway, end_s: float, found: list[int]) -> None:
    """Add the status of each answer, or 0 where the connection broke."""
    while time.monotonic() < end_s:
        try:
            found += statuses(gateway, 1)
        except OSError:
            found.append(0)


def _ask_until(gateway: Gateway, end_s: float, found: list[int]) -> None:
    while time.monotonic() < end_s:
        found += statuses(gateway, 1)


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
            requests={"wait": "20s", "max_waiting": 10_000},
        ) as gateway,
    ):
        killer = threading.Timer(1.5, vanish.process.kill)
        killer.start()
        seen = load(gateway.url, tmp_path, connections=16 if n < 1000 else 200, seconds=4)
        killer.join()

    assert seen.requests > 100
    assert (0, 0) == (seen.refused, seen.broken)
