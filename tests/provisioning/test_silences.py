"""What the log says of nodes that do not answer."""

from __future__ import annotations

import logging

import pytest

from provisioning.eventlog import Silences
from provisioning.model import Instance, Limits, NodeReport, Phase, Reason
from tests.provisioning.making import (
    NOW_S,
    fleet,
    instance,
    node,
    observed,
    pool,
    report,
    silent,
)
from tests.provisioning.scene import provisioner
from tests.provisioning.test_passes import TWO_NODES
from tests.provisioning.virtual import VirtualClock, virtual_run

FLEET = fleet(nodes=(node("n1"), node("n2")), limits=Limits(node_grace_s=120.0))
GONE = "node n1 counts as gone, unheard for 120 s (limits.node_grace): of its instances, "


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return what was logged of nodes, each line with its level."""
    name = "provisioning.eventlog"
    return [(one.levelname, one.getMessage()) for one in caplog.records if one.name == name]


async def take(silences: Silences, one: NodeReport, *, n: int = 1) -> list[bool]:
    """Report n times, once in five seconds."""
    answers = []
    for _ in range(n):
        answers.append(silences.take_report(one))
        await VirtualClock().sleep(5.0)
    return answers


def test_a_node_that_is_silent_is_told_once_with_the_cause_and_again_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        silences = Silences(VirtualClock())
        assert [False, False] == await take(silences, report("n1"), n=2)
        assert {False} == set(await take(silences, silent("n1", for_s=5.0), n=100))
        assert [True, False] == await take(silences, report("n1"), n=2)

    virtual_run(scene())

    assert [
        ("WARNING", "node n1 does not answer: cannot connect"),
        ("INFO", "node n1 answers again, after 500 s"),
    ] == said(caplog)


def test_each_node_is_told_of_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        silences = Silences(VirtualClock())
        silences.take_report(silent("n1", for_s=5.0))
        silences.take_report(silent("n2", for_s=5.0))
        assert silences.take_report(report("n2"))

    virtual_run(scene())

    assert ["node n1 does not", "node n2 does not", "node n2 answers a"] == [
        words[:17].rstrip() for _, words in said(caplog)
    ]


def test_a_node_that_comes_and_goes_is_told_of_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        silences = Silences(VirtualClock())
        for _ in range(7):  # ten seconds each
            await take(silences, silent("n1", for_s=5.0))
            assert [True] == await take(silences, report("n1"))

    virtual_run(scene())

    silence, back = "node n1 does not answer: cannot connect", "node n1 answers again, after 5 s"
    assert [silence, back, silence, back] == [words for _, words in said(caplog)]


def test_a_node_that_goes_again_and_stays_away_is_told_of_in_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        silences = Silences(VirtualClock())
        await take(silences, silent("n1", for_s=5.0))
        await take(silences, report("n1"))
        await take(silences, silent("n1", for_s=5.0), n=30)
        assert 3 == len(said(caplog))
        silences.take_report(report("n1"))

    virtual_run(scene())

    assert "node n1 answers again, after 150 s" == said(caplog)[3][1]


def note_gone(silences: Silences, for_s: float, *instances: Instance, ill: str = "") -> None:
    """Let a pass see that n1 was not heard for so long."""
    seen = observed(instances, [silent("n1", for_s=for_s)], ill={ill: NOW_S} if ill else {})
    silences.note_gone(FLEET, seen, now_s=NOW_S)


def test_a_node_whose_grace_is_over_is_told_once_with_what_becomes_of_its_instances(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answering, mute, other = instance(1), instance(2), instance(3, node="n2")
    starting, failed = instance(4, phase=Phase.STARTING), instance(5, phase=Phase.FAILED)
    leaving = instance(6, phase=Phase.DRAINING, reason=Reason.SCALED_DOWN)
    here = (answering, mute, other, starting, failed, leaving)

    async def scene() -> None:
        silences = Silences(VirtualClock())
        silences.take_report(silent("n1", for_s=5.0))
        caplog.clear()
        note_gone(silences, 119.0, *here, ill=mute.id)
        assert [] == said(caplog)
        for for_s in (120.0, 121.0, 300.0):
            note_gone(silences, for_s, *here, ill=mute.id)

    virtual_run(scene())

    words = "2 are placed elsewhere, 1 are kept as they still answer; last: cannot connect"
    assert [("WARNING", f"{GONE}{words}")] == said(caplog)


def test_nodes_are_gone_from_the_end_of_their_grace_until_they_answer_or_are_asked_no_more() -> (
    None
):
    async def scene() -> None:
        silences = Silences(VirtualClock())
        silences.take_report(silent("n1", for_s=5.0))
        note_gone(silences, 119.0)
        assert frozenset() == silences.gone
        for _ in range(2):
            note_gone(silences, 120.0)
            assert {"n1"} == silences.gone

        silences.take_report(report("n1"))
        assert frozenset() == silences.gone

        silences.take_report(silent("n1", for_s=5.0))
        note_gone(silences, 120.0)
        silences.forget(all_but=frozenset({"n2"}))
        assert frozenset() == silences.gone

    virtual_run(scene())


def test_a_silent_node_was_heard_when_it_answered_last() -> None:
    async def scene() -> None:
        silences = Silences(VirtualClock())
        await VirtualClock().sleep(10.0)
        silences.take_report(report("n1", at_s=VirtualClock().unix_s() - 2.0))
        for name in ("n1", "n2"):
            await take(silences, silent(name, for_s=5.0), n=2)
        assert (8.0, 0.0) == (silences.heard_s("n1"), silences.heard_s("n2"))

    virtual_run(scene())


def test_the_next_silence_of_a_node_that_was_gone_is_told_in_whole_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        silences = Silences(VirtualClock())
        for _ in range(2):
            await take(silences, silent("n1", for_s=5.0), n=20)
            note_gone(silences, 120.0)
            silences.take_report(report("n1"))

    virtual_run(scene())

    assert ["WARNING", "WARNING", "INFO"] * 2 == [level for level, _ in said(caplog)]


def test_a_node_of_which_it_was_only_told_that_it_is_gone_is_said_to_be_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        silences = Silences(VirtualClock())
        await take(silences, silent("n1", for_s=5.0))
        await take(silences, report("n1"))
        await take(silences, silent("n1", for_s=5.0))  # too soon to be told again
        note_gone(silences, 120.0)
        silences.take_report(report("n1"))

    virtual_run(scene())

    assert ["WARNING", "INFO", "WARNING", "INFO"] == [level for level, _ in said(caplog)]


def test_who_is_not_asked_any_more_is_forgotten_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        silences = Silences(VirtualClock())
        silences.take_report(silent("n1", for_s=5.0))
        silences.take_report(silent("n2", for_s=5.0))
        caplog.clear()

        silences.forget(all_but=frozenset({"n2"}))
        note_gone(silences, 300.0)
        assert not silences.take_report(report("n1"))
        assert [] == said(caplog)
        assert silences.take_report(report("n2"))

        silences.take_report(silent("n1", for_s=5.0))
        silences.forget()
        assert not silences.take_report(report("n1"))

    virtual_run(scene())


def test_a_node_that_left_the_fleet_and_is_in_it_again_is_told_of_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        silences = Silences(VirtualClock())
        for name in ("n1", "n2"):
            silences.take_report(silent(name, for_s=5.0))
            silences.take_report(report(name))  # it may be told again in a minute, if it stays
        caplog.clear()

        silences.forget(all_but=frozenset({"n2"}))
        for name in ("n1", "n2"):
            silences.take_report(silent(name, for_s=5.0))

    virtual_run(scene())

    assert ["node n1 does not answer: cannot connect"] == [words for _, words in said(caplog)]


def test_a_node_that_fails_and_returns_is_three_lines_of_a_provisioners_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with provisioner(
            fleet(pool(4), nodes=TWO_NODES, limits=Limits(node_grace_s=60.0))
        ) as stage:
            await stage.until(stage.is_whole)
            stage.world.silence("n2")
            await stage.until(
                lambda: {"n1"} == {one.node for one in stage.instances}, within_s=120.0
            )
            await VirtualClock().sleep(100.0)
            stage.world.restore("n2")
            await stage.until(stage.is_whole, within_s=60.0)

    virtual_run(scene())

    silence, gone, back = said(caplog)
    assert silence[0] == gone[0] == "WARNING"
    assert silence[1].startswith("node n2 does not answer: ")
    assert gone[1].startswith("node n2 counts as gone, unheard for 60 s (limits.node_grace): ")
    assert "2 are placed elsewhere, 0 are kept" in gone[1]
    assert back[1].startswith("node n2 answers again, after ")


def test_a_term_that_ends_begins_anew_with_silent_nodes(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with provisioner(fleet(pool(2), nodes=TWO_NODES)) as stage:
            await stage.until(stage.is_whole)
            stage.world.silence("n2")
            await VirtualClock().sleep(90.0)
            tenure = stage.backend.tenure
            assert tenure
            stage.world.restore("n2")
            tenure.end()
            stage.backend.end_term(tenure)
            await VirtualClock().sleep(60.0)

    virtual_run(scene())

    assert 1 == len(said(caplog))
