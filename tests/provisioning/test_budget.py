"""The promise of a rotation: no instance gets older than its pool's period."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from provisioning.actions import Drain
from provisioning.budget import schedule_of, throughput_of
from provisioning.model import DAY_S, Fleet, Limits, Rotation, WarmUp, Workload
from provisioning.reconcile import decide
from provisioning.store.base import StoredInstance
from tests.provisioning.making import CHAT, NOW_S, fleet, instance, node, observed, pool

TURN_S = 5000.0
WEEK = Rotation(every_s=7 * DAY_S, at_once=500, drain_s=3600.0, warm_up_s=1000.0)
WARMED = CHAT.replace(warm_up=(WarmUp(path="/load"),))
LIMITS = Limits(start_timeout_s=390.0, stop_grace_s=5.0, unavailable_ratio=0.05, operations=500)


def ages_at_the_end(wanted: Fleet, n: int) -> list[float]:
    """Return how old each instance was when it was replaced; every turn lasts as long as it may."""
    digest = wanted.pools[0].workload.digest
    seen = observed(
        [instance(number, started_s=NOW_S, workload=digest) for number in range(1, n + 1)]
    )
    stored, ages = dict(seen.stored), list[float]()
    now_s = NOW_S + wanted.pools[0].rotation.every_s - 30 * TURN_S
    while len(ages) < n:
        actions = decide(wanted, replace(seen, stored=stored), now_s)
        now_s += TURN_S
        for action in actions:
            assert isinstance(action, Drain)
            ages.append(now_s - stored[action.id].instance.started_s)
            fresh = replace(stored[action.id].instance, started_s=now_s)
            stored[action.id] = StoredInstance(fresh, 1)
    return ages


def test_of_10_000_in_one_pool_made_at_once_none_gets_older_than_promised() -> None:
    """To replace 10,000, 500 at once, takes 27.8 h of a week, the loading of models included."""
    n = 10_000
    warmed = pool(n, rotation=WEEK, workload=WARMED)
    big = node(cpus=1e6, memory_bytes=2**60, last_port=60_000)

    ages = ages_at_the_end(fleet(warmed, nodes=[big], limits=LIMITS), n)

    assert 5.8 * DAY_S < min(ages) <= max(ages) <= WEEK.every_s


def test_a_period_that_cannot_be_kept_does_not_replace_instances_again_and_again() -> None:
    """All are due in the last seventh."""
    hourly = Rotation(every_s=3600.0, at_once=1, drain_s=600.0)
    schedule = schedule_of(pool(20, rotation=hourly), LIMITS)

    due_s = sorted(schedule.due_age_s(f"chat-{number:05}") for number in range(1000))

    assert 3600.0 * 6 / 7 <= due_s[0] < 3100.0
    assert 3590.0 < due_s[-1] <= 3600.0


@pytest.mark.parametrize(
    ("count", "operations", "n_turns"),
    [(1, 500, 1), (40, 500, 20), (41, 500, 21), (59, 500, 30), (60, 500, 20), (60, 1, 60)],
)
def test_a_pool_is_replaced_in_whole_turns_of_as_many_as_the_limits_allow(
    count: int, operations: int, n_turns: int
) -> None:
    """Of 40 two may be down at once, of 60 three; an operation lasts as long as a turn here."""
    limits = LIMITS.replace(operations=operations)
    throughput = throughput_of(pool(count, rotation=WEEK.replace(drain_s=0.0)), limits)

    assert n_turns == throughput.whole_s / throughput.turn_s


@pytest.mark.parametrize(("workload", "warm_up_s"), [(CHAT, 0.0), (WARMED, 60.0)])
def test_a_turn_includes_the_loading_of_the_model_where_the_pool_has_a_warm_up(
    workload: Workload, warm_up_s: float
) -> None:
    """By default 60 s; an operation lasts as long, so of six at most five are on their way."""
    rotation = Rotation(at_once=99, drain_s=0.0)
    limits = Limits(operations=5, unavailable_ratio=1.0)

    throughput = throughput_of(pool(6, rotation=rotation, workload=workload), limits)

    assert 45.0 + warm_up_s == throughput.turn_s
    assert 5 == throughput.n_at_once
