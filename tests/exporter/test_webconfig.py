from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from exporter.errors import InputError
from exporter.webconfig import WebConfig, parse

PATH = Path("/etc/exporter/web.yml")
HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
TLS = "tls_server_config: {cert_file: c.pem, key_file: k.pem"


def parsed(text: str) -> WebConfig:
    return parse(text.encode(), PATH)


def problems(text: str | bytes) -> list[str]:
    """Return what is wrong with a file, places without the file's name."""
    with pytest.raises(InputError) as caught:
        parse(text.encode() if isinstance(text, str) else text, PATH)
    assert str(PATH) == caught.value.source
    assert all(problem.place.startswith(str(PATH)) for problem in caught.value.problems)
    return [str(problem).removeprefix(f"{PATH}: ") for problem in caught.value.problems]


def test_a_whole_file_is_taken() -> None:
    config = parsed(f"""
tls_server_config:
  cert_file: tls/server.crt
  key_file: /run/secrets/server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: clients.crt
  min_version: TLS13
  max_version: TLS13
http_server_config:
  http2: false
  headers:
    X-Frame-Options: deny
    X-XSS-Protection: 0
    Content-Security-Policy:
basic_auth_users:
  prometheus: {HASH}
  0815: "{HASH}"
""")

    assert config.tls is not None
    assert Path("/etc/exporter/tls/server.crt") == config.tls.cert_file
    assert Path("/run/secrets/server.key") == config.tls.key_file
    assert Path("/etc/exporter/clients.crt") == config.tls.client_ca_file
    assert ssl.CERT_REQUIRED == config.tls.verify_mode
    assert ssl.TLSVersion.TLSv1_3 == config.tls.min_version == config.tls.max_version
    assert {"X-Frame-Options": "deny", "X-XSS-Protection": "0"} == config.headers
    assert {"prometheus": HASH.encode(), "0815": HASH.encode()} == config.users
    assert () == config.notes


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NoClientCert", ssl.CERT_NONE),
        ("VerifyClientCertIfGiven", ssl.CERT_OPTIONAL),
        ("RequireAndVerifyClientCert", ssl.CERT_REQUIRED),
    ],
)
def test_client_auth_types_are_the_toolkits(kind: str, expected: ssl.VerifyMode) -> None:
    authorities = "" if kind == "NoClientCert" else ", client_ca_file: a.pem"

    tls = parsed(f"{TLS}, client_auth_type: {kind}{authorities}}}").tls

    assert tls is not None
    assert expected == tls.verify_mode


