"""Containers that could not be removed, and how long they are left alone."""

from __future__ import annotations

from provisioning.executor import LONGEST_BACKOFF_S, RemovalBackoff


class Hand:
    """A clock in the hand."""

    now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        raise NotImplementedError


def rest_s(rests: RemovalBackoff, hand: Hand) -> int:
    """Return for how many whole seconds more the container `a.1` is left alone."""
    begun_s = hand.now_s
    while "a.1" in rests.backing_off():
        hand.now_s += 1.0
    return round(hand.now_s - begun_s)


def test_each_failure_doubles_the_rest_up_to_the_longest() -> None:
    hand = Hand()
    rests = RemovalBackoff(hand)
    assert 0 == rest_s(rests, hand)

    seen = []
    for _ in range(8):
        rests.note_failed("a.1")
        seen.append(rest_s(rests, hand))

    assert [1, 2, 4, 8, 16, 32, LONGEST_BACKOFF_S, LONGEST_BACKOFF_S] == seen


def test_a_container_that_was_removed_begins_anew() -> None:
    hand = Hand()
    rests = RemovalBackoff(hand)
    for _ in range(3):
        rests.note_failed("a.1")

    rests.note_removed("a.1")
    rests.note_failed("a.1")

    assert 1 == rest_s(rests, hand)


def test_containers_rest_each_by_itself_until_all_is_forgotten() -> None:
    rests = RemovalBackoff(Hand())
    rests.note_failed("a.1")
    rests.note_failed("b.1")
    rests.note_removed("c.1")
    assert {"a.1", "b.1"} == rests.backing_off()

    rests.clear()

    assert frozenset() == rests.backing_off()
