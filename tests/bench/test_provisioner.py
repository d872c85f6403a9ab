"""The provisioner's part of the benchmark measures what it says."""

from __future__ import annotations

import msgspec

from tests.bench.provisioner import default_sentence, failures_sentence, sentence
from tests.bench.provisioning import Provisioned, fleet, measure

SEEN = Provisioned(
    n_instances=10_000,
    n_at_once=1_000,
    wall_s=24.44,
    cpu_s=4.41,
    n_passes=85,
    n_tries=10_436,
    n_failed=1,
    calm_pass_s=0.0112,
    calm_cpu_s=0.031,
    resident_bytes=61 * 2**20,
)


async def test_a_small_fleet_is_provisioned_and_measured() -> None:
    seen = await measure("memory:", 25, n_at_once=50, calm_s=0.2)

    assert 25 == seen.n_instances
    assert 0 == seen.n_failed
    assert seen.n_tries >= 25
    assert 0 < seen.cpu_s < seen.wall_s
    assert 0 < seen.calm_pass_s < 0.1
    assert seen.resident_bytes > 10 * 2**20


def test_every_instance_has_room() -> None:
    for n_instances in (2, 25, 10_000):
        wanted = fleet(n_instances, n_at_once=50)
        assert sum(int(node.cpus) for node in wanted.nodes) >= n_instances


def test_the_sentence_says_what_was_seen_and_what_it_is_held_against() -> None:
    assert (
        "provisioner with etcd: 10,000 simulated instances from nothing to healthy in 24.4 s (at "
        "most 60 s), 1,000 at once, 4.4 CPU-s, 85 passes, 61 MiB; 4% of tries fail: 10,436 tries, "
        "failed provisions: 1; once healthy, a pass takes 11 ms of CPU "
        "(at most 300 ms), and all that goes on 3.1% of a core"
    ) == sentence("etcd", SEEN)


def test_failures_of_several_fleets_are_counted_together() -> None:
    worse = msgspec.structs.replace(SEEN, n_failed=2)

    assert (
        "provisions that failed, with 4% of tries: 2 of 20,000, 0.0100% (at most 0.01%; all of "
        "three tries fail for 0.0064%)"
    ) == failures_sentence([SEEN, msgspec.structs.replace(SEEN, n_failed=1)])
    assert "0.0150% (NOT at most" in failures_sentence([SEEN, worse])


def test_the_default_of_operations_at_once_is_held_against_what_the_starts_alone_take() -> None:
    seen = msgspec.structs.replace(SEEN, n_instances=2_000, n_at_once=50, n_tries=2_100)

    assert (
        "provisioner with etcd and 50 at once, the default: 2,000 instances in 24.4 s; their "
        "starts alone, one after the other in 45 rows, take 74.7 s"
    ) == default_sentence(seen)
