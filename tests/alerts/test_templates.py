"""What people read: the texts as a chat, a pager, a ticket system and a mailbox receive them."""

from __future__ import annotations

import asyncio
import email.policy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.alerts.alertmanager import QUICK, Inbox, inbox, labels_of, running
from tests.ports import free_port
from tests.waiting import eventually

EARLY = datetime(2026, 3, 1, 9, 30, 15, tzinfo=UTC)
RUNBOOK = "https://runbooks.example.org/OllamaModelUnavailable.md"
DASHBOARD = "https://grafana.example.org/d/ollama-fleet-models"
HOSTILE = '<!channel> <script>alert("x")</script> & <https://evil.example.org|click>'
SECRETS = {"routing-key": "key-of-pagerduty", "api-key": "key-of-opsgenie", "mail": "of-mail"}

Alert = dict[str, Any]
"""An alert as Alertmanager's API takes it."""


@dataclass(slots=True)
class Mailbox:
    """A mail server with one user, and the mails that it took."""

    port: int
    mails: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(  # noqa: N802 - the name that aiosmtpd calls
        self, server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if not session.authenticated or session.host_name != "alerts.example.org":
            return "530 who are you?"
        content = envelope.original_content
        assert content is not None
        mail = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 taken"


def _authenticated(
    server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any
) -> AuthResult:
    assert isinstance(given, LoginPassword)
    return AuthResult(success=(b"fleet", SECRETS["mail"].encode()) == (given.login, given.password))


@asynccontextmanager
async def mailbox() -> AsyncIterator[Mailbox]:
    made = Mailbox(free_port())

    def protocol() -> SMTP:
        return SMTP(
            made,
            auth_require_tls=False,
            authenticator=_authenticated,
            # Its challenges are worded in another way than Alertmanager knows.
            auth_exclude_mechanism=["LOGIN"],
        )

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", made.port)
    async with server:
        yield made


@dataclass(frozen=True, slots=True)
class Told:
    """What each receiver was told once, about the same alerts."""

    channel: str
    chat: dict[str, Any]
    pager: dict[str, Any]
    tickets: dict[str, Any]
    mail: EmailMessage

    @property
    def chat_text(self) -> str:
        return str(self.chat["text"])

    @property
    def details(self) -> dict[str, str]:
        details: dict[str, str] = self.pager["payload"]["custom_details"]
        return details

    @property
    def mail_text(self) -> str:
        return self._part("plain")

    @property
    def mail_html(self) -> str:
        return self._part("html")

    def _part(self, kind: str) -> str:
        part = self.mail.get_body((kind,))
        assert part is not None
        return str(part.get_content()).replace("\r\n", "\n")


def receivers(folder: Path, url: str, smtp_port: int) -> dict[str, Any]:
    """Return settings with one receiver of each kind that has our texts."""
    files = {**SECRETS, "slack": f"{url}/slack"}
    for name, secret in files.items():
        (folder / name).write_text(secret)
    return QUICK | {
        "page": [
            {"pagerduty": {"routing_key_file": f"{folder}/routing-key", "url": f"{url}/pagerduty"}},
            {"opsgenie": {"api_key_file": f"{folder}/api-key", "api_url": f"{url}/opsgenie"}},
            {"slack": {"api_url_file": f"{folder}/slack", "channel": "#llm-fleet"}},
            {
                "email": {
                    "to": "fleet@example.org",
                    "from": "alerts@example.org",
                    "smarthost": f"127.0.0.1:{smtp_port}",
                    "auth_username": "fleet",
                    "auth_password_file": f"{folder}/mail",
                    "require_tls": False,
                    "hello": "alerts.example.org",
                }
            },
        ]
    }


def firing(n: int, *, model: str = "m", own_views: bool = False, **changed: str) -> list[Alert]:
    """Return alerts of one group; the second began first, half an hour before the others.

    With `own_views` each links to a view of the dashboard of its own; `changed` are annotations
    instead of the usual ones.
    """
    return [
        {
            "labels": labels_of("OllamaModelUnavailable", model=f"{model}{i}"),
            "startsAt": (EARLY + timedelta(minutes=30 * (i != 1))).isoformat(),
            "annotations": {
                "summary": "No instance of a model is healthy.",
                "description": f"{model}{i} is served by nobody.",
                "runbook_url": RUNBOOK,
                "dashboard_url": f"{DASHBOARD}?var-model={i if own_views else 'all'}",
            }
            | changed,
        }
        for i in range(n)
    ]


async def tell(folder: Path, alerts: list[Alert], *, n_over: int = 0) -> Told:
    """Return what the receivers get of alerts, the last of which are over by then.

    What is over was told of before: nobody hears of the end of what they never heard of.
    """
    async with inbox() as taken, mailbox() as mails:
        settings = receivers(folder, taken.url, mails.port)
        async with running(folder, settings) as alertmanager:
            await alertmanager.post(alerts)
            told = await _told(taken, mails, begin=f"[{len(alerts)} firing]")
            if n_over:
                now = datetime.now(UTC).isoformat()
                await alertmanager.post([alert | {"endsAt": now} for alert in alerts[-n_over:]])
                n_left = len(alerts) - n_over
                firing_words = f"{n_left} firing, " if n_left else ""
                told = await _told(taken, mails, begin=f"[{firing_words}{n_over} resolved]")
            return told


async def _told(taken: Inbox, mails: Mailbox, *, begin: str) -> Told:
    """Return what each receiver heard last, once the title tells of all the alerts.

    Alertmanager does not wait for the rest of a group if its first alert began long ago: then the
    first messages are about some of them only.
    """

    def are_whole() -> bool:
        n_heard = {len(mails.mails), *(len(taken.at(path)) for path in paths)}
        return len(n_heard) == 1 and mails.mails[-1:] != [] and _is_about(mails.mails[-1], begin)

    paths = ("slack", "pagerduty", "opsgenie")
    await eventually(are_whole)
    chat, pager, tickets = (taken.at(path)[-1].body for path in paths)
    return Told(chat["channel"], chat["attachments"][0], pager, tickets, mails.mails[-1])


def _is_about(mail: EmailMessage, begin: str) -> bool:
    return str(mail["Subject"]).startswith(begin)


async def test_a_single_alert_is_told_to_everyone_in_their_own_form(tmp_path: Path) -> None:
    told = await tell(tmp_path, firing(1))

    title = "[1 firing] OllamaModelUnavailable (eu)"
    text = f"""\
No instance of a model is healthy.
1 firing, since 2026-03-01 10:00:15 UTC

Firing:
- m0 is served by nobody.

Runbook: {RUNBOOK}
Dashboard: {DASHBOARD}?var-model=all
"""
    assert title == told.mail["Subject"]
    assert text.strip() == told.mail_text.strip()
    assert title == told.tickets["message"]
    assert text.strip() == told.tickets["description"].strip()
    assert title == told.chat["title"] == told.chat["fallback"]
    assert told.chat_text == (
        "No instance of a model is healthy.\n"
        "1 firing, since 2026-03-01 10:00:15 UTC\n"
        "*Firing*\n"
        "• m0 is served by nobody.\n"
        f"<{RUNBOOK}|Runbook> · <{DASHBOARD}?var-model=all|Dashboard>"
    )
    assert f"{title}: No instance of a model is healthy." == told.pager["payload"]["summary"]
    assert {
        "firing": "\n- m0 is served by nobody.",
        "resolved": "",
        "num_firing": "1",
        "num_resolved": "0",
        "since": "2026-03-01 10:00:15 UTC",
        "runbook": RUNBOOK,
        "dashboard": f"{DASHBOARD}?var-model=all",
    } == told.details


async def test_each_receiver_knows_how_urgent_it_is_and_proves_who_it_is(tmp_path: Path) -> None:
    """The mail server takes nothing without the greeting, and the password from the file."""
    told = await tell(tmp_path, firing(1))

    assert "critical" == told.pager["payload"]["severity"]
    assert SECRETS["routing-key"] == told.pager["routing_key"]
    assert "P1" == told.tickets["priority"]
    assert ["ollama-fleet", "critical"] == told.tickets["tags"]
    assert "fleet@example.org" == told.mail["To"]
    assert "#llm-fleet" == told.channel


@pytest.mark.parametrize(("n", "rest"), [(6, "and 1 more")])
async def test_of_many_alerts_the_first_five_are_shown_and_the_rest_is_counted(
    tmp_path: Path, n: int, rest: str
) -> None:
    told = await tell(tmp_path, firing(n))

    title = f"[{n} firing] OllamaModelUnavailable (eu)"
    assert title == told.mail["Subject"] == told.tickets["message"] == told.chat["title"]
    for text in (told.mail_text, told.mail_html, told.chat_text, told.details["firing"]):
        assert 5 == text.count("is served by nobody.")
        assert rest in text


async def test_what_is_over_is_counted_and_shown_apart_and_dates_nothing(tmp_path: Path) -> None:
    """Three fire, then the two with the earliest start are over."""
    told = await tell(tmp_path, list(reversed(firing(3))), n_over=2)

    assert "[1 firing, 2 resolved] OllamaModelUnavailable (eu)" == told.mail["Subject"]
    assert ("1", "2") == (told.details["num_firing"], told.details["num_resolved"])
    for text in (told.mail_text, told.mail_html, told.chat_text):
        before, after = text.split("Resolved")
        assert "m2 is served" in before
        assert "eu, m0: over after " in after
        assert "eu, m1: over after " in after
        assert "is served" not in after
        assert "since 2026-03-01 10:00:15 UTC" in text


async def test_when_all_are_over_the_message_says_so_and_nothing_in_the_present(
    tmp_path: Path,
) -> None:
    told = await tell(tmp_path, firing(2), n_over=2)

    assert "[2 resolved] OllamaModelUnavailable (eu)" == told.mail["Subject"]
    for text in (told.mail_text, told.mail_html, told.chat_text):
        assert "Over: No instance of a model is healthy." in text
        assert "2 resolved, from 2026-03-01 09:30:15 UTC until 2" in text
        assert "eu, m1: over after " in text
        assert "is served" not in text
    assert "Firing" not in told.mail_text + told.mail_html + told.chat_text
    assert "[2 resolved] OllamaModelUnavailable (eu)" == told.chat["title"]
    assert "resolve" == told.pager["event_action"]


async def test_alerts_with_views_of_their_own_share_the_plain_dashboard(tmp_path: Path) -> None:
    told = await tell(tmp_path, firing(2, own_views=True))

    assert f"Dashboard: {DASHBOARD}\n" in told.mail_text
    assert f'href="{DASHBOARD}"' in told.mail_html
    assert f"<{DASHBOARD}|Dashboard>" in told.chat_text
    assert DASHBOARD == told.details["dashboard"]


async def test_hostile_labels_are_only_text_in_mail_and_chat(tmp_path: Path) -> None:
    """A model's name is the text of somebody who could also write something else."""
    alerts = firing(1, description=f"{HOSTILE} is served by nobody.", summary=f"About {HOSTILE}.")
    alerts[0]["labels"]["cluster"] = HOSTILE

    told = await tell(tmp_path, alerts)

    assert "<script" not in told.mail_html
    assert "&lt;script&gt;" in told.mail_html
    for text in (told.chat_text, told.chat["title"], told.chat["fallback"]):
        assert "<!channel>" not in text
        assert "<https://evil" not in text
        assert "&lt;!channel&gt;" in text
        assert "&lt;/script&gt; &amp; &lt;https" in text
    assert 2 == told.chat_text.count("<")
    assert HOSTILE in told.mail_text


async def test_a_message_stays_short_whatever_an_alert_says(tmp_path: Path) -> None:
    told = await tell(tmp_path, firing(7, model="m" * 900, description="x" * 5000), n_over=6)

    for text in (told.mail_text, told.chat_text):
        assert 1000 == text.count("x" * 10) * 10
        assert len(text) < 5000


async def test_hostile_links_run_nothing_and_end_nothing(tmp_path: Path) -> None:
    alerts = firing(
        1, runbook_url="javascript:alert(1)", dashboard_url='https://g/d?a="b|c>d<!channel>'
    )

    told = await tell(tmp_path, alerts)

    assert "javascript" not in told.mail_html
    assert 'href="https://g/d?a=%22b' in told.mail_html
    assert 'https://g/d?a="b%7Cc&gt;d&lt;!channel&gt;|Dashboard>' in told.chat_text


async def test_an_alert_without_a_description_is_shown_by_its_labels(tmp_path: Path) -> None:
    told = await tell(tmp_path, firing(1, description=""))

    for text in (told.mail_text, told.mail_html, told.chat_text, told.details["firing"]):
        assert "OllamaModelUnavailable, eu, m0, critical" in text


@pytest.mark.parametrize("field", ["summary", "runbook_url"])
async def test_where_alerts_differ_the_first_one_speaks(tmp_path: Path, field: str) -> None:
    alerts = firing(2)
    alerts[0]["annotations"][field] = "https://first.example.org"
    alerts[1]["annotations"][field] = "https://second.example.org"

    told = await tell(tmp_path, alerts)

    for text in (told.mail_text, told.mail_html, told.chat_text):
        assert "https://first.example.org" in text
        assert "https://second.example.org" not in text
