"""What becomes of an instance that the fleet is not to have any more.

In:   a Draft, the instance, and the Rotation of the pool that it was of.
Out:  at most one action on the Draft. Pure; never fails.
"""

from __future__ import annotations

from provisioning.draft import Draft
from provisioning.model import FOR_GOOD, Instance, Phase, Reason
from provisioning.spec_model import Rotation
from provisioning.survey import NodeState

LEAVING = frozenset({Phase.DRAINING, Phase.STOPPING})


def is_leaving(instance: Instance) -> bool:
    """Say whether an instance is on its way out for good."""
    return instance.phase in LEAVING and instance.reason in FOR_GOOD


def part_with(draft: Draft, instance: Instance, rotation: Rotation) -> None:
    """Take the next step towards the end of an instance, if one can be taken now."""
    if instance.id in draft.observed.working:
        draft.call_off(instance, Reason.SCALED_DOWN)
        return
    state = draft.survey.state(instance.node)
    if instance.phase is Phase.FAILED or _is_out_of_sight(draft, instance.node, state):
        draft.forget(instance)
    elif instance.phase is Phase.RUNNING or not _is_in_order(instance):
        draft.drain(instance, Reason.SCALED_DOWN)
    elif state is NodeState.REACHABLE and _may_stop(draft, instance, rotation):
        draft.stop(instance, Reason.SCALED_DOWN)


def _is_out_of_sight(draft: Draft, node: str, state: NodeState) -> bool:
    """Say whether a node is lost and has left the specification.

    One that is listed may return, with its units: without their records they would be orphans,
    and many of them a reason to doubt the store.
    """
    return state is NodeState.LOST and not draft.survey.is_listed(node)


def _is_in_order(instance: Instance) -> bool:
    """Say whether a draining instance knows that it does not come back."""
    return instance.phase is not Phase.DRAINING or instance.reason in FOR_GOOD


def _may_stop(draft: Draft, instance: Instance, rotation: Rotation) -> bool:
    return instance.phase is not Phase.DRAINING or has_drained(draft, instance, rotation)


def has_drained(draft: Draft, instance: Instance, rotation: Rotation) -> bool:
    """Say whether a draining instance had its time, or has nothing under way, or has ended."""
    # Negative once the clock was set back: then nobody knows how long it has drained.
    is_over = not 0 <= draft.now_s - instance.since_s < rotation.drain_s
    is_idle = instance.unit in draft.observed.idle
    return is_over or is_idle or bool(draft.survey.ending(instance))
