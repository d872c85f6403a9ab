"""Problems, and the error that lists them."""

from __future__ import annotations

from itertools import count

from ollama_fleet.problems import MAX_CHARACTERS, Problem, ProblemsError


def test_all_problems_are_listed_with_their_places() -> None:
    error = ProblemsError(
        "exporter.yml",
        [Problem("exporter.yml:2: poll.intervall", "unknown key"), Problem("a", "b")],
    )

    assert "2 problems in exporter.yml\n  exporter.yml:2: poll.intervall: unknown key\n  a: b" == (
        str(error)
    )


def test_a_list_without_end_is_read_no_further_than_it_is_shown() -> None:
    error = ProblemsError("f", (Problem(f"f:{n}", "is wrong") for n in count()))

    assert 100 == len(error.problems)
    assert str(error).startswith("more than 100 problems in f\n  f:0: is wrong\n")


def test_a_long_message_is_cut() -> None:
    problem = Problem("f", "x" * (MAX_CHARACTERS + 1))

    assert "x" * MAX_CHARACTERS + "…" == problem.message
