"""What a push makes of what it finds, against a server with Grafana's state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dashboards import push
from dashboards.documents import Document
from dashboards.errors import UnreachableError
from dashboards.grafana import Found, Grafana
from dashboards.push import Result, State
from dashboards.transport import Transport
from tests.dashboards.grafana_server import TOKEN, Running, Stored, grafana


def document(uid: str = "fleet", **changes: Any) -> Document:
    content = {"uid": uid, "title": uid, "panels": [], "schemaVersion": 39}
    return Document(f"{uid}.json", {**content, **changes})


def found(wanted: Document | None = None, **changes: Any) -> Found:
    content = {**(wanted or document()).content, "id": 7, "version": 3}
    return Found(**{"content": content, "version": 3, **changes})


@pytest.fixture
def server() -> Iterator[Running]:
    with grafana() as running:
        yield running


def pushed(
    running: Running, *documents: Document, is_overwriting: bool = False, token: str = TOKEN
) -> tuple[Result, ...]:
    with Transport(running.url, token, waits_s=(0.0,) * 3) as transport:
        client = Grafana(transport)
        steps = push.plan(client, documents, is_overwriting=is_overwriting)
        doing = push.carry_out(client, steps, "My folder", is_overwriting=is_overwriting)
        return tuple(doing)


def states(results: tuple[Result, ...]) -> list[State]:
    return [result.state for result in results]


# Deciding


OURS = push.MESSAGE + "0" * 32


@pytest.mark.parametrize(
    ("there", "is_overwriting", "expected"),
    [
        (None, False, State.CREATED),
        (None, True, State.CREATED),
        (found(), False, State.UNCHANGED),
        (found(is_provisioned=True), False, State.UNCHANGED),
        (found(document(title="x"), message=OURS), False, State.UPDATED),
        (found(document(title="x"), message=OURS), True, State.UPDATED),
        (found(document(title="x")), False, State.CONFLICT),
        (found(document(title="x"), message="Better title"), False, State.CONFLICT),
        (found(document(title="x")), True, State.UPDATED),
        (found(document(title="x"), message=push.message(document())), False, State.UNCHANGED),
        (found(document(title="x"), message=OURS, is_provisioned=True), True, State.CONFLICT),
    ],
)
def test_what_is_there_and_who_saved_it_decide(
    there: Found | None, is_overwriting: bool, expected: State
) -> None:
    decision = push.decide(document(), there, is_overwriting=is_overwriting)

    assert expected == decision.state
    assert (expected is State.CONFLICT) == bool(decision.reason)


def test_a_provisioned_dashboard_points_to_its_file() -> None:
    decision = push.decide(
        document(), found(document(title="x"), is_provisioned=True), is_overwriting=True
    )

    assert "provisioning file" in decision.reason
    assert "--overwrite" not in decision.reason


def test_the_difference_leaves_out_what_grafana_sets() -> None:
    there = found(document(title="old"))
    step = push.Step(document(), there, push.decide(document(), there, is_overwriting=True))

    changed = [line for line in step.diff.splitlines() if line[0] in "+-"]

    assert [
        "--- grafana/fleet",
        "+++ fleet.json",
        '-  "title": "old",',
        '+  "title": "fleet",',
    ] == changed


# Doing


def test_what_is_absent_is_created_in_a_folder_that_is_created(server: Running) -> None:
    results = pushed(server, document("a"), document("b"))

    assert [State.CREATED, State.CREATED] == states(results)
    assert {"ollama-fleet": "My folder"} == server.state.folders
    assert document("a").content == server.state.dashboards["a"].content
    assert "ollama-fleet" == server.state.dashboards["a"].folder_uid


def test_a_second_push_writes_nothing(server: Running) -> None:
    pushed(server, document("a"))
    server.state.requests.clear()

    assert [State.UNCHANGED] == states(pushed(server, document("a")))
    assert [] == server.state.writes()


def test_a_second_push_writes_nothing_where_grafana_stores_another_form(server: Running) -> None:
    server.state.migrates = True
    pushed(server, document("a"))

    assert [State.UNCHANGED] == states(pushed(server, document("a")))
    assert 42 == server.state.dashboards["a"].content["schemaVersion"]


@pytest.mark.parametrize("is_new", [True, False])
def test_a_new_document_updates_what_a_push_saved(server: Running, is_new: bool) -> None:
    server.state.is_new = is_new
    pushed(server, document("a"))

    assert [State.UPDATED] == states(pushed(server, document("a", title="new")))
    assert 2 == server.state.dashboards["a"].version
    assert "new" == server.state.dashboards["a"].content["title"]


def test_what_a_person_changed_stays(server: Running) -> None:
    pushed(server, document("a"), document("b"))
    server.state.save_as_person("a", title="mine")

    results = pushed(server, document("a", refresh="1m"), document("b", refresh="1m"))

    assert [State.CONFLICT, State.UPDATED] == states(results)
    assert "mine" == server.state.dashboards["a"].content["title"]
    assert "saved by alice" in results[0].reason


def test_what_a_person_changed_is_replaced_on_demand(server: Running) -> None:
    pushed(server, document("a"))
    server.state.save_as_person("a", title="mine")

    assert [State.UPDATED] == states(pushed(server, document("a"), is_overwriting=True))
    assert "a" == server.state.dashboards["a"].content["title"]
    assert [State.UNCHANGED] == states(pushed(server, document("a")))


def test_a_dashboard_stays_in_the_folder_where_a_person_moved_it(server: Running) -> None:
    pushed(server, document("a"), document("b"))
    server.state.folders["theirs"] = "Theirs"
    server.state.dashboards["a"].folder_uid = "theirs"
    server.state.dashboards["b"].folder_uid = ""

    pushed(server, document("a", title="new"), document("b", title="new b"))

    assert "theirs" == server.state.dashboards["a"].folder_uid
    assert "" == server.state.dashboards["b"].folder_uid


def test_a_save_between_our_reading_and_writing_is_a_conflict(server: Running) -> None:
    """The person saves after the plan; the version we read is no longer the last."""
    pushed(server, document("a"))
    with Transport(server.url, TOKEN) as transport:
        client = Grafana(transport)
        steps = push.plan(client, [document("a", title="new")], is_overwriting=False)
        server.state.save_as_person("a", title="mine")
        (result,) = push.carry_out(client, steps, "", is_overwriting=False)

    assert State.CONFLICT == result.state
    assert "somebody saved it meanwhile" in result.reason
    assert "mine" == server.state.dashboards["a"].content["title"]


def test_a_provisioned_dashboard_is_left_alone(server: Running) -> None:
    server.state.dashboards["a"] = Stored(
        content={"uid": "a"}, folder_uid="", messages=[""], is_provisioned=True
    )

    results = pushed(server, document("a"), is_overwriting=True)

    assert [State.CONFLICT] == states(results)
    assert [] == server.state.writes()


@pytest.mark.parametrize("is_there", [False, True])
def test_a_save_whose_answer_is_lost_counts_as_done(server: Running, is_there: bool) -> None:
    """The next try meets the version that the first one made."""
    if is_there:
        pushed(server, document("a", title="old"))
    server.state.only, server.state.moods = "POST /api/dashboards", ["save and drop"]

    results = pushed(server, document("a"))

    assert [State.UPDATED if is_there else State.CREATED] == states(results)
    assert (2 if is_there else 1) == server.state.dashboards["a"].version


def test_a_folder_whose_creation_is_not_answered_is_used(server: Running) -> None:
    server.state.only, server.state.moods = "POST /api/folders", ["save and drop"]

    assert [State.CREATED] == states(pushed(server, document("a")))
    assert ["ollama-fleet"] == list(server.state.folders)


def test_one_refused_dashboard_does_not_hold_up_the_others(server: Running) -> None:
    server.state.only, server.state.moods = "POST /api/dashboards", ["status 400"]

    results = pushed(server, document("a"), document("b"))

    assert [State.FAILED, State.CREATED] == states(results)
    assert "cannot save dashboard a at http://127.0.0.1" in results[0].reason


@pytest.mark.parametrize("mood", ["status 401", "html"])
def test_what_would_fail_again_is_not_tried(server: Running, mood: str) -> None:
    pushed(server, document("c"))
    server.state.only, server.state.moods = "POST /api/dashboards", ["well", mood]
    server.state.folders["ollama-fleet"] = "x"

    results = pushed(server, document("a"), document("b"), document("c"), document("d"))

    assert [State.CREATED, State.FAILED, State.UNCHANGED, State.NOT_TRIED] == states(results)
    assert "after b failed, nothing else was sent" == results[3].reason


@pytest.mark.parametrize("path", ["/api/dashboards/uid/a", "/api/dashboards/uid/a/versions"])
def test_one_dashboard_that_may_not_be_read_does_not_hold_up_the_others(
    server: Running, path: str
) -> None:
    pushed(server, document("a"))
    server.state.only, server.state.moods = f"GET {path}", ["status 403"]

    results = pushed(server, document("a", title="new"), document("b"))

    assert [State.FAILED, State.CREATED] == states(results)
    assert "status 403" in results[0].reason
    assert "a" == server.state.dashboards["a"].content["title"]


def test_a_server_that_fails_for_good_is_told_after_some_tries(server: Running) -> None:
    server.state.only, server.state.moods = "POST /api/dashboards", ["status 503"] * 4

    results = pushed(server, document("a"), document("b"))

    assert [State.FAILED, State.NOT_TRIED] == states(results)
    assert "status 503 busy with Bearer [token] (4 attempts)" in results[0].reason


def test_nothing_is_written_before_everything_is_read(server: Running) -> None:
    server.state.only, server.state.moods = "GET /api/dashboards/uid/b", ["drop"] * 4

    with pytest.raises(UnreachableError, match="cannot read dashboard b"):
        pushed(server, document("a"), document("b"))

    assert [] == server.state.writes()
