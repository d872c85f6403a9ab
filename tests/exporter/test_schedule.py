from __future__ import annotations

from collections import Counter

import pytest

from exporter.poller import MAX_SLOTS, Wheel, phase_s

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


def test_an_item_under_the_same_id_is_replaced_and_a_removed_one_is_gone() -> None:
    wheel: Wheel[str] = Wheel(1.0)
    wheel.add("a", "old")
    wheel.add("a", "new")
    assert ["new"] == [item for tick in range(wheel.n_slots) for item in wheel.due(tick)]

    wheel.remove("a")
    wheel.remove("never there")

    assert [] == [item for tick in range(wheel.n_slots) for item in wheel.due(tick)]


def test_a_long_interval_does_not_cost_memory() -> None:
    wheel: Wheel[str] = Wheel(1e9)

    assert MAX_SLOTS == wheel.n_slots
    assert pytest.approx(1e9) == wheel.n_slots * wheel.tick_s
