"""Play one scenario in a lab: break, wait for the message, heal, wait until all is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.live.judgement import Arrived, judge, unclosed
from bench.live.lab import WATCHDOG, Lab
from bench.live.messages import Notification, To
from bench.live.scenarios import Deed, Scenario

LOOK_S = 0.25
SETTLES_WITHIN_S = 100.0
CRITICAL = "critical"
BACKED_OFF_POLLS = 4
"""How many polls may pass until an instance that was dead is asked again."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a scenario came to; times in seconds."""

    scenario: Scenario
    told_after_s: float | None
    """From the fault to the page or ticket; None: it never came."""
    intervals_s: float
    """Sum of all intervals that can pass until it comes."""
    least_s: float
    """What no message can come before: a grace period, the alert's `for`, its group's wait."""
    resolved_after_s: float | None
    """From the healing to the message that it is over."""
    arrived: Arrived
    complaints: tuple[str, ...]

    @property
    def n_pages(self) -> int:
        """Return how often the pager said that something is wrong."""
        return sum(not page.is_resolved for page in self.arrived.pages)


def least_s(lab: Lab, scenario: Scenario) -> float:
    """Return the lower bound of the time from fault to message."""
    pace = lab.pace
    wait_s = pace.group_wait_s if scenario.page else pace.ticket_group_wait_s
    grace_s = pace.grace_s if scenario.is_graced else 0
    return grace_s + lab.hold_s(scenario.alert) + wait_s


def intervals_s(lab: Lab, scenario: Scenario) -> float:
    """Return the sum of the configured intervals that can pass from fault to message."""
    pace = lab.pace
    seen_s = pace.poll_s + scenario.extra_s(lab) + pace.scrape_s + pace.evaluation_s
    return seen_s + least_s(lab, scenario)


async def loud(lab: Lab) -> list[str]:
    """Return the pages that fire or are pending."""
    return [
        f"{alert.name} is {alert.state}"
        for alert in await lab.active()
        if alert.severity == CRITICAL
    ]


async def quiet(lab: Lab, *, within_s: float) -> list[str]:
    """Wait until nothing is loud; return what still is at the end."""
    deadline_s = time.monotonic() + within_s
    while True:
        seen = await loud(lab)
        if not seen or time.monotonic() > deadline_s:
            return seen
        await asyncio.sleep(LOOK_S)


async def watch_healthy(lab: Lab) -> list[str]:
    """Watch a healthy fleet for a while; return complaints about what arrived."""
    seen = await quiet(lab, within_s=SETTLES_WITHIN_S)
    if seen or not await _has_sign_of_life(lab):
        return [f"the lab does not settle: {', '.join(seen) or 'Watchdog does not arrive'}"]
    await asyncio.sleep(lab.pace.quiet_s)
    inbox = lab.inbox
    told = [one for one in inbox.notifications if one.to is not To.SWITCH]
    signs = {one.alert for one in inbox.notifications if one.to is To.SWITCH}
    return [
        *(f"a healthy fleet made {one} for {one.to}" for one in told),
        *(f"a healthy fleet mailed {mail.subject!r}" for mail in inbox.mails),
        *(f"the dead man's switch heard {name}" for name in signs - {WATCHDOG}),
    ]


async def _has_sign_of_life(lab: Lab) -> bool:
    """Wait for the first message to the dead man's switch; return whether it came."""
    deadline_s = time.monotonic() + SETTLES_WITHIN_S
    while True:
        heard = lab.inbox.since(0.0, To.SWITCH)
        if heard or time.monotonic() > deadline_s:
            return bool(heard)
        await asyncio.sleep(LOOK_S)


async def play(lab: Lab, scenario: Scenario, *, say: Say) -> Result:
    """Break, wait for the message, heal, wait for its end; return what came of it."""
    pace, name, most_s = lab.pace, scenario.name, intervals_s(lab, scenario)
    broken_s = time.time()
    await scenario.fault(lab)
    say(f"{name}: broken; told within about {most_s:.0f} s")
    told = await _first(lab, scenario, broken_s, until_s=broken_s + most_s + pace.slack_s)
    say(f"{name}: {'not told' if told is None else f'told after {told.at_s - broken_s:.0f} s'}")
    if pace.is_shipped:
        await asyncio.sleep(scenario.shipped_stay_s)

    healed_s = time.time()
    await scenario.heal(lab)
    say(f"{name}: healed")
    if pace.is_shipped:
        await asyncio.sleep(max(0.0, broken_s + scenario.shipped_watch_s - time.time()))
    left = await _until_over(lab, scenario, broken_s)
    arrived = _arrived(lab, broken_s)
    say(f"{name}: over; the pager got {', '.join(map(str, arrived.pages)) or 'nothing'}")
    over = _over(lab, scenario, healed_s)
    return Result(
        scenario=scenario,
        told_after_s=None if told is None else told.at_s - broken_s,
        intervals_s=most_s,
        least_s=least_s(lab, scenario),
        resolved_after_s=None if over is None else over.at_s - healed_s,
        arrived=arrived,
        complaints=(*judge(scenario, arrived, n_instances=lab.plan.n_instances), *left),
    )


async def watch_broken(lab: Lab, fault: Deed, *, least_s: float) -> list[str]:
    """Break what nobody must be woken for, and watch the pager for a while; return its pages."""
    broken_s = time.time()
    await fault(lab)
    await asyncio.sleep(least_s)
    pages = [str(page) for page in _arrived(lab, broken_s).pages]
    pages += await loud(lab)
    await lab.heal_fleet()
    return pages


def _arrived(lab: Lab, since_s: float) -> Arrived:
    inbox = lab.inbox
    return Arrived(
        pages=inbox.since(since_s, To.PAGER),
        tickets=inbox.since(since_s, To.TICKETS),
        mails=inbox.mails_since(since_s),
    )


async def _first(
    lab: Lab, scenario: Scenario, since_s: float, *, until_s: float
) -> Notification | None:
    """Return the first message that tells of the scenario's alert, as soon as it is there."""
    while True:
        told = _arrived(lab, since_s).about(scenario)
        if told or time.time() > until_s:
            return told[0] if told else None
        await asyncio.sleep(LOOK_S)


def _over(lab: Lab, scenario: Scenario, since_s: float) -> Notification | None:
    """Return the message that says that the scenario's alert is over."""
    told = lab.inbox.since(since_s, To.PAGER if scenario.page else To.TICKETS)
    over = (one for one in told if one.alert == scenario.alert and one.is_resolved)
    return next(over, None)


async def _until_over(lab: Lab, scenario: Scenario, since_s: float) -> list[str]:
    """Wait until all is told to be over, with mails, and no page is to come."""
    until_s = time.time() + _longest_end_s(lab, scenario)
    while True:
        arrived = _arrived(lab, since_s)
        is_open = bool(unclosed(scenario, arrived)) or len(arrived.mails) < len(arrived.pages)
        seen = await loud(lab)
        if not (is_open or seen) or time.time() > until_s:
            return [f"long after the healing {alert}" for alert in seen]
        await asyncio.sleep(LOOK_S)


def _longest_end_s(lab: Lab, scenario: Scenario) -> float:
    """Return how long after the healing the last message may come."""
    pace = lab.pace
    seen_s = BACKED_OFF_POLLS * pace.poll_s + pace.scrape_s + pace.evaluation_s
    keep_s = max(map(lab.keep_s, (scenario.alert, *scenario.may_page)))
    return seen_s + keep_s + 2 * pace.group_interval_s + pace.slack_s
