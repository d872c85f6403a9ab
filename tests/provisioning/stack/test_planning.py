from __future__ import annotations

import msgspec
import pytest

from provisioning.stack import planning
from provisioning.stack.commands import Plan
from provisioning.stack.errors import UnwatchableError


def test_instances_that_only_the_provisioner_would_see_are_refused_with_what_to_do(
    plan: Plan,
) -> None:
    nodes = tuple(msgspec.structs.replace(node, endpoint="") for node in plan.fleet.nodes)

    with pytest.raises(UnwatchableError) as caught:
        planning.pollable(msgspec.structs.replace(plan.fleet, nodes=nodes))

    assert "node node-001 and 99 more: instances would be simulated" in str(caught.value)
    assert "simulate --host-units" in str(caught.value)
    assert "`endpoint: http://127.0.0.1:11451`" in str(caught.value)


def test_instances_that_are_really_there_are_not_refused(plan: Plan) -> None:
    assert plan.fleet == planning.pollable(plan.fleet)
