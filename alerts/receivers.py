"""Settings of routing: receivers, intervals and mute windows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from alerts.fields import Duration
from ollama_fleet.durations import duration_text
from ollama_fleet.urls import http_url

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


SMARTHOST = re.compile(r"\S+:\d{1,5}")
LONGEST_SILENCE_S = 300.0

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


def _absolute(path: str) -> str:
    """Return the path. What is none may be the secret itself, so the message does not repeat it."""
    if not path.startswith("/"):
        raise ValueError(
            "must be the absolute path of a file that holds the secret: Alertmanager looks for "
            "other paths in the folder where it was started"
        )
    return path


def _public_url(url: str) -> str:
    return http_url(
        url,
        example="https://alerts.example.org/hook",
        instead="put a token into a file and name it in credentials_file, or the whole URL into a "
        "file and name it in url_file",
    )


def _smarthost(text: str) -> str:
    if not SMARTHOST.fullmatch(text):
        raise ValueError("must be HOST:PORT such as mail.example.org:587")
    return text


def _frequent(interval_s: float) -> float:
    if interval_s > LONGEST_SILENCE_S:
        raise ValueError(
            f"must be {duration_text(LONGEST_SILENCE_S)} or shorter: no alarm can come sooner"
        )
    return interval_s


SecretFile = Annotated[Text, AfterValidator(_absolute)]
PublicUrl = Annotated[Text, AfterValidator(_public_url)]


class _Section(BaseModel):
    """A part of the settings; unknown keys are refused, and values are not repeated in errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class _Notifier(_Section):
    """One way to notify somebody."""

    send_resolved: bool = Field(True, description="Also notify when the alert is resolved.")

    @model_validator(mode="before")
    @classmethod
    def _refuse_inline_secrets(cls, given: Any) -> Any:
        if isinstance(given, Mapping):
            known = cls.model_fields
            inline = [key for key in given if key not in known and f"{key}_file" in known]
            if inline:
                raise ValueError(
                    "secrets are read from files only: "
                    + ", ".join(f"instead of {key} give {key}_file, its path" for key in inline)
                )
        return given


class PagerDuty(_Notifier):
    """An integration of PagerDuty's Events API v2."""

    routing_key_file: SecretFile = Field(description="File with the integration key.")
    url: PublicUrl | None = Field(None, description="Events API; default: PagerDuty's.")


class Opsgenie(_Notifier):
    """Opsgenie, or a service that speaks its alert API."""

    api_key_file: SecretFile = Field(description="File with the API key.")
    api_url: PublicUrl | None = Field(
        None, description="Alert API, `v2/alerts` is appended; default: Opsgenie's."
    )


class Slack(_Notifier):
    """A channel of Slack, or of a chat with the same incoming webhooks."""

    api_url_file: SecretFile = Field(description="File with the URL of the incoming webhook.")
    channel: Text | None = Field(
        None, description="Channel such as `#llm-fleet`; default: that of the webhook."
    )
    title: Text | None = Field(
        None,
        description="Title, may be an Alertmanager template; default: alert name and counts.",
    )


class Email(_Notifier):
    """An e-mail."""

    to: Text = Field(description="Recipients, separated by commas.")
    sender: Text = Field(alias="from", description="Sender address.")
    smarthost: Annotated[Text, AfterValidator(_smarthost)] = Field(
        description="Mail server as HOST:PORT."
    )
    auth_username: Text | None = Field(None, description="User name at the mail server.")
    auth_password_file: SecretFile | None = Field(None, description="File with the password.")
    require_tls: bool = Field(True, description="Require STARTTLS.")
    hello: Text | None = Field(None, description="Host name in the SMTP greeting.")

    @model_validator(mode="after")
    def _user_with_password(self) -> Email:
        if (self.auth_username is None) != (self.auth_password_file is None):
            raise ValueError("auth_username and auth_password_file go together: give both or none")
        return self


class _Hook(_Notifier):
    """A URL that Alertmanager posts its JSON to."""

    url: PublicUrl | None = Field(None, description="URL to post to; must not contain a secret.")
    url_file: SecretFile | None = Field(
        None, description="File with a secret URL, instead of `url`."
    )
    credentials_file: SecretFile | None = Field(None, description="File with a bearer token.")

    @model_validator(mode="after")
    def _one_url(self) -> _Hook:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("give either url or url_file")
        return self


