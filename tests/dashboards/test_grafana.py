"""The calls of Grafana's API, where what answers is not quite a Grafana."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dashboards.errors import ChangedError, NotGrafanaError, RefusedError
from dashboards.grafana import Folder, Grafana
from dashboards.transport import Transport
from tests.dashboards.grafana_server import TOKEN, Running, Stored, grafana

CONTENT = {"uid": "a", "title": "a", "panels": []}


@pytest.fixture
def server() -> Iterator[Running]:
    with grafana() as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[Grafana]:
    with Transport(server.url, TOKEN, waits_s=()) as transport:
        yield Grafana(transport)


def save(client: Grafana, *, version: int = 0, is_overwriting: bool = False) -> None:
    client.save(
        CONTENT, version=version, folder_uid="", is_overwriting=is_overwriting, message="by a test"
    )


@pytest.mark.parametrize("mood", ["array", "object", "html", "login"])
def test_whatever_else_answers_is_no_grafana(server: Running, client: Grafana, mood: str) -> None:
    server.state.moods = [mood] * 4

    with pytest.raises(NotGrafanaError, match=r"--grafana.url"):
        client.check()
    with pytest.raises(NotGrafanaError, match=r"--grafana.url"):
        client.folder("x")
    with pytest.raises(NotGrafanaError, match=r"--grafana.url"):
        client.dashboard("a")
    with pytest.raises(NotGrafanaError, match=r"--grafana.url"):
        save(client)


def test_a_grafana_is_recognised_without_the_token(server: Running, client: Grafana) -> None:
    client.check()

    assert ["GET /api/health"] == server.state.requests


def test_a_name_that_grafana_gives_is_shown_as_all_its_texts_are(
    server: Running, client: Grafana
) -> None:
    """One line, nothing that a terminal obeys, and not the token."""
    server.state.dashboards["a"] = Stored(
        content=dict(CONTENT), folder_uid="", messages=[""], changed_by=f"al\x1b[31m\nice {TOKEN}"
    )

    found = client.dashboard("a")

    assert found is not None
    assert "al [31m ice [token]" == found.changed_by


def test_a_dashboard_comes_with_who_saved_it_where(server: Running, client: Grafana) -> None:
    server.state.dashboards["a"] = Stored(
        content=CONTENT, folder_uid="f", version=2, messages=["first", "second"], changed_by="bob"
    )

    there = client.dashboard("a")

    assert there is not None
    assert ("second", 2, "bob", "f") == (
        there.message,
        there.version,
        there.changed_by,
        there.folder_uid,
    )


def test_the_message_is_that_of_the_version_that_was_read(server: Running, client: Grafana) -> None:
    """Another version is saved between the two requests."""
    server.state.dashboards["a"] = Stored(
        content=CONTENT, folder_uid="", version=1, messages=["first", "second"]
    )

    there = client.dashboard("a")

    assert there is not None
    assert "first" == there.message


def test_a_long_history_is_not_read_whole(server: Running, client: Grafana) -> None:
    save(client)

    client.dashboard("a")

    assert "GET /api/dashboards/uid/a/versions?limit=10" == server.state.requests[-1]


@pytest.mark.parametrize("mood", ["array", "object", "status 404"])
def test_a_history_that_grafana_does_not_tell_is_nobodys(
    server: Running, client: Grafana, mood: str
) -> None:
    save(client)
    server.state.only, server.state.moods = "GET /api/dashboards/uid/a/versions", [mood]

    there = client.dashboard("a")

    assert there is not None
    assert "" == there.message


def test_another_version_is_told_apart_from_a_refusal(server: Running, client: Grafana) -> None:
    save(client)

    with pytest.raises(ChangedError, match=r"changed by someone else; .* --overwrite"):
        save(client)
    save(client, is_overwriting=True)
    save(client, version=2)

    assert 3 == server.state.dashboards["a"].version


@pytest.mark.parametrize(
    ("status", "helps"),
    [("name-exists", "rename it"), ("plugin-dashboard", "--overwrite"), ("", "--overwrite")],
)
def test_other_preconditions_are_refusals(
    server: Running, client: Grafana, status: str, helps: str
) -> None:
    server.state.refusal = (412, {"status": status, "message": "no"})

    with pytest.raises(RefusedError, match=f"cannot save dashboard a at .*: no; .*{helps}"):
        save(client)


def test_a_folder_that_cannot_be_made_is_told(server: Running, client: Grafana) -> None:
    server.state.only, server.state.moods = "POST /api/folders", ["status 400"]

    with pytest.raises(RefusedError, match=r"cannot create folder f at .* another title"):
        client.create_folder(Folder("f", "F"))
