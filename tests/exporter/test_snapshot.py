from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from exporter.conditions import conditions_of
from exporter.counters import MAX_MODELS, OTHER, CounterState, Delta, FleetCounters
from exporter.model import (
    CanaryOutcome,
    CanaryState,
    Condition,
    Generation,
    Histogram,
    LoadedModel,
    Outcome,
    State,
    Status,
    Target,
    Values,
)
from exporter.peers import NodeKey
from exporter.snapshot import MAX_VERSIONS, Aggregation, Row
from tests.exporter.fleets import NOW_S, reading, row, snapshot

FRESH = CounterState()


def target(
    id_: str = "a", node: str = "n1", model: str = "m", state: State = State.RUNNING
) -> Target:
    return Target(id_, "127.0.0.1", 1, node=node, model=model, state=state)


def fast(speed: float, p99_s: float | None = None) -> Values:
    return Values(tokens_per_second=speed, latency_p99_s=p99_s)


def test_an_instance_whose_last_canary_stalled_has_that_condition() -> None:
    stalled = CanaryState(CanaryOutcome.SKIPPED_BUSY, "", NOW_S, 1, NOW_S)

    assert (Condition.STALLED,) == conditions_of(target(), reading(), FRESH, stalled)
    assert () == conditions_of(target(), reading(Outcome.REFUSED), FRESH, stalled)
    assert () == conditions_of(target(), reading(), FRESH, next_well(stalled))
    assert 1 == snapshot(row(target(), reading(), stalled)).fleet.conditions[Condition.STALLED]


def next_well(known: CanaryState) -> CanaryState:
    return msgspec.structs.replace(known, outcome=CanaryOutcome.OK, n_stalled=0)


def test_every_status_is_always_counted() -> None:
    assert dict.fromkeys(Status, 0) == snapshot().fleet.instances


def test_instances_are_counted_by_status_and_node() -> None:
    fleet = snapshot(
        row(target("a"), reading()),
        row(target("b"), reading(Outcome.REFUSED)),
        row(target("c", node="n2"), reading(Outcome.REFUSED)),
    ).fleet

    assert (1, 2) == (fleet.instances[Status.HEALTHY], fleet.instances[Status.UNREACHABLE])
    assert {
        ("n1", Status.HEALTHY): 1,
        ("n1", Status.UNREACHABLE): 1,
        ("n2", Status.HEALTHY): 0,
        ("n2", Status.UNREACHABLE): 1,
    } == fleet.node_instances


def test_instances_are_counted_by_status_and_model() -> None:
    fleet = snapshot(
        row(target("a"), reading()),
        row(target("b", node="n2"), reading()),
        row(target("c"), reading(Outcome.REFUSED)),
        row(target("d", model="x"), reading(Outcome.REFUSED)),
        row(target("e", model="x", state=State.DRAINING), reading()),
    ).fleet

    assert {
        ("m", Status.HEALTHY): 2,
        ("m", Status.UNREACHABLE): 1,
        ("x", Status.HEALTHY): 0,
        ("x", Status.UNREACHABLE): 1,
        ("x", Status.DRAINING): 1,
    } == fleet.model_instances


def test_the_model_is_the_inventorys_else_the_one_that_was_told_else_none() -> None:
    told = Values(models=("told",))
    fleet = snapshot(
        row(target("a", model="listed"), reading(values=told)),
        row(target("b", model=""), reading(values=told)),
        row(target("c", model=""), None),
    ).fleet

    assert {
        ("listed", Status.HEALTHY): 1,
        ("told", Status.HEALTHY): 1,
        ("", Status.HEALTHY): 0,
        ("", Status.UNKNOWN): 1,
    } == fleet.model_instances


def test_instances_are_measured_where_their_speed_counts() -> None:
    """Four of `m` are healthy; one told no speed, one 0 while idle. Of `x` none did."""
    fleet = snapshot(
        row(target("a"), reading(values=fast(40.0))),
        row(target("b", node="n2"), reading(values=fast(2.0))),
        row(target("c"), reading()),
        row(target("d", state=State.DRAINING), reading(values=fast(100.0))),
        row(target("e"), reading(Outcome.TIMEOUT, fast(100.0))),
        row(target("f", model="x"), reading()),
        row(target("g"), reading(values=fast(0.0))),
    ).fleet

    assert {"m": 2, "x": 0} == fleet.measured_instances
    assert {"m": 42.0} == fleet.tokens_per_second


