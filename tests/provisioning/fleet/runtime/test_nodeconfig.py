from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from provisioning.fleet.clock import SystemClock
from provisioning.fleet.errors import LastingError, NodeUnreachableError, SpecError
from provisioning.fleet.runtime import nodeconfig
from provisioning.fleet.runtime.containerd import ContainerdRuntime
from provisioning.fleet.runtime.containerd_daemon import Certificates
from provisioning.fleet.runtime.nodeconfig import NodeAccess
from tests.conftest import program
from tests.containerd import IMAGE, Containerd, package, running_containerd
from tests.ports import free_ports
from tests.provisioning.fleet.runtime.containers import ContainerdLab
from tests.provisioning.fleet.runtime.contract import FLEET, running
from tests.waiting import eventually

ACCESS = NodeAccess(node="node-1", address="127.0.0.1")
NGINX = """\
daemon off;
master_process off;
user root;
pid {folder}/nginx.pid;
load_module {module};
events {{}}
include {folder}/stream.conf;
"""


class Authority:
    """A certificate authority, and the keys of those whom it signs, made by our own commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()
        (make,) = nodeconfig.authority_commands()
        self._run(make)

    def sign_node(self, access: NodeAccess) -> None:
        folder = Path(access.folder)
        folder.mkdir()
        (folder / "request.cnf").write_text(nodeconfig.certificate_request(access))
        self._signed(folder, nodeconfig.node_commands(access)[1])

    def sign_client(self, access: NodeAccess, folder: Path) -> Certificates:
        folder.mkdir()
        (command,) = nodeconfig.client_commands(access, str(folder))
        self._signed(folder, command)
        return Certificates(
            folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"
        )

    def _signed(self, folder: Path, request: str) -> None:
        self._run(request)
        (self.folder / "request.pem").write_bytes((folder / "request.pem").read_bytes())
        (sign,) = nodeconfig.signing_commands()
        self._run(sign)
        for name in ("certificate.pem", "authority.pem"):
            (folder / name).write_bytes((self.folder / name).read_bytes())

    def _run(self, command: str) -> None:
        subprocess.run(  # as a person would in a shell
            ["/bin/sh", "-ec", command], cwd=self.folder, check=True, capture_output=True
        )


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    with running_containerd(tmp_path_factory.mktemp("containerd")) as daemon:
        yield daemon


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
async def access(
    containerd: Containerd, authority: Authority, tmp_path: Path
) -> AsyncIterator[NodeAccess]:
    """A node whose containerd is behind a real nginx."""
    (port,) = free_ports(1)
    access = msgspec.structs.replace(
        ACCESS, port=port, socket=str(containerd.socket), folder=str(tmp_path / "node")
    )
    authority.sign_node(access)
    (tmp_path / "stream.conf").write_text(nodeconfig.nginx_stream(access))
    modules = package("libnginx-mod-stream").glob("usr/lib/nginx/modules/ngx_stream_module.so")
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(folder=tmp_path, module=next(modules)))
    command = [str(program("nginx")), "-p", str(tmp_path), "-e", "stderr", "-c", str(config)]
    with (tmp_path / "nginx.log").open("wb") as log:
        nginx = await asyncio.create_subprocess_exec(*command, stderr=log)
    await eventually(lambda: nginx.returncode is not None or accepts(port))
    assert nginx.returncode is None, (tmp_path / "nginx.log").read_text()
    yield access
    nginx.terminate()
    await nginx.wait()


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def runtime_of(access: NodeAccess, certificates: Certificates | None) -> ContainerdRuntime:
    return ContainerdRuntime(
        FLEET,
        access.node,
        endpoint=f"https://{access.address}:{access.port}",
        clock=SystemClock(),
        certificates=certificates,
    )


async def test_a_provisioner_with_a_certificate_is_served_by_the_containerd_behind_nginx(
    access: NodeAccess, authority: Authority, containerd: Containerd, busybox: Path, tmp_path: Path
) -> None:
    runtime = ContainerdRuntime(
        FLEET,
        access.node,
        endpoint=f"https://{access.address}:{access.port}",
        clock=SystemClock(),
        certificates=authority.sign_client(access, tmp_path / "client"),
        settings=containerd.settings,
    )
    lab = ContainerdLab(containerd, busybox)
    unit = lab.unit()

    await runtime.images.import_archive(IMAGE, busybox)
    await runtime.start(unit)
    assert (running(unit),) == await runtime.units()
    names = runtime.changes()
    await lab.kill(unit)
    assert unit.name == await anext(names)
    await runtime.remove(unit.name, grace_s=0.1)
    assert () == await runtime.units()

    await runtime.close()
    await lab.close()


async def test_a_client_of_another_authority_is_refused(access: NodeAccess, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger").sign_client(access, tmp_path / "client")
    known = msgspec.structs.replace(stranger, authority=Path(access.folder) / "authority.pem")

    await assert_refused(access, known)


async def test_a_client_of_another_name_is_refused(
    access: NodeAccess, authority: Authority, tmp_path: Path
) -> None:
    for name in ("somebody", f"not-{access.client}", f"{access.client}-not"):
        other = msgspec.structs.replace(access, client=name)
        await assert_refused(access, authority.sign_client(other, tmp_path / name))


async def test_a_client_without_a_certificate_is_refused(
    access: NodeAccess, authority: Authority, tmp_path: Path
) -> None:
    ours = authority.sign_client(access, tmp_path / "client")

    assert b"" == await asyncio.to_thread(greeting, access, ours.authority, None)
    assert b"" != await asyncio.to_thread(greeting, access, ours.authority, ours)


def greeting(access: NodeAccess, authority: Path, certificates: Certificates | None) -> bytes:
    """Return what containerd says to a client, which is its settings; nothing where it refuses."""
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["h2"])
    if certificates:
        context.load_cert_chain(certificates.certificate, certificates.key)
    with socket.create_connection((access.address, access.port), timeout=10.0) as connection:
        with context.wrap_socket(connection, server_hostname=access.address) as secure:
            try:
                secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
                return secure.recv(100)
            except (ssl.SSLError, ConnectionError):
                return b""


async def test_a_node_of_another_authority_is_not_talked_to(
    access: NodeAccess, authority: Authority, tmp_path: Path
) -> None:
    ours = authority.sign_client(access, tmp_path / "client")
    other = Authority(tmp_path / "other").folder / "authority.pem"

    await assert_refused(access, msgspec.structs.replace(ours, authority=other))


async def assert_refused(access: NodeAccess, certificates: Certificates) -> None:
    runtime = runtime_of(access, certificates)
    with pytest.raises(NodeUnreachableError):
        await runtime.units()
    await runtime.close()


async def test_an_endpoint_over_the_network_needs_a_certificate() -> None:
    with pytest.raises(LastingError, match="client certificate"):
        runtime_of(ACCESS, None)


async def test_a_certificate_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"

    with pytest.raises(LastingError, match=r"cannot read .*missing\.pem"):
        runtime_of(ACCESS, Certificates(missing, missing, missing))


@pytest.mark.parametrize(
    "endpoint", ["", "unix://", "http://127.0.0.1:1", "https://host", "/run/x"]
)
def test_what_is_no_endpoint_is_told(endpoint: str) -> None:
    with pytest.raises(LastingError, match="no endpoint of containerd"):
        ContainerdRuntime(FLEET, "node-1", endpoint=endpoint, clock=SystemClock())


def test_a_node_gets_three_files() -> None:
    paths = [file.path for file in nodeconfig.node_files(ACCESS)]

    assert [
        "/etc/nginx/modules-enabled/90-ollama-fleet.conf",
        "/etc/ollama-fleet/node/request.cnf",
        "/etc/logrotate.d/ollama-fleet",
    ] == paths


@pytest.mark.parametrize(
    ("address", "listens", "named"),
    [
        ("10.0.0.7", "listen 10.0.0.7:11480 ssl;", "IP:10.0.0.7"),
        ("fd00::7", "listen [fd00::7]:11480 ssl;", "IP:fd00::7"),
        ("node-1.example", "listen node-1.example:11480 ssl;", "DNS:node-1.example"),
    ],
)
def test_the_nodes_address_is_listened_on_and_in_its_certificate(
    address: str, listens: str, named: str
) -> None:
    access = msgspec.structs.replace(ACCESS, address=address)

    nginx, request, _ = nodeconfig.node_files(access)

    assert listens in nginx.text
    assert f"subjectAltName = {named}\n" in request.text


def test_logs_are_copied_and_cut_by_size() -> None:
    text = nodeconfig.log_rotation(msgspec.structs.replace(ACCESS, log_dir="/logs"))

    assert "/logs/*/*.log {" in text
    assert "copytruncate" in text
    assert f"size {16 * 2**20}\n" in text


@pytest.mark.parametrize(
    "change",
    [
        {"node": "a; }"},
        {"client": 'x"$'},
        {"client": ""},
        {"address": "host:1;"},
        {"port": 0},
        {"port": 65_536},
        {"socket": "/run/a;b"},
        {"folder": "relative"},
        {"log_dir": "/logs {"},
    ],
)
def test_what_would_break_out_of_a_file_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SpecError) as caught:
        nodeconfig.node_files(msgspec.structs.replace(ACCESS, **change))

    assert [next(iter(change))] == [problem.split()[0] for problem in caught.value.problems]
