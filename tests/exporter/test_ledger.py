from __future__ import annotations

from exporter import counters as ledger_
from exporter.counters import Delta, FleetCounters
from exporter.model import Histogram


def test_increases_add_up_by_model_type_and_node() -> None:
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m1", Delta(10.0, (("oom", 1.0),)))
    fleet_counters.record("n2", "m1", Delta(5.0, (("oom", 2.0), ("timeout", 3.0))))

    assert {"m1": 15.0} == fleet_counters.generated_tokens
    assert {"oom": 3.0, "timeout": 3.0} == fleet_counters.errors
    assert {
        ("n1", "oom"): 1.0,
        ("n2", "oom"): 2.0,
        ("n2", "timeout"): 3.0,
    } == fleet_counters.node_errors


def test_durations_of_a_model_are_merged() -> None:
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m", Delta(durations=Histogram((1.0, 2.0), 0.5)))
    fleet_counters.record("n2", "m", Delta(durations=Histogram((2.0, 2.0), 0.25)))

    assert {"m": Histogram((3.0, 4.0), 0.75)} == fleet_counters.durations


def test_requests_are_those_of_all_durations_and_begin_with_them() -> None:
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m1", Delta(1.0, (("oom", 2.0),)))
    assert fleet_counters.requests is None

    fleet_counters.record("n1", "m1", Delta(durations=Histogram((0.0, 0.0), 0.0)))
    assert 0.0 == fleet_counters.requests

    fleet_counters.record("n1", "m1", Delta(durations=Histogram((2.0, 5.0), 0.5)))
    fleet_counters.record("n2", "m2", Delta(durations=Histogram((2.0, 2.0), 0.25)))
    assert 7.0 == fleet_counters.requests


def test_error_types_without_end_are_counted_together() -> None:
    fleet_counters = FleetCounters()
    for n in range(ledger_.MAX_FLEET_ERROR_TYPES + 10):
        fleet_counters.record("n", "m", Delta(errors=((f"e{n}", 1.0),)))

    assert (
        ledger_.MAX_FLEET_ERROR_TYPES + 1
        == len(fleet_counters.errors)
        == len(fleet_counters.node_errors)
    )


def test_a_node_that_is_gone_is_forgotten_and_the_fleets_count_stays() -> None:
    fleet_counters = FleetCounters()
    fleet_counters.record("n1", "m", Delta(errors=(("oom", 1.0),)))
    fleet_counters.record("n2", "m", Delta(errors=(("oom", 1.0),)))

    fleet_counters.keep_nodes({"n2"})

    assert {("n2", "oom"): 1.0} == fleet_counters.node_errors
    assert {"oom": 2.0} == fleet_counters.errors
