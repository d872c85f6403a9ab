"""What the commands share: how they find a provisioner, ask a person, and wait."""

from __future__ import annotations

import functools
import math
import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from ollama_fleet.tables import count_text, table
from provisioning.api.auth import first_token
from provisioning.api.routes import Details, InstanceDocument
from provisioning.client.client import Client, SpecInForce
from provisioning.client.errors import ChangeInterruptedError
from provisioning.client.progress import Progress, progress_until_done
from provisioning.client.transport import Transport
from provisioning.errors import ProvisionerError
from provisioning.model import Fleet, Phase
from provisioning.plan import Plan, in_use_text, plan_text

STATE = "~/.local/state/ollama-fleet"
"""The folder as the help and the README show it."""


def state_dir() -> Path:
    """Return the folder: the user's state folder holds it."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "ollama-fleet"


def token_file() -> Path:
    """Return the file of the tokens for changes."""
    return state_dir() / "provisioner.token"


HEAD = ("ID", "PHASE", "FOR", "NODE", "MODEL", "DEVELOPER", "GENERATION", "NOTE")
MAX_NOTE_CHARACTERS = 60
UNITS_S = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def list_text(instances: Sequence[Details], *, now_s: float, is_cut: bool = False) -> str:
    """Return a table, and how many there are of each phase.

    Args:
        instances: In this order.
        now_s: For ages.
        is_cut: Long notes are; whole ones can be searched.
    """
    if not instances:
        return "no instances"
    rows = table(HEAD, (_row(instance, now_s, is_cut=is_cut) for instance in instances))
    return f"{rows}\n{summary(instances)}"


def summary(instances: Sequence[Details]) -> str:
    """Return `3 instances: 2 running, 1 failed`."""
    tally = Counter(instance.phase for instance in instances)
    phases = ", ".join(f"{tally[phase]:,} {phase}" for phase in Phase if tally[phase])
    return f"{count_text(len(instances), 'instance')}: {phases}"


def show_text(instance: InstanceDocument, *, now_s: float) -> str:
    """Return everything that is known of an instance, and its history."""
    return "\n".join(_lines(instance, now_s))


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


def _row(instance: Details, now_s: float, *, is_cut: bool) -> tuple[str, ...]:
    return (
        instance.id,
        instance.phase,
        age_text(now_s - instance.since_s),
        instance.node,
        instance.model or "-",
        instance.developer or "-",
        str(instance.generation),
        _note(instance, is_cut=is_cut),
    )


def _note(instance: Details, *, is_cut: bool) -> str:
    """Return why an instance is where it is, on one line."""
    asked = "replacement asked for" if instance.is_replace_asked else ""
    words = "; ".join(filter(None, (instance.reason or "", asked, instance.fault)))
    line = shown(words)
    is_long = len(line) > MAX_NOTE_CHARACTERS
    return f"{line[:MAX_NOTE_CHARACTERS]}…" if is_long and is_cut else line


def _lines(instance: InstanceDocument, now_s: float) -> Iterator[str]:
    facts = {
        "id": instance.id,
        "url": instance.url,
        "phase": f"{instance.phase} for {age_text(now_s - instance.since_s)}",
        "reason": instance.reason or "",
        "fault": shown(instance.fault),
        "tried again": _in(instance.retry_at_s, now_s),
        "pool": instance.pool,
        "node": instance.node,
        "model": instance.model,
        "engine": instance.engine,
        "developer": instance.developer,
        "generation": f"{instance.generation}, workload {instance.workload}",
        "log": f"{shown(instance.log)} on {instance.node}" if instance.log else "",
        "healthy since": _moment(instance.started_s),
        "failed starts": str(instance.n_failures or ""),
        "replacement": "asked for" if instance.is_replace_asked else "",
    }
    width = max(len(name) for name, text in facts.items() if text)
    for name, text in facts.items():
        if text:
            yield f"{name.ljust(width)}  {text}"
    if instance.history:
        yield "history"
    for event in instance.history:
        what = shown(f"{event.what} {event.detail}")
        yield f"  {_moment(event.at_s)}  {event.generation}  {what}"


def _moment(at_s: float) -> str:
    """Return a time of day as UTC; empty where there was none."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S}Z" if at_s else ""


def _in(at_s: float, now_s: float) -> str:
    return f"in {age_text(at_s - now_s)}" if at_s > now_s else ""


yes_option = click.option(
    "--yes", "is_agreed", is_flag=True, help="Do not ask before instances are ended or changed."
)


