"""Waiting for a fleet, and texts that all commands use."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import requests

from provisioning.api.routes import Details
from provisioning.cli import common
from provisioning.cli.common import Progress, age_text, progress_of
from provisioning.client import Client, UnreachableError
from provisioning.model import NodeReport, Phase
from provisioning.spec.document import load_fleet
from tests.provisioning.api.board import FLEET, WORKLOAD, instance
from tests.provisioning.api.served import Served
from tests.provisioning.cli.running import run, spec

LLAMAS = FLEET.replace(pools=FLEET.pools[:1])


def test_an_age_has_its_two_largest_units() -> None:
    ages_s = (-5, 0.9, 59, 3600, 86_400, 90_061, 3661)

    assert ["0s", "0s", "59s", "1h", "1d", "1d 1h", "1h 1m"] == [*map(age_text, ages_s)]


def details(number: int, **changes: Any) -> Details:
    made = {
        "id": f"llama-{number:05}",
        "url": "",
        "node": "n1",
        "state": "running",
        "port": 1,
        "pool": "llama",
        "phase": "running",
        "phase_since_s": 0.0,
        "generation": 1,
        "workload": WORKLOAD.digest,
    }
    return msgspec.structs.replace(msgspec.convert(made, Details), **changes)


def test_a_fleet_is_done_when_everything_runs_as_specified() -> None:
    llamas = [details(n) for n in range(4)]

    assert Progress(4, 0, 0, 0) == progress_of(LLAMAS, [])
    assert progress_of(LLAMAS, llamas).is_done
    assert not progress_of(LLAMAS, llamas[1:]).is_done
    assert not progress_of(LLAMAS, [*llamas, details(9)]).is_done
    assert not progress_of(LLAMAS, [*llamas, details(9, pool="old")]).is_done
    for changes in ({"workload": "old"}, {"node": "gone"}, {"phase": Phase.STARTING}):
        assert 3 == progress_of(LLAMAS, [*llamas[1:], details(0, **changes)]).n_ready


def test_the_text_counts_failed_and_surplus_instances() -> None:
    found = progress_of(FLEET, [details(1, phase=Phase.FAILED), details(2, pool="x"), details(3)])

    assert "1 of 6 instances ready, 1 failed, 1 to be removed" == str(found)


def test_surplus_on_silent_nodes_is_counted_and_not_awaited() -> None:
    running = [details(n) for n in range(4)]
    leaving = [details(5, node="n2", phase=Phase.DRAINING), details(6, node="n3", pool="old")]

    found = progress_of(LLAMAS, [*running, *leaving], {"n2", "n3", "n4"})

    assert found.is_done
    assert "4 of 4 instances ready, 2 to be removed from nodes that do not answer" == str(found)
    assert not progress_of(LLAMAS, [*running, *leaving, details(7)], {"n2", "n3"}).is_done


def test_the_progress_says_how_long_a_drain_may_still_take() -> None:
    (pool,) = LLAMAS.pools
    less = LLAMAS.replace(pools=(pool.replace(count=0),))
    drain_s = pool.rotation.drain_s
    leaving = [details(n, phase=Phase.DRAINING, phase_since_s=100.0 + n) for n in range(2)]
    listed = [*leaving, details(3), details(4, phase=Phase.STOPPING)]

    found = progress_of(less, listed, now_s=131.0)
    later = progress_of(less, listed, now_s=101.0 + drain_s)

    left = age_text(drain_s - 30)
    expected = f"0 of 0 instances ready, 2 draining (at most {left}), 2 to be removed"
    assert expected == str(found)
    assert "0 of 0 instances ready, 2 draining, 2 to be removed" == str(later)
    assert found == later, "a drain alone is no news for a log"


@pytest.mark.parametrize(
    ("changes", "is_stuck"),
    [
        ({"n_failures": 1}, True),
        ({"n_failures": 1, "retry_at_s": 60.0}, True),
        ({"n_failures": 1, "retry_at_s": 59.0}, False),
        ({"n_failures": 0}, False),
        ({"n_failures": 1, "pool": "old"}, False),
        ({"n_failures": 1, "workload": "old"}, False),
        ({"n_failures": 1, "phase": Phase.STARTING}, False),
    ],
)
def test_a_fleet_is_stuck_when_all_missing_instances_have_failed_as_specified(
    changes: dict[str, Any], *, is_stuck: bool
) -> None:
    """What is retried soon, starts, or failed as it was before, may still become ready."""
    failed = details(4, **{"phase": Phase.FAILED, "fault": "no program", **changes})
    running = [details(n) for n in range(3)]

    assert is_stuck == progress_of(LLAMAS, [*running, failed]).is_stuck
    assert not progress_of(LLAMAS, [*running[1:], failed]).is_stuck
    assert not progress_of(LLAMAS, [*running, details(3), failed]).is_stuck


# `apply` waits


def empty(served: Served) -> None:
    """Remove every record, as a leader would."""

    async def remove() -> None:
        for id_ in tuple((await served.board.store.load()).stored):
            await served.board.delete(id_)

    asyncio.run_coroutine_threadsafe(remove(), served.loop).result(100)


def put(served: Served, path: Path, **changes: Any) -> None:
    """Put two instances of a specification."""
    (pool,) = load_fleet(path).pools
    for number in (1, 2):
        wanted = {"workload": pool.workload.digest, **changes}
        served.put(instance(number, "web", **wanted))


FAILED = {"phase": Phase.FAILED, "fault": "no\nprogram", "n_failures": 1}


@pytest.fixture
def on_sleep(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Have something happen when the command waits for the nth time; by its clock nothing else
    takes time.
    """

    def at(nth: int, event: Callable[[], object]) -> None:
        sleeps: list[float] = []

        def sleep(seconds: float) -> None:
            sleeps.append(seconds)
            if len(sleeps) == nth:
                event()

        patched = {"sleep": sleep, "monotonic": lambda: sum(sleeps)}
        monkeypatch.setattr(common, "time", SimpleNamespace(**vars(time) | patched))

    return at


