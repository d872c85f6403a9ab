"""The handlers that change the fleet.

In:   requests of holders of a token, an order where one is needed, perhaps an Idempotency-Key.
Out:  what Commands answer; a line in the audit log for each, whatever became of it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from provisioning.api.audit import Audit
from provisioning.api.bodies import body_of, check_body
from provisioning.api.errors import BadRequestError
from provisioning.api.forms import AssignOrder, DeleteOrphansOrder, ScaleOrder
from provisioning.api.idempotency import Answer, Answers
from provisioning.api.inventory import Directory
from provisioning.api.operations import JSON, Operation
from provisioning.api.ports import Commands, Orphans
from provisioning.api.problems import status_of
from provisioning.api.requests import check_query, expected_version
from provisioning.errors import ProvisionerError, SpecError
from provisioning.model import Instance
from provisioning.spec import checked_fleet
from provisioning.spec.words import text_fault

MAX_KEY_CHARACTERS = 200

OrderT = TypeVar("OrderT")
Carry = Callable[[web.Request, bytes], Awaitable[Any]]


class Writes:
    """One object per API."""

    def __init__(
        self,
        commands: Commands,
        orphans: Orphans,
        directory: Directory,
        audit: Audit,
        answers: Answers,
    ) -> None:
        self._commands = commands
        self._orphans = orphans
        self._directory = directory
        self._audit = audit
        self._answers = answers
        self._carry_by_name: Mapping[str, Carry] = {
            "assign": self._assign,
            "release": self._release,
            "drain": self._drain,
            "replace": self._replace,
            "scale": self._scale,
            "put_spec": self._put_spec,
            "delete_orphans": self._delete_orphans,
        }

    async def carry_out(self, operation: Operation, request: web.Request, who: str) -> web.Response:
        """Carry out a write of the one who asks for it, and record it."""
        body = b""
        status, fault = HTTPStatus.INTERNAL_SERVER_ERROR, "an error of the provisioner itself"
        try:
            check_query(operation, request)
            check_body(operation, request)
            body = await body_of(request, max_bytes=operation.max_body_bytes)
            answer = await self._once(operation, request, body, who)
            status, fault = operation.status, ""
        except ProvisionerError as error:
            status, fault = status_of(error), str(error)
            raise
        except web.HTTPException as error:
            status, fault = HTTPStatus(error.status), error.text or error.reason
            raise
        finally:
            await self._audit.note(operation, request, status, body=body, who=who, fault=fault)
        return web.Response(status=answer.status, body=answer.body, content_type=JSON)

    async def _once(
        self, operation: Operation, request: web.Request, body: bytes, who: str
    ) -> Answer:
        async def answer() -> Answer:
            result = await self._carry_by_name[operation.name](request, body)
            return Answer(operation.status.value, msgspec.json.encode(result))

        key = request.headers.get("Idempotency-Key")
        if key is None:
            return await answer()
        if not 0 < len(key) <= MAX_KEY_CHARACTERS:
            limit = f"1 to {MAX_KEY_CHARACTERS} characters long"
            raise BadRequestError(f"Idempotency-Key must be {limit}, got {len(key):,}")
        asked = "\n".join((who, request.method, request.path, request.headers.get("If-Match", "")))
        digest = hashlib.sha256(asked.encode(errors="surrogateescape") + b"\n" + body).digest()
        return await self._answers.once(key, digest, answer)

    async def _assign(self, request: web.Request, body: bytes) -> Any:
        order = decoded(body, AssignOrder)
        if fault := text_fault(order.developer):
            raise SpecError("the order", [f"developer {fault}"])
        return self._told(await self._commands.assign(request.match_info["id"], order.developer))

    async def _release(self, request: web.Request, _body: bytes) -> Any:
        return self._told(await self._commands.release(request.match_info["id"]))

    async def _drain(self, request: web.Request, _body: bytes) -> Any:
        return self._told(await self._commands.drain(request.match_info["id"]))

    async def _replace(self, request: web.Request, _body: bytes) -> Any:
        return self._told(await self._commands.replace(request.match_info["id"]))

    async def _scale(self, request: web.Request, body: bytes) -> Any:
        order = decoded(body, ScaleOrder)
        expected = expected_version(request)
        return await self._commands.scale(request.match_info["name"], order.count, expected)

    async def _put_spec(self, request: web.Request, body: bytes) -> Any:
        fleet = await asyncio.to_thread(checked_fleet, body)
        return await self._commands.put_spec(fleet, expected_version(request))

    async def _delete_orphans(self, _request: web.Request, body: bytes) -> Any:
        return await self._orphans.delete(decoded(body, DeleteOrphansOrder).count)

    def _told(self, instance: Instance) -> Any:
        return self._directory.document_of(instance)


def decoded(body: bytes, kind: type[OrderT]) -> OrderT:
    """Return an order.

    Raises:
        BadRequestError: The body is no JSON.
        SpecError: It is not what was to be ordered.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise SpecError("the order", [str(error)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the body is no JSON: {error}") from error
