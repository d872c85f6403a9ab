"""How one server is asked: what is tried again, what is told, and what never is."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
import trustme

from dashboards.errors import (
    AccessError,
    DashboardsError,
    ForbiddenError,
    NotGrafanaError,
    SettingsError,
    UnreachableError,
)
from dashboards.transport import SHOWN_CHARACTERS, Answer, Bounds, Transport
from tests.dashboards.clock import FakeClock
from tests.dashboards.grafana_server import TOKEN, Running, grafana
from tests.ports import free_port
from tests.waiting import eventually

URL = "https://grafana.example.org"
PATIENT = Bounds(connect_s=30.0, silence_s=30.0, total_s=60.0)
HASTY = Bounds(connect_s=30.0, silence_s=0.2, total_s=60.0)
"""Where a server hangs."""


def ask(
    url: str = URL,
    *,
    path: str = "/api/health",
    clock: FakeClock | None = None,
    bounds: Bounds | None = None,
    **options: Any,
) -> Answer:
    clock = clock or FakeClock()
    transport = Transport(url, TOKEN, bounds=bounds, clock=clock, fraction=lambda: 1.0, **options)
    with transport:
        return transport.ask("GET", path, doing="ask")


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


@pytest.mark.parametrize("body", [{}, {"message": 7}, []])
def test_an_answer_without_a_reason_has_its_status_as_one(body: Any) -> None:
    assert "status 404" == Answer(404, body).message


def test_401_is_about_the_token(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/api/health", json={"message": "Invalid API key"}, status=401)

    with pytest.raises(AccessError) as caught:
        ask()

    assert (
        f"cannot ask at {URL}: status 401 Invalid API key; the token is wrong or has expired: put "
        "a valid one into --token-file"
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


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(web: responses.RequestsMock, status: int) -> None:
    web.get(f"{URL}/api/health", json={}, status=status)
    web.get(f"{URL}/api/health", json={"database": "ok"})
    clock = FakeClock()

    assert Answer(200, {"database": "ok"}) == ask(clock=clock)
    assert [0.5] == clock.slept


def test_waits_double_up_to_the_longest_and_end(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/api/health", json={"message": "database is locked"}, status=500)
    clock = FakeClock()

    with pytest.raises(UnreachableError, match=r"status 500 database is locked \(6 tries\); see"):
        ask(clock=clock, bounds=Bounds(tries=6, first_wait_s=1.0, longest_wait_s=5.0))

    assert [1.0, 2.0, 4.0, 5.0, 5.0] == clock.slept
    assert 6 == len(web.calls)


def test_a_wait_is_a_random_part_of_the_longest_one(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/api/health", json={}, status=500)
    web.get(f"{URL}/api/health", json={})
    clock = FakeClock()

    with Transport(URL, TOKEN, clock=clock, fraction=lambda: 0.25) as transport:
        transport.ask("GET", "/api/health", doing="ask")

    assert [0.125] == clock.slept


@pytest.mark.parametrize(("asked", "waited_s"), [("3", 3.0), ("3600", 8.0), ("soon", 0.5)])
def test_a_server_that_asks_for_a_wait_gets_it_within_reason(
    web: responses.RequestsMock, asked: str, waited_s: float
) -> None:
    web.get(f"{URL}/api/health", json={}, status=503, headers={"Retry-After": asked})
    web.get(f"{URL}/api/health", json={})
    clock = FakeClock()

    ask(clock=clock)

    assert [waited_s] == clock.slept


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectTimeout("no route"),
        requests.ReadTimeout("nothing came"),
        requests.ConnectionError("refused"),
    ],
)
def test_failures_of_the_network_are_tried_again(
    web: responses.RequestsMock, error: Exception
) -> None:
    web.get(f"{URL}/api/health", body=error)
    web.get(f"{URL}/api/health", json={})

    assert 200 == ask().status
    assert 2 == len(web.calls)


def test_a_connection_that_does_not_come_about_is_told_with_its_limit(
    web: responses.RequestsMock,
) -> None:
    web.get(f"{URL}/api/health", body=requests.ConnectTimeout("no route"))

    with pytest.raises(UnreachableError, match=r"no connection within 2 s \(1 try\)"):
        ask(bounds=Bounds(connect_s=2.0, tries=1))


def test_other_failures_of_the_client_are_told_at_once(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/api/health", body=requests.exceptions.InvalidProxyURL("bad proxy"))

    with pytest.raises(UnreachableError, match="bad proxy"):
        ask()

    assert 1 == len(web.calls)


# Real sockets


@pytest.mark.parametrize(
    ("mood", "seen"),
    [
        ("drop", "Remote end closed connection without response"),
        ("hang", r"nothing came for 0\.2 s"),
        ("garbage", "what?"),
        ("half", "IncompleteRead"),
    ],
)
async def test_bad_manners_are_told_after_all_tries(server: Running, mood: str, seen: str) -> None:
    server.state.moods = [mood] * 2
    bounds = HASTY if mood == "hang" else PATIENT

    with pytest.raises(UnreachableError, match=rf"{seen}.* \(2 tries\)"):
        ask(server.url, bounds=replace(bounds, tries=2))

    # What hangs may be given up before the server has come to write it down.
    await eventually(lambda: 2 == len(server.state.requests))


@pytest.mark.parametrize("mood", ["drop", "hang", "garbage", "half"])
def test_bad_manners_that_pass_do_no_harm(server: Running, mood: str) -> None:
    server.state.moods = [mood]
    # Of so many tries one is answered soon enough, however busy the machine is.
    bounds = replace(HASTY, tries=100) if mood == "hang" else PATIENT

    assert 200 == ask(server.url, bounds=bounds).status


def test_an_answer_that_never_ends_is_given_up(server: Running) -> None:
    """Each byte comes in time, the whole never."""
    server.state.moods = ["drip"]

    with pytest.raises(UnreachableError, match=r"no whole answer within 0\.2 s"):
        Transport(server.url, TOKEN, bounds=Bounds(total_s=0.2, tries=1)).ask(
            "GET", "/api/health", doing="ask"
        )


def test_an_answer_that_is_too_large_is_given_up(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/api/health", body=b"[" + b"1," * 1000 + b"1]")

    with pytest.raises(UnreachableError, match="an answer of more than 1,000 bytes"):
        ask(bounds=Bounds(body_bytes=1000, tries=1))


def test_nobody_listening_is_told_with_the_reason_alone() -> None:
    url = f"http://127.0.0.1:{free_port()}"

    with pytest.raises(UnreachableError) as caught:
        ask(url)

    assert (
        f"cannot ask at {url}: Connection refused (4 tries); see that Grafana runs there and "
        "--url is right, then run this again"
    ) == str(caught.value)


def test_a_name_that_does_not_exist_is_told() -> None:
    with pytest.raises(UnreachableError, match=r"at http://grafana\.invalid: .*(known|resol)"):
        ask("http://grafana.invalid", bounds=Bounds(tries=1))


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
    clock = FakeClock()

    with pytest.raises(UnreachableError, match=r"TLS fails: .*certificate.*; .* --ca-file"):
        ask(secure.url, clock=clock)

    assert asked == len(secure.state.requests)
    assert [] == clock.slept


@pytest.mark.parametrize(
    "write", [lambda path: None, lambda path: path.write_text("no certificate")]
)
def test_a_ca_file_that_holds_no_certificate_is_told(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    write(tmp_path / "ca.pem")

    with pytest.raises(SettingsError, match=r"cannot use --ca-file .*ca\.pem: "):
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


def test_what_a_server_says_is_shown_in_one_short_line(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/api/health", json={"message": "a\nb\x1b[31m" + "c" * 1000}, status=401)

    with pytest.raises(AccessError) as caught:
        ask()

    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < SHOWN_CHARACTERS + 200


# The address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("grafana.example.org", "--url must be a URL such as https://grafana"),
        ("https://h/?orgId=1", "must end before"),
    ],
)
def test_what_is_no_address_is_told(url: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Transport(url, TOKEN)


@pytest.mark.parametrize("url", ["https://admin:hunter2@h", "https://hunter2@h"])
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match="--token-file") as caught:
        Transport(url, TOKEN)

    assert "hunter2" not in str(caught.value)


def test_a_sub_path_is_kept(web: responses.RequestsMock) -> None:
    web.get(f"{URL}/grafana/api/health", json={})

    assert 200 == ask(f"{URL}/grafana/").status
