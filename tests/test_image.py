"""The OCI image: its layout in every run; built twice and run by containerd in the nightly run."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from exporter.cli import exporter
from ollama_fleet.version import VERSION, revision, version_text
from packages import image, oci
from packages.environment import HOME
from tests.conftest import ROOT
from tests.containerd import Containerd, running_containerd
from tests.ports import free_port
from tests.waiting import eventually

DATE_S = 1_700_000_000
NAME = f"docker.io/library/ollama-fleet:{VERSION}"


def archive_of(tree: Path, path: Path) -> str:
    """Write an archive of a tree on top of an empty layer; return the digest."""
    (tree.parent / "empty").mkdir(exist_ok=True)
    layers = [oci.layer_of(folder, DATE_S) for folder in (tree.parent / "empty", tree)]
    return oci.write_archive(path, layers, image.configuration(DATE_S), name="fleet", tag="1")


def fill(tree: Path, *names: str, date_s: float = 1.0) -> Path:
    tree.mkdir()
    for name in names:
        (tree / name).write_text(name)
        os.utime(tree / name, (date_s, date_s))
    (tree / "link").symlink_to("/nowhere")
    return tree


def read(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as files:
        return {one.name: opened.read() for one in files if (opened := files.extractfile(one))}


def test_the_same_files_of_other_order_and_dates_give_the_same_image(tmp_path: Path) -> None:
    trees = (
        fill(tmp_path / "one", "a", "b", date_s=1.0),
        fill(tmp_path / "two", "b", "a", date_s=2.0),
        fill(tmp_path / "other", "a", "c"),
    )
    archives = [tmp_path / f"{tree.name}.tar" for tree in trees]

    one, two, other = (archive_of(*pair) for pair in zip(trees, archives, strict=True))

    assert one == two
    assert archives[0].read_bytes() == archives[1].read_bytes()
    assert one != other


def test_an_image_names_each_of_its_blobs_by_digest_and_size(tmp_path: Path) -> None:
    digest = archive_of(fill(tmp_path / "tree", "a"), tmp_path / "image.tar")
    files = read(tmp_path / "image.tar")
    index = json.loads(files["index.json"])

    def blob(descriptor: dict[str, Any]) -> bytes:
        content = files[f"blobs/{descriptor['digest'].replace(':', '/')}"]
        assert (len(content), f"sha256:{sha256(content).hexdigest()}") == (
            descriptor["size"],
            descriptor["digest"],
        )
        return content

    assert {"imageLayoutVersion": "1.0.0"} == json.loads(files["oci-layout"])
    (entry,) = index["manifests"]
    assert (digest, "1") == (entry["digest"], entry["annotations"][oci.TAG])
    manifest = json.loads(blob(entry))
    config = json.loads(blob(manifest["config"]))
    content = [gzip.decompress(blob(layer)) for layer in manifest["layers"]]
    assert [f"sha256:{sha256(one).hexdigest()}" for one in content] == config["rootfs"]["diff_ids"]
    (docker,) = json.loads(files["manifest.json"])
    assert ["fleet:1"] == docker["RepoTags"]
    assert config == json.loads(files[docker["Config"]])
    assert content == [gzip.decompress(files[name]) for name in docker["Layers"]]
    blobs = {*docker["Layers"], docker["Config"], f"blobs/{digest.replace(':', '/')}"}
    assert sorted(blobs) == [name for name in files if name.startswith("blobs/")]


def test_a_layer_keeps_content_modes_and_links_and_belongs_to_root(tmp_path: Path) -> None:
    tree = fill(tmp_path / "tree", "program")
    (tree / "program").chmod(0o755)
    (tree / "folder").mkdir(0o700)
    if 0 == os.geteuid():
        os.chown(tree / "program", 1, 1)
    (tmp_path / "layer.gz").write_bytes(blob := oci.layer_of(tree, DATE_S).blob)

    with tarfile.open(tmp_path / "layer.gz") as layer:
        found = {one.name: one for one in layer}
        content = layer.extractfile("program")
        assert content is not None
        assert b"program" == content.read()

    assert bytes(4) == blob[4:8]  # the date that gzip writes
    assert ["folder", "link", "program"] == list(found)
    assert {(0, 0, "", "", DATE_S)} == {
        (one.uid, one.gid, one.uname, one.gname, one.mtime) for one in found.values()
    }
    assert (0o755, 0o700) == (found["program"].mode, found["folder"].mode)
    assert "/nowhere" == found["link"].linkname


def test_the_image_runs_the_exporter_as_a_user_that_is_not_root() -> None:
    config = image.configuration(DATE_S)["config"]
    options = {name for parameter in exporter.params for name in parameter.opts}

    assert config["User"].partition(":")[0].isdigit()  # else Kubernetes cannot tell
    assert not config["User"].startswith("0")
    assert "exporter" == config["Cmd"][0]
    assert {word.partition("=")[0] for word in config["Cmd"][1:]} <= options
    assert revision() == config["Labels"]["org.opencontainers.image.revision"]


# The real image


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("image"))


def build(folder: Path, **environ: str) -> Path:
    done = subprocess.run(
        (sys.executable, "-m", "packages.image", str(folder)),
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    return Path(done.stdout.splitlines()[0])


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_an_image_that_is_built_twice_has_the_same_bytes(built: Path, tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        again = build(tmp_path, TZ="Asia/Tokyo", LANG="C", PYTHONHASHSEED="1")
    finally:
        os.umask(umask)

    assert sha256(built.read_bytes()).hexdigest() == sha256(again.read_bytes()).hexdigest()


class Images:
    """A containerd that has the image."""

    def __init__(self, daemon: Containerd, archive: Path) -> None:
        self.ctr = (str(daemon.binaries / "ctr"), "-a", str(daemon.socket), "-n", "tests")
        crun = (
            "--runc-binary",
            str(daemon.binaries / "crun"),
            "--runc-root",
            daemon.settings.runtime_root,
        )
        self.how = ("--read-only", "--rm", "--net-host", *crun)
        subprocess.run((*self.ctr, "images", "import", str(archive)), check=True)

    def command(self, id_: str, *words: str, options: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return a container's command; `ctr` would replace the entry point as well."""
        (program,) = image.configuration(DATE_S)["config"]["Entrypoint"]
        return (*self.ctr, "run", *self.how, *options, NAME, id_, program, *words)

    def run(self, id_: str, *words: str, options: tuple[str, ...] = ()) -> str:
        command = self.command(id_, *words, options=options)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    @contextmanager
    def running(self, id_: str, *words: str, options: tuple[str, ...] = ()) -> Iterator[None]:
        with subprocess.Popen(self.command(id_, *words, options=options)) as process:
            try:
                yield
            finally:
                subprocess.run((*self.ctr, "tasks", "kill", id_), check=True)
                assert 0 == process.wait(100)


