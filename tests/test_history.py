"""The past that Prometheus is given."""

from __future__ import annotations

from pathlib import Path

from tests import history
from tests.history import Past

END_S = 1_700_000_000.0


def test_a_sample_for_each_step_and_none_after_the_end() -> None:
    past = Past(end_s=END_S, step_s=15, length_s=3600)

    lines = list(history.lines({'a{b="c"}': 7}, past))

    assert "# TYPE a gauge\n" == lines[0]
    assert 3600 // 15 + 1 == len(lines) - len(["TYPE", "EOF"])
    assert f'a{{b="c"}} 7 {int(END_S)}\n' == lines[-2]
    assert "# EOF\n" == lines[-1]


def test_promtool_makes_blocks_of_it_and_nothing_else_is_left(
    promtool_binary: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    values = history.of_a_healthy_fleet(10, "127.0.0.1:1")

    history.write(folder, values, Past(end_s=END_S, step_s=60), promtool=promtool_binary)

    assert 4 <= len(list(folder.glob("*/meta.json")))
    assert ["data"] == [path.name for path in tmp_path.iterdir()]
