"""What instances say: believable, consistent in itself, and never falling within a life."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from provisioning.simulator.fleet import Fleet
from provisioning.simulator.fleet_api import metrics_body
from provisioning.simulator.instance import (
    BOUNDARIES_S,
    Condition,
    Counters,
    changed,
    duration_shares,
    n_running,
    new_lifetime,
    with_request,
)
from provisioning.simulator.spec import FleetSpec, Instance, instances_of
from tests.provisioning.simulator.client import FakeClock

ARTICLE_KEYS = ["tokens_per_second", "latency_p99", "error_count"]


def _metrics(spec: FleetSpec, *, after_s: float = 3600.0) -> dict[str, Any]:
    clock = FakeClock()
    fleet = Fleet(spec, clock=clock)
    body = metrics_body(spec)(fleet.states[0], clock() + after_s)
    decoded: dict[str, Any] = json.loads(body)
    return decoded


def _instance() -> Instance:
    return instances_of(FleetSpec(n_instances=1))[0]


def test_the_metrics_have_the_article_s_keys_and_our_own() -> None:
    assert [
        *ARTICLE_KEYS,
        *("errors", "model", "version", "requests_running", "requests_queued"),
        *("generated_tokens_total", "prompt_tokens_total", "generating_seconds_total"),
        "start_time_seconds",
    ] == list(_metrics(FleetSpec(n_instances=1)))


def test_article_metrics_are_the_article_s_three_and_no_others() -> None:
    full = _metrics(FleetSpec(n_instances=1))

    article = _metrics(FleetSpec(n_instances=1, article_metrics=True))

    assert {key: full[key] for key in ARTICLE_KEYS} == article


def test_errors_by_type_sum_to_the_error_count() -> None:
    metrics = _metrics(FleetSpec(n_instances=1))

    assert metrics["error_count"] == sum(metrics["errors"].values())
    assert {"timeout", "out_of_memory", "overloaded"} == set(metrics["errors"])


def test_the_histogram_is_given_only_when_wanted_and_is_cumulative() -> None:
    assert "request_duration_seconds" not in _metrics(FleetSpec(n_instances=1))

    histogram = _metrics(FleetSpec(n_instances=1, request_histogram=True))[
        "request_duration_seconds"
    ]

    names = [*(f"{boundary:g}" for boundary in BOUNDARIES_S), "+Inf"]
    assert ["0.05", "0.075", "0.1"] == names[:3]
    assert ["60", "120", "+Inf"] == names[-3:]
    assert "0.15" in names
    assert names == list(histogram["buckets"])
    counts = list(histogram["buckets"].values())
    assert counts == sorted(counts)
    assert 0.062 == pytest.approx(histogram["sum"] / counts[-1], rel=0.05)


def test_one_request_in_a_hundred_takes_longer_than_the_p99() -> None:
    instance = _instance()
    life = new_lifetime(instance, start_s=0.0)
    shares = dict(zip(BOUNDARIES_S, duration_shares(life.latency_factor), strict=False))

    assert 0.089 == pytest.approx(life.latency_p99_s, rel=0.03)
    assert shares[0.075] < 0.99 < shares[0.1]


def test_three_requests_in_a_thousand_fail() -> None:
    instances = instances_of(FleetSpec(n_instances=1_000))
    done = [new_lifetime(instance, start_s=0.0).counters(3600.0) for instance in instances]

    n_errors = sum(one.timeouts + one.out_of_memory + one.overloaded for one in done)

    assert 0.003 == pytest.approx(n_errors / sum(one.requests for one in done), rel=0.05)


@pytest.mark.parametrize("factor", [1.0, 0.7])
def test_tokens_grow_by_the_speed_for_every_second_of_generating(factor: float) -> None:
    instance = _instance()
    life = new_lifetime(instance, start_s=0.0, condition=Condition(speed_factor=factor))
    done = life.counters(1_000.0)

    assert instance.tokens_per_second * factor == pytest.approx(life.tokens_per_second)
    assert life.tokens_per_second == pytest.approx(done.generated_tokens / done.generating_s)


def test_a_slow_instance_takes_longer_in_proportion() -> None:
    instance = _instance()
    sound = new_lifetime(instance, start_s=0.0)
    slow = new_lifetime(instance, start_s=0.0, condition=Condition(speed_factor=0.5))

    assert 2 * sound.latency_p99_s == pytest.approx(slow.latency_p99_s)


def test_no_counter_falls_or_jumps_when_the_condition_changes() -> None:
    instance = _instance()
    life = new_lifetime(instance, start_s=0.0)
    before = life.counters(500.0), life.requests_by_boundary(500.0)

    for condition in (Condition(speed_factor=0.5), Condition(error_ratio=0.9), Condition()):
        life = changed(life, instance, now_s=500.0, condition=condition)

        assert before[0] == pytest.approx(life.counters(500.0))
        assert before[1] == pytest.approx(life.requests_by_boundary(500.0))
        assert all(a <= b for a, b in zip(before[0], life.counters(501.0), strict=True))


def test_nothing_grows_while_an_instance_is_not_running() -> None:
    instance = _instance()
    life = new_lifetime(instance, start_s=0.0)
    life = changed(life, instance, now_s=10.0, condition=Condition(is_running=False))

    assert life.counters(10.0) == life.counters(1_000.0)


def test_a_real_request_counts_in_every_bucket_that_holds_it() -> None:
    life = new_lifetime(_instance(), start_s=0.0)

    life = with_request(life, Counters(requests=1.0, duration_s=0.3, generated_tokens=12.0))

    assert 12.0 == life.counters(0.0).generated_tokens
    expected = [*(float(boundary >= 0.3) for boundary in BOUNDARIES_S), 1.0]
    assert expected == list(life.requests_by_boundary(0.0))


def test_instances_run_requests_for_the_share_of_time_that_their_load_takes() -> None:
    instances = instances_of(FleetSpec(n_instances=200))
    lives = [new_lifetime(instance, start_s=0.0) for instance in instances]
    busy = sum(
        n_running(instance, life, float(second))
        for (instance, life), second in itertools.product(
            zip(instances, lives, strict=True), range(100)
        )
    )
    expected = sum(life.per_second.duration_s for life in lives) * 100

    assert expected == pytest.approx(busy, rel=0.2)
