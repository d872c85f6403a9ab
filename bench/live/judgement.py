"""Judge what arrived while a scenario was played. Pure."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.live.messages import PAGER_ADDRESS, Mail, Notification
from bench.live.scenarios import Scenario

LINKED = ("summary", "runbook_url", "dashboard_url")
"""What a mail must hold of an alert's annotations; and the description, while the alert fires."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """Everything since the fault, in the order of arrival."""

    pages: Sequence[Notification]
    tickets: Sequence[Notification]
    mails: Sequence[Mail]

    def about(self, scenario: Scenario) -> list[Notification]:
        """Return the messages with which the scenario's alert was told to fire."""
        told = self.pages if scenario.page else self.tickets
        return [one for one in told if one.alert == scenario.alert and not one.is_resolved]


def judge(scenario: Scenario, arrived: Arrived, *, n_instances: int) -> Iterator[str]:
    """Yield everything that is wrong with what arrived."""
    told = arrived.about(scenario)
    if told:
        # Later messages about the same may tell of it while it heals.
        yield from _missing_words(scenario, told[0], n_instances)
    else:
        yield f"{scenario.alert} was not told"
    for message in told:
        yield from _wrong_alerts(scenario, message)
    yield from _wrong_pages(scenario, arrived.pages)
    yield from (f"nobody was told that {name} is over" for name in unclosed(scenario, arrived))
    yield from _wrong_mails(arrived)


def unclosed(scenario: Scenario, arrived: Arrived) -> list[str]:
    """Return the pages, and the scenario's ticket, whose last message says that they fire."""
    tickets = [one for one in arrived.tickets if one.alert == scenario.alert]
    last = {str(one.body["groupKey"]): one for one in (*arrived.pages, *tickets)}
    return sorted({one.alert for one in last.values() if not one.is_resolved})


def _missing_words(scenario: Scenario, message: Notification, n_instances: int) -> Iterator[str]:
    text = " ".join(" ".join(alert["annotations"].values()) for alert in message.alerts)
    needed = (*scenario.counts(n_instances), *scenario.says)
    missing = [words for words in needed if words not in text]
    yield from (f"{message} does not say {words!r}: {text}" for words in missing)


def _wrong_alerts(scenario: Scenario, message: Notification) -> Iterator[str]:
    for alert in message.alerts:
        yield from (f"{message}: {fault}" for fault in _wrong_annotations(alert, message.alert))
        if scenario.node not in ("", alert["labels"].get("node")):
            yield f"{message} is about {alert['labels']}, not about {scenario.node}"


def _wrong_annotations(alert: Mapping[str, Any], name: str) -> Iterator[str]:
    annotations = alert["annotations"]
    if not annotations["summary"].endswith("."):
        yield f"the summary is {annotations['summary']!r}"
    if not annotations["runbook_url"].endswith(f"/{name}.md"):
        yield f"the runbook is {annotations['runbook_url']!r}"
    if "/d/" not in annotations["dashboard_url"]:
        yield f"the dashboard is {annotations['dashboard_url']!r}"


def _wrong_pages(scenario: Scenario, pages: Sequence[Notification]) -> Iterator[str]:
    firing = [page for page in pages if not page.is_resolved]
    if len(firing) > scenario.max_pages:
        shown = ", ".join(map(str, firing))
        yield f"{len(firing)} pages, more than {scenario.max_pages}: {shown}"
    allowed = {scenario.page, *scenario.may_page}
    yield from (f"{page} was not expected" for page in pages if page.alert not in allowed)


def _wrong_mails(arrived: Arrived) -> Iterator[str]:
    """Yield how the mails differ from the pager's messages, which they must repeat."""
    subjects = sorted(mail.subject for mail in arrived.mails)
    wanted = sorted(map(str, arrived.pages))
    if subjects != wanted:
        yield f"the mails are {subjects}, the pager's messages {wanted}"
    for mail in arrived.mails:
        if mail.recipients != (PAGER_ADDRESS,):
            yield f"the mail {mail.subject!r} went to {mail.recipients}"
    for page in arrived.pages:
        yield from _missing_in_mails(page, [m for m in arrived.mails if m.subject == str(page)])


def _missing_in_mails(page: Notification, mails: Sequence[Mail]) -> Iterator[str]:
    """Yield what the mails with this page's subject lack, unless one of them lacks nothing."""
    annotations = page.alerts[0]["annotations"]
    needed = LINKED if page.is_resolved else ("description", *LINKED)
    texts = {name: annotations[name] for name in needed}
    missing = [list(_missing_in_mail(mail, texts)) for mail in mails]
    yield from min(missing, key=len, default=[])


def _missing_in_mail(mail: Mail, texts: Mapping[str, str]) -> Iterator[str]:
    parts = {"plain": mail.text("plain"), "html": html.unescape(mail.text("html"))}
    yield from (
        f"the {kind} part of the mail {mail.subject!r} lacks the {name} {wanted!r}: {text!r}"
        for kind, text in parts.items()
        for name, wanted in texts.items()
        if wanted not in text
    )
