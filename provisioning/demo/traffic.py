"""What asks the fleet for text: the gateway, and users who go through it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError

from provisioning.demo import processes
from provisioning.demo.errors import DemoError
from provisioning.demo.fleet import Demo, counts
from provisioning.demo.ports import address_of, url_of
from provisioning.demo.processes import ChildSpec
from provisioning.demo.rundir import RunDir
from provisioning.gateway.errors import GatewayError
from provisioning.gateway.nginx import Nginx
from provisioning.gateway.render import CONF_FILE, render
from provisioning.gateway.settings import Settings

N_USERS = 6
"""Of the simulated instances; each waits for its answer and then for a moment."""
N_REAL_USERS = 1
"""Real servers share this machine's processors with everything else."""
RUN_TIME = "365d"
"""Users ask until the run ends."""
ANSWER_TIMEOUT = "60s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The gateway of a run."""

    run_dir: RunDir
    nginx: Nginx
    exporter_url: str
    """Whose list of instances it reads."""
    port: int
    ops_port: int

    @property
    def url(self) -> str:
        """Return what clients ask, without a slash at its end."""
        return url_of(self.port)

    @property
    def ops_url(self) -> str:
        """Return where it serves `/metrics`, without a slash at its end."""
        return url_of(self.ops_port)


def write_config(gateway: Gateway) -> None:
    """Write nginx's configuration into the folder of the run.

    Raises:
        DemoError: It cannot be written, or nginx cannot use the folder's name.
    """
    try:
        render(_settings(gateway), gateway.nginx, gateway.run_dir.gateway)
    except ValidationError as error:
        folder = gateway.run_dir.path
        raise DemoError(
            f"nginx cannot use the folder {str(folder)!r}: choose one without spaces, quotes and "
            "the like, with --run-dir"
        ) from error
    except GatewayError as error:
        raise DemoError(str(error)) from error


def _settings(gateway: Gateway) -> Settings:
    listen = {
        "address": address_of(gateway.port),
        "ops_address": address_of(gateway.ops_port),
    }
    nginx = {
        "workers": 1,
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "state_dir": str(gateway.run_dir.gateway),
    }
    sources = [f"{gateway.exporter_url}/upstreams"]
    return Settings.model_validate(
        {"listen": listen, "upstreams": {"sources": sources}, "nginx": nginx}
    )


def server(gateway: Gateway) -> ChildSpec:
    """Return nginx; ready once it has a list of instances."""
    nginx, folder = gateway.nginx, gateway.run_dir.gateway
    libraries = os.pathsep.join(map(str, nginx.library_dirs))
    command = (
        *(("env", f"LD_LIBRARY_PATH={libraries}") if libraries else ()),
        *(str(nginx.binary), "-e", "stderr", "-p", str(folder), "-c", str(folder / CONF_FILE)),
        # One process: workers outlive a master that is killed.
        *("-g", "master_process off;"),
    )
    return ChildSpec("gateway", command, f"{gateway.ops_url}/healthz")


def users(gateway: Gateway, demo: Demo) -> Iterator[ChildSpec]:
    """Yield what asks the demonstration's instances for text."""
    models = [f"--model={model.name}" for model in counts(demo.n_simulated)]
    yield _load(gateway, "load", N_USERS, *models)
    if demo.n_llama_servers:
        model = f"--model={demo.model}"
        yield _load(gateway, "load-llama-server", N_REAL_USERS, "--api=openai", model)


def _load(gateway: Gateway, name: str, n_users: int, *options: str) -> ChildSpec:
    command = processes.our_command(
        "load",
        f"--gateway.url={gateway.url}",
        f"--users={n_users}",
        f"--run-time={RUN_TIME}",
        f"--timeout={ANSWER_TIMEOUT}",
        *options,
    )
    return ChildSpec(name, command)
