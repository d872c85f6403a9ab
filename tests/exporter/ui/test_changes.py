from __future__ import annotations

from array import array

from exporter.ui.cells import UNKNOWN
from exporter.ui.protocol import COMPARED_AT_ONCE, Changes, changes, whole


def numbers(*values: int) -> array[int]:
    return array("i", values)


def test_only_cells_that_changed_are_told() -> None:
    before, now = numbers(1, 2, 3, 4), numbers(1, 9, 3, 8)

    assert Changes([1, 3], [9, 8]) == changes(before, now)


def test_what_is_not_known_is_told_as_null() -> None:
    assert Changes([0], [None]) == changes(numbers(5, 6, 7), numbers(UNKNOWN, 6, 7))
    assert Changes([0], [5]) == changes(numbers(UNKNOWN, 6, 7), numbers(5, 6, 7))
    assert Changes(None, [None, 0]) == whole(numbers(UNKNOWN, 0))


def test_of_more_than_half_of_the_cells_all_are_told() -> None:
    before = numbers(1, 1, 1, 1)

    assert Changes([0, 1], [2, 2]) == changes(before, numbers(2, 2, 1, 1))
    assert Changes(None, [2, 2, 2, 1]) == changes(before, numbers(2, 2, 2, 1))


def test_changes_are_found_wherever_they_are() -> None:
    n = 3 * COMPARED_AT_ONCE + 1
    changed = [0, COMPARED_AT_ONCE - 1, COMPARED_AT_ONCE, 2 * COMPARED_AT_ONCE + 5, n - 1]
    now = numbers(*[1] * n)
    for place in changed:
        now[place] = 2

    assert Changes(list(changed), [2] * 5) == changes(numbers(*[1] * n), now)
