"""Tables and counts for people."""

from __future__ import annotations

from ollama_fleet.tables import count_text, table


def test_columns_are_aligned_and_figures_stand_to_the_right() -> None:
    assert "NAME   COUNT  NOTE\na      1,200\nbbbbb      -  good" == table(
        ("NAME", "COUNT", "NOTE"), [("a", "1,200", ""), ("bbbbb", "-", "good")]
    )


def test_a_table_without_rows_is_its_head() -> None:
    assert "A  B" == table(("A", "B"), [])


def test_a_count_has_its_noun_in_the_plural_unless_it_is_one() -> None:
    assert ["0 nodes", "1 node", "1,200 nodes"] == [count_text(n, "node") for n in (0, 1, 1200)]