def test_an_instance_with_a_histogram_does_not_count_in_the_p99_of_those_without() -> None:
    """So one that has a histogram, or goes away with it, hides nothing of the others."""
    slow = msgspec.structs.replace(fast(1.0, 9.0), request_duration=Histogram((1.0, 1.0), 9.0))
    rows = [
        row(target("a"), reading(values=fast(1.0, 0.5))),
        row(target("b"), reading(values=slow)),
    ]

    assert 0.5 == snapshot(*rows).fleet.latency_p99_s
    assert snapshot(rows[1]).fleet.latency_p99_s is None


def test_of_models_without_end_the_commonest_keep_their_names() -> None:
    """Whatever instances call their models, a page stays small, and its sums stay whole."""
    n_models = MAX_MODELS + 10
    rows = [
        row(target(f"a{n:04}", model=f"m{n}"), reading(values=fast(1.0))) for n in range(n_models)
    ]
    rows += [row(target(f"b{n}", model="common"), reading(values=fast(2.0))) for n in range(2)]

    fleet = snapshot(*rows).fleet

    assert (2, 11) == (
        fleet.model_instances["common", Status.HEALTHY],
        fleet.model_instances[OTHER, Status.HEALTHY],
    )
    assert (2, 11) == (fleet.measured_instances["common"], fleet.measured_instances[OTHER])
    assert (4.0, 11.0) == (fleet.tokens_per_second["common"], fleet.tokens_per_second[OTHER])
    assert 11.0 == fleet.node_tokens_per_second[NodeKey("n1", OTHER, "fleet")]
    for by_model in (fleet.model_instances, fleet.measured_instances, fleet.tokens_per_second):
        assert MAX_MODELS + 1 == len(by_model)


def test_only_healthy_instances_speed_counts() -> None:
    fleet = snapshot(
        row(target("a"), reading(values=fast(40.0))),
        row(target("b", node="n2"), reading(values=fast(2.0))),
        row(target("c", model="x"), reading(values=fast(7.0))),
        row(target("d", state=State.DRAINING), reading(values=fast(100.0))),
        row(target("e"), reading(Outcome.TIMEOUT)),
    ).fleet

    assert {"m": 42.0, "x": 7.0} == fleet.tokens_per_second
    by_node = {("n1", "m"): 40.0, ("n2", "m"): 2.0, ("n1", "x"): 7.0}
    assert by_node == {key[:2]: speed for key, speed in fleet.node_tokens_per_second.items()}


def test_a_nodes_speed_per_instance_is_compared_with_nodes_of_the_same_hardware() -> None:
    """Of the slower kind are two nodes only; an instance whose speed is 0 counts nowhere."""
    rows = [row(target(f"a{n}", node=f"a{n % 3}"), reading(values=fast(40.0))) for n in range(6)]
    rows += [row(target(f"b{n}", node=f"b{n}"), reading(values=fast(30.0))) for n in range(2)]
    rows = [
        msgspec.structs.replace(
            each, target=replace(each.target, labels={"gpu": each.target.id[0]})
        )
        for each in rows
    ]
    rows.append(row(target("idle", node="a0"), reading(values=fast(0.0))))
    stopped = CanaryState(CanaryOutcome.OK, "", NOW_S, 0, NOW_S, Generation(8.0, 0.0))
    rows.append(row(target("stopped", node="a0"), reading(), stopped))
    aggregation = Aggregation(now_s=NOW_S, hardware_label="gpu")
    aggregation.add(rows)
    fleet = aggregation.finish(FleetCounters())

    a0, b0 = NodeKey("a0", "m", "fleet"), NodeKey("b0", "m", "fleet")
    assert (80.0, 2) == (fleet.node_tokens_per_second[a0], fleet.node_measured_instances[a0])
    assert (30.0, 1) == (fleet.node_tokens_per_second[b0], fleet.node_measured_instances[b0])
    assert {"a0": 40.0, "a1": 40.0, "a2": 40.0} == {
        key.node: speed for key, speed in fleet.node_peers_tokens_per_second.items()
    }


