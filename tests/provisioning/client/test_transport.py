"""Requests find whoever can answer them, and the token goes nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import NewConnectionError, ReadTimeoutError

from provisioning.api.routes import AGE_HEADER, NOT_LEADING
from provisioning.client.addresses import checked_url, is_trusted
from provisioning.client.errors import (
    ClientError,
    RefusedError,
    UnreachableError,
    UntrustedLeaderError,
)
from provisioning.client.sending import Bounds
from provisioning.client.transport import Transport

ONE = "http://one.example:8080"
TWO = "http://two.example:8080"
TOKEN = "t" * 32
LIVES = re.compile(r".*/-/healthy")


class Waits:
    """Takes the place of sleeping, and hears what is said of it."""

    def __init__(self) -> None:
        self.waited_s: list[float] = []
        self.told: list[str] = []

    def __call__(self, duration_s: float) -> None:
        self.waited_s.append(duration_s)


@pytest.fixture
def web() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mocked:
        mocked.get(LIVES, body="ok\n")
        yield mocked


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def transport(waits: Waits) -> Iterator[Transport]:
    with Transport([ONE, TWO], lambda: TOKEN, sleep=waits, tell=waits.told.append) as made:
        yield made


READ_TIMEOUT = ReadTimeoutError(HTTPConnectionPool("one.example"), "/x", "silent")


def problem(status: int, detail: str = "no", **others: Any) -> dict[str, Any]:
    document = {"type": "about:blank", "title": "No", "status": status, "detail": detail, **others}
    return {
        "status": status,
        "body": json.dumps(document),
        "content_type": "application/problem+json",
    }


def not_leading(detail: str = "not I", **others: Any) -> dict[str, Any]:
    return problem(503, detail, type=NOT_LEADING, **others)


def calls(web: responses.RequestsMock) -> list[responses.Call]:
    """Return the requests, without those that only ask whether somebody is there."""
    return [call for call in web.calls if not LIVES.fullmatch(str(call.request.url))]


def asked(web: responses.RequestsMock) -> list[tuple[str, str | None]]:
    """Return each request's host with its Authorization."""
    return [
        (
            str(call.request.url).split("/")[2].split(":")[0],
            call.request.headers.get("Authorization"),
        )
        for call in calls(web)
    ]


def refused() -> requests.ConnectionError:
    class CauseError(Exception):
        reason = NewConnectionError(None, "refused")  # type: ignore[arg-type]

    return requests.ConnectionError(CauseError())


# Reads


