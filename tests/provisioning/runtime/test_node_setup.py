"""Who gets through to a node's containerd, and who does not; with real nginx and openssl."""

from __future__ import annotations

import asyncio
import socket
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from ollama_fleet.clock import SystemClock
from provisioning.errors import NodeUnreachableError, PermanentError, SpecError
from provisioning.runtime import node_setup
from provisioning.runtime.containerd.client import Certificates
from provisioning.runtime.containerd.runtime import ContainerdRuntime
from provisioning.runtime.node_setup import NodeAccess
from tests.conftest import program
from tests.containerd import IMAGE, Containerd
from tests.nodeaccess import (
    CLIENT_USER,
    Authority,
    access_to,
    endpoint_of,
    running_nginx,
)
from tests.provisioning.runtime.containers import ContainerdLab
from tests.provisioning.runtime.contract import FLEET, running, told_of_a_kill

ACCESS = NodeAccess(node="node-1", address="127.0.0.1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
async def access(
    containerd: Containerd, authority: Authority, tmp_path: Path
) -> AsyncIterator[NodeAccess]:
    """A node whose containerd is behind a real nginx."""
    made = access_to(containerd, "node-1", "127.0.0.1", tmp_path / "node")
    authority.sign_node(made)
    async with running_nginx(made):
        yield made


def runtime_of(access: NodeAccess, certificates: Certificates | None) -> ContainerdRuntime:
    return ContainerdRuntime(
        FLEET,
        access.node,
        endpoint=endpoint_of(access),
        clock=SystemClock(),
        certificates=certificates,
    )


async def test_a_provisioner_with_a_certificate_is_served_by_the_containerd_behind_nginx(
    access: NodeAccess, authority: Authority, containerd: Containerd, busybox: Path, tmp_path: Path
) -> None:
    runtime = ContainerdRuntime(
        FLEET,
        access.node,
        endpoint=endpoint_of(access),
        clock=SystemClock(),
        certificates=authority.sign_client(access, tmp_path / "client"),
        settings=containerd.settings,
    )
    lab = ContainerdLab(containerd, busybox)
    container = lab.container()

    await runtime.images.import_archive(IMAGE, busybox)
    await runtime.start(container)
    assert (running(container),) == await runtime.containers()
    assert container.name == await told_of_a_kill(lab, runtime, container)
    await runtime.remove(container.name, grace_s=0.1)
    assert () == await runtime.containers()

    await runtime.close()
    await lab.close()


async def test_a_client_of_another_authority_is_refused(access: NodeAccess, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger").sign_client(access, tmp_path / "client")
    known = msgspec.structs.replace(stranger, authority=Path(access.folder) / "authority.pem")

    await assert_refused(access, known)


async def test_a_client_of_another_name_is_refused(
    access: NodeAccess, authority: Authority, tmp_path: Path
) -> None:
    ours = access.client
    names = ("somebody", f"not-{ours}", f"{ours}-not", f"CN={ours}", f"x,CN={ours}", ours.upper())
    for name in names:
        other = msgspec.structs.replace(access, client=name)
        await assert_refused(access, authority.sign_client(other, tmp_path / name))


async def test_a_client_without_a_certificate_is_refused(
    access: NodeAccess, authority: Authority, tmp_path: Path
) -> None:
    ours = authority.sign_client(access, tmp_path / "client")

    assert b"" == await asyncio.to_thread(greeting, access, ours.authority, None)
    assert b"" != await asyncio.to_thread(greeting, access, ours.authority, ours)


GREEDY = """\
[req]
prompt = no
distinguished_name = name
req_extensions = extensions
[name]
O = somebody
CN = ollama-fleet-provisioner
[extensions]
subjectAltName = IP:127.0.0.1, IP:127.0.0.2, DNS:node-2
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign
extendedKeyUsage = serverAuth, clientAuth
"""
"""A request for everything, by somebody who is root on one node, or one provisioner's machine."""
LEAF = "keyUsage = critical, digitalSignature\nextendedKeyUsage = clientAuth\n"


def greedy_request(folder: Path) -> Path:
    """Return a request for everything; its key is beside it."""
    (folder / "greedy.cnf").write_text(GREEDY)
    openssl(folder, "req -new -newkey rsa:2048 -noenc -config greedy.cnf -keyout key -out request")
    return folder / "request"


def openssl(folder: Path, arguments: str) -> str:
    command = ("openssl", *arguments.split())
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def said_by(certificate: Path) -> tuple[str, set[str]]:
    """Return a certificate's subject, and its extensions but those that are keys' numbers."""
    subject = openssl(certificate.parent, f"x509 -in {certificate.name} -noout -subject")
    text = openssl(certificate.parent, f"x509 -in {certificate.name} -noout -ext {EXTENSIONS}")
    pairs = text.replace(": \n", ":\n").replace("\n    ", " ").splitlines()
    return subject.strip(), {pair.replace("X509v3 ", "").strip() for pair in pairs}


EXTENSIONS = "basicConstraints,keyUsage,extendedKeyUsage,subjectAltName"


def test_a_node_gets_a_servers_certificate_of_its_own_name_whatever_it_asks_for(
    authority: Authority, tmp_path: Path
) -> None:
    commands = node_setup.node_signing_commands(ACCESS)

    certificate = authority.sign(greedy_request(tmp_path), commands)

    assert (
        "subject=CN=node-1",
        {
            "Basic Constraints: critical CA:FALSE",
            "Key Usage: critical Digital Signature",
            "Extended Key Usage: TLS Web Server Authentication",
            "Subject Alternative Name: IP Address:127.0.0.1",
        },
    ) == said_by(certificate)


def test_a_provisioner_gets_a_clients_certificate_of_its_name_whatever_it_asks_for(
    authority: Authority, tmp_path: Path
) -> None:
    commands = node_setup.client_signing_commands(ACCESS)

    certificate = authority.sign(greedy_request(tmp_path), commands)

    assert (
        "subject=CN=ollama-fleet-provisioner",
        {
            "Basic Constraints: critical CA:FALSE",
            "Key Usage: critical Digital Signature",
            "Extended Key Usage: TLS Web Client Authentication",
        },
    ) == said_by(certificate)


def test_the_authority_signs_no_other_authority(authority: Authority) -> None:
    assert (
        "subject=CN=ollama-fleet containerd access",
        {
            "Basic Constraints: critical CA:TRUE, pathlen:0",
            "Key Usage: critical Certificate Sign, CRL Sign",
        },
    ) == said_by(authority.folder / "authority.pem")


async def test_a_node_that_was_broken_into_is_not_let_in_by_another(
    access: NodeAccess, authority: Authority, tmp_path: Path
) -> None:
    """Neither by its own certificate, nor by one that it signs for a name of its choice."""
    other = msgspec.structs.replace(access, node="node-2", address="127.0.0.2")
    (tmp_path / "rogue").mkdir()
    request = greedy_request(tmp_path / "rogue")
    rogue = authority.sign(request, node_setup.node_signing_commands(other))
    (request.parent / "rogue").write_bytes(rogue.read_bytes())
    (request.parent / "leaf.cnf").write_text(LEAF)
    signed = "-CA rogue -CAkey key -extfile leaf.cnf -subj /CN=ollama-fleet-provisioner"
    openssl(request.parent, f"x509 -req -in request {signed} -out leaf")
    chain = (request.parent / "leaf").read_bytes() + rogue.read_bytes()
    (request.parent / "chain").write_bytes(chain)

    for name in ("rogue", "chain"):
        own = Certificates(
            authority.folder / "authority.pem", request.parent / name, request.parent / "key"
        )
        assert b"" == await asyncio.to_thread(greeting, access, own.authority, own)


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
        await runtime.containers()
    await runtime.close()


async def test_an_endpoint_over_the_network_needs_a_certificate() -> None:
    with pytest.raises(PermanentError, match="client certificate"):
        runtime_of(ACCESS, None)


async def test_a_certificate_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"

    with pytest.raises(PermanentError, match=r"cannot read .*missing\.pem"):
        runtime_of(ACCESS, Certificates(missing, missing, missing))


@pytest.mark.parametrize(
    "endpoint", ["", "unix://", "http://127.0.0.1:1", "https://host", "/run/x"]
)
def test_what_is_no_endpoint_is_told(endpoint: str) -> None:
    with pytest.raises(PermanentError, match="no endpoint of containerd"):
        ContainerdRuntime(FLEET, "node-1", endpoint=endpoint, clock=SystemClock())


async def test_a_key_is_read_by_whoever_needs_it_and_by_nobody_else(
    access: NodeAccess, authority: Authority, tmp_path: Path
) -> None:
    """nginx begins as root; a provisioner runs as a user of its own."""
    ours = authority.sign_client(access, tmp_path / "client")
    node_key = Path(access.folder) / "key.pem"

    assert ("root", 0o600) == (node_key.owner(), stat.S_IMODE(node_key.stat().st_mode))
    for path in (ours.key.parent, ours.authority, ours.certificate, ours.key):
        assert CLIENT_USER == path.owner()
    assert (0o700, 0o600) == (
        stat.S_IMODE(ours.key.parent.stat().st_mode),
        stat.S_IMODE(ours.key.stat().st_mode),
    )


async def test_nothing_is_started_before_its_certificate_is_there(
    access: NodeAccess, authority: Authority, tmp_path: Path
) -> None:
    authority.sign_client(access, tmp_path / "client")

    assert [
        "apt-get install --no-install-recommends containerd crun logrotate nginx "
        "libnginx-mod-stream",
        "systemctl daemon-reload",
        "systemctl enable ollama-fleet-node",
        "systemctl restart ollama-fleet-node",
        f"adduser --system --group {CLIENT_USER}",
        "systemctl try-restart ollama-fleet-provisioner",
    ] == authority.undone.read_text().splitlines()


def test_systemd_finds_no_fault_in_a_nodes_container(tmp_path: Path) -> None:
    (tmp_path / "nginx").touch(mode=0o755)
    access = msgspec.structs.replace(ACCESS, nginx=str(tmp_path / "nginx"))
    container = tmp_path / f"{node_setup.UNIT}.service"
    container.write_text(node_setup.unit(access))

    verified = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", container],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (verified.returncode, verified.stdout + verified.stderr)


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

    nginx, *_ = node_setup.node_files(access)
    (signing,) = node_setup.node_signing_commands(access)

    assert listens in nginx.text
    assert f" subjectAltName={named} |" in signing


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
        {"nginx": "/a b"},
        {"modules_dir": "/a;b"},
        {"pid_file": "a.pid"},
    ],
)
def test_what_would_break_out_of_a_file_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(SpecError) as caught:
        node_setup.node_files(msgspec.structs.replace(ACCESS, **change))

    assert [next(iter(change))] == [problem.split()[0] for problem in caught.value.problems]
