"""What the commands share: options, the client, questions, and waiting for a fleet."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import msgspec

from ollama_fleet.durations import duration_text
from ollama_fleet.options import FILE, Duration
from ollama_fleet.tables import count_text
from ollama_fleet.tokens import TokenFileError, first_token
from provisioning.api.routes import Details
from provisioning.client import ActiveSpec, ChangeInterruptedError, Client
from provisioning.errors import ProvisionerError
from provisioning.model import Fleet, Phase
from provisioning.plan import Plan, in_use_text, plan_text
from provisioning.spec.schema import Rotation

STATE = "~/.local/state/ollama-fleet"
"""The state folder as the help and the documentation show it."""
DEFAULT_URL = "http://127.0.0.1:8080"
TOKEN_OPTION = "--provisioner.token-file"  # noqa: S105 - names a file that holds one
PREFIX = "OLLAMA_FLEET_INSTANCES_"
INTERRUPTED = 130
"""Exit status after Ctrl-C."""
UNITS_S = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
POLL_S = 1.0
LATE_RETRY_S = 60.0
"""A retry that is this far away is not waited for."""
N_SHOWN_FAULTS = 3
CLEAR_LINE = "\r\x1b[K"


def state_dir() -> Path:
    """Return the folder: the user's state folder holds it."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "ollama-fleet"


def token_file() -> Path:
    """Return the file of the tokens for changes."""
    return state_dir() / "provisioner.token"


def age_text(age_s: float) -> str:
    """Return an age in its two largest units: `3d 4h`, `12s`."""
    rest_s = max(0, int(age_s))
    parts: list[str] = []
    for unit, unit_s in UNITS_S:
        amount, rest_s = divmod(rest_s, unit_s)
        if amount or parts:
            parts.append(f"{amount}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0")) or "0s"


def shown(text: str) -> str:
    """Return a text on one line, without what could move a terminal's cursor."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


# Options


yes_option = click.option(
    "--yes", "is_agreed", is_flag=True, help="Do not ask before instances are stopped or changed."
)


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the client, and pass the command a `client` instead of them."""

    @functools.wraps(command)
    def run(
        *, urls: tuple[str, ...], token_path: Path, ca_file: Path | None, **others: Any
    ) -> None:
        def token() -> str:
            return first_token(token_path, option=TOKEN_OPTION)

        try:
            with Client(urls, token, ca_file=ca_file, notify=_notify) as client:
                command(client=client, **others)
        except (ProvisionerError, TokenFileError) as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            click.echo(f"\n{_interrupted_text(error)}", err=True)
            raise SystemExit(INTERRUPTED) from None

    return _client_options(run)


def _client_options(command: Callable[..., None]) -> Callable[..., None]:
    url = click.option(
        "--provisioner.url",
        "urls",
        multiple=True,
        default=(DEFAULT_URL,),
        show_default=DEFAULT_URL,
        envvar=f"{PREFIX}PROVISIONER_URL",
        metavar="URL",
        help="Address of a provisioner; repeat it for the others of the fleet. "
        f"[env: {PREFIX}PROVISIONER_URL, separated by spaces]",
    )
    token = click.option(
        TOKEN_OPTION,
        "token_path",
        type=FILE,
        default=token_file,
        show_default=f"{STATE}/provisioner.token",
        envvar=f"{PREFIX}PROVISIONER_TOKEN_FILE",
        help="File with the token for changes and `provisioner show`; the provisioner reads it "
        f"as --web.token-file. [env: {PREFIX}PROVISIONER_TOKEN_FILE]",
    )
    ca_file = click.option(
        "--provisioner.ca-file",
        "ca_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar=f"{PREFIX}PROVISIONER_CA_FILE",
        help=f"CA bundle that verifies https provisioners. [env: {PREFIX}PROVISIONER_CA_FILE]",
    )
    return url(token(ca_file(command)))


def _interrupted_text(error: KeyboardInterrupt) -> str:
    if not isinstance(error, ChangeInterruptedError):
        return "stopped; no change was being sent"
    return (
        "stopped while a change was being sent: it may have been made; check with "
        "`ollama-fleet provisioner show` or `ollama-fleet instances list` before you try again"
    )


