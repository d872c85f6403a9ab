from __future__ import annotations

from exporter import counters as ledger_
from exporter.counters import OTHER, Increase, Ledger
from exporter.model import Histogram


def test_increases_add_up_by_model_type_and_node() -> None:
    ledger = Ledger()
    ledger.record("n1", "m1", Increase(10.0, (("oom", 1.0),)))
    ledger.record("n2", "m1", Increase(5.0, (("oom", 2.0), ("timeout", 3.0))))

    assert {"m1": 15.0} == ledger.generated_tokens
    assert {"oom": 3.0, "timeout": 3.0} == ledger.errors
    assert {("n1", "oom"): 1.0, ("n2", "oom"): 2.0, ("n2", "timeout"): 3.0} == ledger.node_errors


def test_durations_of_a_model_are_merged() -> None:
    ledger = Ledger()
    ledger.record("n1", "m", Increase(durations=Histogram((1.0, 2.0), 0.5)))
    ledger.record("n2", "m", Increase(durations=Histogram((2.0, 2.0), 0.25)))

    assert {"m": Histogram((3.0, 4.0), 0.75)} == ledger.durations


def test_requests_are_those_of_all_durations_and_begin_with_them() -> None:
    ledger = Ledger()
    ledger.record("n1", "m1", Increase(1.0, (("oom", 2.0),)))
    assert ledger.requests is None

    ledger.record("n1", "m1", Increase(durations=Histogram((0.0, 0.0), 0.0)))
    assert 0.0 == ledger.requests

    ledger.record("n1", "m1", Increase(durations=Histogram((2.0, 5.0), 0.5)))
    ledger.record("n2", "m2", Increase(durations=Histogram((2.0, 2.0), 0.25)))
    assert 7.0 == ledger.requests


def test_failed_requests_add_up() -> None:
    ledger = Ledger()
    ledger.record("n1", "m1", Increase(errors=(("oom", 2.0),), failed_requests=2.0))
    ledger.record("n2", "m2", Increase(errors=(("oom", 3.0),)))
    ledger.record("n1", "m1", Increase(errors=(("oom", 4.0),), failed_requests=4.0))

    assert (6.0, {"oom": 9.0}) == (ledger.failed_requests, ledger.errors)


def test_models_without_end_are_counted_together() -> None:
    ledger = Ledger()
    for n in range(ledger_.MAX_MODELS + 10):
        ledger.record("n", f"m{n}", Increase(1.0))

    assert ledger_.MAX_MODELS + 1 == len(ledger.generated_tokens)
    assert 10.0 == ledger.generated_tokens[OTHER]


def test_error_types_without_end_are_counted_together() -> None:
    ledger = Ledger()
    for n in range(ledger_.MAX_ERROR_TYPES + 10):
        ledger.record("n", "m", Increase(errors=((f"e{n}", 1.0),)))

    assert ledger_.MAX_ERROR_TYPES + 1 == len(ledger.errors) == len(ledger.node_errors)


def test_a_node_that_is_gone_is_forgotten_and_the_fleets_count_stays() -> None:
    ledger = Ledger()
    ledger.record("n1", "m", Increase(errors=(("oom", 1.0),)))
    ledger.record("n2", "m", Increase(errors=(("oom", 1.0),)))

    ledger.keep_nodes({"n2"})

    assert {("n2", "oom"): 1.0} == ledger.node_errors
    assert {"oom": 2.0} == ledger.errors
