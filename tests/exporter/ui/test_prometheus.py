"""What a Prometheus may say, and that the page never waits for it. Faults only over the network."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from exporter.catalogue import HEALTHY_THRESHOLD, LATENCY_THRESHOLD, SPEED_THRESHOLD
from exporter.ui.prometheus import (
    FIRING_QUERY,
    KEPT_S,
    MAX_FIRING_OF_ONE_NAME,
    N_FIRING_QUERY,
    QUERIES,
    Alert,
    Answer,
    Prometheus,
    alerts_of,
    answer_of,
    thresholds_of,
)
from ollama_fleet.prometheus import Series
from tests.exporter.servers import hanging, serving
from tests.exporter.ui.building import HeldClock
from tests.exporter.ui.prometheuses import Asked, alert, number, result, rule, threshold
from tests.waiting import eventually

REFRESH_S = 2.0


@pytest.fixture(autouse=True)
def _no_answer_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, no question ends by its time."""
    monkeypatch.setattr("exporter.ui.prometheus.TIMEOUT_S", 1000.0)


# Reading


def test_alerts_come_with_name_severity_labels_and_since_when() -> None:
    expected = Alert("OllamaA", "critical", {"node": "n1", "cluster": "c"}, 17.5)

    assert (expected,) == alerts_of([alert("OllamaA", "critical", node="n1", cluster="c")], 9)


def test_the_most_severe_alerts_come_first_and_then_by_name_and_labels() -> None:
    series = [
        alert("OllamaB", "info"),
        alert("OllamaA", "of another kind"),
        alert("OllamaD", "warning", node="n2"),
        alert("OllamaD", "warning", node="n1"),
        alert("OllamaC", "warning"),
        alert("OllamaZ", "critical"),
    ]

    firing = alerts_of(series, 9)

    assert ["OllamaZ", "OllamaC", "OllamaD", "OllamaD", "OllamaB", "OllamaA"] == [
        each.name for each in firing
    ]
    assert ["n1", "n2"] == [each.labels["node"] for each in firing[2:4]]


def test_thresholds_are_read_by_series() -> None:
    series = [threshold("healthy_instances", "9900"), threshold("tokens_per_second", "4e5")]

    expected = {HEALTHY_THRESHOLD.name: 9900.0, SPEED_THRESHOLD.name: 400_000.0}
    assert expected == thresholds_of(series)


def test_a_threshold_that_differs_between_fleets_is_nobodys() -> None:
    series = [
        threshold("healthy_instances", "9900", cluster="a"),
        threshold("healthy_instances", "50", cluster="b"),
        threshold("request_latency_seconds", "0.15", cluster="a"),
        threshold("request_latency_seconds", "0.15", cluster="b"),
    ]

    assert {LATENCY_THRESHOLD.name: 0.15} == thresholds_of(series)


@pytest.mark.parametrize(
    ("told", "expected"),
    [([number("9000")], 9000), ([], 2), ([number("1")], 2), ([number("NaN")], 2)],
)
def test_all_that_fire_are_counted_at_least_those_that_are_listed(
    told: list[Series], expected: int
) -> None:
    answer = answer_of([], [alert("OllamaA"), alert("OllamaB")], told, [])

    assert (expected, 2) == (answer.n_firing, len(answer.firing))


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([Series({"severity": "critical"}, (1.0, "3")), number("4")], (7, 3)),
        ([Series({"severity": "warning"}, (1.0, "9"))], (9, 1)),
        ([], (2, 1)),
    ],
)
def test_critical_ones_are_counted_apart(told: list[Series], expected: tuple[int, int]) -> None:
    answer = answer_of([], [alert("OllamaA", "critical"), alert("OllamaB")], told, [])

    assert expected == (answer.n_firing, answer.n_critical)


def test_an_alert_that_fires_for_very_many_does_not_drown_the_others(
    promtool_binary: Path, tmp_path: Path
) -> None:
    """Prometheus itself picks those of each name that fire for longest, and counts all of ours."""
    n = MAX_FIRING_OF_ONE_NAME
    one = 'alertname="OllamaOne",severity="critical"'
    firing = [*[f'alertname="OllamaMany",n="{i}"' for i in range(n + 1)], one]
    state_by_labels = {
        **dict.fromkeys(firing, "firing"),
        'alertname="OllamaSoon"': "pending",
        'alertname="Another"': "firing",
    }
    expected = [*firing[:n], firing[-1]]
    since = {labels: 1000 + place for place, labels in enumerate(state_by_labels)}
    series = {f"ALERTS_FOR_STATE{{{labels}}}": since_s for labels, since_s in since.items()}
    for labels, state in state_by_labels.items():
        series[f'ALERTS{{{labels},alertstate="{state}"}}'] = 1
    samples = {f"ALERTS_FOR_STATE{{{labels}}}": since[labels] for labels in expected}

    told = run_promtool(
        promtool_binary,
        tmp_path / "test.yml",
        series,
        {FIRING_QUERY: samples, N_FIRING_QUERY: {"{}": n + 1, '{severity="critical"}': 1}},
    )

    assert "SUCCESS" in told


