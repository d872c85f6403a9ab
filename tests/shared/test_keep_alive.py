from __future__ import annotations

import pytest

from exporter.model import LoadedModel
from ollama_fleet.keep_alive import Stay, after_canary, chosen, is_leaving, keep_alive, watch

NOW_S = 1_800_000_000.0


def model(expires_in_s: float | None, name: str = "m") -> LoadedModel:
    expires_s = None if expires_in_s is None else NOW_S + expires_in_s
    return LoadedModel(name, expires_at_s=expires_s, is_pinned=expires_s is None)


def seen(*looks: tuple[float, float]) -> Stay:
    """Return what is known after looks at a model: (seconds from now, expiry after now)."""
    stay = None
    for at_s, expires_in_s in looks:
        stay = watch(stay, model(expires_in_s), NOW_S + at_s)
    assert stay is not None
    return stay


def test_a_model_that_is_never_unloaded_stays_pinned() -> None:
    assert -1 == keep_alive(model(None), watch(None, model(None), NOW_S), NOW_S)


def test_without_a_known_expiry_the_stay_is_left_to_the_server() -> None:
    unknown = LoadedModel("m")

    assert keep_alive(unknown, watch(None, unknown, NOW_S), NOW_S) is None


def test_the_time_that_is_left_is_sent_to_the_millisecond() -> None:
    stay = seen((0, 300))

    assert "210.500s" == keep_alive(model(0), stay, NOW_S + 89.5)


def test_a_model_in_use_after_its_time_is_sent_none() -> None:
    """A request is under way: at its end the expiry is set anew, with the duration that counts."""
    stay = seen((0, 300))

    assert keep_alive(model(0), stay, NOW_S + 301) is None
    assert not is_leaving(stay, NOW_S + 301)
    assert stay == after_canary(stay, NOW_S + 301, NOW_S + 302)


def test_a_model_in_the_second_half_of_its_stay_is_left_alone() -> None:
    stay = seen((0, 298))  # of five minutes

    assert [False, True] == [is_leaving(stay, NOW_S + s) for s in (147, 149)]


@pytest.mark.parametrize(
    ("looks", "is_left_alone", "usual_s"),
    [
        ([(0, 42)], True, 300.0),
        ([(0, 160)], False, 300.0),
        ([(0, 42), (30, 148)], False, 120.0),  # a request ended: two minutes
    ],
)
def test_a_stay_not_seen_from_its_start_is_taken_for_ollamas_default(
    looks: list[tuple[float, float]], is_left_alone: bool, usual_s: float
) -> None:
    stay = seen(*looks)

    assert (usual_s, is_left_alone) == (stay.usual_s, is_leaving(stay, NOW_S + looks[-1][0]))


def test_what_a_canary_took_from_the_stay_of_later_requests_is_given_back() -> None:
    """Five minutes; 100 s after its last request a canary leaves 200 s, also to the next one."""
    stay = after_canary(seen((0, 300)), NOW_S + 100, NOW_S + 100)

    used = watch(stay, model(150 + 200), NOW_S + 155)  # a request ended at 150 s

    assert "295.000s" == keep_alive(model(0), used, NOW_S + 155)


def test_a_stay_that_a_request_gives_itself_is_the_one_that_counts() -> None:
    stay = after_canary(seen((0, 300)), NOW_S + 100, NOW_S + 100)

    used = watch(stay, model(150 + 600), NOW_S + 155)

    assert used is not None
    assert (600.0, None) == (used.usual_s, used.sent_s)
    assert "595.000s" == keep_alive(model(0), used, NOW_S + 155)


def test_a_request_with_a_shorter_stay_is_not_overruled() -> None:
    stay = after_canary(seen((0, 300)), NOW_S + 10, NOW_S + 10)

    used = watch(stay, model(40 + 60), NOW_S + 45)

    assert "55.000s" == keep_alive(model(0), used, NOW_S + 45)


def test_a_canary_is_not_taken_for_a_request() -> None:
    """Its end moves the expiry by how long it took, as far as we can know that."""
    stay = after_canary(seen((0, 300)), NOW_S + 100, NOW_S + 102)

    after = watch(stay, model(302.3), NOW_S + 110)

    assert stay is not None
    assert after is not None
    assert (stay.usual_s, stay.sent_s, 0.0) == (after.usual_s, after.sent_s, after.shortened_s)
    assert "192.300s" == keep_alive(model(0), after, NOW_S + 110)


@pytest.mark.parametrize("unloaded", [None, model(300, "other")])
def test_another_model_has_a_stay_of_its_own(unloaded: LoadedModel | None) -> None:
    stay = after_canary(seen((0, 900)), NOW_S, NOW_S)

    after = watch(stay, unloaded, NOW_S + 10)

    assert (after.usual_s if after else None) == (300.0 if unloaded else None)


def test_the_model_that_an_instance_is_known_for_is_chosen() -> None:
    loaded = (model(1, "a"), model(1, "b:7b"))

    names = [found.name if (found := chosen(loaded, name)) else "" for name in ("", "b:7b", "c")]

    assert ["a", "b:7b", ""] == names
