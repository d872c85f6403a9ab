"""When the next pass is due though nothing happens, by what only time brings about.

In:   the SpecIndex in force, the records, when was last decided on them.
Out:  how long the next pass may wait. Pure; never fails.

Only the ends of drains are met to the moment: a rollout consists of them. All else bears to be
noticed a few seconds late.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from provisioning.model import Instance, Phase
from provisioning.spec_index import SpecIndex
from provisioning.spec_model import Rotation

MARGIN_S = 0.001
"""A drain has to be over when it is looked at, however clocks round."""


def drain_left_s(spec_index: SpecIndex, instances: Iterable[Instance], *, since_s: float) -> float:
    """Return how long after `since_s` the next drain is over; infinite where there is none.

    A drain that was over before does not count: what holds it up tells of itself when it ends.
    """
    ends_s = (_end_s(spec_index, one) for one in instances if one.phase is Phase.DRAINING)
    return min((end_s - since_s for end_s in ends_s if end_s > since_s), default=math.inf)


def _end_s(spec_index: SpecIndex, instance: Instance) -> float:
    pool = spec_index.pool_by_name.get(instance.pool)
    rotation = pool.rotation if pool else Rotation()
    return instance.since_s + rotation.drain_s + MARGIN_S
