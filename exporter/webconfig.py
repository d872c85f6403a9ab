"""Read a web configuration file, in the format of Prometheus' exporter-toolkit.

No message quotes a value: it may be a key, a hash or a misplaced password.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml

from exporter.errors import InputError
from ollama_fleet.problems import Problem
from ollama_fleet.suggestions import did_you_mean
from ollama_fleet.yaml_lines import InvalidDocumentError, compose

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path


VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}

VERIFY_MODES = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
UNVERIFIED = ("RequireAnyClientCert", "RequireClientCert")

HEADERS: Mapping[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}
"""The headers that may be set, with the values that each takes; () for any."""

BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")

KEYS = ("tls_server_config", "http_server_config", "basic_auth_users")
TLS_KEYS = (
    *("cert_file", "key_file", "client_auth_type", "client_ca_file"),
    *("min_version", "max_version", "prefer_server_cipher_suites"),
)
UNSUPPORTED = {"rate_limit": "limit requests in a proxy in front of the exporter"}
UNSUPPORTED_TLS = {
    "cert": "put it into a file and name that as cert_file",
    "key": "put it into a file and name that as key_file",
    "client_ca": "put it into a file and name that as client_ca_file",
    "client_allowed_sans": "give the clients that may come an authority of their own",
    "cipher_suites": "OpenSSL's choice is used; min_version TLS13 narrows it",
    "curve_preferences": "OpenSSL's choice is used",
}
"""What other exporters take and this one does not, with what helps."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How to serve https."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None
    """None where certificates of clients are not verified."""
    verify_mode: ssl.VerifyMode
    min_version: ssl.TLSVersion
    max_version: ssl.TLSVersion


@dataclass(frozen=True, slots=True)
class WebConfig:
    """How to protect the web server."""

    tls: Tls | None
    """None for plain http."""
    users: Mapping[str, bytes] = field(repr=False)
    """bcrypt hash by user name; empty where no password is asked for."""
    headers: Mapping[str, str]
    """What to add to every answer."""
    notes: tuple[str, ...]
    """What the file asks for that has no effect here."""


def parse(text: bytes, path: Path) -> WebConfig:
    """Return what a file says; an empty one guards nothing.

    Raises:
        InputError: All that is wrong with it.
    """
    problems: list[Problem] = []
    top = _Section(_compose(text, path), f"{path}: ", problems)
    top.allow(KEYS, UNSUPPORTED)
    tls, http = top.section("tls_server_config"), top.section("http_server_config")
    config = WebConfig(
        tls=_tls(tls, path.parent) if tls.keys else None,
        users=_users(top.section("basic_auth_users")),
        headers=_headers(http),
        notes=tuple(_notes(tls, http)),
    )
    if problems:
        raise InputError(str(path), tuple(dict.fromkeys(problems)))
    return config


def _compose(text: bytes, path: Path) -> yaml.Node | None:
    try:
        return compose(text, str(path))
    except InvalidDocumentError as error:
        problem = Problem(error.place, error.fault)
    # The parser's own words quote the line, and so does the error that a traceback would show.
    raise InputError(str(path), [problem])


