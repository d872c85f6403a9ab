"""Count what a pass could not begin yet, and say why it replaces instances.

In:   a Fleet and its records; what was observed, and the actions decided on that.
Out:  how many instances wait; reasons by instance. Pure; never fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from provisioning.actions import Action, Drain, Observed, Renew, Stop
from provisioning.model import Instance, Phase, Reason
from provisioning.spec_model import Fleet
from provisioning.store.base import Stored
from provisioning.unwanted import is_leaving

UNDER_WAY = frozenset({Phase.STARTING, Phase.STOPPING})


def count_waiting(
    fleet: Fleet, stored: Mapping[str, Stored], working: Collection[str], *, now_s: float
) -> int:
    """Return how many instances are to be made, started or stopped, and nothing works on them.

    They wait for an operation, for room, or for their node's answer. Those that have failed count
    once they are due again.
    """
    n_waiting = 0
    n_by_pool: Counter[str] = Counter()
    for id_, one in stored.items():
        n_by_pool[one.instance.pool] += not is_leaving(one.instance)
        n_waiting += id_ not in working and _is_to_be_worked_on(one.instance, now_s)
    return n_waiting + sum(max(0, pool.count - n_by_pool[pool.name]) for pool in fleet.pools)


def reasons_of(actions: Iterable[Action], observed: Observed) -> dict[str, Reason]:
    """Return why each instance that is given up now is, by its id.

    What goes on with an instance given up earlier is not among them.
    """
    found = {}
    for action in actions:
        if isinstance(action, Drain | Stop | Renew) and action.reason:
            instance = observed.stored[action.id].instance
            is_news = isinstance(action, Renew) or instance.reason is not action.reason
            if is_news:
                found[action.id] = action.reason
    return found


def _is_to_be_worked_on(instance: Instance, now_s: float) -> bool:
    if instance.phase is Phase.FAILED:
        return 0 < instance.retry_at_s <= now_s
    return instance.phase in UNDER_WAY
