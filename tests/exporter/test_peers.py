from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alerts.groups.nodes import slow_ratio
from alerts.settings import Settings
from exporter.peers import CLASS_RATIO, CLASS_SHARE, MIN_PEERS, NodeKey, class_medians, peers_speeds

LIMIT = float(slow_ratio(Settings()))

fleets = st.lists(st.floats(0.01, 1e5), min_size=1, max_size=60)


def nodes(*groups: tuple[str, Sequence[float]]) -> tuple[dict[NodeKey, float], dict[str, str]]:
    """Return the speeds of nodes, named by group and number, and their hardware: the group."""
    keys = {
        NodeKey(f"{name}-{n}", "m", "vllm"): (name, speed)
        for name, speeds in groups
        for n, speed in enumerate(speeds)
    }
    speed_by_key = {key: speed for key, (_, speed) in keys.items()}
    return speed_by_key, {key.node: name for key, (name, _) in keys.items()}


def slow(speed_by_key: Mapping[NodeKey, float], hardware: Mapping[str, str]) -> set[str]:
    """Return the nodes that the alert with its default threshold calls slow."""
    peers = peers_speeds(speed_by_key, hardware)
    return {key.node for key, speed in peers.items() if speed_by_key[key] < LIMIT * speed}


@pytest.mark.parametrize(("many", "few"), [(42.0, 31.0), (31.0, 42.0)])
def test_a_slow_node_is_found_among_its_own_hardware_be_it_the_faster_or_the_slower(
    many: float, few: float
) -> None:
    speeds, hardware = nodes(("many", [many] * 20), ("few", [few] * 7 + [0.7 * few]))

    assert {"few-7"} == slow(speeds, hardware)


def test_without_a_label_a_slow_node_of_the_faster_class_is_found_and_nobody_else() -> None:
    for n_fast, n_slow in ((50, 50), (4, 96), (96, 4)):
        speeds, _ = nodes(("fast", [187.0] * n_fast + [131.0]), ("slow", [42.0] * n_slow))

        assert {f"fast-{n_fast}"} == slow(speeds, {})


def test_a_batch_of_twelve_nodes_that_is_thirty_per_cent_slower_is_found() -> None:
    speeds, _ = nodes(("healthy", [42.0] * 88), ("batch", [29.4] * 12))

    assert {f"batch-{n}" for n in range(12)} == slow(speeds, {})


def test_a_node_between_two_classes_joins_them_not_and_is_a_slow_one_of_the_faster() -> None:
    """Each neighbour is within 1.5 times of the next."""
    speeds, _ = nodes(("fast", [84.0] * 30), ("between", [59.0]), ("slow", [42.0] * 30))

    assert {"between-0"} == slow(speeds, {})


@pytest.mark.parametrize("size", [10, 100, 2000])
@pytest.mark.parametrize(
    ("classes", "batch"),
    [((42.0,), 0), ((42.0,), 12), ((187.0, 42.0), 0), ((84.0, 42.0), 0), ((187.0, 84.0, 42.0), 0)],
)
def test_noise_of_five_per_cent_moves_no_node_to_another_class(
    classes: tuple[float, ...], batch: int, size: int
) -> None:
    """The first of each class are the batch that is 30 % slower."""
    dice = random.Random(size)  # noqa: S311 - not for secrets
    batch = min(batch, size // 3)
    truth = {NodeKey(f"{speed}-{n}", "m", "vllm"): speed for speed in classes for n in range(size)}
    for _ in range(20):
        speeds = {
            key: speed
            * (0.7 if int(key.node.split("-")[1]) < batch else 1.0)
            * dice.gauss(1.0, 0.05)
            for key, speed in truth.items()
        }

        peers = peers_speeds(speeds, {})

        assert truth.keys() == peers.keys()
        assert not [key for key, speed in truth.items() if not 0.9 < peers[key] / speed < 1.1]


def test_a_kind_of_fewer_than_three_nodes_has_no_peers() -> None:
    speeds, hardware = nodes(("a", [42.0] * (MIN_PEERS - 1)), ("b", [42.0] * MIN_PEERS))

    assert {"b-0", "b-1", "b-2"} == {key.node for key in peers_speeds(speeds, hardware)}
    assert speeds.keys() == peers_speeds(speeds, {}).keys()


def test_nodes_without_the_label_are_no_peers_of_those_with_it() -> None:
    speeds, hardware = nodes(("a", [40.0] * 9), ("", [30.0] * 9))

    assert {40.0: 40.0, 30.0: 30.0} == {
        speeds[key]: peer for key, peer in peers_speeds(speeds, hardware).items()
    }


def test_other_models_and_engines_are_no_peers() -> None:
    kinds = {("m", "vllm"): 40.0, ("x", "vllm"): 30.0, ("m", "ollama"): 35.0}
    speeds = {
        NodeKey(f"n{n}", *kind): speed for kind, speed in kinds.items() for n in range(MIN_PEERS)
    }

    assert speeds == peers_speeds(speeds, {})


@given(fleets, st.randoms(use_true_random=False))
def test_the_order_of_nodes_does_not_matter(fleet: list[float], dice: random.Random) -> None:
    speeds, _ = nodes(("n", fleet))
    shuffled = list(speeds.items())
    dice.shuffle(shuffled)

    assert peers_speeds(speeds, {}) == peers_speeds(dict(shuffled), {})


@given(fleets, st.sampled_from([2.0**-9, 0.5, 2.0, 1024.0]))
def test_the_unit_of_speed_does_not_matter(fleet: list[float], factor: float) -> None:
    once = peers_speeds(nodes(("n", fleet))[0], {})
    scaled = peers_speeds(nodes(("n", [factor * speed for speed in fleet]))[0], {})

    assert {key: factor * speed for key, speed in once.items()} == scaled


@given(fleets)
def test_a_node_is_compared_with_speeds_that_there_are(fleet: list[float]) -> None:
    speeds, _ = nodes(("n", fleet))
    peers = peers_speeds(speeds, {})

    assert (len(fleet) >= MIN_PEERS) == bool(peers)
    assert all(min(fleet) <= speed <= max(fleet) for speed in peers.values())
    ordered = sorted(fleet)
    if max(fleet) < CLASS_RATIO * min(fleet):
        assert [median(ordered)] == class_medians(ordered)


def test_however_different_speeds_are_the_classes_are_few() -> None:
    """A class of three nodes each would take a second for 10,000 nodes."""
    ever_faster = [1e-300 * 1.7**n for n in range(1200) for _ in range(MIN_PEERS)]

    assert 1 < len(class_medians(ever_faster)) <= 1 / CLASS_SHARE
