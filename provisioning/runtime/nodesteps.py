"""Say which commands bring a node's files to life, and in which order.

In:   how a node is reached; the folder and the user of the provisioners.
Out:  commands for a shell, by where they are run: `authority_commands` once; `node_commands` and
      `client_commands`; `node_signing_commands` and `client_signing_commands` for their requests;
      `node_start_commands` and `client_end_commands` once the certificates are where their requests
      came from. Pure.

Keys are made where they are used and never sent. The authority takes nothing but the key from a
request: a node that was broken into may ask to be an authority, another node, or a provisioner,
which is root on all of them. A command may be run again, as for a certificate that ends; none
leaves anything behind in the shell.
"""

from __future__ import annotations

from provisioning.runtime.nodeconfig import UNIT, NodeAccess, alternative_name

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


def node_signing_commands(access: NodeAccess, days: int = DAYS) -> tuple[str, ...]:
    """Return how the authority signs the node's request."""
    is_of = f"subjectAltName={alternative_name(access)}"
    return (_signing_command(access.node, days, "extendedKeyUsage=serverAuth", is_of),)


def client_signing_commands(access: NodeAccess, days: int = DAYS) -> tuple[str, ...]:
    """Return how the authority signs a provisioner's request."""
    return (_signing_command(access.client, days, "extendedKeyUsage=clientAuth"),)


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
    """Return how a key is made that its owner alone can read, and a certificate asked for."""
    return (
        f"(umask 077 && openssl req -new -newkey {KEY_KIND} -noenc -config /dev/null "
        f"-subj '/CN={name}' -keyout {folder}/key.pem -out {folder}/request.pem)"
    )


def _signing_command(name: str, days: int, *extensions: str) -> str:
    """Return how request.pem's key gets a certificate that says what the authority says."""
    lines = " ".join((*BOUNDS, *extensions))
    return (
        f"printf '%s\\n' {lines} | openssl x509 -req -in request.pem -CA authority.pem "
        f"-CAkey authority.key -subj '/CN={name}' -copy_extensions none -extfile - "
        f"-days {days} -out certificate.pem"
    )
