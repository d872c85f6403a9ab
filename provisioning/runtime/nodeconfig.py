"""Write what a node needs to be reached by provisioners: configuration, and no program of ours.

In:   a node's name and address, where its containerd listens, who may use it.
Out:  files for the node: nginx in front of containerd's socket with mutual TLS, the unit that runs
      it, the rotation of its units' logs.
Fails with SpecError, which carries every problem.

Whoever holds a client certificate is root on the node: the authority is for this alone, and besides
its signature the client's subject is checked, the whole of it. The nginx is one of its own and runs
as root, as nobody else may open containerd's socket; letting nginx's usual user in would make root
of all that runs as that user.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

import msgspec

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
    return f"{'IP' if _is_ip(access.address) else 'DNS'}:{access.address}"


def log_rotation(access: NodeAccess) -> str:
    """Return logrotate's configuration; units go on writing to their file, so it is copied."""
    return f"""\
# Logs of ollama-fleet's units.
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


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _problems(access: NodeAccess) -> Iterator[str]:
    """Yield what would not be, or would mean something else, in one of the files."""
    for field in ("node", "client"):
        if not NAME.fullmatch(getattr(access, field)):
            yield f"{field}  letters, digits, dots and hyphens, got {getattr(access, field)!r}"
    if "%" in access.address:
        # A zone may be any text, which would be written into nginx's configuration, root's.
        yield f"address  an IP address without a zone (%), got {access.address!r}"
    elif not (_is_ip(access.address) or NAME.fullmatch(access.address)):
        yield f"address  an IP address or a host name, got {access.address!r}"
    if not 0 < access.port < 65_536:
        yield f"port  from 1 to 65535, got {access.port}"
    for field in ("socket", "folder", "log_dir", "nginx", "modules_dir", "pid_file"):
        if not PATH.fullmatch(getattr(access, field)):
            yield (
                f"{field}  an absolute path of letters, digits and `/._-`, "
                f"got {getattr(access, field)!r}"
            )
