"""Our alert rules and Alertmanager's configuration, built by the command that builds them.

In:   the folder to fill, how often Prometheus scrapes, further options of `alerts build`.
Out:  the folder with `rules/*.yml`, `alertmanager.yml` and the templates that it names.
Fails with BuildError, which holds what the command said.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from provisioning.demo import ourselves
from provisioning.demo.errors import BuildError
from provisioning.demo.prometheus import EXPORTER_JOB

BUILD_TIMEOUT_S = 60.0


def alerts_command(folder: Path, *, interval_s: int, options: tuple[str, ...]) -> tuple[str, ...]:
    """Return the command that builds for a Prometheus of ours; `options` come last and decide."""
    every = f"{interval_s}s"
    settings = {
        "prometheus.job": EXPORTER_JOB,
        "prometheus.scrape_interval": every,
        "prometheus.scrape_timeout": every,
        "prometheus.evaluation_interval": every,
    }
    return ourselves.our_command(
        *("alerts", "build", f"--output-dir={folder}"),
        *(f"--set={name}={value}" for name, value in settings.items()),
        *options,
    )


def build_alerts(command: tuple[str, ...], *, timeout_s: float = BUILD_TIMEOUT_S) -> None:
    """Run the command to its end.

    Raises:
        BuildError: It fails, or takes too long.
    """
    try:
        subprocess.run(
            command,
            env=ourselves.our_environ(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise _failed(
            command, f"exit status {error.returncode}; it said:\n{error.stderr}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise _failed(command, f"it took longer than {timeout_s:g} s") from error


def _failed(command: tuple[str, ...], seen: str) -> BuildError:
    return BuildError(
        f"the alert rules could not be built with `{shlex.join(command)}`: {seen.rstrip()}"
    )
