"""Settings of routing that are refused, and how they say so."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from alerts.receivers import RoutingSettings

EMAIL = {"to": "a@example.org", "from": "b@example.org", "smarthost": "mail.example.org:25"}
WINDOW = {"times": ["02:00-06:00"]}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"page_repeat_interval": "7m"}, "(7m) must be a multiple of group_interval (5m)"),
        ({"page_repeat_interval": "7m"}, "the nearest is 5m"),
        ({"ticket_repeat_interval": "1m"}, "ticket_repeat_interval (1m) must be a multiple"),
        ({"group_interval": "7m"}, "page_repeat_interval (4h) must be a multiple"),
        ({"group_interval": "7m"}, "ticket_repeat_interval (1d) must be a multiple"),
        ({"paging": []}, "Extra inputs are not permitted"),
        ({"page": [{}]}, "give one of pagerduty, opsgenie, slack, email, webhook"),
        (
            {"page": [{"email": EMAIL, "webhook": {"url": "https://a.example.org"}}]},
            "not email and webhook",
        ),
        ({"page": [{"webhook": {}}]}, "give either url or url_file"),
        (
            {"page": [{"webhook": {"url": "https://a.example.org", "url_file": "/u"}}]},
            "give either url or url_file",
        ),
        ({"page": [{"webhook": {"url": "ftp://a.example.org"}}]}, "must be a URL such as"),
        ({"page": [{"webhook": {"url": "https://"}}]}, "must name a host"),
        ({"page": [{"webhook": {"url": "https://[a"}}]}, "is not a URL"),
        ({"page": [{"webhook": {"url": "https://a.example.org/b c"}}]}, "must be visible"),
        ({"page": [{"slack": {"api_url_file": "secrets/slack"}}]}, "must be the absolute path"),
        ({"page": [{"email": EMAIL | {"smarthost": "mail.example.org"}}]}, "must be HOST:PORT"),
        ({"page": [{"email": EMAIL | {"auth_username": "a"}}]}, "give both or none"),
        ({"page": [{"email": EMAIL | {"auth_password_file": "/a"}}]}, "give both or none"),
        (
            {"dead_mans_switch": {"url": "https://a.example.org", "interval": "6m"}},
            "must be 5m or shorter",
        ),
        ({"rotation_windows": [{"times": []}]}, "at least 1 item"),
        ({"rotation_windows": [{"times": ["2-6"]}]}, "must be written as 02:00-06:00"),
        ({"rotation_windows": [{"times": ["24:00-24:00"]}]}, "must be written as 02:00-06:00"),
        (
            {"rotation_windows": [{"times": ["22:00-02:00"]}]},
            "over midnight write two: 22:00-24:00, and 00:00-02:00 on the day after",
        ),
        ({"rotation_windows": [{"times": ["02:00-02:00"]}]}, "must end after it starts"),
        ({"rotation_windows": [WINDOW | {"location": "Europe/Berln"}]}, "must be a time zone"),
        ({"rotation_windows": [WINDOW | {"weekdays": ["sun"]}]}, "'saturday' or 'sunday'"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        RoutingSettings.model_validate(settings)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("receiver", "helps"),
    [
        ({"pagerduty": {"routing_key": "s3cret"}}, "instead of routing_key give routing_key_file"),
        ({"pagerduty": {"routing_key_file": "s3cret"}}, "must be the absolute path of a file"),
        ({"opsgenie": {"api_key": "s3cret"}}, "instead of api_key give api_key_file"),
        ({"slack": {"api_url": "https://h/s3cret"}}, "instead of api_url give api_url_file"),
        ({"slack": {"api_url_file": "https://h/s3cret"}}, "must be the absolute path of a file"),
        (
            {"email": EMAIL | {"auth_password": "s3cret"}},
            "instead of auth_password give auth_password_file",
        ),
        (
            {"webhook": {"url": "https://h", "credentials": "s3cret"}},
            "instead of credentials give credentials_file",
        ),
        ({"webhook": {"url": "https://u:s3cret@h/x"}}, "name it in credentials_file"),
        ({"pagerduty": {"routing_key_file": "/k", "url": "https://s3cret@h"}}, "must not hold"),
        ({"opsgenie": {"api_key_file": "/k", "api_url": "https://s3cret@h"}}, "must not hold"),
    ],
)
def test_a_secret_is_refused_with_what_to_do_and_is_not_repeated(
    receiver: dict[str, Any], helps: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        RoutingSettings.model_validate({"page": [receiver]})

    assert helps in str(caught.value)
    assert "s3cret" not in str(caught.value)
