"""Settings of the times at which instances are rotated on purpose."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
SPAN = re.compile(rf"({CLOCK})-({CLOCK}|24:00)")


class Weekday(StrEnum):
    """A day, as Alertmanager spells it."""

    MONDAY = "monday"
    TUESDAY = "tuesday"
    WEDNESDAY = "wednesday"
    THURSDAY = "thursday"
    FRIDAY = "friday"
    SATURDAY = "saturday"
    SUNDAY = "sunday"


def _span(text: str) -> str:
    match = SPAN.fullmatch(text)
    if not match:
        raise ValueError("must be written as 02:00-06:00")
    start, end = match.groups()
    if start >= end:
        raise ValueError(
            f"must end after it starts; over midnight write two: {start}-24:00, and "
            f"00:00-{end} on the day after"
        )
    return text


def _location(name: str) -> str:
    known = available_timezones()
    # A machine without the list of time zones can say nothing; Alertmanager's own machine will.
    if known and name not in known:
        raise ValueError("must be a time zone such as Europe/Berlin or UTC")
    return name


class RotationWindow(BaseModel):
    """A time at which instances are rotated on purpose."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weekdays: tuple[Weekday, ...] = Field((), description="Days of the window; default: every day.")
    times: tuple[Annotated[str, AfterValidator(_span)], ...] = Field(
        min_length=1, description="Hours of the window, such as 02:00-06:00."
    )
    location: Annotated[str, AfterValidator(_location)] = Field(
        "UTC", description="Time zone of the hours."
    )
