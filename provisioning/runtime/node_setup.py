"""Write what a node needs to be reached by provisioners: files, and the steps in words."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from ollama_fleet.urls import is_address
from provisioning.errors import SpecError

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
PATH = re.compile(r"/[A-Za-z0-9/._-]+")
PORT = 11_480
UNIT = "ollama-fleet-node"
IDLE_LIMIT = "1h"
"""How long a connection may say nothing; events are rare, and pings come more often."""


class NodeAccess(msgspec.Struct, frozen=True):
    """How a node's containerd is reached."""

    node: str
    address: str
    """Where provisioners connect: an IP address of the node, or a name that resolves to one."""
    port: int = PORT
    socket: str = "/run/containerd/containerd.sock"
    client: str = "ollama-fleet-provisioner"
    """The common name of the provisioners' certificates."""
    folder: str = "/etc/ollama-fleet/node"
    """On the node; holds key, certificate and the authority's certificate."""
    log_dir: str = "/var/log/ollama-fleet"
    max_log_bytes: int = 16 * 2**20
    nginx: str = "/usr/sbin/nginx"
    modules_dir: str = "/usr/lib/nginx/modules"
    """Where Debian's packages put nginx's modules."""
    pid_file: str = f"/run/{UNIT}.pid"
    """Not nginx's usual one, which Debian's own service has."""


class File(msgspec.Struct, frozen=True):
    """A file that is to be put somewhere."""

    path: str
    text: str


def node_files(access: NodeAccess) -> tuple[File, ...]:
    """Return the files of a node.

    Raises:
        SpecError: Something in it cannot be.
    """
    if problems := list(_problems(access)):
        raise SpecError(f"node {access.node!r}", problems)
    return (
        File(f"{access.folder}/nginx.conf", nginx_config(access)),
        File(f"/etc/systemd/system/{UNIT}.service", unit(access)),
        File("/etc/logrotate.d/ollama-fleet", log_rotation(access)),
    )


def nginx_config(access: NodeAccess) -> str:
    """Return the whole configuration of the node's own nginx."""
    name = re.escape(access.client)
    return f"""\
# containerd of {access.node}, for provisioners of ollama-fleet; whoever gets through is root here.
user root;
daemon off;
pid {access.pid_file};
load_module {access.modules_dir}/ngx_stream_module.so;
events {{}}
stream {{
  map $ssl_client_s_dn $ollama_fleet_containerd {{
    "~^CN={name}$" unix:{access.socket};
    default "";
  }}
  server {{
    listen {_bracketed(access)}:{access.port} ssl;
    ssl_certificate {access.folder}/certificate.pem;
    ssl_certificate_key {access.folder}/key.pem;
    ssl_client_certificate {access.folder}/authority.pem;
    ssl_verify_client on;
    ssl_protocols TLSv1.3;
    ssl_alpn h2;
    ssl_session_tickets off;
    proxy_connect_timeout 5s;
    proxy_timeout {IDLE_LIMIT};
    proxy_pass $ollama_fleet_containerd;
  }}
}}
"""


def unit(access: NodeAccess) -> str:
    """Return the systemd unit of the node's own nginx."""
    return f"""\
[Unit]
Description=Lets provisioners of ollama-fleet reach containerd
After=network-online.target containerd.service
Wants=network-online.target

[Service]
Type=exec
ExecStart={access.nginx} -e stderr -c {access.folder}/nginx.conf
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
"""


def alternative_name(access: NodeAccess) -> str:
    """Return what a node's certificate says of its address, as OpenSSL spells it."""
    return f"{'IP' if is_address(access.address) else 'DNS'}:{access.address}"


def log_rotation(access: NodeAccess) -> str:
    """Return logrotate's configuration; containers go on writing to their file, so it is copied."""
    return f"""\
# Logs of ollama-fleet's containers.
{access.log_dir}/*/*.log {{
  size {access.max_log_bytes}
  rotate 1
  copytruncate
  missingok
  notifempty
}}
"""


def _bracketed(access: NodeAccess) -> str:
    """Return the address to listen on: a name is looked up by nginx when it starts."""
    return f"[{access.address}]" if ":" in access.address else access.address


