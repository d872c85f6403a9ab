"""API keys, daily limits and usage: whose request it is, and whether it may pass."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from provisioning.gateway.cli import gateway as command
from provisioning.gateway.config import load
from provisioning.gateway.errors import SettingsError
from tests.provisioning.gateway.answers import END, Instance, lines
from tests.provisioning.gateway.nginx import Gateway, Listed, ask, running_gateway, wait_until
from tests.provisioning.gateway.series import wait_total

NO_LIMIT = {"default": {"rate": 10_000, "burst": 10_000, "concurrency": 200}}
DAY_S = 86_400
ANSWER = lines(
    '{"response":"","done":true,"total_duration":9,"prompt_eval_count":2,"eval_count":3}'
)


def run(*words: str) -> Result:
    """Run `ollama-fleet gateway …`."""
    return CliRunner().invoke(command, words)


def new_key(file: Path, developer: str, *limits: str) -> str:
    """Return a new key."""
    result = run("keys", "add", "--file", str(file), developer, *limits)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


@contextmanager
def gateway_of(folder: Path, file: Path, **keys: Any) -> Iterator[Gateway]:
    """Run a gateway in front of an instance, with keys; not around midnight, when usage ends."""
    if (left_s := DAY_S - time.time() % DAY_S) < 120:
        time.sleep(left_s + 1)
    instance = Instance((ANSWER, END))
    listed = [Listed(instance.port, loaded=("m:1",))]
    given = {"file": str(file), **keys}
    (folder / "state" / "upstreams.json").unlink(missing_ok=True)  # of an instance that is gone
    with running_gateway(folder, listed, limits=NO_LIMIT, keys=given) as gateway:
        yield gateway
    instance.close()


def generate(
    gateway: Gateway, key: str | None, **headers: str
) -> tuple[int, Mapping[str, str], bytes]:
    """Return the answer to a prompt that is sent with a key."""
    given = headers if key is None else {"Authorization": f"Bearer {key}"}
    return gateway.ask("/api/generate", {"model": "m:1", "prompt": "hi"}, given)


def used(gateway: Gateway) -> dict[str, dict[str, int]]:
    """Return what developers used today."""
    document = json.loads(ask(gateway.ops_url + "/usage")[2])
    return dict(document["developers"])


def wait_used(gateway: Gateway, developer: str, requests: int) -> None:
    """Return when a developer's requests are counted."""
    wait_until(
        lambda: used(gateway).get(developer) == {"requests": requests, "tokens": 5 * requests}
    )


def test_only_requests_with_a_key_pass(tmp_path: Path) -> None:
    """Nothing that is no key passes, in whatever header; the key does not reach the instance."""
    file = tmp_path / "keys.json"
    key = new_key(file, "Ann Müller")
    wrong: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": key},
        {"Authorization": f"Basic {key}"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {key}x"},
        {"Authorization": f"Bearer {key[:-1]}"},
        {"Authorization": f"Bearer {key} {key}"},
        {"Authorization": f"Bearer {'x' * 5000}"},
        {"Authorization": f"Bearer {json.loads(file.read_text())['keys'][0]['sha256']}"},
    )

    with gateway_of(tmp_path, file) as gateway:
        refused = [generate(gateway, None, **headers) for headers in wrong]
        status, _, body = generate(gateway, key)
        wait_total(gateway, 5, "developer_tokens_total")
        found = wait_total(gateway, len(wrong), "rejected_total", reason="unauthorised")

    assert [401] * len(wrong) == [status for status, _, _ in refused]
    assert {"Bearer"} == {headers["WWW-Authenticate"] for _, headers, _ in refused}
    assert (200, ANSWER) == (status, body)
    assert {"Ann Müller": 5.0} == found.by("developer", "developer_tokens_total")
    assert len(wrong) == found.total("rejected_total")


def restart_workers(gateway: Gateway) -> None:
    """Kill the workers, and return when others have taken their places."""
    killed = {*gateway.workers()}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(gateway.workers()) == len(killed) and not killed & {*gateway.workers()})
    gateway.wait_ready()


def test_the_file_is_read_again_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    """The last good keys stay while it is broken or missing."""
    file = tmp_path / "keys.json"
    old = new_key(file, "ann")
    good = file.read_text()

    with gateway_of(tmp_path, file) as gateway:
        for bad in (
            "",
            "{",
            "[]",
            '{"format":2,"keys":[]}',
            '{"format":1,"keys":[{"sha256":"x"}]}',
        ):
            file.write_text(bad)
            n_refused = gateway.log.read_text().count("keys refused")
            wait_until(lambda n=n_refused: gateway.log.read_text().count("keys refused") >= n + 2)
            assert 200 == generate(gateway, old)[0]
        restart_workers(gateway)
        assert {200} == {generate(gateway, old)[0] for _ in range(20)}
        file.unlink()
        wait_until(lambda: "No such file" in gateway.log.read_text())
        assert 200 == generate(gateway, old)[0]
        file.write_text(good)
        new = new_key(file, "ben")
        wait_until(lambda: are_all(gateway, new, 200))
        assert run("keys", "remove", "--file", str(file), "ann").exit_code == 0
        wait_until(lambda: are_all(gateway, old, 401))
        assert 200 == generate(gateway, new)[0]


def are_all(gateway: Gateway, key: str, status: int) -> bool:
    """Say whether every worker answers so: the kernel chooses one for each connection."""
    return all(generate(gateway, key)[0] == status for _ in range(30))


def test_without_a_readable_file_nobody_passes(tmp_path: Path) -> None:
    with gateway_of(tmp_path, tmp_path / "missing.json") as gateway:
        assert 503 == generate(gateway, "x")[0]