def test_a_read_asks_the_first_that_answers_and_sends_no_token(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.get(f"{ONE}/instances", body=refused())
    web.get(f"{TWO}/instances", json=[])

    answer = transport.read("/instances", doing="list instances")

    assert (TWO, b"[]") == (answer.url, answer.body)
    assert [("one.example", None), ("two.example", None)] == asked(web)


def test_a_read_with_a_body_is_sent_as_json(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.post(f"{ONE}/plan", json={})

    transport.read("/plan", doing="plan", body=b"[1]")

    request = calls(web)[0].request
    assert (b"[1]", "application/json") == (request.body, request.headers["Content-Type"])
    assert [("one.example", None)] == asked(web)


def test_only_what_is_private_is_asked_for_with_the_token(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.get(f"{ONE}/spec", json={})

    transport.read("/spec", doing="look", is_private=True)

    assert [("one.example", f"Bearer {TOKEN}")] == asked(web)


def test_a_read_is_tried_again_with_growing_waits(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    web.get(f"{ONE}/x", status=503)
    web.get(f"{TWO}/x", body=requests.ReadTimeout())

    with pytest.raises(UnreachableError) as caught:
        transport.read("/x", doing="look")

    assert 6 == len(calls(web))
    assert 2 == len(waits.waited_s)
    assert 0.25 <= waits.waited_s[0] <= 0.5 <= waits.waited_s[1] <= 1.0
    assert (
        f"cannot look: {ONE}: status 503, and nothing that a provisioner would say; "
        f"{TWO}: no answer within 30 s; see that a provisioner runs there, and that "
        "--provisioner.url is right"
    ) == str(caught.value)
    assert [] == waits.told


@pytest.mark.parametrize("passing", [502, 504])
def test_a_read_is_tried_again_when_a_gateway_says_that_it_may_pass(
    web: responses.RequestsMock, transport: Transport, passing: int
) -> None:
    for url in (ONE, TWO):
        web.get(f"{url}/x", status=passing)
    web.get(f"{ONE}/x", json={})

    assert transport.read("/x", doing="look").is_good


def test_a_read_waits_for_a_provisioner_that_can_answer(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    """It has just started, and reads its store; the other one does not answer at all."""
    for _ in range(4):
        web.get(f"{ONE}/x", **problem(503), headers={"Retry-After": "3"})
    web.get(f"{ONE}/x", json={})
    web.get(f"{TWO}/x", body=refused())

    assert transport.read("/x", doing="look").is_good

    assert [3, 3, 3, 3] == waits.waited_s
    assert ["waits for a provisioner that can answer"] == waits.told


def test_a_read_does_not_wait_for_ever(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    web.get(f"{ONE}/x", **problem(503, "nothing is known yet"))
    web.get(f"{TWO}/x", body=refused())

    with pytest.raises(UnreachableError) as caught:
        transport.read("/x", doing="look")

    assert 20 == sum(waits.waited_s)
    assert (f"cannot look: {ONE}: nothing is known yet; {TWO}: no connection; waited 20 s") == str(
        caught.value
    )


def test_a_read_that_is_refused_is_not_tried_again(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.get(f"{ONE}/x", **problem(404, "there is no x"))

    with pytest.raises(RefusedError, match=f"cannot look at {ONE}: there is no x") as caught:
        transport.read("/x", doing="look")

    assert (404, 1) == (caught.value.status, len(calls(web)))


def test_a_read_without_an_answer_has_done_nothing(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.get(f"{ONE}/x", status=500)

    with pytest.raises(UnreachableError, match="would say; see that a provisioner runs there"):
        transport.read("/x", doing="look")


def test_a_redirect_is_not_followed(web: responses.RequestsMock, transport: Transport) -> None:
    web.get(f"{ONE}/x", status=302, headers={"Location": f"{TWO}/x"})

    with pytest.raises(UnreachableError, match="status 302, and nothing that a provisioner would"):
        transport.read("/x", doing="look")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (requests.exceptions.SSLError(), "its TLS certificate is not trusted"),
        (requests.ConnectTimeout(), "no connection within 3 s"),
        (requests.ConnectionError("x"), "no connection"),
        (requests.exceptions.ChunkedEncodingError("cut off"), "cut off"),
    ],
)
def test_what_went_wrong_is_said_in_words(
    web: responses.RequestsMock, error: Exception, words: str
) -> None:
    web.get(f"{ONE}/x", body=error)

    with Transport([ONE], lambda: TOKEN, sleep=Waits()) as transport:
        with pytest.raises(UnreachableError, match=f"cannot look: {ONE}: {words}; see that"):
            transport.read("/x", doing="look")


def test_an_answer_that_is_too_large_or_too_slow_is_given_up(web: responses.RequestsMock) -> None:
    web.get(f"{ONE}/x", body=b"x" * 101)
    ticks = iter(range(0, 1000, 50))

    small = Bounds(body_bytes=100, rounds=1)
    with Transport([ONE], lambda: TOKEN, bounds=small) as transport:
        with pytest.raises(UnreachableError, match="an answer of more than 100 bytes"):
            transport.read("/x", doing="look")
    short = Bounds(total_s=40.0, rounds=1)
    with Transport(
        [ONE], lambda: TOKEN, bounds=short, monotonic_s=lambda: next(ticks)
    ) as transport:
        with pytest.raises(UnreachableError, match="no whole answer within 40 s"):
            transport.read("/x", doing="look")


def test_a_read_that_the_leader_alone_can_answer_goes_on_to_it(
    web: responses.RequestsMock,
) -> None:
    web.get(f"{ONE}/x", **not_leading(leader="http://127.0.0.1:9999/"))
    web.get("http://127.0.0.1:9999/x", json=[])

    with Transport([ONE], lambda: TOKEN) as transport:
        assert b"[]" == transport.read("/x", doing="look").body


def test_a_read_is_not_sent_on_to_a_stranger_or_for_ever(web: responses.RequestsMock) -> None:
    for n in range(9):
        web.get(f"http://127.0.0.{n + 1}/x", **not_leading(leader=f"http://127.0.0.{n + 2}"))
    web.get(f"{TWO}/x", **not_leading(leader="http://evil.example"))
    bounds = Bounds(patience_s=0.0)

    with Transport(["http://127.0.0.1"], lambda: TOKEN, bounds=bounds) as transport:
        with pytest.raises(UnreachableError):
            transport.read("/x", doing="look", is_private=True)
    assert 4 == len(calls(web))

    with Transport([TWO], lambda: TOKEN) as transport:
        with pytest.raises(UntrustedLeaderError):
            transport.read("/x", doing="look", is_private=True)
    assert "two.example" == asked(web)[-1][0]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_leader_elsewhere_is_asked_what_needs_no_token(
    web: responses.RequestsMock, scheme: str
) -> None:
    """It calls itself otherwise than we do."""
    web.get(f"{scheme}://one.example/x", **not_leading(leader=f"{scheme}://10.0.0.2:8080"))
    web.get(f"{scheme}://10.0.0.2:8080/x", json=[])

    with Transport([f"{scheme}://one.example"], lambda: TOKEN) as transport:
        assert b"[]" == transport.read("/x", doing="look").body

    assert [("one.example", None), ("10.0.0.2", None)] == asked(web)


def test_who_is_configured_is_asked_before_a_leader_elsewhere(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.get(f"{ONE}/x", **not_leading(leader="http://10.0.0.2:8080"))
    web.get(f"{TWO}/x", json=[])

    for is_private in (False, True):
        answer = transport.read("/x", doing="look", is_private=is_private)
        assert TWO == answer.url


@pytest.mark.parametrize(
    ("url", "leader"),
    [
        ("https://one.example", "http://10.0.0.2"),
        (ONE, "http://ann:pw@10.0.0.2"),
        (ONE, "ftp://10.0.0.2"),
        (ONE, "x"),
    ],
)
def test_a_leader_that_is_worth_less_trust_is_not_asked_and_no_token_is_spoken_of(
    web: responses.RequestsMock, url: str, leader: str
) -> None:
    web.get(f"{url}/x", **not_leading(leader=leader))

    with Transport([url], lambda: TOKEN) as transport:
        with pytest.raises(UntrustedLeaderError) as caught:
            transport.read("/x", doing="look")

    assert (
        f"cannot look: {url} says that {leader!r} leads, where nothing is sent unasked; "
        "give it as another --provisioner.url if it is one of yours"
    ) == str(caught.value)
    assert 1 == len(calls(web))


def test_a_specification_is_not_sent_to_a_leader_elsewhere(web: responses.RequestsMock) -> None:
    """It may hold secrets, as values of environment variables."""
    web.post(f"{ONE}/plan", **not_leading(leader="http://10.0.0.2:8080"))

    with Transport([ONE], lambda: TOKEN) as transport:
        with pytest.raises(UntrustedLeaderError, match="where nothing is sent unasked"):
            transport.read("/plan", doing="plan", body=b"{}")

    assert 1 == len(calls(web))


# Writes


def test_a_write_goes_on_to_the_leader_that_is_configured(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.post(f"{ONE}/x", **not_leading(leader=f"{TWO}/"))
    web.post(f"{TWO}/x", json={})

    transport.write("POST", "/x", doing="change", body=b"{}")

    assert [("one.example", f"Bearer {TOKEN}"), ("two.example", f"Bearer {TOKEN}")] == asked(web)
    keys = {call.request.headers["Idempotency-Key"] for call in calls(web)}
    assert 1 == len(keys)


def test_a_leader_on_this_machine_is_followed(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.post(f"{ONE}/x", **not_leading(leader="http://127.0.0.1:9999"))
    web.post("http://127.0.0.1:9999/x", json={})

    assert transport.write("POST", "/x", doing="change").is_good


@pytest.mark.parametrize(
    "leader",
    ["http://evil.example", "http://one.example@evil.example", "ftp://one.example", "//evil", "x"],
)
def test_the_token_never_goes_to_a_stranger(
    web: responses.RequestsMock, transport: Transport, leader: str
) -> None:
    web.post(f"{ONE}/x", **not_leading(leader=leader))

    with pytest.raises(UntrustedLeaderError, match="which the token is not for; give it as anot"):
        transport.write("POST", "/x", doing="change")

    assert [("one.example", f"Bearer {TOKEN}")] == asked(web)


def test_provisioners_that_name_each_other_are_not_asked_for_ever(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    """Once each, until the next look; in the end both are told."""
    web.post(f"{ONE}/x", **not_leading("not I", leader=TWO), headers={"Retry-After": "15"})
    web.post(f"{TWO}/x", **not_leading("nor I", leader=ONE), headers={"Retry-After": "15"})

    with pytest.raises(UnreachableError) as caught:
        transport.write("POST", "/x", doing="change")

    assert [15, 5] == waits.waited_s
    assert 3 * 2 == len(calls(web))
    assert (
        f"cannot change: {ONE}: not I; {TWO}: nor I; waited 20 s for one to lead; see the "
        "provisioners' logs"
    ) == str(caught.value)


def test_a_chain_of_leaders_ends(web: responses.RequestsMock) -> None:
    for n in range(9):
        leader = f"http://127.0.0.{n + 2}"
        web.post(f"http://127.0.0.{n + 1}/x", **not_leading(leader=leader))

    bounds = Bounds(patience_s=0.0)
    with Transport(["http://127.0.0.1"], lambda: TOKEN, bounds=bounds) as transport:
        with pytest.raises(UnreachableError):
            transport.write("POST", "/x", doing="change")

    assert 4 == len(calls(web))


def test_a_write_that_never_arrived_is_sent_to_the_next(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.post(f"{ONE}/x", body=refused())
    web.post(f"{TWO}/x", json={})

    assert TWO == transport.write("POST", "/x", doing="change").url


def test_a_write_that_arrives_nowhere_is_not_waited_for(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    for url in (ONE, TWO):
        web.post(f"{url}/x", body=refused())

    with pytest.raises(UnreachableError) as caught:
        transport.write("POST", "/x", doing="change")

    assert (
        f"cannot change: {ONE}: no connection; {TWO}: no connection; see that a provisioner runs "
        "there, and that --provisioner.url is right"
    ) == str(caught.value)
    assert ([], 2) == (waits.waited_s, len(calls(web)))


@pytest.mark.parametrize("error", [requests.ReadTimeout(), requests.ConnectionError("reset")])
def test_a_write_that_may_have_been_done_is_not_sent_again(
    web: responses.RequestsMock, transport: Transport, error: Exception
) -> None:
    web.post(f"{ONE}/x", body=error)

    with pytest.raises(UnreachableError, match="so it may have been done: look before you try"):
        transport.write("POST", "/x", doing="change")

    assert 1 == len(calls(web))


@pytest.mark.parametrize(
    ("status", "is_maybe_done"), [(404, False), (500, True), (502, True), (503, True), (504, True)]
)
def test_a_write_that_a_proxy_has_no_answer_to_may_have_been_done(
    web: responses.RequestsMock, transport: Transport, status: int, is_maybe_done: bool
) -> None:
    web.post(f"{ONE}/x", status=status)

    with pytest.raises(UnreachableError) as caught:
        transport.write("POST", "/x", doing="change")

    words = ", so it may have been done: look before you try again" if is_maybe_done else ""
    said = f"status {status}, and nothing that a provisioner would say{words}; see that"
    assert said in str(caught.value)
    assert 1 == len(calls(web))


def test_a_refused_token_is_told_with_the_option_that_helps(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.post(f"{ONE}/x", **problem(401, "writing needs a token"))

    with pytest.raises(RefusedError) as caught:
        transport.write("POST", "/x", doing="change")

    assert "give with --provisioner.token-file the file that the provisioner" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_all_problems_of_a_refusal_are_at_hand(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.put(f"{ONE}/spec", **problem(422, "2 problems", problems=["a", "b"]))

    with pytest.raises(RefusedError) as caught:
        transport.write("PUT", "/spec", doing="apply", if_match='"3"')

    assert (("a", "b"), '"3"') == (caught.value.problems, calls(web)[0].request.headers["If-Match"])


def test_what_a_stranger_says_cannot_move_the_cursor(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.post(f"{ONE}/x", **problem(409, "\x1b[2Jgone"))

    with pytest.raises(RefusedError, match=r" \[2Jgone"):
        transport.write("POST", "/x", doing="change")


def test_a_password_for_the_host_in_netrc_is_not_sent_instead(
    web: responses.RequestsMock,
    transport: Transport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine one.example login ann password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    web.get(f"{ONE}/x", json={})
    web.post(f"{ONE}/x", json={})

    transport.read("/x", doing="look")
    transport.write("POST", "/x", doing="change")

    assert [("one.example", None), ("one.example", f"Bearer {TOKEN}")] == asked(web)


# Waiting for a leader


def test_a_write_waits_until_one_leads_and_says_so_once(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    """Nobody leads, then the second of them does; it is one and the same request."""
    retry = {"Retry-After": "2"}
    for _ in range(3):
        web.post(f"{ONE}/x", **not_leading(), headers=retry)
        web.post(f"{TWO}/x", **not_leading(), headers=retry)
    web.post(f"{TWO}/x", json={})

    assert TWO == transport.write("POST", "/x", doing="change").url

    assert [2, 2, 2] == waits.waited_s
    assert ["waits for a provisioner to lead"] == waits.told
    assert 1 == len({call.request.headers["Idempotency-Key"] for call in calls(web)})


def test_a_provisioner_that_cannot_say_who_leads_does_not_hide_the_leader(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    web.post(f"{ONE}/x", **not_leading())
    web.post(f"{TWO}/x", json={})

    assert TWO == transport.write("POST", "/x", doing="change").url
    assert [] == waits.waited_s


def test_a_write_waits_for_the_successor_of_a_leader_that_is_gone(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    """The lease of the first still lasts, so the standby names it; then the standby leads."""
    web.post(f"{ONE}/x", body=refused())
    web.post(f"{TWO}/x", **not_leading(leader=ONE))
    web.post(f"{TWO}/x", json={})

    assert TWO == transport.write("POST", "/x", doing="change").url
    assert [1] == waits.waited_s


def test_a_leader_that_does_not_answer_is_told_by_its_own_address(
    web: responses.RequestsMock,
) -> None:
    web.post(f"{TWO}/x", **not_leading("ask the leader", leader=ONE))
    web.post(f"{ONE}/x", body=refused())

    with Transport([TWO], lambda: TOKEN, bounds=Bounds(patience_s=0.0)) as transport:
        with pytest.raises(UntrustedLeaderError):
            transport.write("POST", "/x", doing="change")
    with Transport([TWO, ONE], lambda: TOKEN, bounds=Bounds(patience_s=0.0)) as transport:
        with pytest.raises(UnreachableError, match=f"{TWO}: ask the leader; {ONE}: no connection;"):
            transport.write("POST", "/x", doing="change")


def test_a_restarted_provisioner_that_still_names_itself_is_waited_for(
    web: responses.RequestsMock, transport: Transport
) -> None:
    """The lease of its former self lasts for some seconds more."""
    web.post(f"{ONE}/x", **not_leading(leader=ONE))
    web.post(f"{TWO}/x", body=refused())
    web.post(f"{ONE}/x", json={})

    assert ONE == transport.write("POST", "/x", doing="change").url


def test_a_write_that_may_have_been_done_while_it_waited_is_not_sent_again(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    web.post(f"{ONE}/x", **not_leading())
    web.post(f"{TWO}/x", body=refused())
    web.post(f"{ONE}/x", body=requests.ReadTimeout())

    with pytest.raises(UnreachableError, match="so it may have been done"):
        transport.write("POST", "/x", doing="change")

    assert ([1], 3) == (waits.waited_s, len(calls(web)))


@pytest.mark.parametrize(
    "answer",
    [problem(503, "the store may have it or not"), {"status": 503}, problem(409, type=NOT_LEADING)],
    ids=["store", "gateway", "conflict"],
)
def test_a_write_that_a_leader_could_not_finish_is_not_sent_again(
    web: responses.RequestsMock, transport: Transport, waits: Waits, answer: dict[str, Any]
) -> None:
    web.post(f"{ONE}/x", **answer)

    with pytest.raises(ClientError):
        transport.write("POST", "/x", doing="change")

    assert ([], 1) == (waits.waited_s, len(calls(web)))


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [("7", 7), ("0", 1), ("-5", 1), ("", 1), ("Wed, 21 Oct 2026 07:28:00 GMT", 1), ("9" * 30, 20)],
)
def test_a_provisioner_says_when_to_ask_again(
    web: responses.RequestsMock, waits: Waits, retry_after: str, expected: float
) -> None:
    web.post(f"{ONE}/x", **not_leading(), headers={"Retry-After": retry_after})
    web.post(f"{ONE}/x", json={})

    with Transport([ONE], lambda: TOKEN, sleep=waits) as transport:
        transport.write("POST", "/x", doing="change")

    assert [expected] == waits.waited_s


@pytest.mark.parametrize("kind", ["about:blank", "urn:ollama-fleet:other"])
def test_a_standby_is_known_by_the_type_of_its_problem_alone(
    web: responses.RequestsMock, transport: Transport, kind: str
) -> None:
    """Whatever else says so in words, or names a leader, may have done it."""
    web.post(f"{ONE}/x", **problem(503, "nobody leads now", type=kind, leader=TWO))

    with pytest.raises(RefusedError, match="nobody leads now"):
        transport.write("POST", "/x", doing="change")

    assert 1 == len(calls(web))


# One that hangs


def silent(*_: object) -> requests.ReadTimeout:
    return requests.ReadTimeout()


def limits(web: responses.RequestsMock) -> list[tuple[str, float]]:
    """Return who was asked, and how long an answer was waited for."""
    return [
        (str(call.request.url).split("/")[2].split(".")[0], call.request.req_kwargs["timeout"][1])  # type: ignore[attr-defined]
        for call in web.calls
    ]


def test_one_that_hangs_is_waited_for_briefly_and_comes_last_from_then_on(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.get(f"{ONE}/x", body=silent())
    web.get(f"{TWO}/x", json={})

    for _ in range(2):
        assert TWO == transport.read("/x", doing="look").url

    assert [("one", 3.0), ("two", 30.0), ("two", 3.0)] == limits(web)


def test_one_that_is_slow_gets_its_time_where_nobody_else_answers(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.get(f"{ONE}/x", body=silent())
    web.get(f"{ONE}/x", json={})
    web.get(f"{TWO}/x", body=refused())

    assert ONE == transport.read("/x", doing="look").url

    assert [("one", 3.0), ("two", 30.0), ("two", 3.0), ("one", 30.0)] == limits(web)


def test_one_that_answers_again_is_asked_in_its_turn_again(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.get(f"{ONE}/x", body=silent())
    web.get(f"{ONE}/x", json={})
    web.get(f"{TWO}/x", json={})
    web.get(f"{TWO}/x", body=refused())

    answering = [transport.read("/x", doing="look").url for _ in range(3)]

    assert [TWO, ONE, ONE] == answering
    assert ["one", "two", "two", "one", "one"] == [name for name, _ in limits(web)]


def test_one_that_hangs_does_not_hold_up_the_wait_for_one_that_begins(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.get(f"{ONE}/x", **problem(503))
    web.get(f"{ONE}/x", json={})
    web.get(f"{TWO}/x", body=silent())

    assert ONE == transport.read("/x", doing="look").url

    assert [("one", 3.0), ("two", 3.0), ("one", 3.0)] == limits(web)


@pytest.mark.parametrize(
    "error", [silent(), requests.ConnectTimeout(), requests.ConnectionError(READ_TIMEOUT)]
)
def test_who_does_not_answer_at_all_is_told_so_and_comes_last(
    web: responses.RequestsMock, transport: Transport, error: Exception
) -> None:
    """Urllib3's own error is what a silence in the middle of an answer gives."""
    web.get(f"{ONE}/x", body=error)
    web.get(f"{TWO}/x", body=refused())

    with pytest.raises(UnreachableError, match=f"{TWO}: no connection; {ONE}: no .* within 3"):
        transport.read("/x", doing="look")


def test_a_write_is_not_sent_to_one_that_hangs(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.remove("GET", LIVES)
    web.get(f"{ONE}/-/healthy", body=silent())
    web.post(f"{TWO}/x", json={})

    assert TWO == transport.write("POST", "/x", doing="change").url

    assert [("one", 3.0), ("two", 30.0)] == limits(web)


def test_a_leader_that_hangs_is_waited_for_until_another_leads(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    """The second names it for as long as its lease lasts, and then leads itself."""
    web.remove("GET", LIVES)
    web.get(f"{ONE}/-/healthy", body=silent())
    web.get(f"{TWO}/-/healthy", body="ok")
    web.post(f"{TWO}/x", **not_leading(leader=ONE))
    web.post(f"{TWO}/x", json={})

    assert TWO == transport.write("POST", "/x", doing="change").url

    assert [1] == waits.waited_s
    assert [("two.example", f"Bearer {TOKEN}")] * 2 == asked(web)


def test_a_leader_that_hangs_for_good_is_told_and_nothing_was_done(
    web: responses.RequestsMock, waits: Waits
) -> None:
    web.remove("GET", LIVES)
    web.get(f"{ONE}/-/healthy", body=silent())
    web.get(f"{TWO}/-/healthy", body="ok")
    web.post(f"{TWO}/x", **not_leading("ask the leader", leader=ONE))

    with Transport([TWO, ONE], lambda: TOKEN, sleep=waits) as transport:
        with pytest.raises(UnreachableError) as caught:
            transport.write("POST", "/x", doing="change")

    assert f"{TWO}: ask the leader; {ONE}: no answer within 3 s; waited 20 s" in str(caught.value)
    assert {"two.example"} == {host for host, _ in asked(web)}


def test_the_last_is_not_sent_a_write_if_it_hangs_and_another_waits_for_a_leader(
    web: responses.RequestsMock, transport: Transport, waits: Waits
) -> None:
    web.remove("GET", LIVES)
    web.get(f"{ONE}/-/healthy", body="ok")
    web.get(f"{TWO}/-/healthy", body=silent())
    web.post(f"{ONE}/x", **not_leading())
    web.post(f"{ONE}/x", json={})

    assert ONE == transport.write("POST", "/x", doing="change").url
    assert [1] == waits.waited_s


def test_a_leader_that_nobody_configured_is_not_sent_a_write_if_it_hangs(
    web: responses.RequestsMock, waits: Waits
) -> None:
    leader = "http://127.0.0.1:9999"
    web.remove("GET", LIVES)
    web.get(f"{leader}/-/healthy", body=silent())
    web.post(f"{TWO}/x", **not_leading(leader=leader))
    web.post(f"{TWO}/x", json={})

    with Transport([TWO], lambda: TOKEN, sleep=waits) as transport:
        assert TWO == transport.write("POST", "/x", doing="change").url


def test_the_only_one_left_is_sent_the_write_at_once(
    web: responses.RequestsMock, transport: Transport
) -> None:
    web.remove("GET", LIVES)
    web.get(f"{ONE}/-/healthy", body=refused())
    web.post(f"{TWO}/x", json={})

    assert TWO == transport.write("POST", "/x", doing="change").url
    assert 2 == len(web.calls)


def test_who_has_just_answered_is_not_asked_again_whether_it_is_there(
    web: responses.RequestsMock,
) -> None:
    now_s = [100.0]
    web.post(f"{ONE}/x", json={})

    with Transport([ONE, TWO], lambda: TOKEN, monotonic_s=lambda: now_s[0]) as transport:
        n_requests = []
        for later_s in (0.0, 2.9, 3.0):
            now_s[0] += later_s
            transport.write("POST", "/x", doing="change")
            n_requests.append(len(web.calls))

    assert [2, 3, 5] == n_requests


# Age


@pytest.mark.parametrize(
    ("age", "is_old"), [("0.0", False), ("9.9", False), ("10.0", True), ("x", False)]
)
def test_what_is_old_is_said_to_be(web: responses.RequestsMock, age: str, is_old: bool) -> None:
    web.get(f"{ONE}/x", json={}, headers={AGE_HEADER: age})
    warned: list[str] = []

    with Transport([ONE], lambda: TOKEN, warn=warned.append) as transport:
        for _ in range(2):
            transport.read("/x", doing="look")

    said = f"this is 10 s old: the provisioner at {ONE} does not reach its store"
    assert ([said] if is_old else []) == warned


# Addresses


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("one", "is no address such as"),
        ("ftp://one", "is no address such as"),
        ("http://", "is no address such as"),
        ("http://one:0", "is no address such as"),
        ("http://one:x", "is no address such as"),
        ("http://a b", "is no address such as"),
        ("http://ann:secret@one", "must not hold a user or password"),
        ("http://one/?a=1", "must end before the `\\?` or `#`"),
    ],
)
def test_what_is_no_address_is_refused(url: str, fault: str) -> None:
    with pytest.raises(ClientError, match=fault) as caught:
        checked_url(url)

    assert "secret" not in str(caught.value)


def test_a_slash_at_the_end_is_left_out() -> None:
    assert "http://one:1/base" == checked_url("http://one:1/base/")


@pytest.mark.parametrize(
    ("url", "configured", "expected"),
    [
        ("http://localhost:1", ["https://one"], True),
        ("http://[::1]:1", ["https://one"], True),
        ("http://127.8.8.8", ["https://one"], True),
        ("http://127.0.0.1.evil.example", ["https://one"], False),
        ("http://one:9", ["http://one:1"], True),
        ("https://one:9", ["http://one:1"], True),
        ("http://one:9", ["https://one:1"], False),
        ("http://one.evil", ["http://one"], False),
    ],
)
def test_a_token_goes_to_this_machine_and_to_configured_hosts_never_less_encrypted(
    url: str, configured: list[str], expected: bool
) -> None:
    assert expected == is_trusted(url, configured)
