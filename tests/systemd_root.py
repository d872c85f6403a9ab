"""A real systemd that runs a Debian in a folder, with namespaces and a group of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import refuse
from tests.waiting import eventually

# The second hierarchy, where both are mounted.
GROUPS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
START = """\
set -e
echo $$ > "$2/cgroup.procs"
exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net sh -e -c '
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs tmpfs sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 sys/fs/cgroup
for place in run tmp dev; do mount -t tmpfs tmpfs $place; done
for device in null zero full random urandom tty; do
  touch dev/$device
  mount --bind /dev/$device dev/$device
done
mkdir dev/pts dev/shm dev/mqueue dev/hugepages
mount -t devpts devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p old
pivot_root . old
umount -l /old
ip link set lo up
exec env -i container=lxc PATH=/usr/sbin:/usr/bin /lib/systemd/systemd
' sh "$1"
"""


class Systemd:
    """One that runs."""

    def __init__(self, pid: int) -> None:
        self.enter = ("nsenter", f"--target={pid}", "--all", "--root", "--wd")

    def run(self, *words: str) -> str:
        done = self._try(*words)
        assert 0 == done.returncode, done.stdout + done.stderr + self.journal()
        return done.stdout

    def answer(self, url: str) -> str:
        """Return what a server answers there, or nothing."""
        ask = f"import urllib.request as r; print(r.urlopen('http://{url}', timeout=100).read())"
        return self._try("python3", "-c", ask).stdout

    def journal(self) -> str:
        """Return what all units have logged."""
        return self._try("journalctl", "--no-pager", "--boot").stdout

    def is_up(self) -> bool:
        """Say whether it has started all that it starts by itself, whatever failed of it."""
        return self._try("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}

    def _try(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run((*self.enter, *words), capture_output=True, text=True, check=False)


@contextmanager
def running_systemd(root: Path) -> Iterator[Systemd]:
    """Run a Debian's systemd until the block ends."""
    top = next((Path(path) for path in GROUPS if Path(path, "cgroup.procs").exists()), None)
    if top is None:
        refuse("systemd needs a second hierarchy of cgroups")
    group = top / f"ollama-fleet-systemd.{os.getpid()}"
    group.mkdir()
    command = ("sh", "-c", START, "sh", str(root), str(group))
    try:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                yield Systemd(_first_child(process.pid))
            finally:
                process.kill()
    finally:
        asyncio.run(eventually(lambda: _is_removed(group)))


def _first_child(pid: int) -> int:
    """Return the process that becomes systemd, once there is one."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    asyncio.run(eventually(children.read_text))
    return int(children.read_text().split()[0])


def _is_removed(group: Path) -> bool:
    """Remove a group and those in it, unless a process has yet to end."""
    with suppress(OSError):
        for one in (*sorted(group.rglob("*/"), reverse=True), group):
            one.rmdir()
    return not group.exists()
