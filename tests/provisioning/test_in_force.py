"""Which specification a leader goes by."""

from __future__ import annotations

import pytest

from provisioning.controller import ActiveSpec
from provisioning.store.base import StoredSpec
from tests.provisioning.making import fleet, pool
from tests.provisioning.scene import read, text

ONE, TWO = (StoredSpec(text(fleet(pool(n))), n) for n in (1, 2))
BAD = StoredSpec("nonsense", 3)


def test_before_there_is_one_there_is_none() -> None:
    assert None is ActiveSpec(read).spec_index(None)


def test_a_roster_is_made_once_for_each_specification() -> None:
    in_force = ActiveSpec(read)

    first = in_force.spec_index(ONE)
    assert first is in_force.spec_index(ONE)

    second = in_force.spec_index(TWO)
    assert second
    assert 2 == second.n_wanted


def test_what_cannot_be_read_leaves_the_last_one_in_force_and_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    in_force = ActiveSpec(read)
    first = in_force.spec_index(ONE)

    assert first is in_force.spec_index(BAD)
    assert first is in_force.spec_index(BAD)
    assert 1 == caplog.text.count("the specification is not taken over")


def test_once_the_store_has_none_there_is_none_until_it_has_one_again() -> None:
    in_force = ActiveSpec(read)
    assert in_force.spec_index(ONE)

    assert None is in_force.spec_index(None)
    assert in_force.spec_index(ONE)

    assert None is in_force.spec_index(None)
    assert None is in_force.spec_index(BAD)

    again = in_force.spec_index(ONE)
    assert again
    assert 1 == again.n_wanted