def test_who_used_up_a_limit_waits_until_midnight(tmp_path: Path) -> None:
    """Limits of tokens and requests, of a key or of the settings; others go on."""
    file = tmp_path / "keys.json"
    by_tokens = new_key(file, "ann", "--tokens-per-day", "10")
    by_requests = new_key(file, "ben", "--requests-per-day", "1")
    by_settings = new_key(file, "cem")

    with gateway_of(tmp_path, file, requests_per_day=3) as gateway:
        n_passed = {}
        for name, key in (("ann", by_tokens), ("ben", by_requests), ("cem", by_settings)):
            n_passed[name] = 0
            while (answer := generate(gateway, key))[0] == 200:
                n_passed[name] += 1
                wait_used(gateway, name, n_passed[name])
                before_s = time.time()
            assert 429 == answer[0]
            midnight_s = before_s - before_s % DAY_S + DAY_S
            left_s = midnight_s - int(answer[1]["Retry-After"])
            assert before_s - 2 < left_s < time.time() + 2
        found = wait_total(gateway, 3, "rejected_total", reason="over_limit")

    assert {"ann": 2, "ben": 1, "cem": 3} == n_passed
    assert 3 == found.total("rejected_total")


def test_usage_survives_reload_and_restart_but_not_midnight(tmp_path: Path) -> None:
    file, saved = tmp_path / "keys.json", tmp_path / "state" / "usage.json"
    key = new_key(file, "ann", "--requests-per-day", "2")

    with gateway_of(tmp_path, file) as gateway:
        old = set(gateway.workers())
        assert 200 == generate(gateway, key)[0]
        wait_used(gateway, "ann", 1)
        gateway.reload()
        wait_until(lambda: not old & {*gateway.workers()})
        assert {"ann": {"requests": 1, "tokens": 5}} == used(gateway)
        today = datetime.now(UTC).date()
        wait_until(lambda: saved.exists() and '"tokens":5' in saved.read_text())
    with gateway_of(tmp_path, file) as gateway:
        assert {"ann": {"requests": 1, "tokens": 5}} == used(gateway)
        assert 200 == generate(gateway, key)[0]
        wait_used(gateway, "ann", 2)
        assert 429 == generate(gateway, key)[0]
    yesterday = str(today - timedelta(days=1))
    document = {"format": 1, "day": yesterday, "developers": {"ann": {"requests": 2, "tokens": 9}}}
    for body in (json.dumps(document), "no JSON", '{"format":1,"day":7,"developers":[1]}'):
        saved.write_text(body)
        with gateway_of(tmp_path, file) as gateway:
            assert {} == used(gateway)
            assert 200 == generate(gateway, key)[0]


def test_keys_are_random_kept_as_hashes_and_only_for_the_owner(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"

    keys = [new_key(file, "ann") for _ in range(3)]

    text = file.read_text()
    assert 3 == len(set(keys))
    assert all(len(key) > 40 and key not in text for key in keys)
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)


def test_keys_are_listed_and_removed_by_developer_or_id(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    for developer in ("ann", "ann", "ben"):
        new_key(file, developer, "--tokens-per-day", "1000000")
    listed = json.loads(run("keys", "list", "--file", str(file), "--json").stdout)

    by_id = run("keys", "remove", "--file", str(file), listed[0]["id"])
    rest = run("keys", "list", "--file", str(file))
    by_name = run("keys", "remove", "--file", str(file), "ben")
    again = run("keys", "remove", "--file", str(file), "ben")

    assert ["ann", "ann", "ben"] == [one["developer"] for one in listed]
    assert not any("sha256" in one for one in listed)
    assert "removed 1 key" in by_id.stderr
    assert by_name.exit_code == 0
    assert 1 == rest.stdout.count("ann")
    assert "1,000,000" in rest.stdout
    assert again.exit_code == 1
    assert "no key belongs to 'ben'" in again.stderr


@pytest.mark.parametrize("developer", ["", " ", "a\nb", "x" * 201])
def test_names_that_cannot_be_used_are_refused(tmp_path: Path, developer: str) -> None:
    file = tmp_path / "keys.json"

    result = run("keys", "add", "--file", str(file), developer)

    assert result.exit_code == 1
    assert "developer's name" in result.stderr
    assert not file.exists()


def test_a_broken_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("{}}")

    result = run("keys", "add", "--file", str(file), "ann")

    assert result.exit_code == 1
    assert f"cannot use the keys file {file}" in result.stderr
    assert "{}}" == file.read_text()


def test_usage_is_shown_by_tokens(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key_by_name = {name: new_key(file, name) for name in ("ann", "ben")}

    with gateway_of(tmp_path, file) as gateway:
        for name, n in (("ann", 1), ("ben", 2)):
            for _ in range(n):
                generate(gateway, key_by_name[name])
            wait_used(gateway, name, n)
        shown = run("usage", "--gateway.url", gateway.ops_url)
        wrong = run("usage", "--gateway.url", gateway.url)

    rows = [line.split() for line in shown.stdout.splitlines()]
    assert [["ben", "2", "10"], ["ann", "1", "5"]] == rows[2:]
    assert wrong.exit_code == 1
    assert "ops_address" in wrong.stderr


def test_other_machines_need_keys_unless_the_settings_say_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yml"
    listen = "listen: {address: '0.0.0.0:11430'}\n"
    file.write_text(listen)

    with pytest.raises(SettingsError, match=r"keys\.allow_anonymous"):
        load(file)

    for keys in ("keys: {file: /etc/keys.json}", "keys: {allow_anonymous: true}"):
        file.write_text(listen + keys)
        assert "0.0.0.0:11430" == load(file).listen.address
