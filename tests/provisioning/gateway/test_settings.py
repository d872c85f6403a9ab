"""The settings file: every problem at once, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioning.gateway.config import load
from provisioning.gateway.errors import SettingsError
from provisioning.gateway.settings import Limit

WRONG = {
    "listen: {adress: 1}": "1: listen.adress: unknown key; did you mean address?",
    "listen: {address: 'a:1'}": "1: listen.address: must be an IP address with a port",
    "listen: {tls_key: k}": "listen.tls_certificate and listen.tls_key must be set together",
    "listen: {ops_address: '127.0.0.1:11430'}": "listen.ops_address must differ",
    "limits: {ollama: {rate: 0}}": "1: limits.ollama.rate: must be greater than 0",
    "\nlimits: {ollama: {bust: 1}}": "2: limits.ollama.bust: unknown key; did you mean burst?",
    "limits: {'a b': {}}": "1: limits.a b: must match",
    "upstreams: {sources: []}": "1: upstreams.sources: must have 1 to 8 entries",
    "upstreams: {sources: ['http://name/x']}": "upstreams.sources[0]: must be a URL with IP",
    "nginx: {workers: many}": "1: nginx.workers: must be `auto` or a number from 1 to 64",
    "nginx: {state_dir: 'a;b'}": "1: nginx.state_dir: must be a path without",
    "nginx: {connections: 64}": "nginx.idle_connections must be at most half of",
    "requests: {wait: 1}": "1: requests.wait: must be a duration",
    "keep_alive: {below: drop}": "1: keep_alive.below: must be 'rewrite' or 'refuse'",
    "keep_alive: {minimum: soon}": "1: keep_alive.minimum: must be a duration",
    "[]": "must be a mapping",
    "a: [": "is not valid YAML",
}


def test_each_wrong_setting_has_a_problem_with_its_place(tmp_path: Path) -> None:
    missed = {}
    for text, words in WRONG.items():
        file = tmp_path / "gateway.yml"
        file.write_text(text)
        with pytest.raises(SettingsError) as caught:
            load(file)
        if words not in str(caught.value):
            missed[text] = str(caught.value)

    assert {} == missed


def test_an_engine_without_limits_of_its_own_has_the_default_ones(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yml"
    file.write_text("limits: {vllm: {rate: 50, concurrency: 64}}")

    limits = load(file)

    assert Limit(rate=50, concurrency=64) == limits.limit("vllm")
    assert Limit(rate=1, burst=2, concurrency=1) == limits.limit("ollama")
