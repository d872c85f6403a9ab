"""`ollama-fleet slo report` on a real Prometheus whose past has an outage, failures and a gap."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from alerts import names
from alerts.slo_cli import slo
from tests.alerts.past import Programs, prometheus_with

DAYS = 8
HOUR_S, DAY_S, STEP_S = 3600, 86_400, 60
LOW = "OllamaFleetHealthyInstancesLow"
FLEET = "llama 🦙\n|"
HOSTILE = "</td><script>alert('x')</script>&amp;\x1b[2J"
HOSTILE_NODE = 'n7"><img src=x onerror=alert(1)>'
Series = tuple[str, Mapping[int, float]]


class Times:
    """When what happens, back from a whole hour."""

    def __init__(self) -> None:
        self.end_s = int(time.time()) // HOUR_S * HOUR_S
        self.all = range(self.end_s - DAYS * DAY_S, self.end_s + 1, STEP_S)
        self.outage_s = self.end_s - 30 * HOUR_S
        """Begin of the hour whose second half is an outage of half of the fleet."""
        self.failing_s = self.end_s - 100 * HOUR_S
        """Begin of the hour in which a tenth of the requests fail."""
        self.gap = range(self.end_s - 60 * HOUR_S + 1, self.end_s - 57 * HOUR_S + 1)

    def hour(self, start_s: int, minute: int = 0) -> range:
        return range(start_s + minute * 60 + 1, start_s + HOUR_S + 1)


def quoted(label: str) -> str:
    return '"' + label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def past(times: Times, cluster: str) -> Iterator[Series]:
    label = f"cluster={quoted(cluster)}"
    there = [at_s for at_s in times.all if at_s not in times.gap]
    down, failing = times.hour(times.outage_s, 30), times.hour(times.failing_s)
    yield f"{names.INVENTORY}{{{label}}}", dict.fromkeys(there, 60.0)
    ratio = {at_s: 0.5 if at_s in down else 1.0 for at_s in there}
    yield f"{names.AVAILABLE_RATIO}{{{label}}}", ratio
    # A minute that is not a number takes nothing from the others of its hour.
    requests = dict.fromkeys(there, 10.0) | {times.failing_s + 1800: math.nan}
    yield f"{names.REQUESTS}{{{label}}}", requests
    errors = {at_s: 1.0 if at_s in failing else 0.0 for at_s in there}
    yield f"{names.REQUEST_ERRORS}{{{label}}}", errors
    hour = range(times.outage_s, times.outage_s + HOUR_S + 1, STEP_S)
    for node, healthy in ((HOSTILE_NODE, 0.0), ("n8", 20.0), ("n9", 15.0)):
        where = f"{label},node={quoted(node)}"
        yield f"{names.NODE_EXPECTED}{{{where}}}", dict.fromkeys(hour, 20.0)
        series = f'{names.NODE_INSTANCES}{{{where},status="healthy"}}'
        yield series, {at_s: healthy if at_s in down else 20.0 for at_s in hour}
    # A page at the end of the hour and after it; a ticket whose name is hostile; what no one hears.
    late = range(times.outage_s + 50 * 60, times.outage_s + HOUR_S + 600, STEP_S)
    for alert, severity in ((LOW, "critical"), (HOSTILE, "warning"), ("Watchdog", "none")):
        where = f'alertname={quoted(alert)},severity="{severity}",alertstate="firing",{label}'
        yield f"ALERTS{{{where}}}", dict.fromkeys(late, 1.0)
    where = f'alertname="Pending",severity="critical",alertstate="pending",{label}'
    yield f"ALERTS{{{where}}}", dict.fromkeys(late, 1.0)


async def reported(url: str, *options: str) -> Result:
    words = ["report", "--prometheus.url", url, *options]
    return await asyncio.to_thread(CliRunner().invoke, slo, words)


def moment(at_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_s))


async def test_a_report_names_the_hours_of_an_outage_their_alerts_and_nodes(
    tmp_path: Path,
    prometheus_binary: Path,
    promtool_binary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times, html, now_s = Times(), tmp_path / "report.html", time.time()
    monkeypatch.setattr(time, "time", lambda: now_s)  # no hour may end meanwhile
    programs = Programs(prometheus_binary, promtool_binary)
    # The other fleet's alerts are none of ours.
    other = [*past(times, "b|.*")]
    async with prometheus_with([*past(times, FLEET), *other], tmp_path, programs) as url:
        whole = await reported(url, "--since=7d", f"--cluster={FLEET}", "--json", f"--html={html}")
        text = (await reported(url, "--since=7d", f"--cluster={FLEET}")).stdout
        which = await reported(url, "--since=7d")
        before = await reported(
            url, "--since=1d", f"--cluster={FLEET}", "--json",
            f"--until={moment(times.outage_s).replace(' ', 'T')}",
        )  # fmt: skip
        strict = await reported(
            url, f"--cluster={FLEET}", "--since=7d", "--set=slo.requests=99.99%", "--fail-on-missed"
        )
        old = await reported(url, "--since=1d", f"--cluster={FLEET}", "--until=2020-01-02")
        longer = await reported(url, f"--cluster={FLEET}", "--json")

    assert 0 == whole.exit_code, whole.output
    found: dict[str, Any] = json.loads(whole.stdout)
    _check_levels(found, times)
    _check_causes(found, times)
    assert f"{moment(times.outage_s)} " in text
    assert f"{LOW} (" in text
    assert "\x1b" not in text
    assert f"{moment(times.gap[0] - 1)} to {moment(times.gap[-1])} UTC (3h)" in text
    assert (1, "") == (which.exit_code, which.stdout)
    assert "there are 2 fleets, by the label cluster: name one with --cluster" in which.stderr
    assert [] == json.loads(before.stdout)["worst"]
    assert 24 == json.loads(before.stdout)["hours_with_data"]
    assert 1 == strict.exit_code
    assert "missed" in strict.stdout
    assert (1, "") == (old.exit_code, old.stdout)
    assert 30 * 24 == len(json.loads(longer.stdout)["hours"])
    assert pytest.approx(DAYS * 24 - 3, abs=0.3) == json.loads(longer.stdout)["hours_with_data"]
    _check_page(html.read_text(encoding="utf-8"), times)


def _check_levels(found: dict[str, Any], times: Times) -> None:
    """Half of the fleet is away for half of an hour; 3,600 of 36,000 requests of an hour fail."""
    n_hours = 7 * 24 - 3
    assert pytest.approx(n_hours, abs=0.3) == found["hours_with_data"]
    assert pytest.approx(1 - 0.25 / n_hours, abs=1e-5) == found["availability"]["measured"]
    assert pytest.approx(0.25 / n_hours / 0.001, abs=0.01) == found["availability"]["budget_used"]
    assert pytest.approx(n_hours * 36_000, rel=0.002) == found["n_requests"]
    assert pytest.approx(3600) == found["n_failed"]
    assert ["missed", "met"] == [found[what]["verdict"] for what in ("availability", "requests")]
    (gap,) = found["gaps"]
    assert [times.gap[0] - 1, times.gap[-1]] == gap


def _check_causes(found: dict[str, Any], times: Times) -> None:
    outage, failing = found["worst"]
    assert times.outage_s == outage["hour"]["start_s"]
    assert pytest.approx(0.75) == outage["hour"]["available"]
    fired = [(one["alert"], one["severity"]) for one in outage["fired"]]
    assert [(LOW, "critical"), (HOSTILE, "warning")] == fired
    assert 18 <= outage["fired"][0]["minutes"] <= 25
    assert "healthy" in outage["fired"][0]["summary"]
    assert [HOSTILE_NODE, "n9"] == outage["nodes"]
    assert times.failing_s == failing["hour"]["start_s"]
    assert pytest.approx(3600) == failing["hour"]["failed"]
    assert ([], []) == (failing["fired"], failing["nodes"])


def _check_page(page: str, times: Times) -> None:
    """It is well-formed, loads nothing, and shows labels as text."""
    root = ElementTree.fromstring(page)  # noqa: S314
    tags = {element.tag for element in root.iter()}
    attributes = [name for element in root.iter() for name in element.attrib]
    words = " ".join("".join(root.itertext()).split())

    assert set() == tags & {"script", "img", "link", "iframe", "object", "a", "input", "form"}
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "href")}
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert "color-scheme: light" in page
    assert "@media print" in page
    assert "</td><script>alert('x')</script>&amp;\\x1b[2J" in words
    assert HOSTILE_NODE in words
    assert moment(times.outage_s) in words
    assert f"{moment(times.gap[0] - 1)} to" in words
    assert len(root.findall(".//rect")) in (7, 8)


async def test_what_cannot_be_reported_is_refused(tmp_path: Path) -> None:
    url = "http://me:s3cret@127.0.0.1:9"
    gone = await reported(url)
    future = await reported(url, "--until=2999-01-01")
    short = await reported(url, "--since=1m")

    assert [(2, "")] * 3 == [(one.exit_code, one.stdout) for one in (gone, future, short)]
    assert "http://127.0.0.1:9 cannot be asked: " in gone.stderr
    assert "s3cret" not in gone.output
    assert "--until must not be in the future" in future.stderr
