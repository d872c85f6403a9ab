"""Suggestions for words that nobody knows."""

from __future__ import annotations

from ollama_fleet import suggestions


def test_the_likest_known_word_is_suggested() -> None:
    assert "; did you mean poll.interval?" == suggestions.did_you_mean(
        "poll.intervall", ["poll.interval", "log.level"]
    )
    assert "" == suggestions.did_you_mean("colour", ["poll.interval", "log.level"])
    assert suggestions.closest("intervl", ["interval"], likeness=0.95) is None


def test_a_long_word_is_not_compared() -> None:
    """As comparing takes time that grows with its length, and its writer is not trusted."""
    longest = "a" * suggestions.MAX_WORD_CHARACTERS

    assert longest == suggestions.closest(longest, [longest])
    assert suggestions.closest(longest + "a", [longest]) is None
