from __future__ import annotations

import sys
from pathlib import Path

import pytest

from provisioning.demo import rules
from provisioning.demo.errors import BuildError


def _script(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import os, pathlib, sys, time; {code}")


def test_the_rules_are_built_for_the_intervals_and_the_job_of_our_prometheus() -> None:
    command = rules.alerts_command(Path("/run/alerts"), interval_s=7, options=("--set=a=b",))

    assert ("alerts", "build", "--output-dir=/run/alerts") == command[4:7]
    for setting in (
        "prometheus.job=ollama-fleet-exporter",
        "prometheus.scrape_interval=7s",
        "prometheus.scrape_timeout=7s",
        "prometheus.evaluation_interval=7s",
    ):
        assert f"--set={setting}" in command
    assert "--set=a=b" == command[-1]


def test_a_build_is_over_when_it_returns_and_its_output_is_nobody_s_news(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rules.build_alerts(_script(f"print('built'); pathlib.Path({str(tmp_path / 'made')!r}).touch()"))

    assert (tmp_path / "made").exists()
    assert ("", "") == capfd.readouterr()


def test_a_build_that_fails_is_told_with_the_command_and_what_it_said() -> None:
    with pytest.raises(BuildError) as caught:
        rules.build_alerts(_script("sys.exit('slo.periode: unknown key')"))

    assert f"`{sys.executable} -c " in str(caught.value)
    assert "exit status 1; it said:\nslo.periode: unknown key" in str(caught.value)


def test_a_build_that_takes_too_long_is_ended_and_told() -> None:
    with pytest.raises(BuildError, match=r"took longer than 0\.2 s$"):
        rules.build_alerts(_script("time.sleep(600)"), timeout_s=0.2)


def test_options_of_the_shell_do_not_reach_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_FLEET_ALERTS_BUILD_SET", "slo.period=1d")

    rules.build_alerts(_script("sys.exit('OLLAMA_FLEET_ALERTS_BUILD_SET' in os.environ)"))
