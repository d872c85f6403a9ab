"""The options of `ollama-fleet provisioner run`, and the Settings that they make.

Each is an environment variable too: --web.listen-address is
OLLAMA_FLEET_PROVISIONER_WEB_LISTEN_ADDRESS.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from provisioning.api.server import MAX_CONNECTIONS
from provisioning.app import Settings, is_everywhere
from provisioning.cli.common import STATE, state_dir, token_file
from provisioning.runtime.factory import Local
from provisioning.spec.words import MAX_FLEET_NAME_CHARACTERS, name_fault
from provisioning.store.etcd.access import Credentials

PREFIX = "OLLAMA_FLEET_PROVISIONER_"
LISTEN_ADDRESS = "127.0.0.1:8080"
LOG_LEVELS = ("debug", "info", "warning", "error")
ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]\s]*):(?P<port>[0-9]{1,5})")
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


class Option(NamedTuple):
    """One option: its name is that of the setting, in the README too."""

    name: str
    help: str
    type: Any = str
    default: Any = None
    shown_default: str = ""

    @property
    def variable(self) -> str:
        """Return the environment variable that gives the same."""
        return PREFIX + self.name.translate({ord("."): "_", ord("-"): "_"}).upper()

    @property
    def attribute(self) -> str:
        """Return the option's name as a keyword."""
        return self.name.translate({ord("."): "_", ord("-"): "_"})


OPTIONS = (
    Option("fleet", "Name of the fleet, as its specification says.", default="fleet"),
    Option(
        "store.url",
        "Where the fleet is kept: sqlite:PATH on one machine; etcd://host:port,… for several "
        "provisioners, etcds:// with TLS; memory: forgets all.",
        default="",
        shown_default="sqlite:FLEET.db in state-dir",
    ),
    Option("store.ca-file", "Authority that signed etcd's certificates.", FILE),
    Option("store.certificate-file", "Our certificate for etcd.", FILE),
    Option("store.key-file", "Its key.", FILE),
    Option("store.user", "User of etcd.", default=""),
    Option("store.password-file", "Holds that user's password.", FILE),
    Option(
        "store.lease",
        "Seconds for which a silent leader stays the leader, with etcd.",
        click.IntRange(2, 600),
        10,
    ),
    Option("web.listen-address", "Where the API listens.", default=LISTEN_ADDRESS),
    Option(
        "web.max-connections",
        "Open connections to the API; one more closes the longest idle one. At most a quarter of "
        "the limit of open files.",
        click.IntRange(1),
        MAX_CONNECTIONS,
    ),
    Option(
        "web.external-url",
        "Where clients of the other provisioners find this one.",
        default="",
        shown_default="as it listens",
    ),
    Option(
        "web.token-file",
        "Tokens for changes, one a line; made with one token where it is missing.",
        FILE,
        token_file,
        f"{STATE}/provisioner.token",
    ),
    Option(
        "web.audit-file",
        "Gets a line of JSON for each change that was asked for, and for refused tokens: one an "
        "address and minute, the others counted.",
        FILE,
    ),
    Option(
        "state-dir", "Records and logs of containers that are processes.", FOLDER, state_dir, STATE
    ),
    Option("nodes.ca-file", "Authority of the nodes' certificates.", FILE),
    Option("nodes.certificate-file", "Our certificate for the nodes.", FILE),
    Option("nodes.key-file", "Its key.", FILE),
    Option(
        "simulation.token-file",
        "Token of the process that hosts simulated instances.",
        FILE,
        lambda: state_dir() / "simulate.token",
        f"{STATE}/simulate.token",
    ),
    Option("log-level", "What is logged, to stderr.", click.Choice(LOG_LEVELS), "info"),
)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all of the options."""
    for option in reversed(OPTIONS):
        add = click.option(
            f"--{option.name}",
            option.attribute,
            type=option.type,
            default=option.default,
            show_default=option.shown_default or option.default not in (None, ""),
            envvar=option.variable,
            help=option.help,
        )
        command = add(command)
    return command


def settings_of(given: dict[str, Any]) -> Settings:
    """Return the settings that the options make.

    Raises:
        click.UsageError: The name or an address is none, or settings that go together do not.
        StoreError: Likewise, of etcd's.
    """
    if fault := name_fault(given["fleet"], MAX_FLEET_NAME_CHARACTERS):
        raise click.UsageError(f"--fleet {fault}")
    host, port = _address(given["web_listen_address"])
    if (
        given["store_url"].startswith("etcd")
        and is_everywhere(host)
        and not given["web_external_url"]
    ):
        raise click.UsageError(
            f"--web.listen-address {given['web_listen_address']!r} does not say where the other "
            "provisioners' clients find this one: give --web.external-url too"
        )
    node_files = [given[f"nodes_{name}"] for name in ("ca_file", "certificate_file", "key_file")]
    if any(node_files) and not all(node_files):
        raise click.UsageError("--nodes.ca-file, .certificate-file and .key-file go together")
    default_store = f"sqlite:{given['state_dir'] / given['fleet']}.db"
    return Settings(
        fleet=given["fleet"],
        store_url=given["store_url"] or default_store,
        host=host,
        port=port,
        advertised_url=given["web_external_url"],
        token_file=given["web_token_file"],
        audit_file=given["web_audit_file"],
        lease_s=given["store_lease"],
        max_connections=given["web_max_connections"],
        credentials=Credentials(
            ca_file=given["store_ca_file"],
            certificate_file=given["store_certificate_file"],
            key_file=given["store_key_file"],
            user=given["store_user"],
            password_file=given["store_password_file"],
        ),
        local=Local(
            state_dir=given["state_dir"] / "units",
            simulation_token_file=given["simulation_token_file"],
            authority_file=given["nodes_ca_file"],
            certificate_file=given["nodes_certificate_file"],
            key_file=given["nodes_key_file"],
        ),
    )


def _address(text: str) -> tuple[str, int]:
    found = ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) >= 2**16:
        raise click.UsageError(
            f"--web.listen-address must be host:port, such as {LISTEN_ADDRESS}, got {text!r}"
        )
    host = found["host"].strip("[]")
    return host or "0.0.0.0", int(found["port"])  # noqa: S104 - asked for by leaving it out
