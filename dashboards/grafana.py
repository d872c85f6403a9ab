"""The few calls of Grafana's HTTP API that pushing dashboards needs.

What is relied on is in Grafana's documentation, `developers/http_api/` (from version 13 on
`developer-resources/api-reference/http-api/api-legacy/`): `dashboard`, `dashboard_versions`,
`folder`, `other`; reasons of refusals are those of `pkg/services/dashboards/errors.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from dashboards.errors import ChangedError, NotGrafanaError, RefusedError
from dashboards.transport import Answer, Transport

VERSIONS_READ = 10
PROVISIONED = "Cannot save provisioned dashboard"
OVERWRITE = "look at it with --diff, then give --overwrite"
HELPS = {
    "version-mismatch": f"somebody saved it meanwhile: {OVERWRITE}",
    "name-exists": "another dashboard of that title is in that folder: rename it, or move it away",
    "plugin-dashboard": f"the plugin would lose it: {OVERWRITE}",
}
"""By the `status` that Grafana gives with 412."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder for dashboards."""

    uid: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A dashboard as it is in Grafana."""

    content: Mapping[str, Any]
    version: int
    """Counts how often it was saved."""
    message: str = ""
    """Which the last to save it gave; empty where Grafana does not tell."""
    changed_by: str = ""
    folder_uid: str = ""
    """Empty at the top level."""
    is_provisioned: bool = False
    """Whether it comes from a provisioning file, so that nobody else may save it."""


class Grafana:
    """Asks one Grafana; nothing is kept between calls."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def url(self) -> str:
        """Return Grafana's address."""
        return self._transport.url

    def check(self) -> None:
        """See whether a Grafana answers; needs no token."""
        answer = self._transport.ask("GET", "/api/health", doing="ask for Grafana's health")
        if answer.status != 200 or not _has(answer.body, "database"):
            raise self._other_answer("ask for Grafana's health", answer)

    def folder(self, uid: str) -> Folder | None:
        """Return a folder, or None where there is none of that uid."""
        doing = f"look for folder {uid}"
        answer = self._transport.ask("GET", f"/api/folders/{quote(uid, safe='')}", doing=doing)
        if answer.status == 404:
            return None
        if answer.status != 200 or not _has(answer.body, "uid", "title"):
            raise self._other_answer(doing, answer)
        return Folder(str(answer.body["uid"]), str(answer.body["title"]))

    def create_folder(self, folder: Folder) -> None:
        """Create a folder; one that is there already is as good."""
        doing = f"create folder {folder.uid}"
        body = {"uid": folder.uid, "title": folder.title}
        answer = self._transport.ask("POST", "/api/folders", body, doing=doing)
        # A first try may have gone through although its answer was lost; versions differ in the
        # status for that (400, 409, 412), so what counts is whether the folder is there.
        if answer.status != 200 and self.folder(folder.uid) is None:
            raise self._refused(doing, answer, "choose another title with --folder")

    def dashboard(self, uid: str) -> Found | None:
        """Return a dashboard, or None where there is none of that uid."""
        doing = f"read dashboard {uid}"
        path = f"/api/dashboards/uid/{quote(uid, safe='')}"
        answer = self._transport.ask("GET", path, doing=doing)
        if answer.status == 404:
            return None
        if answer.status != 200 or not _is_dashboard(answer.body):
            raise self._other_answer(doing, answer)
        content, meta = answer.body["dashboard"], answer.body["meta"]
        version = content["version"]
        return Found(
            content=content,
            version=version,
            message=self._message(path, version, uid),
            changed_by=self._transport.shown(str(meta.get("updatedBy", ""))),
            folder_uid=str(meta.get("folderUid", "")),
            is_provisioned=bool(meta.get("provisioned")),
        )

    def _message(self, path: str, version: int, uid: str) -> str:
        """Return what the last to save a dashboard said."""
        answer = self._transport.ask(
            "GET",
            f"{path}/versions?limit={VERSIONS_READ}",
            doing=f"read the versions of dashboard {uid}",
        )
        body = answer.body
        # Until version 11 the list itself, then an object around it.
        versions = body.get("versions") if isinstance(body, dict) else body
        messages = (
            entry.get("message", "")
            for entry in (versions if isinstance(versions, list) else [])
            if isinstance(entry, dict) and entry.get("version") == version
        )
        return str(next(messages, ""))

    def save(
        self,
        content: Mapping[str, Any],
        *,
        version: int,
        folder_uid: str,
        is_overwriting: bool,
        message: str,
    ) -> None:
        """Create a dashboard or put another version over it.

        `version` is the one that was read; 0 if there was none.

        Raises:
            ChangedError: It has another version by now.
            RefusedError: Grafana does not take it, for another reason.
        """
        doing = f"save dashboard {content['uid']}"
        body = {
            "dashboard": {**content, "id": None, "version": version},
            "folderUid": folder_uid,
            "overwrite": is_overwriting,
            "message": message,
        }
        answer = self._transport.ask("POST", "/api/dashboards/db", body, doing=doing)
        if answer.status == 412:
            raise self._precondition_failed(doing, answer)
        if answer.status != 200:
            raise self._refused(doing, answer, _helps(answer))
        if not _has(answer.body, "uid", "version"):
            raise self._other_answer(doing, answer)

    def _precondition_failed(self, doing: str, answer: Answer) -> ChangedError | RefusedError:
        status = answer.body.get("status") if isinstance(answer.body, dict) else ""
        helps = HELPS.get(str(status), OVERWRITE)
        refused = self._refused(doing, answer, helps)
        return ChangedError(str(refused)) if status == "version-mismatch" else refused

    def _refused(self, doing: str, answer: Answer, helps: str) -> RefusedError:
        seen = self._transport.shown(answer.message)
        return RefusedError(f"cannot {doing} at {self.url}: {seen}; {helps}")

    def _other_answer(self, doing: str, answer: Answer) -> NotGrafanaError:
        seen = self._transport.shown(f"status {answer.status} {answer.message}")
        return NotGrafanaError(
            f"cannot {doing} at {self.url}: not as Grafana answers ({seen}); is --grafana.url "
            "Grafana's address, with its sub-path?"
        )


def _helps(answer: Answer) -> str:
    if PROVISIONED in answer.message:
        return provisioned_helps()
    return "see Grafana's log for the reason, or try an up-to-date Grafana"


def provisioned_helps() -> str:
    """Return what to do about a dashboard that comes from a provisioning file."""
    return (
        "it comes from a provisioning file, which would win again: change the file there, or "
        "remove it and run this again"
    )


def _has(body: Any, *keys: str) -> bool:
    return isinstance(body, dict) and all(key in body for key in keys)


def _is_dashboard(body: Any) -> bool:
    return (
        _has(body, "dashboard", "meta")
        and isinstance(body["meta"], dict)
        and _has(body["dashboard"], "version")
        and isinstance(body["dashboard"]["version"], int)
    )