class Webhook(_Hook):
    """A service that takes Alertmanager's own JSON."""

    max_alerts: Annotated[int, Field(ge=0)] = Field(
        100, description="Maximum alerts per message; the message counts the rest. 0: no limit."
    )


class DeadMansSwitch(_Hook):
    """A service that raises the alarm when it hears nothing for some time.

    It must alarm for each fleet of its own where several share an Alertmanager: one fleet's
    Watchdog keeps it quiet about the other's. The Watchdogs of other rules do not reach it.
    """

    # For most such services any request is a sign of life, also one that says `resolved`.
    send_resolved: bool = Field(False, description="Also notify when Watchdog is resolved.")
    interval: Annotated[Duration, AfterValidator(_frequent)] = Field(
        60.0,
        description="Interval of messages, at most 5m; let the service alarm after a few missed "
        "ones.",
    )


class Receiver(_Section):
    """One way to notify somebody, by its kind."""

    pagerduty: PagerDuty | None = Field(None, description="PagerDuty.")
    opsgenie: Opsgenie | None = Field(None, description="Opsgenie or a compatible API.")
    slack: Slack | None = Field(None, description="Slack or a compatible webhook.")
    email: Email | None = Field(None, description="E-mail.")
    webhook: Webhook | None = Field(None, description="Alertmanager's JSON to a URL.")

    @model_validator(mode="after")
    def _one_kind(self) -> Receiver:
        kinds = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(kinds) != 1:
            known = ", ".join(type(self).model_fields)
            seen = " and ".join(kinds) or "none"
            raise ValueError(f"give one of {known} for each entry of the list, not {seen}")
        return self


class RoutingSettings(_Section):
    """Receivers by severity. Without receivers nothing is sent."""

    page: tuple[Receiver, ...] = Field((), description="Receivers of critical alerts: pages.")
    ticket: tuple[Receiver, ...] = Field(
        (),
        description="Receivers of warnings: tickets or a chat.",
    )
    info: tuple[Receiver, ...] = Field((), description="Receivers of info alerts; usually none.")
    dead_mans_switch: DeadMansSwitch | None = Field(
        None,
        description="Receiver of Watchdog, which raises an alarm when Watchdog stops arriving.",
    )
    group_wait: Duration = Field(
        30.0,
        description="How long the first page of a group waits for others.",
    )
    ticket_group_wait: Duration = Field(
        600.0,
        description="The same for tickets and info alerts. A page inhibits tickets with the same "
        "cause if it fires before they are sent.",
    )
    group_interval: Duration = Field(
        300.0, description="Minimum time between two notifications of a group."
    )
    page_repeat_interval: Duration = Field(
        14_400.0, description="A page that still fires is repeated after this time."
    )
    ticket_repeat_interval: Duration = Field(
        86_400.0, description="The same for tickets and info alerts."
    )
    rotation_windows: tuple[RotationWindow, ...] = Field(
        (),
        description="Times of planned rotation: tickets caused by rotation are muted, pages never.",
    )

    @model_validator(mode="after")
    def _repeats_fit_the_interval(self) -> RoutingSettings:
        names = ("page_repeat_interval", "ticket_repeat_interval")
        if faults := [fault for name in names if (fault := self._repeat_fault(name))]:
            raise ValueError("; ".join(faults))
        return self

    def _repeat_fault(self, name: str) -> str:
        """Return why an interval does not fit; empty where it does."""
        interval_ms, repeat_ms = (round(1000 * getattr(self, n)) for n in ("group_interval", name))
        if repeat_ms % interval_ms == 0:
            return ""
        nearest_ms = interval_ms * max(1, round(repeat_ms / interval_ms))
        return (
            f"{name} ({duration_text(repeat_ms / 1000)}) must be a multiple of group_interval "
            f"({duration_text(self.group_interval)}), for Alertmanager repeats at no other time; "
            f"the nearest is {duration_text(nearest_ms / 1000)}"
        )
