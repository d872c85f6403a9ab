"""The past that Prometheus is given."""

from __future__ import annotations

from pathlib import Path

from tests.live import history

NOW_S = 1_700_000_000.0


def test_a_sample_for_each_evaluation_and_none_younger_than_a_minute() -> None:
    lines = list(history.lines({'a{b="c"}': 7}, step_s=15, now_s=NOW_S))

    assert "# TYPE a gauge" == lines[0]
    assert 7 * 3600 // 15 + 2 == len(lines)
    assert f'a{{b="c"}} 7 {int(NOW_S) - 60}' == lines[-1]


def test_promtool_makes_blocks_of_it(promtool_binary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"

    history.write(
        folder,
        promtool=promtool_binary,
        n_instances=10,
        exporter="127.0.0.1:1",
        step_s=60,
        now_s=NOW_S,
    )

    assert 4 <= len(list(folder.glob("*/meta.json")))
