from __future__ import annotations

from tests.bench.figures import (
    Durations,
    PollerCycle,
    Row,
    durations_of,
    median_cpu,
    peer_row,
)
from tests.bench.procfs import Cpu


def _cycle(*, user_s: float, healthy: int, resident_bytes: int) -> PollerCycle:
    return PollerCycle(healthy, user_s, 0.5, resident_bytes, 60, 600, render_s=user_s / 10)


def test_durations_are_told_by_median_p99_and_maximum() -> None:
    assert Durations(50.5, 99.0, 100.0) == durations_of([float(n) for n in range(100, 0, -1)])


def test_one_duration_is_all_three() -> None:
    assert Durations(0.2, 0.2, 0.2) == durations_of([0.2])


def test_the_cycle_in_the_middle_counts_and_the_lower_of_two() -> None:
    low, middle, high = Cpu(1.0, 0.0), Cpu(0.0, 2.0), Cpu(2.0, 1.0)

    assert middle == median_cpu([high, low, middle])
    assert low == median_cpu([high, low])


def test_a_peer_is_judged_by_its_middle_cycle_and_its_last_memory() -> None:
    cycles = [
        _cycle(user_s=3.0, healthy=9, resident_bytes=1),
        _cycle(user_s=1.0, healthy=10, resident_bytes=2),
        _cycle(user_s=2.0, healthy=8, resident_bytes=3),
    ]

    row = peer_row("a peer", cycles)

    assert (9, 2.0, 0.5, 3) == (row.healthy, row.user_s, row.system_s, row.resident_bytes)
    assert 0.2 == row.render_s


def test_cpu_time_needs_both_of_its_parts() -> None:
    assert 0.75 == Row(what="x", user_s=0.5, system_s=0.25).cpu_s
    assert None is Row(what="x", user_s=0.5).cpu_s
