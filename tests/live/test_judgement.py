"""What the judge of the live proof complains about: without this it might praise everything."""

from __future__ import annotations

import dataclasses
from email.message import EmailMessage
from typing import Any

import pytest

from tests.live.judgement import Arrived, judge, unclosed
from tests.live.messages import PAGER_ADDRESS, Mail, Notification, To
from tests.live.scenarios import SCENARIOS, SLOW_NODE, Scenario

COUNT, NODE = SCENARIOS["count"], SCENARIOS["node"]
SAYS = "Only 9800 instances are healthy, below the floor of 99%"


def message(
    name: str, status: str = "firing", *, says: str = SAYS, to: To = To.PAGER, **labels: str
) -> Notification:
    annotations = {
        "summary": "Too few.",
        "description": says,
        "runbook_url": f"https://example.org/{name}.md",
        "dashboard_url": f"http://localhost:3000/d/x?var-node={SLOW_NODE}",
    }
    body: dict[str, Any] = {
        "status": status,
        "groupKey": name,
        "groupLabels": {"alertname": name},
        "alerts": [{"status": status, "labels": labels, "annotations": annotations}],
    }
    return Notification(1.0, to, body)


def mail(page: Notification, *, lacks: str = "", recipient: str = PAGER_ADDRESS) -> Mail:
    annotations = page.alerts[0]["annotations"]
    text = "\n".join(value for key, value in annotations.items() if key != lacks)
    made = EmailMessage()
    made["Subject"] = str(page)
    made.set_content(text)
    made.add_alternative(f"<p>{text}</p>", subtype="html")
    return Mail(1.0, (recipient,), made)


FIRING, RESOLVED = message(COUNT.page), message(COUNT.page, "resolved")
WELL = Arrived([FIRING, RESOLVED], [], [mail(FIRING), mail(RESOLVED)])


def complaints(scenario: Scenario, arrived: Arrived) -> list[str]:
    return list(judge(scenario, arrived, n_instances=10_000))


def test_one_page_its_end_and_their_mails_are_as_they_should_be() -> None:
    assert [] == complaints(COUNT, WELL)


def test_two_messages_with_one_subject_each_have_their_mail() -> None:
    """A page that comes again while its values have changed."""
    again = message(COUNT.page, "resolved", says="Only 9810 instances")
    pages = [FIRING, RESOLVED, again]

    assert [] == complaints(COUNT, Arrived(pages, [], list(map(mail, pages))))
    assert [] != complaints(
        COUNT, Arrived(pages, [], list(map(mail, [FIRING, RESOLVED, RESOLVED])))
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"pages": [], "mails": []}, f"{COUNT.page} was not told"),
        ({"pages": [FIRING], "mails": [mail(FIRING)]}, "nobody was told that"),
        ({"pages": [FIRING, FIRING, RESOLVED]}, "2 pages, more than 1"),
        ({"pages": [FIRING, RESOLVED, message("Other", "resolved")]}, "was not expected"),
        ({"pages": [message(COUNT.page, says="Nothing"), RESOLVED]}, "does not say 'Only 98'"),
        ({"mails": [mail(FIRING)]}, "the mails are"),
        ({"mails": [mail(FIRING), mail(RESOLVED, recipient="else@example.org")]}, "went to"),
        ({"mails": [mail(FIRING, lacks="runbook_url"), mail(RESOLVED)]}, "lacks the runbook_url"),
    ],
)
def test_whatever_is_wrong_is_complained_about(change: dict[str, Any], complaint: str) -> None:
    complained = complaints(COUNT, dataclasses.replace(WELL, **change))

    assert complaint in " | ".join(complained)


@pytest.mark.parametrize(("node", "n_complaints"), [(SLOW_NODE, 0), ("node-001", 2)])
def test_a_ticket_must_be_about_the_slow_node(node: str, n_complaints: int) -> None:
    says = f"Node {node} generates at 70% (llama3.1:8b)"
    told = [
        message(NODE.ticket, status, says=says, to=To.TICKETS, node=node)
        for status in ("firing", "resolved")
    ]

    assert n_complaints == len(complaints(NODE, Arrived([], told, [])))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("count", "Only 4923 instances are healthy, below the floor of 99%"),
        (
            "throughput",
            "All healthy instances together generate 187k, less than the floor of 40 per instance",
        ),
    ],
)
def test_the_numbers_told_must_be_those_of_the_fleets_size(name: str, says: str) -> None:
    one = SCENARIOS[name]
    page, over = message(one.page, says=says), message(one.page, "resolved", says=says)
    arrived = Arrived([page, over], [], [mail(page), mail(over)])

    assert [] == list(judge(one, arrived, n_instances=5_000))
    assert 1 == len(complaints(one, arrived))


def test_other_tickets_may_stay_open_and_pages_may_not() -> None:
    other = message("Other", to=To.TICKETS)

    assert [] == unclosed(COUNT, Arrived([], [other], []))
    assert ["Other"] == unclosed(COUNT, Arrived([other], [], []))
