"""`warehouse trend`: what it finds in simulated years, and what it does not."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shlex
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from exporter.warehouse.cli import warehouse
from exporter.warehouse.errors import WarehouseError
from exporter.warehouse.schema import INSTANCE_HOURS
from exporter.warehouse.storage import Warehouse
from exporter.warehouse.trend import Estimate, Stretch, holm, jumps, trend
from tests.conftest import ROOT
from tests.exporter.warehouse.ageing import FAST, FIRST, LAST, LOSS, NODES, year
from tests.exporter.warehouse.test_export import Answering

PNG = b"\x89PNG\r\n"


@pytest.mark.parametrize("seed", range(8))
def test_a_years_loss_and_the_nodes_that_age_faster_are_found(seed: int) -> None:
    found = trend(year(seed), FIRST, LAST)

    assert abs(found.fleet.percent + LOSS) < 0.02
    assert found.fleet.low <= -LOSS <= found.fleet.high
    assert {*FAST} == {one.node for one in found.ageing}
    assert {"epyc", "xeon"} == {*found.by_hardware}


@pytest.mark.parametrize("seed", range(100, 104))
def test_without_faster_ageing_no_node_is_named(seed: int) -> None:
    found = trend(year(seed, fast=(), loss=0.0), FIRST, LAST)

    assert abs(found.fleet.percent) < 0.02
    assert [] == found.ageing
    assert NODES == len(found.nodes)


def test_what_a_node_had_before_it_was_replaced_does_not_count() -> None:
    """All nodes get machines that are a fifth faster, under the same name."""
    newer = [
        Stretch(one.unit, one.identity, one.days, one.logs + np.log(1.2) * (one.days >= 180))
        for one in year(1, fast=(), noise=0.02)
    ]

    found = trend(newer, FIRST, LAST)

    assert abs(found.fleet.percent + LOSS) < 0.02
    assert all(abs(one.since_day - 180) <= 5 for one in found.nodes)


def test_a_jump_is_found_where_it_is_and_none_in_noise() -> None:
    random = np.random.default_rng(3)
    days, noise = np.arange(200.0), random.normal(0, 0.05, 200)

    assert [] == jumps(days, noise)
    (found,) = jumps(days, noise + 0.3 * (days >= 120))
    assert abs(found - 120) <= 3
    assert [] == jumps(days[:20], noise[:20])


def test_too_short_a_past_is_refused() -> None:
    short = [Stretch(one.unit, one.identity, one.days[:15], one.logs[:15]) for one in year(1)[:10]]

    with pytest.raises(WarehouseError, match="needs months"):
        trend(short, FIRST, FIRST + timedelta(days=20))


@given(st.lists(st.floats(0, 1), max_size=8))
def test_corrected_p_values_keep_their_order_and_are_no_smaller(p_values: list[float]) -> None:
    corrected = holm(p_values)

    assert all(before <= after <= 1 for before, after in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [corrected[i] for i in order] == sorted(corrected)


def test_hardware_is_replaced_when_its_speed_is_down_to_the_share() -> None:
    middle, soonest, latest = Estimate(-0.2, -0.25, 0.0, 1, 1).months_until(0.9)

    assert 52.6 == round(middle, 1)
    assert soonest < middle
    assert math.isinf(latest)


# From files to text, JSON and pictures

N_DAYS = 70


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six nodes lose 1 % a month, and one of them 6 %."""
    path = str(tmp_path_factory.mktemp("warehouse"))
    store, random = Warehouse(path), np.random.default_rng(1)
    for day in range(N_DAYS):
        hour = datetime(2026, 1, 1, 9, tzinfo=UTC) + timedelta(days=day)
        rows = [
            {
                "hour": hour,
                "cluster": "east",
                "instance_id": f"i{n}",
                "node": f"n{n % 6}",
                "model": "m",
                "engine": "ollama",
                "version": "1",
                "hardware": "epyc",
                "tokens_per_second_median": None
                if n == 17
                else 42
                * (0.94 if n % 6 == 5 else 0.99) ** (day / 30.4375)
                * random.normal(1, 0.002),
            }
            for n in range(18)
        ]
        store.add(INSTANCE_HOURS, hour, rows)
    return path


