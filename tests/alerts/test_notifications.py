"""What a real Alertmanager sends, to whom and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from alerts import inhibition
from tests.alerts.alertmanager import (
    QUICK,
    Alertmanager,
    Inbox,
    all_told,
    hooks,
    labels_of,
    named,
    running,
)
from tests.waiting import eventually


async def test_tickets_are_one_for_each_node_and_a_page_is_one_for_all(
    alertmanager: Alertmanager, taken: Inbox
) -> None:
    slow = "OllamaNodeSlowerThanFleet"

    await alertmanager.fire(
        [labels_of(slow, "warning", node=f"n{i}", model=f"m{j}") for i in (1, 2) for j in (1, 2)]
        + [labels_of("OllamaModelUnavailable", model=f"m{i}") for i in (1, 2)]
    )
    await all_told(alertmanager, taken)

    await eventually(lambda: [slow, slow] == taken.told("ticket"))
    await eventually(lambda: ["OllamaModelUnavailable"] == taken.told("page"))


async def test_a_rotation_window_mutes_what_rotation_causes_and_no_page(
    tmp_path: Path, taken: Inbox
) -> None:
    """The window is open all day. In the other cluster the same alerts were made critical."""
    settings = hooks(taken.url) | {"rotation_windows": [{"times": ["00:00-24:00"]}]}
    causes = inhibition.ROTATION_CAUSES
    async with running(tmp_path, settings) as alertmanager:
        await alertmanager.fire(
            named(*causes, severity="warning", cluster="eu")
            + named(*causes, severity="info", cluster="eu")
            + named("OllamaFleetInventoryShrunk", severity="warning")
            + named(*causes, severity="critical", cluster="us")
        )
        await all_told(alertmanager, taken)
        await eventually(lambda: ["OllamaFleetInventoryShrunk"] == taken.told("ticket"))
        await eventually(lambda: sorted(causes) == taken.told("page", "us"))

    assert [] == taken.told("info")


async def test_a_closed_rotation_window_mutes_nothing(tmp_path: Path, taken: Inbox) -> None:
    """One is open on another day, one at this hour of a time zone that is twelve hours ahead."""
    now = datetime.now(UTC)
    day, hour = (now + timedelta(days=3)).strftime("%A").lower(), now.hour
    windows = [
        {"weekdays": [day], "times": ["00:00-24:00"]},
        {"times": [f"{hour:02}:00-{hour + 1:02}:00"], "location": "Etc/GMT-12"},
    ]
    async with running(tmp_path, hooks(taken.url) | {"rotation_windows": windows}) as alertmanager:
        await alertmanager.fire(named(*inhibition.ROTATION_CAUSES, severity="warning"))
        await eventually(lambda: sorted(inhibition.ROTATION_CAUSES) == taken.told("ticket"))


async def test_the_dead_mans_switch_hears_at_intervals(tmp_path: Path, taken: Inbox) -> None:
    settings = {
        "dead_mans_switch": {"url": f"{taken.url}/switch", "interval": "2s"},
        "page": [{"webhook": {"url": f"{taken.url}/page"}}],
    }
    async with running(tmp_path, settings) as alertmanager:
        await alertmanager.fire(
            named("OllamaFleetExporterDown") + named("Watchdog", component="ollama-fleet")
        )
        await eventually(lambda: _is_regular(taken))

    assert {"Watchdog"} == set(taken.told("switch"))


def _is_regular(taken: Inbox) -> bool:
    """Return whether the last three waits were nearer to one interval, 2 s, than to two.

    A busy machine may hold up a message now and then; where all come too seldom, no three in a row
    are in time.
    """
    arrivals_s = [post.arrived_s for post in taken.at("switch")][-4:]
    waits_s = [later - earlier for earlier, later in pairwise(arrivals_s)]
    return 3 == len(waits_s) and max(waits_s) < 3


async def test_a_webhook_sends_its_token_from_the_file(tmp_path: Path, taken: Inbox) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret")
    hook = {"url": f"{taken.url}/page", "credentials_file": str(token), "max_alerts": 2}
    async with running(tmp_path, QUICK | {"page": [{"webhook": hook}]}) as alertmanager:
        await alertmanager.fire([labels_of("OllamaModelUnavailable", model=m) for m in "abc"])
        await eventually(lambda: taken.told("page"))

    (post,) = taken.at("page")
    assert "Bearer s3cret" == post.authorization
    assert (2, 1) == (len(post.body["alerts"]), post.body["truncatedAlerts"])
