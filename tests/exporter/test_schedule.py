from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.poller import MAX_SLOTS, TICK_S, Wheel, phase_s

INTERVAL_S = 10.0


@pytest.mark.parametrize(
    ("instance_id", "expected_s"),
    [
        ("a", 2.625896),
        ("node-1:11434", 7.677636),
        ("ollama-00042", 8.167231),
        ("größe", 8.748411),
    ],
)
def test_an_instance_keeps_its_phase_from_release_to_release(
    instance_id: str, expected_s: float
) -> None:
    """A changed hash would move every instance's polls on an upgrade: that must be meant."""
    assert pytest.approx(expected_s, abs=1e-6) == phase_s(instance_id, INTERVAL_S)


@given(st.text(st.characters(codec="utf-8")), st.floats(0.01, 1e5))
def test_a_phase_lies_in_its_interval_and_scales_with_it(
    instance_id: str, interval_s: float
) -> None:
    phase = phase_s(instance_id, interval_s)

    assert 0 <= phase < interval_s
    assert pytest.approx(phase / interval_s) == phase_s(instance_id, 1.0)


def test_phases_are_spread_evenly() -> None:
    """Pearson's chi-square over 100 equal parts: above 150 happens by chance once in 1,000."""
    counts = Counter(int(phase_s(f"ollama-{n:05}", 100.0)) for n in range(10_000))
    expected = 10_000 / 100

    assert sum((counts[part] - expected) ** 2 / expected for part in range(100)) < 150


def test_each_item_is_due_once_in_an_interval_at_its_phase() -> None:
    wheel: Wheel[str] = Wheel(INTERVAL_S)
    names = [f"i{n}" for n in range(500)]
    for name in names:
        wheel.add(name, name)

    due = [(name, tick) for tick in range(wheel.n_slots) for name in wheel.due(tick)]

    assert sorted(names) == sorted(name for name, _ in due)
    for name, tick in due:
        starts_s = wheel.starts_at_s(tick)
        assert starts_s <= phase_s(name, INTERVAL_S) < starts_s + wheel.tick_s + 1e-9


def test_an_item_is_due_again_one_interval_later() -> None:
    wheel: Wheel[str] = Wheel(INTERVAL_S)
    wheel.add("a", "a")
    (tick,) = (tick for tick in range(wheel.n_slots) if wheel.due(tick))

    assert ("a",) == wheel.due(tick + 7 * wheel.n_slots)
    assert () == wheel.due(tick + 1)


def test_an_item_under_the_same_id_is_replaced_and_a_removed_one_is_gone() -> None:
    wheel: Wheel[str] = Wheel(1.0)
    wheel.add("a", "old")
    wheel.add("a", "new")
    assert ["new"] == [item for tick in range(wheel.n_slots) for item in wheel.due(tick)]

    wheel.remove("a")
    wheel.remove("never there")

    assert [] == [item for tick in range(wheel.n_slots) for item in wheel.due(tick)]


def test_what_is_due_may_change_the_wheel_while_it_is_gone_through() -> None:
    wheel: Wheel[str] = Wheel(TICK_S)
    wheel.add("a", "a")
    wheel.add("b", "b")

    for item in wheel.due(0):
        wheel.remove(item)

    assert () == wheel.due(0)


@pytest.mark.parametrize("interval_s", [0.001, 0.01, 0.3, 1.0, 7.77, 10.0, 60.0])
def test_ticks_divide_the_interval_without_rest(interval_s: float) -> None:
    wheel: Wheel[str] = Wheel(interval_s)

    assert pytest.approx(interval_s) == wheel.n_slots * wheel.tick_s
    assert pytest.approx(wheel.starts_at_s(12345) + interval_s) == wheel.starts_at_s(
        12345 + wheel.n_slots
    )


@given(st.floats(0, 4e9), st.sampled_from([0.4, 1.0, 10.0, 33.3]))
def test_a_moment_lies_in_its_tick(unix_s: float, interval_s: float) -> None:
    wheel: Wheel[str] = Wheel(interval_s)
    tick = wheel.tick_at(unix_s)

    assert wheel.starts_at_s(tick) <= unix_s + 1e-6
    assert unix_s < wheel.starts_at_s(tick + 1) + 1e-6


def test_a_long_interval_does_not_cost_memory() -> None:
    wheel: Wheel[str] = Wheel(1e9)

    assert MAX_SLOTS == wheel.n_slots
    assert pytest.approx(1e9) == wheel.n_slots * wheel.tick_s