def test_models_that_share_a_name_because_they_are_too_many_are_not_compared() -> None:
    rows = [
        row(target(f"{node}-{n:04}", node=node, model=f"m{n}"), reading(values=fast(float(n + 1))))
        for n in range(MAX_MODELS + 1)
        for node in ("n1", "n2", "n3")
    ]
    fleet = snapshot(*rows).fleet

    assert ("n1", OTHER, "fleet") in fleet.node_tokens_per_second
    assert 3 * MAX_MODELS == len(fleet.node_peers_tokens_per_second)


def test_fleet_p99_is_the_99th_percentile_over_healthy_instances() -> None:
    rows = [row(target(f"i{n}"), reading(values=fast(1.0, n / 1000))) for n in range(101)]
    rows.append(row(target("dead"), reading(Outcome.TIMEOUT, fast(1.0, 50.0))))

    assert 0.099 == pytest.approx(snapshot(*rows).fleet.latency_p99_s)


def test_adding_in_portions_gives_the_same() -> None:
    rows = [row(target(f"i{n}", node=f"n{n % 3}"), reading(values=fast(n, n))) for n in range(10)]
    piecemeal = Aggregation(now_s=NOW_S)
    for one in rows:
        piecemeal.add([one])

    assert snapshot(*rows).fleet == piecemeal.finish(FleetCounters())


def test_totals_of_the_ledger_are_those_of_the_moment() -> None:
    delta = Delta(5.0, (("oom", 2.0),), Histogram((1.0, 9.0), 1.0), 2.0)
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m", delta)
    fleet = snapshot(fleet_counters=fleet_counters).fleet
    fleet_counters.record("n1", "m", delta)

    assert {"m": 5.0} == fleet.generated_tokens
    assert {("m", "oom"): 2.0} == fleet.errors
    assert {("n1", "oom"): 2.0} == fleet.node_errors
    assert {"m": 9.0} == fleet.requests
    assert {"m": 2.0} == fleet.request_errors


def test_each_model_has_all_types_of_errors_so_that_its_first_is_an_increase() -> None:
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m", Delta(errors=(("oom", 2.0),)))
    models = [row(target(name, model=name)) for name in ("m", "x")]

    errors = snapshot(*models, fleet_counters=fleet_counters).fleet.errors

    assert {("m", "oom"): 2.0, ("x", "oom"): 0.0} == errors


def test_without_durations_requests_are_not_counted_and_their_errors_neither() -> None:
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m", Delta(errors=(("oom", 2.0),)))
    fleet = snapshot(fleet_counters=fleet_counters).fleet

    assert {} == fleet.requests == fleet.request_errors


GPU = LoadedModel("m", size_bytes=8.0, vram_bytes=8.0)
SPLIT = LoadedModel("m", size_bytes=8.0, vram_bytes=6.0)
UNSAID = LoadedModel("m")
NOT_LOADED, NOT_INSTALLED = Condition.MODEL_NOT_LOADED, Condition.MODEL_NOT_INSTALLED


@pytest.mark.parametrize(
    ("listed", "loaded", "installed", "expected"),
    [
        ("m", (GPU,), ("m",), ()),
        ("m", (UNSAID,), None, ()),
        ("m", (SPLIT,), ("m",), (Condition.ON_CPU,)),
        ("m", (LoadedModel("x"), GPU), None, ()),
        ("m", (LoadedModel("x"),), None, (NOT_LOADED,)),
        ("m", tuple(LoadedModel(f"x{n}") for n in range(31)), None, (NOT_LOADED,)),
        ("m", tuple(LoadedModel(f"x{n}") for n in range(32)), None, ()),  # more may be loaded
        ("m", (), ("m",), (NOT_LOADED,)),
        ("m", (), ("x",), (NOT_LOADED, NOT_INSTALLED)),
        ("m", (), (), (NOT_LOADED, NOT_INSTALLED)),
        ("m", (LoadedModel("x", 8.0, 1.0),), (), (NOT_LOADED, NOT_INSTALLED, Condition.ON_CPU)),
        ("", (), ("m",), (Condition.NOTHING_LOADED,)),
        ("", (SPLIT,), None, (Condition.ON_CPU,)),
        ("", (GPU,), None, ()),
        ("m", None, ("x",), ()),
        ("", None, None, ()),
    ],
)
def test_a_condition_says_what_is_wrong_with_the_models(
    listed: str,
    loaded: tuple[LoadedModel, ...] | None,
    installed: tuple[str, ...] | None,
    expected: tuple[Condition, ...],
) -> None:
    seen = reading(values=Values(loaded=loaded))

    assert expected == conditions_of(target(model=listed), seen, CounterState(installed=installed))


