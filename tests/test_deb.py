"""The Debian package, in a minimal Debian: lintian, installed, run also by systemd, purged."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ollama_fleet.version import version_text
from tests.conftest import ROOT, program, refuse
from tests.ports import free_port
from tests.systemd_root import running_systemd
from tests.waiting import eventually

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]

SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
NEEDED = (
    "python3,adduser,init-system-helpers,lintian,man-db,procps,systemd,iproute2,"
    "nginx,libnginx-mod-http-lua,lua-cjson"
)
NOT_OURS = ("var/lib/dpkg", "var/log", "var/cache", "proc", "sys", "dev", "tmp", "run")
CHROOT = "/usr/sbin/chroot"
WITHIN_S = 100.0
UNITS = ("ollama-fleet-exporter", "ollama-fleet-provisioner", "ollama-fleet-gateway")
GATEWAY_DIR = "/etc/ollama-fleet/gateway"
FLEET = '- {id: a, url: "http://127.0.0.1:1"}\n'


class Debian:
    """A Debian in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *words: str) -> str:
        done = subprocess.run(
            (CHROOT, str(self.root), *words), capture_output=True, text=True, check=False
        )
        assert 0 == done.returncode, done.stdout + done.stderr
        return done.stdout

    def files(self) -> dict[str, str]:
        """Return all that is there, and what /etc says."""
        paths = (path for path in self.root.rglob("*") if not path.is_symlink())
        named = {str(path.relative_to(self.root)): path for path in paths}
        return {
            name: path.read_text(errors="replace") if path.is_file() and "etc/" in name else ""
            for name, path in named.items()
            if not name.startswith(NOT_OURS) and not name.endswith("-")  # passwd-, shadow-
        }

    @contextmanager
    def running(self, *words: str) -> Iterator[None]:
        user = ("--userspec=ollama-fleet:ollama-fleet", str(self.root))
        command = (CHROOT, *user, "env", "HOME=/var/lib/ollama-fleet", *words)
        with subprocess.Popen(command) as process:
            try:
                yield
            finally:
                process.terminate()


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Debian:
    """Return one that has the package's file as /ollama-fleet.deb."""
    if not SOURCES.exists() or os.geteuid():
        refuse("a minimal Debian is made by root of a Debian")
    root = tmp_path_factory.mktemp("debian") / "root"
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    how = ("--mode=root", "--variant=minbase", f"--include={NEEDED}")
    subprocess.run((program("mmdebstrap"), *how, suite, root, SOURCES), check=True)
    built = subprocess.run(
        (sys.executable, "-m", "packages.deb", str(root.parent)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    shutil.copy(built.stdout.strip(), root / "ollama-fleet.deb")
    return Debian(root)


def scraped(url: str) -> str:
    deadline_s = time.monotonic() + WITHIN_S
    while True:
        try:
            return str(urllib.request.urlopen(url, timeout=10).read(), "utf-8")
        except urllib.error.URLError:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)


def test_lintian_finds_nothing(debian: Debian) -> None:
    debian.run("lintian", "--allow-root", "--fail-on=warning", "/ollama-fleet.deb")


def test_a_package_is_installed_runs_and_leaves_nothing_behind(debian: Debian) -> None:
    before = debian.files()
    debian.run("dpkg", "--install", "/ollama-fleet.deb")

    assert f"ollama-fleet {version_text()}\n" == debian.run("ollama-fleet", "--version")
    assert "Poll every instance" in debian.run("man", "ollama-fleet-exporter")
    debian.run("ollama-fleet", "alerts", "explain", "Watchdog")
    with exported(debian) as metrics:
        assert 'ollama_fleet_instances{shard="0",status="healthy"} 3' in metrics
    settings = debian.root / "etc/ollama-fleet/exporter.yml"
    settings.write_text(f"{settings.read_text()}poll.interval: 5s\n")

    debian.run("dpkg", "--remove", "ollama-fleet")
    assert "poll.interval: 5s" in settings.read_text()
    assert not (debian.root / "opt/ollama-fleet").exists()
    debian.run("dpkg", "--purge", "ollama-fleet")
    after = debian.files()
    assert {} == {name: text for name, text in after.items() if before.get(name) != text}


def test_hardened_units_start_reload_and_stop_under_systemd(debian: Debian) -> None:
    """The exporter's also by its socket; a bad configuration is refused, and the old one stays."""
    exporter, _, gateway = UNITS
    debian.run("dpkg", "--install", "/ollama-fleet.deb")
    settings = debian.root / "etc/ollama-fleet/exporter.yml"
    good = settings.read_text()
    with running_systemd(debian.root) as systemd:

        def awaited(text: str, source: Callable[[], str]) -> None:
            asyncio.run(eventually(lambda: text in source()))

        asyncio.run(eventually(systemd.is_up))
        systemd.run("ollama-fleet", "gateway", "render", f"--output-dir={GATEWAY_DIR}")
        systemd.run("systemctl", "enable", f"{GATEWAY_DIR}/{gateway}.service")
        systemd.run("systemctl", "start", *UNITS)
        awaited("gateway_build_info", lambda: systemd.answer("127.0.0.1:11431/metrics"))
        (debian.root / "etc/ollama-fleet/fleet.yml").write_text(FLEET)
        systemd.run("systemctl", "reload", exporter, gateway)
        awaited("instances=1 added=1", systemd.journal)
        settings.write_text(f"{good}poll.intervall: 5s\n")
        systemd.run("systemctl", "reload", exporter)
        awaited("poll.intervall", systemd.journal)
        assert 3 * ["active"] == systemd.run("systemctl", "is-active", *UNITS).split()
        systemd.run("systemctl", "stop", *UNITS)
        results = systemd.run("systemctl", "show", "--property=Result", *UNITS)
        assert 3 * ["Result=success"] == results.split()
        settings.write_text(good)
        systemd.run("systemctl", "start", f"{exporter}.socket")
        awaited("The exporter runs.", lambda: systemd.answer("127.0.0.1:11440/-/healthy"))
        systemd.run("systemctl", "is-active", exporter)
    debian.run("dpkg", "--purge", "ollama-fleet")


@contextmanager
def exported(debian: Debian) -> Iterator[str]:
    """Run the installed exporter and a simulated fleet as the package's user; give the metrics."""
    state = debian.root / "var/lib/ollama-fleet"
    state.mkdir()
    state.chmod(0o777)
    control = f"--control.listen-address=127.0.0.1:{free_port()}"
    fleet, url = "/var/lib/ollama-fleet/fleet.json", f"127.0.0.1:{free_port()}"
    simulate = ("simulate", "--instances=3", "--listen-port=0", control, f"--inventory={fleet}")
    poll = ("exporter", f"--inventory={fleet}", "--poll.interval=1s")
    with debian.running("ollama-fleet", *simulate):
        asyncio.run(eventually((debian.root / fleet[1:]).exists))
        with debian.running("ollama-fleet", *poll, f"--web.listen-address={url}"):
            scraped(f"http://{url}/-/ready")
            yield scraped(f"http://{url}/metrics")
