"""The API's operations as calls, against the real API; and how far a fleet is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import responses

from provisioning.api.routes import Details
from provisioning.client.client import Client, etag_of
from provisioning.client.errors import RefusedError, UnreachableError
from provisioning.client.progress import Progress, progress_of, progress_until_done
from provisioning.client.transport import Transport
from provisioning.model import Fleet, Phase
from provisioning.workload import workload_digest
from tests.provisioning.api.board import FLEET, WORKLOAD
from tests.provisioning.api.served import Served


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Served(tmp_path) as running:
        yield running


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Transport([served.url], lambda: served.token) as transport:
        yield Client(transport)


NOT_FOUND = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "none"}


def scaled(count: int) -> Fleet:
    pool = msgspec.structs.replace(FLEET.pools[0], count=count)
    return msgspec.structs.replace(FLEET, pools=(pool, FLEET.pools[1]))


def test_instances_come_with_details_and_filters(client: Client) -> None:
    found = client.instances({"pool": ["tiny"], "phase": ["running", "stopping"]})

    assert ["tiny-00001", "tiny-00002"] == [one.id for one in found]
    assert 6 == len(client.instances())


def test_a_plan_is_asked_for_with_the_token(served: Served) -> None:
    """A provisioner plans for its holders while strangers take all the room that there is."""
    with (
        responses.RequestsMock() as web,
        Transport([served.url], lambda: served.token) as transport,
    ):
        web.post(f"{served.url}/plan", status=404)
        with pytest.raises(UnreachableError):
            Client(transport).plan(FLEET)
        assert f"Bearer {served.token}" == web.calls[0].request.headers["Authorization"]


def test_a_specification_is_read_planned_and_applied(served: Served, client: Client) -> None:
    in_force = client.spec()
    assert in_force is not None
    assert FLEET == in_force.fleet

    plan = client.plan(scaled(5))
    assert (f'"{plan.base_version}"', 1) == (in_force.etag, plan.pools[0].n_created)
    client.apply(scaled(5), plan=plan)

    after = client.plan(scaled(5))
    assert () == after.pools[0].changes


def test_what_was_planned_against_an_old_specification_is_not_applied(client: Client) -> None:
    plan = client.plan(scaled(5))
    client.scale("llama", 6, etag=etag_of(plan))

    with pytest.raises(RefusedError, match="of the specification is in force, not ") as caught:
        client.apply(scaled(5), plan=plan)

    assert 412 == caught.value.status


def test_a_pool_of_an_old_specification_is_not_scaled(client: Client) -> None:
    plan = client.plan(scaled(5))
    client.apply(scaled(5), plan=plan)

    with pytest.raises(RefusedError, match="of the specification is in force, not ") as caught:
        client.scale("llama", 6, etag=etag_of(plan))

    assert 412 == caught.value.status


def test_without_a_specification_there_is_none() -> None:
    with responses.RequestsMock() as web, Transport(["http://one"], lambda: "x") as transport:
        web.get("http://one/spec", status=404, json=NOT_FOUND)

        assert Client(transport).spec() is None


def test_a_server_that_is_no_provisioner_does_not_pass_for_one_without_a_specification() -> None:
    with responses.RequestsMock() as web, Transport(["http://one"], lambda: "x") as transport:
        web.get("http://one/spec", status=404, body="<html>")

        with pytest.raises(UnreachableError, match="status 404, and nothing that a provisioner"):
            Client(transport).spec()


def test_another_refusal_of_the_specification_is_told() -> None:
    with responses.RequestsMock() as web, Transport(["http://one"], lambda: "x") as transport:
        web.get("http://one/spec", status=400, json={**NOT_FOUND, "status": 400})

        with pytest.raises(RefusedError, match="cannot read the specification at http://one"):
            Client(transport).spec()


@pytest.mark.parametrize("body", ["<html>", '{"a": 1}', b"\xff"])
def test_another_servers_answer_is_told(body: str | bytes) -> None:
    with responses.RequestsMock() as web, Transport(["http://one"], lambda: "x") as transport:
        web.get("http://one/instances", body=body)

        with pytest.raises(UnreachableError, match="http://one answers, but not as a provisioner"):
            Client(transport).instances()


# Progress


def details(number: int, **changes: Any) -> Details:
    made = msgspec.convert(
        {
            "id": f"llama-{number:05}",
            "url": "",
            "node": "n1",
            "state": "running",
            "pool": "llama",
            "port": 1,
            "phase": "running",
            "since_s": 0.0,
            "generation": 1,
            "workload": workload_digest(WORKLOAD),
        },
        Details,
    )
    return msgspec.structs.replace(made, **changes)


def progress(*instances: Details) -> Progress:
    return progress_of(FLEET, instances)


def test_nothing_is_ready_at_first() -> None:
    assert Progress(6, 0, 0, 0) == progress()
    assert "0 of 6 instances ready" == str(progress())


def test_all_is_done_when_everything_runs_as_wanted() -> None:
    llamas = [details(n) for n in range(4)]
    tiny = [details(n, pool="tiny") for n in range(2)]

    assert progress(*llamas, *tiny).is_done
    assert not progress(*llamas, *tiny[1:]).is_done
    assert not progress(*llamas, *tiny, details(9)).is_done


@pytest.mark.parametrize(
    "changes", [{"workload": "old"}, {"node": "gone"}, {"phase": Phase.STARTING}]
)
def test_what_is_not_as_wanted_is_not_ready(changes: dict[str, Any]) -> None:
    assert 0 == progress(details(1, **changes)).n_ready


def test_failures_and_what_is_too_much_are_told() -> None:
    found = progress(details(1, phase=Phase.FAILED), details(2, pool="old"), details(3))

    assert "1 of 6 instances ready, 1 failed, 1 to be removed" == str(found)


def test_what_is_too_much_on_a_silent_node_is_told_but_not_awaited() -> None:
    fleet = msgspec.structs.replace(FLEET, pools=FLEET.pools[:1])
    running = [details(n) for n in range(4)]
    leaving = details(5, node="n2", phase=Phase.DRAINING)
    there = [*running, leaving, details(6, node="n3", pool="old"), details(7)]

    before = progress_of(fleet, there, {"n2", "n3", "n4"})
    after = progress_of(fleet, there[:-1], {"n2", "n3", "n4"})

    assert (1, 2, False) == (before.n_surplus, before.n_held_up, before.is_done)
    assert (0, 2, True) == (after.n_surplus, after.n_held_up, after.is_done)
    assert "4 of 4 instances ready, 2 to be removed once heard of n2, n3" == str(after)
    assert not progress_of(fleet, there[1:-1], {"n2", "n3"}).is_done


@pytest.mark.parametrize(
    ("n_nodes", "words"), [(1, "n0"), (3, "n0, n1, n2"), (5, "n0, n1, n2 and 2 more")]
)
def test_of_many_silent_nodes_the_first_are_told(n_nodes: int, words: str) -> None:
    fleet = msgspec.structs.replace(FLEET, pools=())
    nodes = [f"n{n}" for n in range(n_nodes)]

    told = progress_of(fleet, [details(n, node=name) for n, name in enumerate(nodes)], nodes)

    assert str(told).endswith(f"ready, {n_nodes} to be removed once heard of {words}")


def test_nodes_are_asked_for_only_while_something_is_too_much() -> None:
    fleet = msgspec.structs.replace(FLEET, pools=FLEET.pools[:1])
    running = [details(n) for n in range(4)]
    looks = [running[1:], [*running, details(4, node="n2")]]
    asked: list[int] = []

    def silent_nodes() -> set[str]:
        asked.append(len(looks))
        return {"n2"}

    *_, told = progress_until_done(
        lambda: looks.pop(0), fleet, silent_nodes=silent_nodes, sleep=lambda _: None
    )

    assert told.is_done
    assert [0] == asked


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
def test_a_fleet_is_stuck_when_all_that_is_missing_has_failed(
    changes: dict[str, Any], is_stuck: bool
) -> None:
    """What is tried again soon, starts, or failed as it was before, may still get there."""
    fleet = msgspec.structs.replace(FLEET, pools=FLEET.pools[:1])
    failed = details(4, **{"phase": Phase.FAILED, "fault": "no program", **changes})
    running = [details(n) for n in range(3)]

    assert is_stuck == progress_of(fleet, [*running, failed]).is_stuck
    assert not progress_of(fleet, [*running[1:], failed]).is_stuck
    assert not progress_of(fleet, [*running, details(3), failed]).is_stuck


def failed(n: int, **changes: Any) -> Details:
    return details(n, phase=Phase.FAILED, n_failures=1, fault="x", **changes)


def test_progress_is_not_awaited_once_two_looks_find_a_fleet_stuck() -> None:
    waited_s: list[float] = []
    looks = [[failed(n) for n in range(6)]] * 2

    *_, told = progress_until_done(
        lambda: looks.pop(0), FLEET, silent_nodes=set, sleep=waited_s.append
    )

    assert (1, []) == (len(waited_s), looks)
    assert ("llama-00000: x", "llama-00001: x", "llama-00002: x") == told.faults


def test_what_failed_before_and_is_tried_again_at_once_is_awaited() -> None:
    """A node more is in force, and the next pass finds that there is room now."""
    fleet = msgspec.structs.replace(FLEET, pools=FLEET.pools[:1])
    before, trying, after = (
        [failed(n) for n in range(4)],
        [details(n, phase=Phase.STARTING) for n in range(4)],
        [details(n) for n in range(4)],
    )
    looks = [before, trying, before, after]

    *_, told = progress_until_done(
        lambda: looks.pop(0), fleet, silent_nodes=set, sleep=lambda _: None
    )

    assert told.is_done


def test_what_failed_as_it_was_before_is_no_fault_of_what_is_wanted_now() -> None:
    told = progress(*(failed(n, workload="old") for n in range(4)), details(5, pool="tiny"))

    assert (4, 0, ()) == (told.n_failed, told.n_given_up, told.faults)


def test_progress_is_told_until_all_is_done() -> None:
    fleet = msgspec.structs.replace(FLEET, pools=FLEET.pools[:1])
    lists = [[details(n) for n in range(count)] for count in (0, 2, 4, 4)]
    waited_s: list[float] = []

    told = progress_until_done(
        lambda: lists.pop(0), fleet, silent_nodes=set, sleep=waited_s.append, poll_s=3.0
    )

    assert [0, 2, 4] == [one.n_ready for one in told]
    assert [3.0, 3.0] == waited_s


def test_one_pools_surplus_does_not_stand_for_another_pool() -> None:
    """Six instances are wanted and six run, all of the first pool."""
    assert Progress(6, 4, 0, 2) == progress(*(details(n) for n in range(6)))
