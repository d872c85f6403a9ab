"""Become a container's process: say who it is, join its cgroup, run the command.

    python -I -S launch.py [CGROUP_PROCS_FILE] -- COMMAND [ARGUMENT …]

In:   descriptor 0: a pipe that the starter reads; 1: the container's process file, locked by the
      starter, unlocked when the command runs; 2: the container's log. Environment: the command's
      own.
Out:  its line of /proc/self/stat in the process file, and then the command, with an empty input
      and the log as its output. The pipe ends, empty, at the moment when the command runs.
Fails with `KIND ERRNO` in the pipe and status 127; KIND is `command` or `launch`.

The container tells of itself, for its starter may be killed at any moment. Only built-in modules
are imported: this is run for each container.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

STATUS = 127
NOTICE = 3
"""The pipe's place while the command is not run yet."""


def main(arguments: list[str]) -> None:
    """Run what the arguments say; does not return where that works."""
    separator = arguments.index("--")
    os.dup2(0, NOTICE, inheritable=False)  # it closes when the command runs
    # What the starter has inherited; the limit may be a thousand million.
    os.closerange(NOTICE + 1, 1 + max(map(int, os.listdir("/proc/self/fd"))))
    try:
        introduce(arguments[:separator])
    except OSError as error:
        give_up("launch", error)
    try:
        run(arguments[separator + 1 :])
    except OSError as error:
        give_up("command", error)


def introduce(procs_files: list[str]) -> None:
    """Write who this process is, and join the cgroups."""
    with open("/proc/self/stat", "rb") as stat:
        line = stat.read()
    if os.write(1, line) < len(line):
        os.ftruncate(1, 0)  # half of it would be taken for somebody else
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for path in procs_files:
        with open(path, "w") as procs:
            procs.write(str(os.getpid()))


def run(command: list[str]) -> None:
    """Replace this process by the command."""
    environment = own_environment()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # closes the process file, and so unlocks it
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and that is inherited
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(command[0], command, environment)  # noqa: S606


def own_environment() -> dict[bytes, bytes]:
    """Return the environment as it was given: Python adds LC_CTYPE to its own view of it."""
    with open("/proc/self/environ", "rb") as file:
        pairs = (pair.partition(b"=") for pair in file.read().split(b"\0") if pair)
    return {name: value for name, _, value in pairs}


def give_up(kind: str, error: OSError) -> None:
    """Tell the starter what went wrong, and end."""
    os.write(NOTICE, f"{kind} {error.errno or 0}".encode())
    os._exit(STATUS)


if __name__ == "__main__":
    main(sys.argv[1:])
