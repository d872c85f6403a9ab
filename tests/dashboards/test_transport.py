"""How one server is asked: what is tried again, what is told, and what never is."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
import trustme

from dashboards import transport
from dashboards.errors import (
    AccessError,
    DashboardsError,
    ForbiddenError,
    NotGrafanaError,
    SettingsError,
    UnreachableError,
)
from dashboards.transport import Answer, Transport
from tests.dashboards.grafana_server import TOKEN, Running, grafana
from tests.ports import free_port

URL = "https://grafana.example.org"


def ask(url: str = URL, *, n_tries: int = 4, **options: Any) -> Answer:
    with Transport(url, TOKEN, waits_s=(0.0,) * (n_tries - 1), **options) as client:
        return client.ask("GET", "/api/health", doing="ask")


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def server() -> Iterator[Running]:
    with grafana() as running:
        yield running


# Statuses


@pytest.mark.parametrize("status", [200, 400, 404, 409, 412, 422])
def test_statuses_that_tell_about_the_request_are_answers(
    web: responses.RequestsMock, status: int
) -> None:
    web.get(f"{URL}/api/health", json={"message": "so it is"}, status=status)

    assert Answer(status, {"message": "so it is"}) == ask()


def test_401_is_about_the_token(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/api/health", json={"message": "Invalid API key"}, status=401)

    with pytest.raises(AccessError) as caught:
        ask()

    assert (
        f"cannot ask at {URL}: status 401 Invalid API key; the token is wrong or has expired: put "
        "a valid one into --grafana.token-file"
    ) == str(caught.value)


def test_403_is_about_the_role(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/api/health", body="<html>no</html>", status=403)

    with pytest.raises(ForbiddenError, match=r"status 403; give the token's .* role Editor"):
        ask()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(web: responses.RequestsMock, status: int) -> None:
    """A token must not travel to where somebody else points."""
    web.get(
        f"{URL}/api/health",
        status=status,
        headers={"Location": "https://sso.example.org/login?state=secret"},
    )

    with pytest.raises(NotGrafanaError) as caught:
        ask()

    assert f"status {status}, a redirect to https://sso.example.org/login; give" in str(
        caught.value
    )
    assert 1 == len(web.calls)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("<html>Welcome</html>", "text/html; charset=utf-8", 200),
        ("<html>not here</html>", "text/html", 404),
        ("", "text/plain", 200),
        ('"text"', "application/json", 200),
    ],
)
def test_other_things_than_json_are_no_grafana(
    web: responses.RequestsMock, body: str, kind: str, status: int
) -> None:
    web.get(f"{URL}/api/health", body=body, content_type=kind, status=status)

    with pytest.raises(NotGrafanaError, match=f"status {status} with {kind.partition(';')[0]}"):
        ask()


# Trying again


@pytest.mark.parametrize(
    "first",
    [
        *({"json": {}, "status": status} for status in (429, 500, 502, 503, 504)),
        {"body": requests.ConnectTimeout("no route")},
        {"body": requests.ReadTimeout("nothing came")},
        {"body": requests.ConnectionError("refused")},
    ],
)
def test_what_may_pass_is_tried_again(web: responses.RequestsMock, first: Any) -> None:
    web.get(f"{URL}/api/health", **first)
    web.get(f"{URL}/api/health", json={"database": "ok"})

    assert Answer(200, {"database": "ok"}) == ask()


def test_what_does_not_pass_is_told_with_its_reason(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/api/health", json={"message": "database is locked"}, status=500)

    with pytest.raises(UnreachableError, match=r"status 500 database is locked \(4 attempts\)"):
        ask()

    assert 4 == len(web.calls)


# Real sockets


@pytest.mark.parametrize(
    ("mood", "seen"),
    [
        ("drop", "Remote end closed connection without response"),
        ("hang", r"no answer within 0\.2 s"),
        ("garbage", "what?"),
        ("half", "IncompleteRead"),
    ],
)
def test_broken_answers_are_told_after_all_tries(server: Running, mood: str, seen: str) -> None:
    server.state.moods = [mood] * 2
    silence_s = 0.2 if mood == "hang" else 30.0

    with pytest.raises(UnreachableError, match=rf"{seen}.* \(2 attempts\)"):
        ask(server.url, n_tries=2, silence_s=silence_s)


def test_an_answer_that_is_too_large_is_given_up(
    web: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 1000)
    web.get(f"{URL}/api/health", body=b"[" + b"1," * 1000 + b"1]")

    with pytest.raises(UnreachableError, match="an answer of more than 1,000 bytes"):
        ask()


def test_nobody_listening_is_told_with_the_reason_alone() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(UnreachableError) as caught:
        ask(url)

    assert (
        f"cannot ask at {url}: Connection refused (4 attempts); see that Grafana runs there and "
        "--grafana.url is right, then run this again"
    ) == str(caught.value)


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def secure(authority: trustme.CA) -> Iterator[Running]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with grafana(context=context) as running:
        yield running


def test_a_server_of_our_own_authority_is_believed(
    authority: trustme.CA, secure: Running, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))

    assert 200 == ask(secure.url, ca_file=file).status


def test_a_server_of_an_unknown_authority_is_not_asked(secure: Running) -> None:
    asked = len(secure.state.requests)

    with pytest.raises(UnreachableError, match=r"TLS fails: .*certificate.*; .* --grafana.ca-file"):
        ask(secure.url)

    assert asked == len(secure.state.requests)


@pytest.mark.parametrize(
    "write", [lambda path: None, lambda path: path.write_text("no certificate")]
)
def test_a_ca_file_that_holds_no_certificate_is_told(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    write(tmp_path / "ca.pem")

    with pytest.raises(SettingsError, match=r"cannot use --grafana.ca-file .*ca\.pem: "):
        Transport(URL, TOKEN, ca_file=tmp_path / "ca.pem")


# The token


def test_the_token_is_sent_even_where_a_netrc_has_another(
    web: responses.RequestsMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine grafana.example.org login admin password admin\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    web.get(f"{URL}/api/health", json={})

    ask()

    assert f"Bearer {TOKEN}" == web.calls[0].request.headers["Authorization"]


@pytest.mark.parametrize("status", [401, 403, 500])
def test_no_message_repeats_the_token(web: responses.RequestsMock, status: int) -> None:
    web.get(f"{URL}/api/health", json={"message": f"no such key: {TOKEN}"}, status=status)

    with pytest.raises(DashboardsError) as caught:
        ask()

    error: BaseException | None = caught.value
    while error is not None:
        assert TOKEN not in str(error)
        error = error.__cause__
    assert "no such key: [token]" in str(caught.value)


# The address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("grafana.example.org", "--grafana.url must be a URL such as https://grafana"),
        ("https://h/?orgId=1", "must end before"),
    ],
)
def test_what_is_no_address_is_told(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Transport(url, TOKEN)


@pytest.mark.parametrize("url", ["https://admin:hunter2@h", "https://hunter2@h"])
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match=r"--grafana\.token-file") as caught:
        Transport(url, TOKEN)

    assert "hunter2" not in str(caught.value)


def test_a_sub_path_is_kept(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/grafana/api/health", json={})

    assert 200 == ask(f"{URL}/grafana/").status