OnSleep = Callable[[int, Callable[[], object]], None]


def test_progress_is_printed_when_it_differs_until_the_fleet_is_ready(
    served: Served, tmp_path: Path, on_sleep: OnSleep
) -> None:
    on_sleep(3, lambda: empty(served))

    result = run(served, "provisioner", "apply", "--yes", spec(tmp_path, 0))

    assert 0 == result.exit_code, result.output
    assert [
        "0 of 0 instances ready, 1 failed, 1 draining, 5 to be removed",
        "0 of 0 instances ready",
    ] == result.stderr.splitlines()


def test_surplus_on_a_silent_node_does_not_hold_up_apply(served: Served, tmp_path: Path) -> None:
    empty(served)
    served.put(instance(1, "web", phase=Phase.DRAINING, node="n1"))
    served.board.reports = {"n1": NodeReport("n1", 5.0, (), "cannot connect")}

    result = run(served, "provisioner", "apply", "--yes", spec(tmp_path, 0))

    assert 0 == result.exit_code, result.output
    assert "1 to be removed from nodes that do not answer" in result.stderr


def test_apply_ends_when_the_missing_instances_cannot_start(
    served: Served, tmp_path: Path, on_sleep: OnSleep
) -> None:
    path = spec(tmp_path, 2)
    empty(served)
    put(served, path, **FAILED)
    on_sleep(9, lambda: pytest.fail("it waits"))

    result = run(served, "provisioner", "apply", "--yes", path)

    assert 1 == result.exit_code
    assert "0 of 2 instances ready, 2 failed; the missing ones cannot start:" in result.stderr
    assert "  web-00001: no program\n  web-00002: no program\n" in result.stderr


def test_apply_waits_for_what_failed_before_it_was_fixed(
    served: Served, tmp_path: Path, on_sleep: OnSleep
) -> None:
    path = spec(tmp_path, 2)
    empty(served)
    put(served, path, **FAILED)
    on_sleep(1, lambda: put(served, path, phase=Phase.STARTING))

    result = run(served, "provisioner", "apply", "--yes", "--timeout=1s", path)

    assert "0 of 2 instances ready after 1s; the provisioner continues" in result.stderr
    on_sleep(3, lambda: put(served, path))
    assert 0 == run(served, "provisioner", "apply", "--yes", path).exit_code


def test_ctrl_c_while_waiting_stops_only_the_waiting(
    served: Served, tmp_path: Path, on_sleep: OnSleep
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    on_sleep(1, interrupt)

    result = run(served, "provisioner", "apply", "--yes", spec(tmp_path, 2))

    assert 130 == result.exit_code
    assert "stopped waiting; the provisioner continues" in result.stderr


@pytest.mark.parametrize(
    ("path", "text"),
    [("/plan", "no change was being sent"), ("/spec", "it may have been made; check with")],
)
def test_ctrl_c_while_sending_says_whether_a_change_may_have_been_made(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, text: str
) -> None:
    """It comes just before the answer."""
    send = requests.Session.send

    def interrupted(
        session: requests.Session, request: requests.PreparedRequest, **how: Any
    ) -> Any:
        answer = send(session, request, **how)
        if request.method != "GET" and request.path_url == path:
            answer.close()
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(requests.Session, "send", interrupted)
    result = run(served, "provisioner", "apply", "--yes", spec(tmp_path, 2))

    assert 130 == result.exit_code
    assert text in result.stderr


def test_an_error_while_waiting_says_that_the_specification_is_active(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise UnreachableError("cannot list instances: no connection")

    monkeypatch.setattr(Client, "instances", gone)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    result = run(served, "provisioner", "apply", "--yes", spec(tmp_path, 2))

    assert 1 == result.exit_code
    assert result.stderr.endswith(
        "Error: the specification is active, but cannot list instances: no connection\n"
    )
