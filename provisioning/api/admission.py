"""Who is let in to what only holders of a token may ask.

In:   a request for such an operation.
Out:  whose token it carries.
Fails with DeniedError, which leaves a line in the audit log, and TokenFileError. Of one address
that is the first of each minute; how many others there were is told when the minute is over.
"""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

from provisioning.api.audit import Audit
from provisioning.api.errors import DeniedError
from provisioning.api.operations import Operation
from provisioning.api.refusals import PERIOD_S, Refusals
from provisioning.api.token import Tokens
from provisioning.clock import Clock


class Admission:
    """One object per API."""

    def __init__(self, tokens: Tokens, audit: Audit, clock: Clock) -> None:
        self._tokens = tokens
        self._audit = audit
        self._clock = clock
        self._refusals = Refusals()

    async def holder(self, operation: Operation, request: web.Request) -> str:
        """Return whose token a request carries; of one without, nothing is read.

        Raises:
            DeniedError: It carries nobody's.
            TokenFileError: The file has changed and cannot be read.
        """
        try:
            return self._tokens.required_holder(request.headers)
        except DeniedError as error:
            if self._refusals.take(request.remote or "", operation.name):
                fault = str(error)
                await self._audit.note(operation, request, HTTPStatus.UNAUTHORIZED, fault=fault)
            raise

    async def run(self) -> None:
        """Tell once a minute, and when cancelled, how many were turned away without a line."""
        try:
            while True:
                await self._clock.sleep(PERIOD_S)
                await self._tell_left_out()
        finally:
            await self._tell_left_out()

    async def _tell_left_out(self) -> None:
        for left_out in self._refusals.end_minute():
            await self._audit.note_left_out(left_out)
