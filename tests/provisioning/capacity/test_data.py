"""What is known of hardware and models, and what a file of one's own adds."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.capacity import data
from provisioning.capacity.errors import DataError

OWN = """
hardware:
  epyc-9654: {cores: 64, memory: 512GiB, source: ours}
  box: {memory: 64GB, price_per_month: 90, source: an invoice}
models:
  llama3.1:8b:
    q4_0: {memory: 9GB, quality: 96%, tokens_per_second: {box: 11.5}, source: a measurement}
  tiny: {}
"""
WRONG = """
hardwear: {}
hardware:
  a: {cores: many, source: x}
  b: {memory: 7, source: x}
  c: {cores: 1}
  d: {cores: -1, source: x}
  e: {colour: red, source: x}
models:
  m: [1]
  n: {q4_0: {quality: 101%, source: x}}
  o: {q4_0: {tokens_per_second: {a: .nan}, source: x}}
  p: {q4_0: {tokens_per_second: fast, source: x}}
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "own.yml"
    file.write_text(text)
    return file


def test_every_built_in_entry_names_its_source() -> None:
    known = data.load()
    kinds = [one for quantisations in known.models.values() for one in quantisations.values()]

    sources = [one.source for one in known.hardware.values()] + [one.source for one in kinds]
    assert all(len(source) > 10 for source in sources)
    assert set() == {name for one in kinds for name in one.tokens_per_second} - {*known.hardware}


def test_a_file_adds_entries_and_replaces_those_of_the_same_name(tmp_path: Path) -> None:
    known = data.load(written(tmp_path, OWN))

    epyc, own = known.node("epyc-9654"), known.model("llama3.1:8b", "q4_0")
    seen: list[float | None] = [epyc.cores, epyc.memory, epyc.price_per_month]
    assert [64, 512 * 2**30, None] == seen
    assert [9e9, 0.96, {"box": 11.5}] == [own.memory, own.quality, own.tokens_per_second]
    assert 0.978 == known.model("llama3.1:8b", "fp16").quality
    assert (known.node("xeon-8380").cores or 0) == 80


def test_all_faults_of_a_file_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        data.load(written(tmp_path, WRONG))

    said = [str(one).replace(f"{tmp_path}/", "") for one in caught.value.problems]
    assert [
        "own.yml:2: hardwear: unknown key; did you mean hardware?",
        "own.yml:4: hardware.a: cores: must be a number above 0, got 'many'",
        "own.yml:5: hardware.b: memory: must be a size such as 8GiB or 512MiB, got 7",
        "own.yml:6: hardware.c: Object missing required field `source`",
        "own.yml:7: hardware.d: cores: must be a number above 0, got -1",
        "own.yml:8: hardware.e: Object contains unknown field `colour`",
        "own.yml:10: models.m: must be a mapping",
        "own.yml:11: models.n.q4_0: quality: must be a share from 0% to 100%, got '101%'",
        "own.yml:12: models.o.q4_0: tokens_per_second: must be a number above 0, got nan",
        "own.yml:13: models.p.q4_0: tokens_per_second: Expected `object`, got `str`",
    ] == said


@pytest.mark.parametrize("text", ["- a list", "hardware: 3", "a: &b [*b]", "x: [", "\xff"])
def test_a_file_that_is_no_data_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError):
        data.load(written(tmp_path, text))
    with pytest.raises(DataError, match="does not exist"):
        data.load(tmp_path / "none.yml")
