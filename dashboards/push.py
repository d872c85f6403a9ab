"""Bring dashboards into Grafana without treading on what people changed there.

Grafana keeps a message with each version of a dashboard. Ours holds the digest of what was pushed,
so the next push sees whether the last to save a dashboard was a push or a person, and whether the
same document was pushed, even where Grafana has since stored it in another form.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dashboards import provisioning
from dashboards.documents import Document, normalised
from dashboards.errors import (
    AccessError,
    ChangedError,
    ForbiddenError,
    NotGrafanaError,
    RefusedError,
    UnreachableError,
)
from dashboards.grafana import Folder, Found, Grafana, provisioned_helps

FOLDER_UID = provisioning.FOLDER_UID
MESSAGE = "ollama-fleet dashboards push sha256:"


class State(StrEnum):
    """What a push makes, or made, of a dashboard."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    CONFLICT = "conflict"
    """A person changed it in Grafana, or a provisioning file holds it: left as it is."""
    FAILED = "failed"
    NOT_TRIED = "not tried"
    """Grafana failed before its turn came."""


IS_WRITTEN = frozenset({State.CREATED, State.UPDATED})
IS_WELL = IS_WRITTEN | {State.UNCHANGED}


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one dashboard."""

    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One dashboard: what is wanted, what is there, what to do."""

    document: Document
    found: Found | None
    decision: Decision

    @property
    def diff(self) -> str:
        """Return what a push would change, as a unified diff; empty where it would leave all."""
        if self.decision.state in (State.UNCHANGED, State.FAILED):
            return ""
        before = normalised(self.found.content) if self.found else ""
        lines = difflib.unified_diff(
            before.splitlines(),
            normalised(self.document.content).splitlines(),
            fromfile=f"grafana/{self.document.uid}" if self.found else "/dev/null",
            tofile=self.document.source,
            lineterm="",
        )
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one dashboard."""

    uid: str
    state: State
    reason: str = ""


def message(document: Document) -> str:
    """Return what to say in the dashboard's history."""
    return MESSAGE + document.digest


def decide(document: Document, found: Found | None, *, is_overwriting: bool) -> Decision:
    """Choose what to do with a dashboard; pure, so that every case is a test."""
    if found is None:
        return Decision(State.CREATED)
    if _is_there(document, found):
        return Decision(State.UNCHANGED)
    if found.is_provisioned:
        return Decision(State.CONFLICT, provisioned_helps())
    if found.message.startswith(MESSAGE) or is_overwriting:
        return Decision(State.UPDATED)
    by = f" by {found.changed_by}" if found.changed_by else ""
    return Decision(
        State.CONFLICT,
        f"version {found.version} was saved{by}, not by a push; see the differences with "
        "--diff, then give --overwrite to replace it",
    )


def _is_there(document: Document, found: Found) -> bool:
    return found.message == message(document) or normalised(document.content) == normalised(
        found.content
    )


def plan(
    grafana: Grafana, documents: Sequence[Document], *, is_overwriting: bool
) -> tuple[Step, ...]:
    """Read what is there and decide for each; writes nothing."""
    return tuple(_step(grafana, each, is_overwriting=is_overwriting) for each in documents)


def _step(grafana: Grafana, document: Document, *, is_overwriting: bool) -> Step:
    try:
        found = grafana.dashboard(document.uid)
    except ForbiddenError as error:
        return Step(document, None, Decision(State.FAILED, str(error)))
    return Step(document, found, decide(document, found, is_overwriting=is_overwriting))


def planned(steps: Sequence[Step]) -> tuple[Result, ...]:
    """Return the results that pushing would have."""
    return tuple(_as_decided(step) for step in steps)


def _as_decided(step: Step) -> Result:
    return Result(step.document.uid, step.decision.state, step.decision.reason)


def carry_out(
    grafana: Grafana,
    steps: Sequence[Step],
    folder_title: str,
    *,
    is_overwriting: bool,
) -> Iterator[Result]:
    """Do what was decided, yield the result of each step; create the folder if it is needed."""
    if any(step.decision.state is State.CREATED for step in steps):
        _ensure_folder(grafana, Folder(FOLDER_UID, folder_title))
    stopped = ""
    for step in steps:
        if stopped and step.decision.state in IS_WRITTEN:
            yield Result(step.document.uid, State.NOT_TRIED, stopped)
            continue
        result, stopped = _outcome(grafana, step, is_overwriting=is_overwriting, stopped=stopped)
        yield result


def _ensure_folder(grafana: Grafana, folder: Folder) -> None:
    if grafana.folder(folder.uid) is None:
        grafana.create_folder(folder)


def _outcome(
    grafana: Grafana, step: Step, *, is_overwriting: bool, stopped: str
) -> tuple[Result, str]:
    """Return the result of a step, and why those after it need not be tried."""
    uid = step.document.uid
    if step.decision.state not in IS_WRITTEN:
        return _as_decided(step), stopped
    try:
        return _save(grafana, step, is_overwriting=is_overwriting), stopped
    except ForbiddenError as error:
        return Result(uid, State.FAILED, str(error)), stopped
    except (UnreachableError, AccessError, NotGrafanaError) as error:
        return Result(uid, State.FAILED, str(error)), f"after {uid} failed, nothing else was sent"


def _save(grafana: Grafana, step: Step, *, is_overwriting: bool) -> Result:
    document, found = step.document, step.found
    try:
        grafana.save(
            document.content,
            version=found.version if found else 0,
            # Where a person moved a dashboard, it stays.
            folder_uid=found.folder_uid if found else FOLDER_UID,
            # Old Grafanas would let a new dashboard overwrite another of the same title.
            is_overwriting=is_overwriting and found is not None,
            message=message(document),
        )
    except (ChangedError, RefusedError) as error:
        # A try whose answer was lost may have gone through, so that the next met its own work.
        now = grafana.dashboard(document.uid)
        if now is None or not _is_there(document, now):
            state = State.CONFLICT if isinstance(error, ChangedError) else State.FAILED
            return Result(document.uid, state, str(error))
    return Result(document.uid, step.decision.state)
