from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from provisioning.demo.errors import PortError
from provisioning.demo.ports import Claims, Ports, Wanted, can_bind


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def ports(said: list[str]) -> Ports:
    return Ports(say=said.append)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def _wanted(port: int, *, is_explicit: bool = False) -> Wanted:
    return Wanted("Prometheus", port, option="--prometheus-port", is_explicit=is_explicit)


def test_a_taken_default_gives_a_near_port_and_prints_it(
    ports: Ports, said: list[str], taken_port: int
) -> None:
    port = ports.take(_wanted(taken_port))

    assert taken_port < port <= taken_port + 200
    assert can_bind(port, "127.0.0.1")
    assert [f"port {taken_port} is taken: Prometheus listens on {port} instead"] == said


def test_a_taken_port_of_an_option_is_an_error_that_names_it(ports: Ports, taken_port: int) -> None:
    with pytest.raises(PortError, match=f"port {taken_port}: .*with --prometheus-port"):
        ports.take(_wanted(taken_port, is_explicit=True))


def test_no_port_is_chosen_twice(ports: Ports, taken_port: int) -> None:
    given = [ports.take(_wanted(taken_port)) for _ in range(5)]

    assert 5 == len(set(given))


def test_a_range_holds_no_port_that_was_given_or_will_be(ports: Ports, taken_port: int) -> None:
    given = ports.take(_wanted(taken_port))
    found = ports.take_range(_wanted(given), 5)

    assert given not in found
    assert ports.take(_wanted(found[0])) not in found


def test_a_range_that_is_not_there_is_an_error(ports: Ports) -> None:
    with pytest.raises(PortError, match="no 10 ports in a row are free from 65530 on"):
        ports.take_range(_wanted(65_530), 10)


def test_two_runs_that_start_at_once_choose_different_ports(taken_port: int) -> None:
    with Claims() as claims, Claims() as other_claims:
        ports = Ports(say=print, claims=claims)
        other_ports = Ports(say=print, claims=other_claims)

        given = [one.take(_wanted(taken_port)) for one in (ports, other_ports)]
        ranges = [one.take_range(_wanted(taken_port), 5) for one in (ports, other_ports)]

    assert 2 == len(set(given))
    assert set() == set(ranges[0]) & set(ranges[1])