def run_promtool(
    promtool: Path,
    file: Path,
    series: Mapping[str, int],
    expected: Mapping[str, Mapping[str, int]],
) -> str:
    """Return what promtool says to the results that are expected of queries over some series."""
    queries = [
        {
            "expr": query,
            "exp_samples": [{"labels": name, "value": n} for name, n in samples.items()],
        }
        for query, samples in expected.items()
    ]
    inputs = [{"series": name, "values": str(n)} for name, n in series.items()]
    test = {"tests": [{"input_series": inputs, "promql_expr_test": queries}]}
    file.write_text(yaml.safe_dump(test), encoding="utf-8")
    command = [str(promtool), "test", "rules", str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


# Asking


GOOD = Answer("", (Alert("OllamaA", "warning", {}, 17.5),), (), 7, 0, {SPEED_THRESHOLD.name: 7.0})


@asynccontextmanager
async def asking(port: int, clock: HeldClock, path: str = "") -> AsyncIterator[Prometheus]:
    prometheus = Prometheus(f"http://127.0.0.1:{port}{path}", clock, refresh_s=REFRESH_S)
    try:
        yield prometheus
    finally:
        await prometheus.close()


async def test_the_last_answer_is_given_at_once_and_the_next_is_fetched_beside() -> None:
    asked, clock = Asked(), HeldClock()
    async with serving(asked.handle) as port, asking(port, clock, "/prom") as prometheus:
        first = prometheus.latest()
        await eventually(lambda: not prometheus.latest().error)
        later = prometheus.latest()

    assert Answer("Prometheus has not been asked yet") == first
    assert GOOD == later
    assert {"/prom/api/v1/query", "/prom/api/v1/rules"} == {
        urlsplit(path).path for path in asked.paths
    }
    assert sorted(QUERIES) == sorted(asked.queries)


async def test_a_pending_alert_says_how_long_yet_and_where_its_dashboard_is() -> None:
    """Links of rules are templates; what is no link to a page is left out."""
    asked, clock = Asked(), HeldClock()
    asked.results = {**asked.results, QUERIES[3]: result(alert("OllamaB", node="n 1"))}
    link = "http://g/d/x?var-node={{ $labels.node | urlquery }}"
    asked.rules = [
        rule("OllamaA", 60.0, dashboard_url="javascript:x"),
        rule("OllamaB", 300.0, dashboard_url=link),
    ]
    async with serving(asked.handle) as port, asking(port, clock) as prometheus:
        await eventually(lambda: not prometheus.latest().error)
        answer = prometheus.latest()

    assert ("OllamaB", 300.0, "http://g/d/x?var-node=n%201") == (
        answer.pending[0].name, answer.pending[0].for_seconds, answer.pending[0].dashboard_url,
    )  # fmt: skip
    assert (60.0, "") == (answer.firing[0].for_seconds, answer.firing[0].dashboard_url)


async def test_it_is_asked_once_per_refresh_and_only_while_somebody_looks() -> None:
    asked, clock = Asked(), HeldClock()
    async with serving(asked.handle) as port, asking(port, clock) as prometheus:
        await eventually(lambda: not prometheus.latest().error)
        clock.move(REFRESH_S - 0.001)
        prometheus.latest()
        await asyncio.sleep(0)
        assert 4 == len(asked.queries)

        clock.move(0.001)
        prometheus.latest()
        await asked.until(8)


async def test_what_was_known_long_ago_is_not_told_as_news() -> None:
    asked, clock = Asked(), HeldClock()
    async with serving(asked.handle) as port, asking(port, clock) as prometheus:
        await eventually(lambda: not prometheus.latest().error)
        clock.move(KEPT_S + REFRESH_S)
        assert GOOD == prometheus.latest()
        await asked.until(8)
        clock.move(KEPT_S + REFRESH_S + 1.0)

        assert Answer("Prometheus is being asked again") == prometheus.latest()
        await eventually(lambda: GOOD == prometheus.latest())


async def test_what_was_known_stays_beside_the_error() -> None:
    asked, clock = Asked(), HeldClock()
    async with serving(asked.handle) as port, asking(port, clock) as prometheus:
        await eventually(lambda: not prometheus.latest().error)
        asked.results = dict.fromkeys(QUERIES, b"{}")
        clock.move(REFRESH_S)
        await eventually(lambda: prometheus.latest().error)
        failing = prometheus.latest()

        asked.results = Asked().results
        clock.move(REFRESH_S)
        await eventually(lambda: GOOD == prometheus.latest())

    assert (GOOD.firing, GOOD.thresholds) == (failing.firing, failing.thresholds)


async def test_a_fault_is_logged_once_and_so_is_the_recovery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "exporter.ui")
    asked, clock = Asked(), HeldClock()
    asked.results = dict.fromkeys(QUERIES, b"{}")
    async with serving(asked.handle) as port, asking(port, clock) as prometheus:

        def asking_makes(times: int) -> bool:
            prometheus.latest()
            return times == len(asked.queries)

        for n_asked in (4, 8, 12):
            # While the answers before are still taken in, no new ones are asked for.
            await eventually(partial(asking_makes, n_asked))
            await eventually(lambda: "not answer as" in repr(prometheus))
            clock.move(REFRESH_S)
        asked.results = Asked().results

        async def is_well() -> bool:
            clock.move(REFRESH_S)
            return not prometheus.latest().error

        await eventually(is_well)

    failed, recovered = caplog.messages
    url = f"url=http://127.0.0.1:{port}"
    assert failed.startswith(f"prometheus query failed {url}: does not answer as Prometheus does")
    assert f"prometheus answers again {url}" == recovered


async def test_closing_ends_a_question_under_way() -> None:
    async with serving(hanging) as port, asking(port, HeldClock()) as prometheus:
        prometheus.latest()
        await asyncio.sleep(0)
        await asyncio.wait_for(prometheus.close(), 100.0)
        await prometheus.close()
