"""`ollama-fleet capacity plan`: nodes, what binds, what is left, what it costs; and the article."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from provisioning.capacity.cli import capacity
from provisioning.capacity.errors import ImpossibleError
from provisioning.capacity.sizing import concurrency, instances_for
from tests.conftest import ROOT

ARTICLE = (
    "--hardware=epyc-9654", "--model=llama3.1:8b", "--instances=10000", "--reserved-memory=0B",
)  # fmt: skip
BOX = (
    "--memory=64GB", "--memory-per-instance=8GB", "--tokens-per-second=10", "--reserved-memory=0B",
    "--price-per-month=100",
)  # fmt: skip
DEMAND = ("--developers=1200", "--requests-per-day=12", "--tokens-per-request=500")


def run(*options: str) -> Result:
    return CliRunner().invoke(capacity, ["plan", *options])


def planned(*options: str, status: int = 0) -> dict[str, Any]:
    result = run(*options, "--json")
    assert status == result.exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def steps(found: dict[str, Any]) -> dict[str, tuple[float, str]]:
    return {one["what"]: (one["value"], one["unit"]) for one in found["steps"]}


# The article's figures


def test_the_article_s_memory_needs_103_nodes_where_it_has_12() -> None:
    found = planned(*ARTICLE)

    assert (98, 103, "memory") == (found["per_node"], found["nodes"], found["binds"])
    assert pytest.approx(160_508, abs=1) == found["costs"]["per_month"]


def test_the_article_s_12_nodes_hold_1176_of_10000_instances() -> None:
    found = planned(*ARTICLE, "--nodes=12", status=1)

    assert (1176, 12, 103) == (found["held"], found["nodes"], found["needed_nodes"])
    assert (834, "instances") == steps(found)["on each of 12"]
    assert pytest.approx(6505, abs=1) == steps(found)["memory for them"][0]
    assert pytest.approx(18_700, abs=1) == found["costs"]["per_month"]
    assert pytest.approx(224_400, abs=1) == 12 * found["costs"]["per_month"]


def test_58_instances_a_cpu_are_those_of_6_6_gigabytes() -> None:
    assert 116 == planned(*ARTICLE, "--memory-per-instance=6.6GB")["per_node"]


def test_two_cores_for_each_instance_bind_before_its_memory() -> None:
    found = planned(*ARTICLE, "--cores-per-instance=2")

    assert (96, 105, "cores") == (found["per_node"], found["nodes"], found["binds"])


def test_a_node_of_the_article_delivers_the_weights_to_5_instances_at_once() -> None:
    found = planned(*ARTICLE)

    assert 5 == found["at_full_speed"]
    assert 103 * 5 * 42 == found["tokens_per_second"]


def test_the_article_s_demand_takes_15_instances() -> None:
    found = planned("--hardware=epyc-9654", "--model=llama3.1:8b", *DEMAND)

    assert (15, 3, "speed") == (found["n_instances"], found["nodes"], found["binds"])
    assert {"memory": 1, "speed": 3} == found["nodes_by_resource"]
    assert pytest.approx(216) == steps(found)["do generate"][0]


# Any figures


def test_a_node_holds_what_its_memory_beyond_the_reserved_has_room_for() -> None:
    assert 8 == planned(*BOX, "--instances=9")["per_node"]
    assert 7 == planned(*BOX, "--instances=9", "--reserved-memory=1GB")["per_node"]
    assert (
        78
        == planned(*BOX, "--instances=9", "--memory=7.8GB", "--memory-per-instance=0.1GB")[
            "per_node"
        ]
    )


def test_a_demand_beside_a_number_of_instances_raises_it_if_it_is_larger() -> None:
    few = planned(*BOX, *DEMAND, "--instances=10")
    many = planned(*BOX, *DEMAND, "--instances=1000")

    assert 25 < few["n_instances"] < 50
    assert 1000 == many["n_instances"]


def test_waiting_peaks_and_strictness_take_more_instances() -> None:
    n = planned(*BOX, *DEMAND)["n_instances"]

    for stricter in ("--time-to-first-token=20s", "--peak-factor=6", "--max-refused=0.01%"):
        assert n < planned(*BOX, *DEMAND, stricter)["n_instances"]


def test_spare_nodes_are_on_top_and_are_what_may_be_lost() -> None:
    found = planned(*BOX, "--instances=16", "--spare-nodes=2")
    given = planned(*BOX, "--instances=16", "--spare-nodes=2", "--nodes=3", status=1)

    assert (2, 4, 32, 16) == tuple(
        found[key] for key in ("needed_nodes", "nodes", "held", "held_without_spare")
    )
    assert not given["is_enough"]
    assert "With 1 node lost, 1 are left of the 2 that it takes. They hold 8 of 16" in " ".join(
        run(*BOX, "--instances=16").stdout.split()
    )


def test_tokens_cost_what_nodes_cost_until_the_break_even_with_a_hosted_api() -> None:
    found = planned(*BOX, *DEMAND, "--api-price=10")
    costs, nodes = found["costs"], found["nodes"]

    assert pytest.approx(nodes * 100) == costs["per_month"]
    assert pytest.approx(nodes * 100 / 216) == costs["per_million_tokens"]
    assert pytest.approx(2160) == costs["api_per_month"]
    assert pytest.approx(nodes * 10) == costs["break_even_million_tokens_per_month"]
    possible = steps(found)["can generate"][0]
    assert pytest.approx(nodes * 10 / possible) == costs["break_even_of_possible"]


def test_a_hosted_api_that_the_fleet_never_beats_is_said_to_be_cheaper() -> None:
    costs = run(*BOX, "--instances=1", "--api-price=0.5").stdout

    assert "The hosted API is always cheaper." in " ".join(costs.split())


def test_what_is_not_known_is_not_invented() -> None:
    said = run("--memory=64GB", *BOX[1:4], "--instances=1").stdout

    assert "No cost: the price of a node is not known (--price-per-month)." in said
    assert "Speed is not judged: --memory-bandwidth and --weights are not known." in said
    assert "Quality" not in said
    assert "SOURCES" not in said


def test_options_replace_what_the_data_say_and_a_file_adds_to_them(tmp_path: Path) -> None:
    file = tmp_path / "own.yml"
    file.write_text("hardware: {epyc-9654: {memory: 384GB, source: a half of it}}")

    assert 49 == planned(*ARTICLE, f"--data={file}")["per_node"]
    assert 24 == planned(*ARTICLE, f"--data={file}", "--memory=192GB")["per_node"]


def test_the_working_shows_each_step_with_numbers_and_units_and_the_sources() -> None:
    said = run(*ARTICLE, "--nodes=12").stdout

    assert "(768 GB - 0 GB for the system) / 7.8 GB" in said
    assert "834 × 7.8 GB" in said
    assert "=  6,505 GB a node" in said
    assert "TOO FEW: 12 nodes for 10,000 instances, 98 a node at most; it takes 103" in said
    assert "18,700 $ a month, 224,400 $ a year" in said
    assert "model: The article." in said


@pytest.mark.parametrize(
    ("options", "status", "expected"),
    [
        (("--model=llama3.1:8b", "--hardware=epyc"), 1, "only epyc-9654, xeon-8380, gpu; state it"),
        (("--model=llama3.2", *BOX), 1, "by --tokens-per-second and --memory-per-instance"),
        (("--model=llama3.1:8b", "--quantisation=q4_1", *BOX), 1, "did you mean q4_0?"),
        (("--model=llama3.1:8b", "--memory=1TB"), 1, "state it by --tokens-per-second"),
        (("--hardware=xeon-8380", "--model=llama3.1:8b"), 1, "state it by --memory"),
        ((*BOX, "--memory=7GB"), 1, "a node has too little memory for one instance: (7 GB - 0 GB"),
        ((*BOX, "--cores-per-instance=2"), 1, "the cores of a node; state it by --cores"),
        ((*BOX, "--cores=1", "--cores-per-instance=2"), 1, "too little cores for one instance"),
        (
            (*BOX, "--weights=10GB", "--memory-bandwidth=50GB"),
            1,
            "at most 5 tokens/s are possible; check --tokens-per-second",
        ),
        ((*BOX, "--api-price=nan"), 2, "must be a number"),
        ((*BOX, "--max-refused=0%"), 2, "must be above 0%"),
        ((*BOX, "--memory-per-instance=0B"), 2, "must be above 0B"),
        ((*BOX, "--peak-factor=0.5"), 2, "0.5 is not in the range"),
        ((*BOX, "--developers=1e-300"), 2, "1e-300 is not in the range"),
        ((*BOX, "--developers=3"), 2, "takes --requests-per-day and --tokens-per-request as well"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused_with_what_helps(
    options: tuple[str, ...], status: int, expected: str
) -> None:
    result = run("--instances=1", *options)

    assert (status, "") == (result.exit_code, result.stdout)
    assert expected in result.stderr


def test_a_plan_for_nothing_asks_what_it_is_for() -> None:
    assert "say what the fleet is for: --instances, or --developers" in run(*BOX).stderr


def test_the_page_shows_what_its_commands_print() -> None:
    text = (ROOT / "docs/capacity.md").read_text(encoding="utf-8")
    examples = re.findall(
        r"(?ms)^```sh\nollama-fleet capacity (plan .*?)```\n\n```\n(.*?)```", text
    )

    assert 2 == len(examples)
    for line, shown in examples:
        words = shlex.split(line.replace("\\\n", " "))
        assert shown == CliRunner().invoke(capacity, words).stdout


PUBLISHED = [
    (10, 0.001, 3.092), (10, 0.01, 4.461), (15, 0.01, 8.108), (20, 0.01, 12.03),
    (50, 0.01, 37.90), (100, 0.001, 75.24), (100, 0.01, 84.06),
]  # fmt: skip
"""Lines, share of refused calls, and the erlangs that they carry: any Erlang B table."""


@pytest.mark.parametrize(("n", "share", "offered"), PUBLISHED)
def test_instances_are_those_of_published_erlang_tables(
    n: int, share: float, offered: float
) -> None:
    assert n == instances_for(offered * 0.999, share)
    assert n + 1 == instances_for(offered * 1.01, share)


def test_requests_at_once_are_their_rate_times_their_duration() -> None:
    assert pytest.approx(5.952, abs=0.001) == concurrency(0.5, 500 / 42)


def test_a_small_load_on_many_instances_and_a_huge_one_have_answers() -> None:
    assert 1 == instances_for(1e-9, 0.001) == instances_for(100, 1.0)
    assert 999_000 < instances_for(1e6, 0.001) < 1_000_000  # a thousandth goes away
    with pytest.raises(ImpossibleError, match="check --developers"):
        instances_for(1.1e6, 0.001)