def test_a_model_wholly_on_the_cpu_is_a_condition_where_another_instance_has_it_on_a_gpu() -> None:
    seen = reading(values=Values(loaded=(LoadedModel("m", size_bytes=8.0, vram_bytes=0.0),)))

    assert () == conditions_of(target(), seen, FRESH)
    assert () == conditions_of(target(), seen, FRESH, models_on_gpu={"x"})
    assert (Condition.ON_CPU,) == conditions_of(target(), seen, FRESH, models_on_gpu={"m"})


QUEUED = Values(requests_queued=3.0)


@pytest.mark.parametrize(
    ("values", "served_ago_s", "expected"),
    [
        (QUEUED, 600.0, (Condition.NOT_SERVING,)),
        (QUEUED, 599.0, ()),
        (Values(requests_queued=0.0), 900.0, ()),
        (Values(), 900.0, ()),
        (Values(kv_cache_usage_ratio=0.95), 0.0, (Condition.KV_CACHE_FULL,)),
        (Values(kv_cache_usage_ratio=0.94), 0.0, ()),
    ],
)
def test_a_queue_without_output_and_a_full_kv_cache_are_conditions(
    values: Values, served_ago_s: float, expected: tuple[Condition, ...]
) -> None:
    counters = CounterState(served_at_s=NOW_S - served_ago_s)

    assert expected == conditions_of(target(), reading(values=values), counters)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.REFUSED])
def test_an_instance_flaps_whose_polls_change_five_times_in_a_quarter_of_an_hour(
    state: State, outcome: Outcome
) -> None:
    """Whatever its status."""
    seen, turns_s = reading(outcome), [NOW_S - ago for ago in (900, 700, 500, 300, 100)]

    def conditions(turns_s: list[float]) -> tuple[Condition, ...]:
        return conditions_of(target(state=state), seen, FRESH, turns_s=turns_s)

    assert (Condition.FLAPPING,) == conditions(turns_s)
    assert () == conditions(turns_s[1:])
    assert () == conditions([NOW_S - 901, *turns_s[1:]])


def test_only_running_instances_that_answered_have_conditions() -> None:
    bare = Values(loaded=())
    others = [
        row(target("a", state=State.DRAINING), reading(values=bare)),
        row(target("b"), reading(Outcome.TIMEOUT, bare)),
        row(target("c"), None),
    ]
    fleet = snapshot(*others, row(target("d"), reading(values=bare))).fleet

    assert dict.fromkeys(Condition, 0) | {NOT_LOADED: 1} == fleet.conditions


def test_requests_that_wait_add_up_by_model_and_versions_are_counted() -> None:
    fleet = snapshot(
        row(target("a"), reading(values=Values(requests_queued=2.0, version="1"))),
        row(target("b", state=State.DRAINING), reading(values=Values(requests_queued=3.0))),
        row(target("c", model="idle"), reading(values=Values(requests_queued=0.0, version="1"))),
        row(target("d", model="silent"), reading(values=Values())),
        row(replace(target("e"), engine="vllm")),
    ).fleet

    assert {"m": 5.0, "idle": 0.0} == fleet.requests_queued
    assert {("fleet", "1"): 2, ("fleet", ""): 2, ("vllm", ""): 1} == fleet.engine_instances


def test_of_versions_without_end_the_rare_ones_count_together() -> None:
    versions = ["0.1", "0.1", *[f"{n}" for n in range(MAX_VERSIONS + 6)]]
    rows = [row(target(f"i{n}"), reading(values=Values(version=v))) for n, v in enumerate(versions)]

    counts = snapshot(*rows).fleet.engine_instances

    assert MAX_VERSIONS + 1 == len(counts)
    assert (2, 7) == (counts["fleet", "0.1"], counts["fleet", OTHER])


