"""Say which commands bring a node's files to life, and in which order.

In:   how a node is reached; the folder and the user of the provisioners.
Out:  commands for a shell, by where they are run: `authority_commands` once; `node_commands` and
      `client_commands`; `signing_commands` for each request; `node_start_commands` and
      `client_end_commands` once the certificates are where their requests came from. Pure.

Keys are made where they are used and never sent. A command may be run again, as for a certificate
that ends; none leaves anything behind in the shell.
"""

from __future__ import annotations

from provisioning.fleet.runtime.nodeconfig import UNIT, NodeAccess

KEY_KIND = "ec -pkeyopt ec_paramgen_curve:P-256"
PACKAGES = "containerd crun logrotate nginx libnginx-mod-stream"
PROVISIONER_UNIT = "ollama-fleet-provisioner"


def authority_commands() -> tuple[str, ...]:
    """Return how the authority is made, once."""
    return (
        f"openssl req -x509 -newkey {KEY_KIND} -noenc -keyout authority.key -out authority.pem "
        "-days 3650 -subj '/CN=ollama-fleet containerd access'",
    )


def node_commands(access: NodeAccess) -> tuple[str, ...]:
    """Return what to run on the node, as root, before its certificate is signed."""
    return (
        f"apt-get install --no-install-recommends {PACKAGES}",
        _request_command(access.folder, f"-config {access.folder}/request.cnf"),
    )


def client_commands(access: NodeAccess, folder: str, user: str) -> tuple[str, ...]:
    """Return what to run where a provisioner runs, as root, before its certificate is signed."""
    return (
        f"adduser --system --group {user}",  # does nothing where the user is there
        f"install -d -o {user} -g {user} -m 700 {folder}",
        _request_command(folder, f"-config /dev/null -subj '/CN={access.client}'"),
    )


def signing_commands(days: int = 365) -> tuple[str, ...]:
    """Return how the authority signs a request: each node's, and each provisioner's."""
    return (
        "openssl x509 -req -in request.pem -CA authority.pem -CAkey authority.key "
        f"-copy_extensions copyall -days {days} -out certificate.pem",
    )


def node_start_commands() -> tuple[str, ...]:
    """Return what to run on the node, as root, with its certificate in place."""
    return ("systemctl daemon-reload", f"systemctl enable {UNIT}", f"systemctl restart {UNIT}")


def client_end_commands(folder: str, user: str) -> tuple[str, ...]:
    """Return what to run where a provisioner runs, as root, with its certificate in place."""
    return (
        f"chown -R {user}:{user} {folder}",
        f"systemctl try-restart {PROVISIONER_UNIT}",
    )


def _request_command(folder: str, options: str) -> str:
    """Return how a key is made that its owner alone can read, and a certificate asked for."""
    return (
        f"(umask 077 && openssl req -new -newkey {KEY_KIND} -noenc {options} "
        f"-keyout {folder}/key.pem -out {folder}/request.pem)"
    )
