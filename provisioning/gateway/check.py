"""Check what a gateway needs: nginx accepts its configuration, a source gives a list."""

from __future__ import annotations

import http.client
import json
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ollama_fleet.problems import problems_text
from provisioning.gateway.errors import CheckError
from provisioning.gateway.nginx import Nginx
from provisioning.gateway.render import CONF_FILE, render
from provisioning.gateway.settings import Settings

MAX_BYTES = 64 * 1024**2
MAX_ERROR_BYTES = 2_000
NGINX_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a source lists."""

    source: str
    n_instances: int
    n_models: int


def check(settings: Settings, nginx: Nginx) -> Fleet:
    """Return what the first source that answers lists.

    Raises:
        CheckError: nginx refuses the configuration, or no source answers; says both.
    """
    problems = list(_nginx_faults(settings, nginx))
    fleet: Fleet | None = None
    faults = []
    for source in settings.upstreams.sources:
        try:
            fleet = fleet or _listed(source, settings.upstreams.timeout)
        except (OSError, ValueError, http.client.HTTPException) as error:
            faults.append(f"upstreams.sources: {source} gives no list: {error}")
    if fleet is None or problems:
        raise CheckError(problems_text("the gateway", problems + faults))
    return fleet


def _nginx_faults(settings: Settings, nginx: Nginx) -> Iterator[str]:
    """Yield what `nginx -t` says, in a folder where it may write."""
    with tempfile.TemporaryDirectory(prefix="ollama-fleet-gateway-") as folder:
        state = settings.nginx.model_copy(update={"state_dir": folder})
        render(settings.model_copy(update={"nginx": state}), nginx, Path(folder))
        options = ("-t", "-q", "-e", "stderr", "-p", folder, "-c", str(Path(folder) / CONF_FILE))
        try:
            done = subprocess.run(
                (str(nginx.binary), *options),
                env=nginx.environ(),
                capture_output=True,
                timeout=NGINX_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            yield f"{nginx.binary} cannot be run: {error}"
            return
        if done.returncode:
            yield f"nginx refuses: {done.stderr[:MAX_ERROR_BYTES].decode(errors='replace').strip()}"


def _listed(source: str, timeout_s: float) -> Fleet:
    with urllib.request.urlopen(source, timeout=timeout_s) as answer:  # noqa: S310 # http only
        body = answer.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise ValueError("it is larger than 64 MB")
    document = json.loads(body)
    if not isinstance(document, dict) or document.get("format") != 1:
        raise ValueError("it is no list of format 1")
    return Fleet(source, len(document.get("instances", ())), len(document.get("models", ())))
