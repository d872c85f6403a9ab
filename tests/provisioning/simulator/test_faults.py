"""Faults are read strictly, and befall the same instances every time."""

from __future__ import annotations

import pytest

from provisioning.simulator.errors import FaultError
from provisioning.simulator.faults import (
    Fault,
    Kind,
    MetricsFailure,
    parse_fault,
    read_fault,
    select,
)
from provisioning.simulator.spec import FleetSpec, instances_of

INSTANCES = instances_of(FleetSpec(n_instances=1_000))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kill:count=200", Fault(Kind.KILL, count=200)),
        ("slow:node=node-003,factor=0.5", Fault(Kind.SLOW, node="node-003", factor=0.5)),
        ("hang:ids=llm-00001+llm-00002", Fault(Kind.HANG, ids=("llm-00001", "llm-00002"))),
        ("errors:model=mistral:7b,ratio=0.2", Fault(Kind.ERRORS, model="mistral:7b", ratio=0.2)),
        ("delay:share=0.1,seconds=3", Fault(Kind.DELAY, share=0.1, seconds=3.0)),
        (
            "no_metrics:share=1,how=broken",
            Fault(Kind.NO_METRICS, share=1.0, how=MetricsFailure.BROKEN),
        ),
        ("node_gone:node=node-001", Fault(Kind.NODE_GONE, node="node-001")),
        ("busy:count=1,seconds=3", Fault(Kind.BUSY, count=1, seconds=3.0)),
        ("restart:count=1,version=0.4.7", Fault(Kind.RESTART, count=1, version="0.4.7")),
    ],
)
def test_a_fault_is_read_from_words(text: str, fault: Fault) -> None:
    assert fault == parse_fault(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kil:count=2", "did you mean kill?"),
        ("kill:cuont=2", "did you mean count?"),
        ("kill", "needs a selector"),
        ("kill:count", "'count' is no key=value"),
        ("kill:count=two", "expected a number, got 'two'"),
        ("kill:count=0", "whole number of 1 or more"),
        ("kill:count=1.5", "whole number of 1 or more"),
        ("kill:share=1.1", "up to 1"),
        ("kill:share=nan", "up to 1"),
        ("kill:share=1,count=1", "not both"),
        ("kill:count=1,factor=0.5", "unknown key 'factor' for kill"),
        ("slow:count=1,factor=0", "above 0"),
        ("slow:count=1,factor=inf", "up to 1,000,000"),
        ("no_metrics:count=1,how=odd", "404 or broken"),
        ("node_gone:count=3", "node=NAME"),
        ("node_gone:node=node-001,count=3", "no other selector"),
        ("restart:count=1,version=0.5", "0.4.7 or 0.23.0 or 0.32.15, got '0.5'"),
        ("kill:node=", "expected a name"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(FaultError, match=said):
        parse_fault(text)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kind": 3},
        {"kind": "kill", "ids": "llm-00001"},
        {"kind": "kill", "ids": []},
        {"kind": "kill", "ids": [1]},
        {"kind": "kill", "count": True},
        {"kind": "kill", "count": None},
        {"kind": "kill", "count": 10**400},
    ],
)
def test_json_of_the_wrong_types_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(FaultError):
        read_fault(values)


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(FaultError) as refused:
        parse_fault("slow:fator=2,share=7")

    assert 2 == len(refused.value.problems)


def test_a_fault_reads_back_from_what_it_writes() -> None:
    fault = parse_fault("slow:ids=llm-00001+llm-00002,factor=0.5")

    assert {"kind": "slow", "ids": ("llm-00001", "llm-00002"), "factor": 0.5} == fault.as_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kill:node=node-0003", "did you mean node-003?"),
        ("kill:model=llama3.1:8", "did you mean llama3.1:8b?"),
        ("kill:ids=llm-00001+llm-1", "unknown id 'llm-1'; ids are llm-00001 to llm-01000"),
        ("kill:count=1001", "only 1,000 instances can be chosen"),
        ("kill:ids=llm-00001,node=node-009", "no instance matches"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(text: str, said: str) -> None:
    with pytest.raises(FaultError, match=said):
        select(parse_fault(text), INSTANCES, taken=(), seed=1)


@pytest.mark.parametrize(
    ("text", "n_chosen"),
    [
        ("kill:count=7", 7),
        ("kill:share=0.25", 250),
        ("kill:share=0.0001", 1),
        ("kill:node=node-002", 100),
        ("kill:node=node-002,share=0.1", 10),
        ("kill:ids=llm-00001+llm-00009", 2),
        ("kill:share=1", 1_000),
    ],
)
def test_selectors_narrow_each_other_down(text: str, n_chosen: int) -> None:
    assert n_chosen == len(select(parse_fault(text), INSTANCES, taken=(), seed=1))


def test_the_choice_is_the_same_every_time_and_spread_over_the_fleet() -> None:
    fault = parse_fault("kill:count=50")
    chosen = select(fault, INSTANCES, taken=(), seed=1)

    assert chosen == select(fault, INSTANCES, taken=(), seed=1)
    assert chosen != select(fault, INSTANCES, taken=(), seed=2)
    assert len({INSTANCES[index].node for index in chosen}) > 5


def test_instances_without_a_fault_are_chosen_first() -> None:
    fault = parse_fault("hang:count=600")
    first = select(fault, INSTANCES, taken=(), seed=1)

    second = select(fault, INSTANCES, taken=first, seed=1)

    assert 200 == len(first & second)