class _Section:
    """One mapping of the file. Gives out values, and collects what is wrong with them."""

    def __init__(self, node: yaml.Node | None, place: str, problems: list[Problem]) -> None:
        self._place = place
        self._problems = problems
        self._node_by_key: dict[str, yaml.Node] = {}
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self._add(key, value)
        elif not _is_null(node):
            self._problems.append(Problem(place.rstrip(": ."), "must be a mapping"))

    def _add(self, key: yaml.Node, value: yaml.Node) -> None:
        if not isinstance(key, yaml.ScalarNode):
            self.refuse("?", "has a key that is not a text")
        elif key.value in self._node_by_key:
            self.refuse(key.value, "is set twice")
        else:
            self._node_by_key[key.value] = value

    @property
    def keys(self) -> Collection[str]:
        """Return what is set, in the file's order."""
        return self._node_by_key.keys()

    def allow(self, known: Collection[str], unsupported: Mapping[str, str]) -> None:
        """Refuse all other keys than the known ones."""
        for key in self.keys:
            if key in unsupported:
                self.refuse(key, f"is not supported here: {unsupported[key]}")
            elif key not in known:
                self.refuse(key, f"unknown key{did_you_mean(key, known)}")

    def refuse(self, key: str, message: str) -> None:
        """Add a problem with a key."""
        self._problems.append(Problem(self._place + key, message))

    def section(self, key: str) -> _Section:
        """Return the mapping under a key; an empty one where there is none."""
        return _Section(self._node_by_key.get(key), f"{self._place}{key}.", self._problems)

    def text(self, key: str) -> str:
        """Return a value as it is written; empty where there is none."""
        node = self._node_by_key.get(key)
        if isinstance(node, yaml.ScalarNode) and not _is_null(node):
            return str(node.value)
        if not _is_null(node):
            self.refuse(key, "must be a text")
        return ""

    def choice(self, key: str, names: Collection[str], default: str) -> str:
        """Return a value that is one of the names; the default where there is none."""
        name = self.text(key) or default
        if name in names:
            return name
        self.refuse(key, f"must be one of {', '.join(names)}")
        return default

    def switch(self, key: str) -> bool:
        """Return a truth as YAML writes it; false where there is none."""
        text = self.text(key).lower()
        if text and text not in yaml.SafeLoader.bool_values:
            self.refuse(key, "must be true or false")
        return yaml.SafeLoader.bool_values.get(text, False)


def _is_null(node: yaml.Node | None) -> bool:
    return node is None or node.tag == "tag:yaml.org,2002:null"


def _tls(section: _Section, folder: Path) -> Tls:
    section.allow(TLS_KEYS, UNSUPPORTED_TLS)
    for key in ("cert_file", "key_file"):
        if not section.text(key):
            section.refuse(key, "required to serve https")
    verify_mode, client_ca_file = _client_authentication(section)
    oldest = section.choice("min_version", VERSIONS, "TLS12")
    newest = section.choice("max_version", VERSIONS, "TLS13")
    if oldest > newest:
        section.refuse("max_version", "must not be older than min_version")
    return Tls(
        cert_file=folder / section.text("cert_file"),
        key_file=folder / section.text("key_file"),
        client_ca_file=folder / client_ca_file if verify_mode else None,
        verify_mode=verify_mode,
        min_version=VERSIONS[oldest],
        max_version=VERSIONS[newest],
    )


def _client_authentication(section: _Section) -> tuple[ssl.VerifyMode, str]:
    """Return how clients' certificates are verified, and the file with the authorities."""
    kind, authorities = section.text("client_auth_type"), section.text("client_ca_file")
    if kind in UNVERIFIED:
        helps = "Python cannot require a certificate unverified; use RequireAndVerifyClientCert"
        section.refuse("client_auth_type", f"is not supported here: {helps}")
        return ssl.CERT_NONE, authorities
    kind = section.choice("client_auth_type", VERIFY_MODES, "NoClientCert")
    verify_mode = VERIFY_MODES[kind]
    if verify_mode and not authorities:
        section.refuse("client_ca_file", f"required with client_auth_type {kind}")
    if authorities and kind == "NoClientCert":
        section.refuse("client_ca_file", "has no effect without a client_auth_type that verifies")
    return verify_mode, authorities


def _headers(http: _Section) -> dict[str, str]:
    http.allow(("http2", "headers"), {})
    section = http.section("headers")
    section.allow(HEADERS, {})
    headers = {}
    for name, values in HEADERS.items():
        text = section.text(name)
        if text and not text.isprintable():
            section.refuse(name, "must be one line")
        if text and values:
            section.choice(name, values, "")
        if text:
            headers[name] = text
    return headers


def _users(section: _Section) -> dict[str, bytes]:
    for user in section.keys:
        if not BCRYPT.fullmatch(section.text(user)):
            section.refuse(user, "is not a bcrypt hash, such as htpasswd -nBC 10 makes")
    return {user: section.text(user).encode() for user in section.keys}


def _notes(tls: _Section, http: _Section) -> Iterator[str]:
    if http.switch("http2"):
        yield "http2: clients are answered in HTTP/1.1"
    if "prefer_server_cipher_suites" in tls.keys:
        yield "tls_server_config.prefer_server_cipher_suites: has no effect"
    if tls.text("client_auth_type") == "RequestClientCert":
        yield "tls_server_config.client_auth_type: certificates of clients are not looked at"
