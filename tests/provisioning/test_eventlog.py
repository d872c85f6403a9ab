from __future__ import annotations

import logging

import pytest

from provisioning.eventlog import MAX_KINDS, RateLimit
from tests.provisioning.virtual import VirtualClock, virtual_run


def test_a_line_of_each_kind_is_logged_once_a_minute_and_then_says_how_many_were_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = logging.getLogger("tests.eventlog")

    async def scene() -> None:
        log.addFilter(limit := RateLimit(VirtualClock()))
        for _ in range(100):
            log.error("no %s\nfd=7", "files")
            log.error("no memory")
        await VirtualClock().sleep(60.0)
        log.error("no %s\nfd=8", "files")
        log.removeFilter(limit)

    virtual_run(scene())

    assert ["no files\nfd=7", "no memory", "no files (held_back=99)\nfd=8"] == caplog.messages


def test_kinds_without_end_share_one() -> None:
    async def scene() -> tuple[int, int]:
        limit = RateLimit(VirtualClock())
        first = [limit.admit(f"task {number}") for number in range(10 * MAX_KINDS)]
        await VirtualClock().sleep(60.0)
        later = [limit.admit(f"task {number}") for number in range(MAX_KINDS)]
        return first.count(0), later.count(0)

    assert (MAX_KINDS + 1, MAX_KINDS) == virtual_run(scene())