def ask(question: str, *, what: str) -> None:
    """Return if a person says yes.

    Args:
        question: Such as `Put this in force?`.
        what: It does, for a message where there is no person: `this ends instances`.

    Raises:
        click.ClickException: Standard input is no terminal.
        click.Abort: The answer is no, or Ctrl-C.
    """
    if not sys.stdin.isatty():
        raise click.ClickException(
            f"{what}, and nobody can be asked here whether it may; if it may, say so with --yes"
        )
    try:
        while not (answer := _answer(f"{question} [y/N]: ")):
            click.echo("Error: invalid input", err=True)
    except KeyboardInterrupt:
        raise click.Abort from None
    if answer != "yes":
        raise click.Abort


def _answer(prompt: str) -> str:
    """Return `yes` or `no`; nothing where a person typed something else."""
    click.echo(prompt, err=True, nl=False)
    wait_for_line()
    typed = sys.stdin.readline()
    known = {"y": "yes", "yes": "yes", "n": "no", "no": "no", "": "no"}
    return known.get(typed.strip().lower(), "")


def wait_for_line() -> None:
    """Return once a line can be read, or a signal has come; its handler runs then.

    A Ctrl-C that comes between Python's last look at signals and a read that waits does not end
    the read. What a signal writes to the wake-up descriptor stays until it is seen.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        select.select([sys.stdin, reader], [], [])
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


STOPPED = 130
"""Exit status after Ctrl-C."""
BAR_CELLS = 30
LEAST_BAR_CELLS = 10
USUAL_COLUMNS = 80
CLEARED = "\r\x1b[K"
"""Takes what the last line of a terminal shows away."""


def wait_for(client: Client, fleet: Fleet, timeout_s: float) -> None:
    """Show how far the fleet is, until it is there, cannot get there, or the time is over.

    Raises:
        click.ClickException: It does not get there.
        SystemExit: Ctrl-C ends the waiting.
    """
    steps = progress_until_done(
        client.instances, fleet, silent_nodes=lambda: _silent_nodes(client), sleep=time.sleep
    )
    try:
        last = _last_shown(_within(steps, timeout_s))
    except KeyboardInterrupt:
        click.echo("\nstopped waiting; the provisioner goes on", err=True)
        raise SystemExit(STOPPED) from None
    except ProvisionerError as error:
        if sys.stderr.isatty():
            click.echo(CLEARED, err=True, nl=False)
        raise click.ClickException(f"the specification is in force, but {error}") from error
    if last.is_stuck:
        faults = "".join(f"\n  {shown(fault)}" for fault in last.faults)
        raise click.ClickException(f"{last}, and what is missing cannot start:{faults}")
    if not last.is_done:
        raise click.ClickException(f"{last} after {timeout_s:g} s; the provisioner goes on")


def _silent_nodes(client: Client) -> frozenset[str]:
    """Return the nodes that do not answer; one that is being asked, after a take-over, may yet."""
    nodes = [one for one in client.nodes() if one.is_listed and one.is_asked]
    return frozenset(one.name for one in nodes if not one.is_reachable)


def _within(steps: Iterable[Progress], timeout_s: float) -> Iterator[Progress]:
    """Yield steps until the time is over; the first one in any case."""
    deadline_s = time.monotonic() + timeout_s
    for step in steps:
        yield step
        if time.monotonic() >= deadline_s:
            return


def _last_shown(steps: Iterator[Progress]) -> Progress:
    """Show each step: on a terminal as a bar, elsewhere as a line when it differs."""
    is_watched = sys.stderr.isatty()
    last = next(steps)
    _show(last, is_watched=is_watched)
    for step in steps:
        if is_watched or str(step) != str(last):
            _show(step, is_watched=is_watched)
        last = step
    if is_watched:
        click.echo(f"{CLEARED}{last}", err=True)
    return last


def _show(step: Progress, *, is_watched: bool) -> None:
    if is_watched:
        click.echo(f"{CLEARED}{bar(step, _n_columns())}", err=True, nl=False)
    else:
        click.echo(str(step), err=True)


def bar(progress: Progress, n_columns: int) -> str:
    """Return the line for a terminal so wide; one that wrapped could not be taken away again."""
    text = str(progress)
    n_free = n_columns - 1  # some terminals wrap once the last column is written
    n_cells = min(BAR_CELLS, n_free - len(f"[] {text}"))
    if n_cells < LEAST_BAR_CELLS:
        return text if len(text) <= n_free else f"{text[: n_free - 1]}…"
    n_filled = n_cells * progress.n_ready // max(1, progress.n_wanted)
    return f"[{'#' * n_filled:{n_cells}}] {text}"


def _n_columns() -> int:
    """Return how wide the terminal is that words go to."""
    try:
        n_columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return USUAL_COLUMNS
    return n_columns or USUAL_COLUMNS  # 0 where it does not know


DEFAULT_URL = "http://127.0.0.1:8080"
TOKEN_OPTION = "--provisioner.token-file"  # noqa: S105 - names a file that holds one
PREFIX = "OLLAMA_FLEET_INSTANCES_"

json_option = click.option("--json", "is_json", is_flag=True, help="JSON instead of words.")


def with_client(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options, and give the command a `client` instead of them."""

    @click.option(
        "--provisioner.url",
        "urls",
        multiple=True,
        default=(DEFAULT_URL,),
        show_default=DEFAULT_URL,
        envvar=f"{PREFIX}PROVISIONER_URL",
        metavar="URL",
        help="Where a provisioner answers; repeat it for the others of the fleet. "
        f"[env: {PREFIX}PROVISIONER_URL, parted by spaces]",
    )
    @click.option(
        TOKEN_OPTION,
        "token_path",
        type=click.Path(dir_okay=False, path_type=Path),
        default=token_file,
        show_default=f"{STATE}/provisioner.token",
        envvar=f"{PREFIX}PROVISIONER_TOKEN_FILE",
        help="Holds the token for changes and `provisioner show`: the file that the provisioner's "
        f"--web.token-file names. [env: {PREFIX}PROVISIONER_TOKEN_FILE]",
    )
    @functools.wraps(command)
    def run(*, urls: tuple[str, ...], token_path: Path, **others: Any) -> None:
        def token() -> str:
            return first_token(token_path, option=TOKEN_OPTION)

        try:
            with Transport(urls, token, tell=_tell, warn=_warn) as transport:
                command(client=Client(transport), **others)
        except ProvisionerError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            click.echo(f"\n{_stopped_text(error)}", err=True)
            raise SystemExit(STOPPED) from None

    return run