def _problems(access: NodeAccess) -> Iterator[str]:
    """Yield what would not be, or would mean something else, in one of the files."""
    for field in ("node", "client"):
        if not NAME.fullmatch(getattr(access, field)):
            yield f"{field}  letters, digits, dots and hyphens, got {getattr(access, field)!r}"
    if "%" in access.address:
        # A zone may be any text, which would be written into nginx's configuration, root's.
        yield f"address  an IP address without a zone (%), got {access.address!r}"
    elif not (is_address(access.address) or NAME.fullmatch(access.address)):
        yield f"address  an IP address or a host name, got {access.address!r}"
    if not 0 < access.port < 65_536:
        yield f"port  from 1 to 65535, got {access.port}"
    for field in ("socket", "folder", "log_dir", "nginx", "modules_dir", "pid_file"):
        if not PATH.fullmatch(getattr(access, field)):
            yield (
                f"{field}  an absolute path of letters, digits and `/._-`, "
                f"got {getattr(access, field)!r}"
            )


KEY_KIND = "ec -pkeyopt ec_paramgen_curve:P-256"
PACKAGES = "containerd crun logrotate nginx libnginx-mod-stream"
PROVISIONER_UNIT = "ollama-fleet-provisioner"
DAYS = 365
BOUNDS = ("basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature")
"""What nobody's certificate goes beyond."""


def authority_commands() -> tuple[str, ...]:
    """Return how the authority is made, once; it signs no other authority."""
    return (
        f"openssl req -x509 -newkey {KEY_KIND} -noenc -config /dev/null -keyout authority.key "
        "-out authority.pem -days 3650 -subj '/CN=ollama-fleet containerd access' "
        "-addext basicConstraints=critical,CA:TRUE,pathlen:0 "
        "-addext keyUsage=critical,keyCertSign,cRLSign",
    )


def node_commands(access: NodeAccess) -> tuple[str, ...]:
    """Return what to run on the node, as root, before its certificate is signed."""
    return (
        f"apt-get install --no-install-recommends {PACKAGES}",
        # containerd would make it too, for everyone to read what the instances write.
        f"install -d -m 700 {access.log_dir}",
        _request_command(access.folder, access.node),
    )


def client_commands(access: NodeAccess, folder: str, user: str) -> tuple[str, ...]:
    """Return what to run where a provisioner runs, as root, before its certificate is signed."""
    return (
        f"adduser --system --group {user}",  # does nothing where the user is there
        f"install -d -o {user} -g {user} -m 700 {folder}",
        _request_command(folder, access.client),
    )


def node_signing_commands(access: NodeAccess) -> tuple[str, ...]:
    """Return how the authority signs the node's request."""
    is_of = f"subjectAltName={alternative_name(access)}"
    return (_signing_command(access.node, "extendedKeyUsage=serverAuth", is_of),)


def client_signing_commands(access: NodeAccess) -> tuple[str, ...]:
    """Return how the authority signs a provisioner's request."""
    return (_signing_command(access.client, "extendedKeyUsage=clientAuth"),)


def node_start_commands() -> tuple[str, ...]:
    """Return what to run on the node, as root, with its certificate in place."""
    return ("systemctl daemon-reload", f"systemctl enable {UNIT}", f"systemctl restart {UNIT}")


def client_end_commands(folder: str, user: str) -> tuple[str, ...]:
    """Return what to run where a provisioner runs, as root, with its certificate in place."""
    return (
        f"chown -R {user}:{user} {folder}",
        f"systemctl try-restart {PROVISIONER_UNIT}",
    )


def _request_command(folder: str, name: str) -> str:
    """Return the command that makes a key for its owner alone, and a certificate request."""
    return (
        f"(umask 077 && openssl req -new -newkey {KEY_KIND} -noenc -config /dev/null "
        f"-subj '/CN={name}' -keyout {folder}/key.pem -out {folder}/request.pem)"
    )


def _signing_command(name: str, *extensions: str) -> str:
    """Return how request.pem's key gets a certificate that says what the authority says."""
    lines = " ".join((*BOUNDS, *extensions))
    return (
        f"printf '%s\\n' {lines} | openssl x509 -req -in request.pem -CA authority.pem "
        f"-CAkey authority.key -subj '/CN={name}' -copy_extensions none -extfile - "
        f"-days {DAYS} -out certificate.pem"
    )
