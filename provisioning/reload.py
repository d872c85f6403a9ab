"""Read a provisioner's files again while it runs, and name those that need a restart."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

from ollama_fleet import systemd
from ollama_fleet.files import UnreadableFileError, read_regular
from ollama_fleet.tokens import TokenFileError, Tokens
from provisioning.api.routes import ReloadDocument
from provisioning.errors import ConflictError, ProvisionerError
from provisioning.metrics import Metrics

log = logging.getLogger("provisioning.reload")

MAX_FILE_BYTES = 1_000_000
TOKEN_FILE = "web.token-file"  # noqa: S105 - the option's name


class OwnFiles:
    """The files that a provisioner read when it started."""

    def __init__(self, tokens: Tokens, fixed: Mapping[str, Path | None], metrics: Metrics) -> None:
        """Note what the files hold now; those of `fixed`, by option, cannot be taken over later."""
        self._tokens = tokens
        self._metrics = metrics
        self._fixed = {option: path for option, path in fixed.items() if path is not None}
        self._digests = {option: _digest(path) for option, path in self._fixed.items()}
        self._digest_of_tokens = _digest(tokens.path)

    def reload(self) -> ReloadDocument:
        """Read the tokens again; return the options whose files changed.

        Raises:
            ConflictError: The tokens cannot be read, or another file has changed.
        """
        systemd.notify(*systemd.reloading())
        try:
            with self._metrics.reloading():
                self._check()
        finally:
            systemd.notify("READY=1")
        before, self._digest_of_tokens = self._digest_of_tokens, _digest(self._tokens.path)
        changed = () if before == self._digest_of_tokens else (TOKEN_FILE,)
        log.info("reloaded files=%s", ",".join(changed) or "none")
        return ReloadDocument(changed)

    async def follow(self, hangups: asyncio.Event) -> None:
        """Reload at each SIGHUP, until cancelled."""
        while True:
            await hangups.wait()
            hangups.clear()
            try:
                self.reload()
            except ProvisionerError:
                continue  # which is logged already
            except Exception:  # SIGHUP ends no provisioner
                log.exception("bug in a reload")

    def _check(self) -> None:
        if faults := "; ".join(self._faults()):
            log.error("reload refused, what was read before stays in force: %s", faults)
            raise ConflictError(f"not reloaded: {faults}")

    def _faults(self) -> list[str]:
        faults = [
            f"{option}: {path} has changed, which needs a restart"
            for option, path in self._fixed.items()
            if _digest(path) != self._digests[option]
        ]
        try:
            self._tokens.refresh()
        except TokenFileError as error:
            faults.append(str(error))
        return faults


def _digest(path: Path) -> bytes:
    """Return what differs once a file holds something else; empty where it cannot be read."""
    try:
        return hashlib.blake2b(read_regular(path, MAX_FILE_BYTES)[0]).digest()
    except UnreadableFileError:
        return b""