@contextlib.contextmanager
def ended_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end what shows news until then.

    Raises:
        SystemExit: Ctrl-C came.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _notify(line: str) -> None:
    click.echo(f"{CLEAR_LINE if sys.stderr.isatty() else ''}{line}", err=True)


def waiting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--wait`, `--no-wait` and `--timeout`."""
    timeout = click.option(
        "--timeout",
        "timeout_s",
        type=Duration(),
        default=math.inf,
        show_default="no limit",
        help="Stop waiting after this time and exit with 1.",
    )
    wait = click.option(
        "--wait/--no-wait",
        "is_waiting",
        default=True,
        show_default=True,
        help="Wait until all instances are ready, or the missing ones cannot start.",
    )
    return wait(timeout(command))


# Questions


def ask(question: str, *, what: str) -> None:
    """Return if a person says yes.

    Args:
        question: Such as `Apply this?`.
        what: The consequence, for the message without a terminal: `this stops instances`.

    Raises:
        click.ClickException: Standard input is no terminal.
        click.Abort: The answer is no, or nothing.
    """
    if not sys.stdin.isatty():
        raise click.ClickException(f"{what}, and there is no terminal to ask on; give --yes")
    # Python can lose a Ctrl-C that comes just before a blocking read; the kernel does not.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        click.echo(f"{question} [y/N]: ", err=True, nl=False)
        answer = sys.stdin.readline()
    finally:
        signal.signal(signal.SIGINT, before)
    if answer.strip().lower() not in ("y", "yes"):
        raise click.Abort


def agree(planned: Plan, *, is_agreed: bool, is_json: bool) -> None:
    """Show what would change; ask if instances would be stopped.

    Raises:
        click.ClickException: It drops or re-addresses nodes in use, or nobody agrees.
    """
    show_plan(planned, is_json=is_json, has_refusals=False)
    if planned.nodes_in_use:
        # The provisioner refuses it too, unless their instances move away just now.
        raise click.ClickException(in_use_text(planned.nodes_in_use))
    if planned.is_ending_some and not is_agreed:
        ask("Apply this?", what="this stops instances")


def show_plan(planned: Plan, *, is_json: bool, has_refusals: bool = True) -> None:
    """Print what would change."""
    words = plan_text(planned, has_refusals=has_refusals)
    click.echo(msgspec.json.encode(planned) if is_json else words)


def active_spec(client: Client) -> ActiveSpec:
    """Return the active specification.

    Raises:
        click.ClickException: There is none.
    """
    found = client.spec()
    if found is None:
        raise click.ClickException(
            "there is no active specification; apply one: ollama-fleet provisioner apply SPEC"
        )
    return found


# Waiting


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fleet is on its way to a specification, as counts of instances."""

    n_wanted: int
    n_ready: int
    """Running as the specification says."""
    n_failed: int
    n_surplus: int
    """More than their pool should have, or of no pool, on nodes that answer."""
    n_unreachable: int = 0
    """Likewise, on nodes that do not answer: removed when they do, and not waited for."""
    n_stuck: int = 0
    """Failed as the specification wants them, and not retried soon."""
    faults: tuple[str, ...] = ()
    """Why the first of those failed."""
    n_draining: int = 0
    """Of the surplus: they end the requests that they have."""
    drain_left_s: float = field(default=0.0, compare=False)
    """How long the last of those may take, unless its requests end before."""

    @property
    def is_done(self) -> bool:
        """Say whether everything is as the specification says."""
        return self.n_ready == self.n_wanted and not self.n_surplus

    @property
    def is_stuck(self) -> bool:
        """Say whether all missing instances have failed: none is being started."""
        return 0 < self.n_wanted - self.n_ready <= self.n_stuck

    def __str__(self) -> str:
        left = f" (at most {age_text(self.drain_left_s)})" if self.drain_left_s >= 1 else ""
        counts = (
            (self.n_failed, "failed"),
            (self.n_draining, f"draining{left}"),
            (self.n_surplus - self.n_draining, "to be removed"),
            (self.n_unreachable, "to be removed from nodes that do not answer"),
        )
        others = "".join(f", {count:,} {what}" for count, what in counts if count)
        return f"{self.n_ready:,} of {count_text(self.n_wanted, 'instance')} ready{others}"


def progress_of(
    fleet: Fleet,
    instances: Iterable[Details],
    silent_nodes: Collection[str] = (),
    *,
    now_s: float = 0.0,
) -> Progress:
    """Compare what is listed with a specification; surplus on silent nodes counts apart."""
    wanted = Counter({pool.name: pool.count for pool in fleet.pools})
    digests = {pool.name: pool.workload.digest for pool in fleet.pools}
    usable = {node.name for node in fleet.nodes if not node.is_cordoned}
    listed = tuple(instances)
    current = [one for one in listed if one.workload == digests.get(one.pool)]
    ready = Counter(
        one.pool for one in current if one.phase is Phase.RUNNING and one.node in usable
    )
    stuck = [one for one in current if _is_stuck(one)]
    surplus = Counter(one.pool for one in listed) - wanted
    unreachable = surplus & Counter(one.pool for one in listed if one.node in silent_nodes)
    leaving = [one for one in listed if one.phase is Phase.DRAINING and surplus[one.pool]]
    draining = (surplus - unreachable) & Counter(one.pool for one in leaving)
    drain_s = {pool.name: pool.rotation.drain_s for pool in fleet.pools}
    ends_s = [one.phase_since_s + drain_s.get(one.pool, Rotation().drain_s) for one in leaving]
    return Progress(
        n_wanted=wanted.total(),
        n_ready=(ready & wanted).total(),
        n_failed=sum(one.phase is Phase.FAILED for one in listed),
        n_surplus=surplus.total() - unreachable.total(),
        n_unreachable=unreachable.total(),
        n_stuck=len(stuck),
        faults=tuple(f"{one.id}: {one.fault}" for one in stuck[:N_SHOWN_FAULTS]),
        n_draining=draining.total(),
        drain_left_s=max(0.0, max(ends_s, default=0.0) - now_s),
    )


def _is_stuck(instance: Details) -> bool:
    if instance.phase is not Phase.FAILED or not instance.n_failures:
        return False
    return not instance.retry_at_s or instance.retry_at_s - instance.phase_since_s >= LATE_RETRY_S


def wait_for(client: Client, fleet: Fleet, timeout_s: float) -> None:
    """Show the progress until the fleet is ready, is stuck, or the time is over.

    Raises:
        click.ClickException: The fleet is not ready.
        SystemExit: Ctrl-C ends the waiting.
    """
    try:
        last = _watch(client, fleet, time.monotonic() + timeout_s)
    except KeyboardInterrupt:
        click.echo("stopped waiting; the provisioner continues", err=True)
        raise SystemExit(INTERRUPTED) from None
    except ProvisionerError as error:
        raise click.ClickException(f"the specification is active, but {error}") from error
    if last.is_done:
        return
    if last.is_stuck:
        faults = "".join(f"\n  {shown(fault)}" for fault in last.faults)
        raise click.ClickException(f"{last}; the missing ones cannot start:{faults}")
    raise click.ClickException(
        f"{last} after {duration_text(timeout_s)}; the provisioner continues"
    )


def _watch(client: Client, fleet: Fleet, deadline_s: float) -> Progress:
    """Return the last progress; the fleet is stuck only if two polls in a row say so."""
    before = Progress(0, 0, 0, 0)
    try:
        while True:
            progress = _polled(client, fleet)
            if progress != before or (progress.drain_left_s and sys.stderr.isatty()):
                _show(str(progress))
            is_stuck = before.is_stuck and progress.is_stuck
            if progress.is_done or is_stuck or time.monotonic() >= deadline_s:
                return progress
            before = progress
            time.sleep(POLL_S)
    finally:
        if sys.stderr.isatty():
            click.echo(err=True)


def _polled(client: Client, fleet: Fleet) -> Progress:
    instances, now_s = client.instances(), time.time()
    progress = progress_of(fleet, instances, now_s=now_s)
    if not progress.n_surplus:
        return progress
    asked = [node for node in client.nodes() if node.is_listed and node.is_asked]
    silent = {node.name for node in asked if not node.is_reachable}
    return progress_of(fleet, instances, silent, now_s=now_s)


def _show(line: str) -> None:
    """Print a line; on a terminal it takes the place of the one before."""
    if not sys.stderr.isatty():
        click.echo(line, err=True)
        return
    n_columns = shutil.get_terminal_size().columns
    click.echo(f"{CLEAR_LINE}{line[: n_columns - 1]}", err=True, nl=False)