@pytest.fixture(scope="module")
def images(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    with running_containerd(tmp_path_factory.mktemp("containerd")) as daemon:
        yield Images(daemon, built)


def answer(url: str) -> str:
    try:
        return str(urllib.request.urlopen(url, timeout=10).read(), "utf-8")
    except OSError:
        return ""


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_a_container_without_a_shell_or_root_or_a_writable_file_polls_a_fleet(
    images: Images, tmp_path: Path
) -> None:
    """It is the image's command, at another address; then SIGTERM ends it with status 0."""
    port = free_port()
    command = [word.replace("0.0.0.0:11440", f"127.0.0.1:{port}") for word in image.COMMAND]
    folder = tmp_path / "settings"
    folder.mkdir(mode=0o755)
    settings = f"type=bind,src={folder},dst=/etc/ollama-fleet,options=rbind:ro"
    control = f"--control.listen-address=127.0.0.1:{free_port()}"
    simulate = ("simulate", "--instances=3", "--listen-port=0", control)
    with ExitStack() as stack:
        fleet = (
            sys.executable,
            "-m",
            "ollama_fleet",
            *simulate,
            f"--inventory={folder}/fleet.yml",
        )
        simulator = stack.enter_context(subprocess.Popen(fleet, cwd=ROOT))
        stack.callback(simulator.terminate)
        asyncio.run(eventually((folder / "fleet.yml").exists))
        stack.enter_context(images.running("exporter", *command, options=("--mount", settings)))
        healthy = 'ollama_fleet_instances{shard="0",status="healthy"} 3'

        url = f"http://127.0.0.1:{port}"
        asyncio.run(eventually(lambda: healthy in answer(f"{url}/metrics")))

        assert answer(f"{url}/-/healthy")
        assert version_text() in images.run("version", "--version")
        (pid,) = processes_of("exporter", str(port))
        status = (pid / "status").read_text()
        assert f"\nUid:\t{image.USER_ID}\t" in status
        assert not [*(pid / "root/usr/bin").glob("*sh")]
        assert " / ro" in (pid / "mountinfo").read_text()


def processes_of(*words: str) -> list[Path]:
    """Return the processes whose command lines hold some words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        line = path.read_text(errors="replace")
        if line.startswith(f"/{HOME}/") and all(word in line for word in words):
            found.append(path.parent)
    return found


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_the_image_has_the_extras_that_a_fleet_in_kubernetes_needs(images: Images) -> None:
    assert "Watchdog" in images.run("alerts", "alerts", "explain", "Watchdog")
    assert "Usage" in images.run("dashboards", "dashboards", "build", "--help")
    checked = images.command("dns", "exporter", "--check", "--inventory=dns+a://localhost:1")
    done = subprocess.run(checked, check=False, capture_output=True, text=True)
    assert "no such name in DNS" in done.stderr
