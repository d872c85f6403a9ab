"""What can go wrong with dashboards, by what the caller can do about it."""

from __future__ import annotations

from collections.abc import Sequence

from ollama_fleet.problems import problems_text


class DashboardsError(Exception):
    """Any failure of this package that its user can repair."""


class SettingsError(DashboardsError):
    """An option, or a file that an option names, cannot be used."""


class DocumentError(DashboardsError):
    """Dashboards cannot be read, or are none; `problems` holds everything that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(problems_text("the dashboards; nothing was sent", self.problems))


class GrafanaError(DashboardsError):
    """Grafana was asked for something and has not done it."""


class UnreachableError(GrafanaError):
    """No answer, or only failures, from there; the network or the server needs mending."""


class NotGrafanaError(GrafanaError):
    """Something answers, but not Grafana's API: another address is needed."""


class AccessError(GrafanaError):
    """The token is not known: another one is needed, whatever is asked for."""


class ForbiddenError(GrafanaError):
    """The token may not do this one thing; others may still go through."""


class ChangedError(GrafanaError):
    """Somebody else has changed the dashboard since it was read; reading again helps."""


class RefusedError(GrafanaError):
    """Grafana does not take this one dashboard; others may still go through."""
