"""The options of `ollama-fleet provisioner run`, and the settings that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import click

from ollama_fleet.logs import FORMATS, LEVELS
from ollama_fleet.options import FILE, FOLDER, Choice, Duration
from ollama_fleet.urls import host_port
from provisioning.api.server import MAX_CONNECTIONS
from provisioning.app import Settings, is_everywhere
from provisioning.cli.common import STATE, state_dir, token_file
from provisioning.runtime.factory import RuntimePaths
from provisioning.spec.values import LABEL_NAME, MAX_FLEET_NAME_CHARACTERS, name_fault
from provisioning.store.etcd.access import Credentials

VARIABLE_PREFIX = "OLLAMA_FLEET_PROVISIONER_"
LISTEN_ADDRESS = "127.0.0.1:8080"


class Option(NamedTuple):
    """One option of `run`; its name is that of the setting."""

    name: str
    help: str
    type: Any = str
    default: Any = None
    shown_default: str = ""

    @property
    def variable(self) -> str:
        """Return the name of the environment variable."""
        return VARIABLE_PREFIX + self.name.translate({ord("."): "_", ord("-"): "_"}).upper()

    @property
    def attribute(self) -> str:
        """Return the name of the keyword argument."""
        return self.name.translate({ord("."): "_", ord("-"): "_"})


OPTIONS = (
    Option("fleet", "Name of the fleet, as its specification says.", default="fleet"),
    Option(
        "store.url",
        "Store of the fleet: sqlite:PATH on one machine; etcd://host:port,… for several "
        "provisioners, etcds:// with TLS; memory: keeps nothing.",
        default="",
        shown_default="sqlite:FLEET.db in state-dir",
    ),
    Option("store.ca-file", "CA that signed etcd's certificates.", FILE),
    Option("store.certificate-file", "Client certificate for etcd.", FILE),
    Option("store.key-file", "Key of store.certificate-file.", FILE),
    Option("store.user", "User name for etcd.", default=""),
    Option("store.password-file", "File with the password of store.user.", FILE),
    Option(
        "store.lease",
        "How long a silent leader keeps its lease, with etcd; 2s to 10m.",
        Duration(2, 600, is_whole=True),
        "10s",
    ),
    Option("web.listen-address", "Listen address of the API.", default=LISTEN_ADDRESS),
    Option(
        "web.max-connections",
        "Maximum connections to the API; one more closes the longest idle one. At most a quarter "
        "of the open files limit.",
        click.IntRange(1),
        MAX_CONNECTIONS,
    ),
    Option(
        "web.external-url",
        "URL at which clients of the other provisioners reach this one.",
        default="",
        shown_default="web.listen-address",
    ),
    Option(
        "web.token-file",
        "Tokens for changes, one per line; created with one token if missing.",
        FILE,
        token_file,
        f"{STATE}/provisioner.token",
    ),
    Option(
        "web.audit-file",
        "Audit log: a line of JSON for each requested change, and for refused tokens one per "
        "address and minute with a count.",
        FILE,
    ),
    Option("state-dir", "Folder of the records and logs of processes.", FOLDER, state_dir, STATE),
    Option(
        "processes.pass-environment",
        "Variables of the provisioner that instances which are processes get too, separated by "
        "commas: OLLAMA_MODELS,HTTPS_PROXY,CUDA_VISIBLE_DEVICES. HOME, LANG, LD_LIBRARY_PATH, PATH "
        "and XDG_* they always get; others come from `environment` of their pool alone.",
        default="",
        shown_default="none",
    ),
    Option("nodes.ca-file", "CA that signed the nodes' certificates.", FILE),
    Option("nodes.certificate-file", "Client certificate for the nodes.", FILE),
    Option("nodes.key-file", "Key of nodes.certificate-file.", FILE),
    Option(
        "simulation.token-file",
        "Token of the process that hosts simulated instances.",
        FILE,
        lambda: state_dir() / "simulate.token",
        f"{STATE}/simulate.token",
    ),
    Option("log.level", "Minimum log level.", Choice(LEVELS), "info"),
    Option("log.format", "Format of log lines.", Choice(FORMATS), "logfmt"),
)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all of the options."""
    for option in reversed(OPTIONS):
        add = click.option(
            f"--{option.name}",
            option.attribute,
            type=option.type,
            metavar="URL" if option.name.endswith("url") else None,
            default=option.default,
            show_default=option.shown_default or option.default not in (None, ""),
            envvar=option.variable,
            help=option.help,
        )
        command = add(command)
    return command


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Return the settings that the options make.

    Raises:
        click.UsageError: An option is invalid, or one of a set is missing.
        StoreError: Likewise, of the store's options.
    """
    host, port = _address(given["web_listen_address"])
    _check_options(given, host)
    default_store = f"sqlite:{given['state_dir'] / given['fleet']}.db"
    return Settings(
        fleet=given["fleet"],
        store_url=given["store_url"] or default_store,
        host=host,
        port=port,
        advertised_url=given["web_external_url"],
        token_file=given["web_token_file"],
        audit_file=given["web_audit_file"],
        lease_s=int(given["store_lease"]),
        max_connections=given["web_max_connections"],
        credentials=Credentials(
            ca_file=given["store_ca_file"],
            certificate_file=given["store_certificate_file"],
            key_file=given["store_key_file"],
            user=given["store_user"],
            password_file=given["store_password_file"],
        ),
        paths=RuntimePaths(
            state_dir=given["state_dir"] / "processes",
            simulation_token_file=given["simulation_token_file"],
            authority_file=given["nodes_ca_file"],
            certificate_file=given["nodes_certificate_file"],
            key_file=given["nodes_key_file"],
            pass_environment=_variables(given["processes_pass_environment"]),
        ),
    )


def _variables(text: str) -> tuple[str, ...]:
    """Return the names in a list of them."""
    names = tuple(filter(None, map(str.strip, text.split(","))))
    for name in names:
        if not LABEL_NAME.fullmatch(name):
            raise click.UsageError(
                f"--processes.pass-environment must be names of variables, got {name!a}"
            )
    return names


def _check_options(given: Mapping[str, Any], host: str) -> None:
    """Refuse a name or options that do not go together.

    Raises:
        click.UsageError: They are so.
    """
    if fault := name_fault(given["fleet"], MAX_FLEET_NAME_CHARACTERS):
        raise click.UsageError(f"--fleet {fault}")
    if (
        given["store_url"].startswith("etcd")
        and is_everywhere(host)
        and not given["web_external_url"]
    ):
        raise click.UsageError(
            f"--web.listen-address {given['web_listen_address']!r} is no address for clients "
            "of the other provisioners: give --web.external-url too"
        )
    node_files = [given[f"nodes_{name}"] for name in ("ca_file", "certificate_file", "key_file")]
    if any(node_files) and not all(node_files):
        raise click.UsageError("--nodes.ca-file, .certificate-file and .key-file go together")


def _address(text: str) -> tuple[str, int]:
    try:
        host, port = host_port(text, example=LISTEN_ADDRESS)
    except ValueError as error:
        raise click.UsageError(f"--web.listen-address {error}") from error
    return host or "0.0.0.0", port  # noqa: S104 - an empty host means it