def _stopped_text(error: KeyboardInterrupt) -> str:
    if not isinstance(error, ChangeInterruptedError):
        return "stopped; no change was on its way"
    return (
        "stopped while a change was on its way: whether it was made cannot be told from here; see "
        "`ollama-fleet provisioner show` or `ollama-fleet instances list` before you try again"
    )


def _warn(line: str) -> None:
    cleared = CLEARED if sys.stderr.isatty() else ""
    click.echo(f"{cleared}{line}", err=True)


def _tell(line: str) -> None:
    """Say why nothing happens yet, to a person who looks on."""
    if sys.stderr.isatty():
        click.echo(f"{CLEARED}{line}", err=True)


def waiting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--wait`, `--no-wait` and `--timeout`."""
    timeout = click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=math.inf,
        metavar="SECONDS",
        show_default="as long as it takes",
        help="How long to wait; then it exits with 1.",
    )
    wait = click.option(
        "--wait/--no-wait",
        "is_waiting",
        default=True,
        show_default=True,
        help="Until all instances are ready, or what is missing cannot start.",
    )
    return wait(timeout(command))


def agree(planned: Plan, *, is_agreed: bool, is_json: bool) -> None:
    """Show what would change; ask where instances would be ended.

    Raises:
        click.ClickException: It drops nodes that are in use or makes other machines of them, or
            nobody agrees.
    """
    show_plan(planned, is_json=is_json)
    if planned.nodes_in_use:
        # The provisioner would refuse it too, unless they move away just now: then unasked.
        raise click.ClickException(in_use_text(planned.nodes_in_use))
    if planned.is_ending_some and not is_agreed:
        ask("Put this in force?", what="this ends instances")


def show_plan(planned: Plan, *, is_json: bool) -> None:
    """Print what would change."""
    click.echo(msgspec.json.encode(planned) if is_json else plan_text(planned))


def spec_in_force(client: Client) -> SpecInForce:
    """Return the specification in force, and its tag.

    Raises:
        click.ClickException: There is none.
    """
    in_force = client.spec()
    if in_force is None:
        raise click.ClickException(
            "no specification is in force; put one there with: ollama-fleet provisioner apply SPEC"
        )
    return in_force