def test_instances_that_started_within_five_minutes_are_counted_by_node() -> None:
    """By their own word, else by the inventory's."""

    def started(id_: str, ago_s: float | None, listed_ago_s: float | None = None) -> Row:
        values = Values(start_time_s=None if ago_s is None else NOW_S - ago_s)
        listed_s = None if listed_ago_s is None else NOW_S - listed_ago_s
        return row(replace(target(id_, f"n{id_[0]}"), started_s=listed_s), reading(values=values))

    fleet = snapshot(
        *(started("1a", 299.0), started("1b", 300.0), started("1c", 900.0, 10.0)),
        *(started("2a", None, 10.0), started("3a", None)),
    ).fleet

    assert {("n1",): 1, ("n2",): 1} == fleet.node_started_instances


def test_quantiles_are_over_the_healthy_instances_of_a_model_and_of_the_fleet() -> None:
    values = [
        Values(tokens_per_second=10.0 * n, latency_p99_s=float(n), kv_cache_usage_ratio=n / 10)
        for n in range(1, 6)
    ]
    rows = [row(target(f"i{n}"), reading(values=each)) for n, each in enumerate(values)]
    slow = Values(latency_p99_s=30.0, request_duration=Histogram((1.0, 1.0), 1.0, (1.0,)))
    others = [
        row(target("x", model="x"), reading(values=slow)),
        row(target("y", state=State.DRAINING), reading(values=fast(1.0, 99.0))),
    ]

    fleet = snapshot(*rows, *others).fleet

    assert {"0.5": 3.5, "0.9": 17.5, "0.99": 28.75, "0.999": 29.875} == pytest.approx(
        fleet.spreads.latency_p99_s
    )
    assert {("m", "0.5"): 30.0, ("m", "0.1"): 14.0, ("m", "0.01"): 10.4} == pytest.approx(
        fleet.spreads.model_tokens_per_second
    )
    assert 4.6 == pytest.approx(fleet.spreads.model_latency_p99_s["m", "0.9"])
    assert 30.0 == fleet.spreads.model_latency_p99_s["x", "0.5"]
    assert {("m", "0.5"): 0.3, ("m", "0.9"): 0.46, ("m", "0.99"): 0.496} == pytest.approx(
        fleet.spreads.model_kv_cache_ratio
    )


def test_what_instances_have_of_a_model_adds_up() -> None:
    """`x` is not loaded where it should be; of `bare` no instance says how large it is."""
    gpu = Values(loaded=(GPU, LoadedModel("bare", expires_at_s=7.0)), installed=("m", "x"))
    models = snapshot(
        row(target("a"), reading(values=gpu)),
        row(target("b"), reading(values=Values(loaded=(SPLIT,), installed=("m",)))),
        row(target("c", model="x"), reading(values=Values(loaded=()))),
        row(target("d"), reading(Outcome.TIMEOUT, gpu)),
        row(target("e", model="silent"), reading(values=Values())),
    ).fleet.models

    assert {"m": 2, "bare": 1, "x": 0} == models.loaded_instances
    assert {"m": 1} == models.on_cpu_instances
    assert {"m": 0, "bare": 1, "x": 0} == models.expiring_instances
    assert ({"m": 16.0}, {"m": 14.0}) == (models.loaded_bytes, models.vram_bytes)
    assert {"m": 2, "x": 1} == models.installed_instances


def test_of_loaded_and_installed_models_without_end_the_commonest_keep_their_names() -> None:
    names = [f"m{n}" for n in range(MAX_MODELS + 10)]
    each = [
        Values(loaded=(LoadedModel(name, 2.0, 1.0), GPU), installed=(name, "m")) for name in names
    ]
    models = snapshot(
        *[row(target(f"i{n:04}", model=""), reading(values=one)) for n, one in enumerate(each)]
    ).fleet.models

    assert len(names) == models.loaded_instances["m"] == models.installed_instances["m"]
    assert 11 == models.loaded_instances[OTHER] == models.installed_instances[OTHER]
    assert (22.0, 11.0) == (models.loaded_bytes[OTHER], models.vram_bytes[OTHER])
    assert 11 == models.on_cpu_instances[OTHER]