def test_text_json_and_pictures_say_the_same(place: str, tmp_path: Path) -> None:
    svg, png = tmp_path / "trend.svg", tmp_path / "trend.png"
    arguments = ["trend", "--warehouse", place, "--replace-below", "80%"]

    text = CliRunner().invoke(warehouse, [*arguments, "--plot", str(svg), "--plot", str(png)])
    parsed = json.loads(CliRunner().invoke(warehouse, [*arguments, "--json"]).stdout)

    assert 0 == text.exit_code, text.output
    nodes = {one["node"]: one for one in parsed["nodes"]}
    assert abs(parsed["fleet"]["percent_a_month"] + 1) < 0.05
    assert ["n5"] == [name for name, one in nodes.items() if one["ages_faster"]]
    assert abs(nodes["n5"]["percent_a_month"] + 6) < 0.2
    months = math.log(0.8) / math.log(0.94)
    expected = date(2026, 1, 1) + timedelta(days=months * 30.4375)
    assert abs(date.fromisoformat(nodes["n5"]["replace_on"]) - expected) < timedelta(days=10)
    assert (17, 6) == (parsed["fleet"]["instances"], parsed["fleet"]["nodes"])
    assert "n5" in text.stdout
    assert f"{parsed['fleet']['percent_a_month']:+.3f} % a month" in text.stdout
    assert png.read_bytes().startswith(PNG)
    drawn = "".join(ET.fromstring(svg.read_text()).itertext())  # noqa: S314
    assert "n5" in drawn
    assert "epyc: -1." in drawn


def test_a_node_that_ages_faster_is_explained(place: str) -> None:
    done = CliRunner().invoke(warehouse, ["explain", "--warehouse", place, "--ageing", "--json"])

    assert 0 == done.exit_code, done.output
    parsed = json.loads(done.stdout)
    assert {"i5", "i11", "i17"} == {*parsed["outliers"]}
    assert [("node", "n5")] == [(one["label"], one["value"]) for one in parsed["explanations"]]


def test_an_option_that_is_wrong_and_an_empty_warehouse_are_named(tmp_path: Path) -> None:
    for options, says in (
        (["--plot", "trend.gif"], "must end with .png or .svg"),
        (["--replace-below", "0%"], "above 0%"),
        ([], "has no instance_hours"),
    ):
        done = CliRunner().invoke(warehouse, ["trend", "--warehouse", str(tmp_path), *options])

        assert done.exit_code
        assert says in done.stderr


async def test_the_commands_and_queries_of_the_page_work(place: str, tmp_path: Path) -> None:
    page = (ROOT / "docs/warehouse.md").read_text()
    commands = re.findall(r"(?ms)^```sh\n(.*?)^```", page)
    queries = [one for one in re.findall(r"(?ms)^```sql\n(.*?)^```", page) if "read_parquet" in one]
    (tmp_path / "warehouse").symlink_to(place)
    (tmp_path / "warehouse/node_hours").symlink_to(f"{place}/instance_hours")
    async with Answering(datetime(2026, 1, 1, tzinfo=UTC), 0) as url:
        for line in "".join(commands).replace("http://127.0.0.1:9090", url).splitlines():
            arguments = (sys.executable, "-m", "ollama_fleet", *shlex.split(line)[1:])
            environ = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
            done = await asyncio.create_subprocess_exec(*arguments, cwd=tmp_path, env=environ)
            assert 0 == await done.wait(), line
    with duckdb.connect() as connection:
        for statement in (
            "".join(queries).replace("'warehouse/", f"'{tmp_path}/warehouse/").split(";")
        ):
            if statement.strip():
                connection.execute(statement).fetchall()

    assert 3 == len(commands)
    assert (tmp_path / "trend.svg").exists()
