from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from provisioning.demo import fleet, processes
from provisioning.demo.fleet import Demo
from provisioning.demo.plan import Plan
from provisioning.model import Fleet, RuntimeKind
from provisioning.spec.document import read_fleet


@pytest.fixture
def made(plan: Plan) -> Demo:
    assert plan.demo is not None
    return plan.demo


def fleet_of(made: Demo) -> Fleet:
    text = fleet.specification(made, Path("fleet.yml"))
    return read_fleet(text, source="fleet.yml", folder=Path())


def sized(made: Demo, n_simulated: int) -> Demo:
    ports = range(20_000, 20_000 + fleet.n_container_ports(n_simulated))
    return replace(made, n_simulated=n_simulated, container_ports=ports)


@pytest.mark.parametrize(
    ("n_simulated", "n_nodes"),
    [(1, 1), (2, 2), (3, 2), (200, 2), (201, 3), (1_000, 10), (25_600, 256), (102_000, 1_020)],
)
def test_every_size_of_the_demo_is_a_valid_specification(
    made: Demo, n_simulated: int, n_nodes: int
) -> None:
    fleet = fleet_of(sized(made, n_simulated))

    simulated = [node for node in fleet.nodes if node.runtime is RuntimeKind.SIMULATED]
    assert n_nodes == len(simulated) == len({node.address for node in simulated})
    assert {made.control_url} == {node.endpoint for node in simulated}
    assert sized(made, n_simulated).last_node == simulated[-1].name
    assert n_simulated + 2 == sum(pool.count for pool in fleet.pools)


@pytest.mark.parametrize("n_simulated", [2, 30, 1_000])
def test_a_node_has_room_for_its_share_of_one_that_is_gone(made: Demo, n_simulated: int) -> None:
    n_ports = fleet.n_container_ports(n_simulated)
    n_left = fleet.n_nodes(n_simulated) - 1

    assert n_simulated <= n_ports * n_left


def test_models_have_the_simulations_shares(made: Demo) -> None:
    n_by_model: Counter[str] = Counter()
    for pool in fleet_of(sized(made, 1_000)).pools:
        n_by_model[pool.workload.model] += pool.count

    assert {
        "llama3.1:8b": 860,
        "mistral:7b": 80,
        "gemma2:9b": 40,
        "qwen2.5-coder:14b": 20,
        "gemma3:270m": 2,
    } == n_by_model


@pytest.mark.parametrize(("n_simulated", "n_stock"), [(2, 0), (3, 1), (30, 10), (1_000, 333)])
def test_a_third_is_stock_ollama_whose_warm_up_pins_its_model(
    made: Demo, n_simulated: int, n_stock: int
) -> None:
    demo = sized(made, n_simulated)
    stock = [pool for pool in fleet_of(demo).pools if pool.workload.engine == "ollama"]

    assert n_stock == sum(pool.count for pool in stock)
    assert bool(n_stock) == bool(demo.first_stock)
    for pool in stock:
        assert f"{pool.name}-00001" == demo.first_stock
        (load,) = pool.workload.warm_up_requests
        assert '"keep_alive": -1' in load.body


def test_instances_are_rotated_and_belong_to_developers(made: Demo) -> None:
    pools = fleet_of(made).pools

    assert {7 * 86_400.0} == {pool.rotation.every_s for pool in pools}
    assert all(pool.count == len(pool.developers) for pool in pools if pool.name != fleet.REAL_POOL)


def test_real_servers_are_processes_that_end_with_the_demo(made: Demo) -> None:
    (pool,) = (pool for pool in fleet_of(made).pools if pool.name == fleet.REAL_POOL)

    command = pool.workload.command
    assert processes.our_command("llama-server") == command[:5]
    assert {"--port={port}", "--host={host}", "--ends-with=17"} <= set(command)
    assert {"OLLAMA_FLEET_PROGRAMS_DIR": "/cache/programs"} == pool.workload.environment
    assert "llamacpp" == pool.workload.engine


def test_a_path_with_braces_is_no_placeholder(made: Demo) -> None:
    braces = fleet_of(replace(made, model_file=Path("/a{b}/model.gguf")))
    (pool,) = (pool for pool in braces.pools if pool.name == fleet.REAL_POOL)

    assert "--model=/a{{b}}/model.gguf" in pool.workload.command


def test_real_servers_that_go_on_have_no_owner(made: Demo) -> None:
    assert "--ends-with" not in fleet.specification(replace(made, owner=None), Path("fleet.yml"))
