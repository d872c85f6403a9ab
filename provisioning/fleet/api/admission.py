"""Who is let in to what only holders of a token may ask.

In:   a request for such an operation.
Out:  whose token it carries.
Fails with DeniedError, which leaves a line in the audit log, and TokenFileError.
"""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from provisioning.fleet.api.audit import Audit
from provisioning.fleet.api.errors import DeniedError
from provisioning.fleet.api.operations import Operation
from provisioning.fleet.api.token import Tokens


class Admission:
    """One object per API."""

    def __init__(self, tokens: Tokens, audit: Audit) -> None:
        self._tokens = tokens
        self._audit = audit

    async def holder(self, operation: Operation, request: web.Request) -> str:
        """Return whose token a request carries; of one without, nothing is read.

        Raises:
            DeniedError: It carries nobody's.
            TokenFileError: The file has changed and cannot be read.
        """
        try:
            return self._tokens.required_holder(request.headers)
        except DeniedError as error:
            fault = str(error)
            await self._audit.note(operation, request, HTTPStatus.UNAUTHORIZED, fault=fault)
            raise
