"""The simulated fleet is the article's, and the same one for the same seed."""

from __future__ import annotations

from collections import Counter

import pytest

from provisioning.simulator.errors import SpecError
from provisioning.simulator.spec import (
    FleetSpec,
    Hardware,
    Mode,
    address_of,
    index_of,
    instances_of,
    is_loopback,
)


def test_ten_thousand_instances_generate_a_bit_more_than_the_alert_asks_for() -> None:
    total = sum(i.tokens_per_second for i in instances_of(FleetSpec(n_instances=10_000)))

    assert 405_000 < total < 425_000


def test_equal_seeds_give_equal_fleets_and_other_seeds_others() -> None:
    spec = FleetSpec(n_instances=300, seed=5)

    assert instances_of(spec) == instances_of(FleetSpec(n_instances=300, seed=5))
    assert instances_of(spec) != instances_of(FleetSpec(n_instances=300, seed=6))


def test_a_longer_fleet_begins_with_the_shorter_one() -> None:
    short = instances_of(FleetSpec(n_instances=200))

    assert short == instances_of(FleetSpec(n_instances=500))[:200]


def test_there_is_a_node_for_every_hundred_instances() -> None:
    nodes = Counter(instance.node for instance in instances_of(FleetSpec(n_instances=1_000)))

    assert {f"node-{number:03}": 100 for number in range(1, 11)} == nodes


def test_nodes_share_the_instances_evenly_when_their_number_is_given() -> None:
    nodes = Counter(i.node for i in instances_of(FleetSpec(n_instances=10, n_nodes=3)))

    assert [4, 3, 3] == sorted(nodes.values(), reverse=True)


def test_most_instances_serve_the_article_s_model() -> None:
    models = Counter(i.model.name for i in instances_of(FleetSpec(n_instances=5_000)))

    assert 0.83 < models["llama3.1:8b"] / 5_000 < 0.89
    assert 4 == len(models)


def test_hardware_is_dealt_out_by_weight_with_the_article_s_speeds() -> None:
    mix = ((Hardware.EPYC_9654, 8), (Hardware.XEON_8380, 1), (Hardware.GPU, 1))
    instances = instances_of(FleetSpec(n_instances=1_000, hardware=mix))

    assert {"epyc-9654": 800, "xeon-8380": 100, "gpu": 100} == Counter(
        i.hardware for i in instances
    )
    for hardware, speed in ((Hardware.XEON_8380, 31), (Hardware.GPU, 187)):
        speeds = [
            i.tokens_per_second
            for i in instances
            if i.hardware is hardware and i.model.name == "llama3.1:8b"
        ]
        assert speed == pytest.approx(sum(speeds) / len(speeds), rel=0.01)


def test_fleet_mode_runs_the_article_s_release_and_stock_mode_newer_ones() -> None:
    def versions(mode: Mode) -> Counter[str]:
        instances = instances_of(FleetSpec(n_instances=500, mode=mode))
        return Counter(instance.release.version for instance in instances)

    assert "0.4.7" == versions(Mode.FLEET).most_common(1)[0][0]
    assert "0.23.0" == versions(Mode.OLLAMA).most_common(1)[0][0]
    assert {"0.4.7", "0.23.0", "0.32.15"} == set(versions(Mode.OLLAMA))


def test_a_share_of_stock_ollama_is_spread_over_all_nodes() -> None:
    spec = FleetSpec(n_instances=1_000, ollama_share=0.33)
    by_node = Counter(i.node for i in instances_of(spec) if i.mode is Mode.OLLAMA)

    assert 330 == by_node.total()
    assert {33} == {*by_node.values()}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_instances": 0}, "0"),
        ({"n_instances": 20_000_000}, "20,000,000"),
        ({"n_instances": 10, "n_nodes": 11}, "11"),
        ({"n_instances": 10, "n_nodes": 0}, "not 0"),
        ({"hardware": ((Hardware.GPU, 0),)}, "weight"),
        ({"hardware": ()}, "weight"),
        ({"time_scale": -1.0}, "-1.0"),
        ({"ollama_share": 1.5}, "1.5"),
        ({"time_scale": float("nan")}, "nan"),
    ],
)
def test_a_fleet_that_cannot_be_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        FleetSpec(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("index", "address"),
    [(0, "127.1.0.1"), (254, "127.1.0.255"), (255, "127.1.1.0"), (100_000, "127.2.134.161")],
)
def test_an_address_leads_back_to_its_instance(index: int, address: str) -> None:
    assert address == address_of(index)
    assert index == index_of(address)


def test_only_127_is_loopback() -> None:
    assert is_loopback("127.255.0.1")
    assert not is_loopback("128.0.0.1")
    assert not is_loopback("12.7.0.0")
