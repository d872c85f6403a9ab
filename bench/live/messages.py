"""The receivers: a real web server and a real mail server that keep what arrives, and when."""

from __future__ import annotations

import asyncio
import email
import email.policy
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from enum import StrEnum
from typing import Any

from aiohttp import web
from aiosmtpd.smtp import SMTP, Envelope, Session

from provisioning.demo.ports import LOOPBACK, url_of

PAGER_ADDRESS = "on-call@example.org"
SENDER = "alertmanager@example.org"
SMTP_ACCEPTED = "250 OK"


class To(StrEnum):
    """Who is told; the value is the path of the web server."""

    PAGER = "pager"
    TICKETS = "tickets"
    INFO = "info"
    SWITCH = "dead-mans-switch"


@dataclass(frozen=True, slots=True)
class Notification:
    """One request that Alertmanager has sent about one group of alerts."""

    at_s: float
    to: To
    body: Mapping[str, Any]
    """Alertmanager's own JSON."""

    @property
    def alert(self) -> str:
        """Return the alert's name."""
        return str(self.body["groupLabels"]["alertname"])

    @property
    def is_resolved(self) -> bool:
        """Return whether it says that everything is over."""
        return bool(self.body["status"] == "resolved")

    @property
    def alerts(self) -> Sequence[Mapping[str, Any]]:
        """Return the alerts of the group."""
        return list(self.body["alerts"])

    def __str__(self) -> str:
        """Return it as the subject of a mail about the same: `[1 firing, 2 resolved] Alert`."""
        statuses = [alert["status"] for alert in self.alerts]
        counts = {status: statuses.count(status) for status in ("firing", "resolved")}
        shown = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
        return f"[{shown}] {self.alert}"


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail as it was received."""

    at_s: float
    recipients: tuple[str, ...]
    message: EmailMessage

    @property
    def subject(self) -> str:
        """Return the subject line."""
        return str(self.message["Subject"])

    def text(self, kind: str) -> str:
        """Return the part for reading: `plain` or `html`; empty where there is none."""
        part = self.message.get_body((kind,))
        return "" if part is None else str(part.get_content())


@dataclass(slots=True)
class Inbox:
    """Everything that has arrived."""

    web_port: int
    mail_port: int
    notifications: list[Notification] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)

    def routing(self, *, switch_s: int) -> dict[str, Any]:
        """Return the settings that make Alertmanager tell this inbox."""
        mail = {
            "to": PAGER_ADDRESS,
            "from": SENDER,
            "smarthost": f"{LOOPBACK}:{self.mail_port}",
            "require_tls": False,
        }
        return {
            "page": [{"webhook": {"url": self._url(To.PAGER)}}, {"email": mail}],
            "ticket": [{"webhook": {"url": self._url(To.TICKETS)}}],
            "info": [{"webhook": {"url": self._url(To.INFO)}}],
            "dead_mans_switch": {"url": self._url(To.SWITCH), "interval": f"{switch_s}s"},
        }

    def _url(self, to: To) -> str:
        return f"{url_of(self.web_port)}/{to}"

    def since(self, at_s: float, to: To) -> list[Notification]:
        """Return what arrived for somebody after a moment."""
        return [one for one in self.notifications if one.to is to and one.at_s >= at_s]

    def mails_since(self, at_s: float) -> list[Mail]:
        """Return the mails that arrived after a moment."""
        return [mail for mail in self.mails if mail.at_s >= at_s]

    async def handle_request(self, request: web.Request) -> web.Response:
        """Keep a notification."""
        to = To(request.match_info["to"])
        self.notifications.append(Notification(time.time(), to, await request.json()))
        return web.Response()

    # The name is the mail server's.
    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        """Keep a mail."""
        content = envelope.content
        raw = content.encode() if isinstance(content, str) else content or b""
        message = email.message_from_bytes(raw, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append(Mail(time.time(), tuple(envelope.rcpt_tos), message))
        return SMTP_ACCEPTED


@asynccontextmanager
async def inbox(web_port: int, mail_port: int) -> AsyncIterator[Inbox]:
    """Run both servers until the block ends."""
    made = Inbox(web_port, mail_port)
    application = web.Application()
    application.add_routes([web.post("/{to}", made.handle_request)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, web_port).start()
    loop = asyncio.get_running_loop()
    mail_server = await loop.create_server(
        lambda: SMTP(made, hostname="localhost", loop=loop), LOOPBACK, mail_port
    )
    try:
        yield made
    finally:
        mail_server.close()
        await mail_server.wait_closed()
        await runner.cleanup()
