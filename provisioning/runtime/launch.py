"""Become an instance's process: wait for a byte on descriptor 0, then run the command.

    python -I -S launch.py COMMAND [ARGUMENT …]

The starter writes the byte once its record of this process is on disk, so a command never runs
without one. Descriptor 0 is a socket: it ends when the command runs, or gives the errno first.
Only built-in modules are imported: this is run for each process.
"""

from __future__ import annotations

import os
import signal
import sys

STATUS = 127


def main(command: list[str]) -> None:
    """Run the command; does not return."""
    if not os.read(0, 1):
        os._exit(STATUS)  # the starter is gone, and has no record of this process
    # What the provisioner has inherited is not for its processes; the limit may be 1,000,000,000.
    os.closerange(3, 1 + max(map(int, os.listdir("/proc/self/fd"))))
    starter = os.dup(0)  # not inherited: it closes when the command runs
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(command[0], command, given_environment())  # noqa: S606
    except OSError as error:
        os.write(starter, str(error.errno or 0).encode())
        os._exit(STATUS)


def given_environment() -> dict[bytes, bytes]:
    """Return the environment as it was given: Python adds LC_CTYPE to its own view of it."""
    with open("/proc/self/environ", "rb") as file:
        pairs = (pair.partition(b"=") for pair in file.read().split(b"\0") if pair)
    return {name: value for name, _, value in pairs}


if __name__ == "__main__":
    main(sys.argv[1:])