def test_what_has_no_effect_is_said() -> None:
    config = parsed(
        f"{TLS}, client_auth_type: RequestClientCert, client_ca_file: a.pem, "
        "prefer_server_cipher_suites: true}\nhttp_server_config: {http2: on}"
    )

    assert config.tls is not None
    assert (ssl.CERT_NONE, None) == (config.tls.verify_mode, config.tls.client_ca_file)
    assert [
        "http2",
        "tls_server_config.prefer_server_cipher_suites",
        "tls_server_config.client_auth_type",
    ] == [note.split(":")[0] for note in config.notes]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate_limit: {interval: 1s}", "rate_limit: is not supported here: limit requests in"),
        ("tls_server_cfg: {}", "tls_server_cfg: unknown key; did you mean tls_server_config?"),
        ("alice: x", "alice: unknown key"),
        (
            "http_server_config: {http3: true}",
            "http_server_config.http3: unknown key; did you",
        ),
        ("http_server_config: {http2: perhaps}", "http_server_config.http2: must be true or false"),
        (
            "http_server_config: {headers: {X-Frame-Option: deny}}",
            "http_server_config.headers.X-Frame-Option: unknown key; did you mean X-Frame-Options?",
        ),
        (
            "http_server_config: {headers: {X-Frame-Options: DENY}}",
            "http_server_config.headers.X-Frame-Options: must be one of deny, sameorigin",
        ),
        (
            'http_server_config: {headers: {X-XSS-Protection: "0\\r\\nSet-Cookie: a"}}',
            "http_server_config.headers.X-XSS-Protection: must be one line",
        ),
        ("tls_server_config: {certfile: a}", "tls_server_config.certfile: unknown key; did you"),
        (f"{TLS}, min_version: TLS11}}", "tls_server_config.min_version: must be one of TLS12, TL"),
        (
            f"{TLS}, min_version: TLS13, max_version: TLS12}}",
            "tls_server_config.max_version: must not be older than min_version",
        ),
        (
            f"{TLS}, client_auth_type: Sometimes}}",
            "tls_server_config.client_auth_type: must be one of NoClientCert, RequestClientCert, V",
        ),
        (
            f"{TLS}, client_auth_type: RequireAnyClientCert}}",
            "tls_server_config.client_auth_type: is not supported here: Python cannot require",
        ),
        (
            f"{TLS}, client_auth_type: VerifyClientCertIfGiven}}",
            "tls_server_config.client_ca_file: required with client_auth_type VerifyClientCertIf",
        ),
        (
            f"{TLS}, client_ca_file: a.pem}}",
            "tls_server_config.client_ca_file: has no effect without a client_auth_type that",
        ),
        (f"{TLS}, cert_file: b.pem}}", "tls_server_config.cert_file: is set twice"),
        ("basic_auth_users: {a: x, a: y}", "basic_auth_users.a: is set twice"),
        ("basic_auth_users: {? [a] : b}", "basic_auth_users.?: has a key that is not a text"),
        ("basic_auth_users: [a, b]", "basic_auth_users: must be a mapping"),
        ("basic_auth_users: {a: [b]}", "basic_auth_users.a: must be a text"),
        ("[a]", "must be a mapping"),
        ("{}\n---\n{}", f"{PATH}:2: is not valid YAML"),
        (b"a: \xff", f"{PATH}:1: is not UTF-8"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(text: str | bytes, expected: str) -> None:
    assert problems(text)[0].startswith(expected)


def test_all_that_is_wrong_is_reported_at_once_and_each_thing_once() -> None:
    text = """
tls_server_config: {cert_file: c.pem, key_file: [k], colour: red}
basic_auth_users: {a: b}
rate_limit: {}
"""

    found = problems(text)

    assert len(found) == len(set(found))
    assert {
        "rate_limit",
        "tls_server_config.colour",
        "tls_server_config.key_file",
        "basic_auth_users.a",
    } == {problem.split(": ")[0] for problem in found}


@pytest.mark.parametrize("prefix", ["$2a$", "$2b$", "$2x$", "$2y$"])
def test_bcrypt_hashes_of_every_kind_are_taken(prefix: str) -> None:
    text = prefix + HASH[4:]

    assert {"a": text.encode()} == parsed(f"basic_auth_users: {{a: {text}}}").users


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        HASH[:-1],
        HASH + "x",
        HASH.replace("$10$", "$03$"),
        HASH.replace("$10$", "$32$"),
        HASH.replace("$2y$", "$1$"),
        "$2y$10$" + "a" * 53,
    ],
)
def test_anything_else_than_a_hash_is_refused_and_not_repeated(text: str) -> None:
    (problem,) = problems(f"basic_auth_users: {{alice: '{text}'}}")

    assert problem.startswith("basic_auth_users.alice: is not a bcrypt hash")
    assert not text or text not in problem


@pytest.mark.parametrize(
    "text",
    [
        "basic_auth_users:\n  a: 'SECRET\n b: c",
        "basic_auth_users:\n  a: *SECRET",
        "basic_auth_users:\n  a: !SECRET!x y",
        "tls_server_config: {key: SECRET",
        "basic_auth_users: SECRET",
        "SECRET",
    ],
)
def test_a_file_that_cannot_be_read_does_not_give_its_secrets_away(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parsed(text.replace("SECRET", "hunter2"))

    assert "hunter2" not in str(caught.value)
    assert caught.value.__context__ is None
