"""Settings of the alerts: what counts, what is refused, and what the refusal says."""

from __future__ import annotations

from pathlib import Path

import pytest

from alerts import config
from alerts.config import PROFILES
from alerts.errors import SettingsError
from alerts.model import Severity
from alerts.settings import Settings
from ollama_fleet.levels import Level
from tests.alerts import limits, promtool
from tests.alerts.promtool import Rule


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "alerts.yml"
    path.write_text(text)
    return path


def refusal(path: Path | None = None, *changes: str) -> list[str]:
    """Return `place: message` of every problem."""
    with pytest.raises(SettingsError) as caught:
        config.load(path, changes)
    return [f"{problem.place}: {problem.message}" for problem in caught.value.problems]


def test_without_anything_the_defaults_are_in_force() -> None:
    assert Settings() == config.load()


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        fleet: {size: 10000}
        thresholds:
          healthy_instances: 9900
          request_latency_p99: 200ms
        alerts:
          OllamaFleetQueueSaturated: {enabled: false}
          OllamaFleetLatencyP99High: {for: 10m, severity: warning}
        """,
    )

    settings = config.load(path)

    assert "10000" == settings.fleet.size
    assert Level(9900.0) == settings.thresholds.healthy_instances
    assert 0.2 == settings.thresholds.request_latency_p99
    assert not settings.alerts["OllamaFleetQueueSaturated"].is_enabled
    assert 600.0 == settings.alerts["OllamaFleetLatencyP99High"].for_s
    assert Severity.WARNING is settings.alerts["OllamaFleetLatencyP99High"].severity
    assert Settings().windows == settings.windows


def test_a_file_comes_before_the_profile_whose_other_settings_stay(tmp_path: Path) -> None:
    path = written(tmp_path, "thresholds: {healthy_instances: 9800}\n")

    settings = config.load(path, ["thresholds.versions=9"], profile="article")

    assert Level(9800.0) == settings.thresholds.healthy_instances
    assert Level(400000.0) == settings.thresholds.tokens_per_second
    assert 9 == settings.thresholds.versions
    assert ("article", "small", "stock-ollama") == config.PROFILES


def test_an_option_comes_before_the_file_and_the_later_before_the_earlier(tmp_path: Path) -> None:
    path = written(tmp_path, "thresholds: {healthy_instances: 9900, versions: 7}\n")

    settings = config.load(
        path, ["thresholds.healthy_instances=50", "thresholds.healthy_instances=98%"]
    )

    assert Level(0.98, is_per_instance=True) == settings.thresholds.healthy_instances
    assert 7 == settings.thresholds.versions


def test_every_problem_is_named_with_its_place(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "thresholds:\n  healthy_instances: some\n  version: 3\nwindows:\n  rate: 5\nflet: {}\n",
    )

    assert [
        f"{path}:2: thresholds.healthy_instances: must be a number above 0, a share such as 99%, "
        "or `40 per instance`, got 'some'",
        f"{path}:3: thresholds.version: unknown key; did you mean versions?",
        f"{path}:5: windows.rate: must be a duration such as 7d, 1h30m, 15s or 500ms, got 5",
        f"{path}:6: flet: unknown key; did you mean fleet?",
    ] == refusal(path)


def test_a_problem_of_an_option_is_put_down_to_the_option(tmp_path: Path) -> None:
    path = written(tmp_path, "thresholds:\n  versions: 3\n")

    assert ["--set thresholds.versions: must be greater than 0"] == refusal(
        path, "thresholds.versions=0"
    )


@pytest.mark.parametrize("change", ["", "thresholds.versions", "=3"])
def test_a_change_that_is_none_is_refused(change: str) -> None:
    assert [f"--set {change}: is not KEY=VALUE, such as fleet.size=10000"] == refusal(None, change)


def test_a_change_of_an_alert_that_there_is_not_is_refused_with_the_name_that_was_meant() -> None:
    assert [
        "--set alerts.OllamaFleetLatencyHigh.for: there is no such alert; did you mean "
        "OllamaFleetLatencyP99High?"
    ] == refusal(None, "alerts.OllamaFleetLatencyHigh.for=1m")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- 1\n", "must be a mapping of settings"),
        ("a: [\n", "is not valid YAML"),
        ("fleet: {size: 1}\nfleet: {size: 2}\n", ":2: sets fleet again"),
        ("a: !!python/object:os.system {}\n", "is not valid YAML"),
        ("[" * 500 + "]" * 500, "is nested too deeply"),
        pytest.param(
            f"{'#' * 1_000_000}\nthresholds: {{versions: 7}}\n",
            "is larger than 1,000,000 bytes",
            id="too large",
        ),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    (problem,) = refusal(written(tmp_path, text))

    assert problem.startswith(str(tmp_path / "alerts.yml"))
    assert fault in problem


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")

    assert [f"{tmp_path / 'no'}: does not exist"] == refusal(tmp_path / "no")
    assert "is not UTF-8" in refusal(binary)[0]


def test_settings_that_contradict_each_other_are_refused_together() -> None:
    problems = refusal(
        None,
        "prometheus.scrape_interval=80s",
        "prometheus.scrape_timeout=90s",
        "windows.canary=4m",
        "thresholds.rotation_critical_age=7d",
        "thresholds.inventory_lost=10%",
    )

    parts = (
        "prometheus.scrape_timeout (1m30s) must not be longer than prometheus.scrape_interval",
        "prometheus.scrape_interval (1m20s) must not be longer than 1m15s",
        "windows.rate (5m) must be at least 5m20s, which is 4 scrape intervals",
        "windows.canary (4m) must be at least 5m20s, which is 4 scrape intervals",
        "thresholds.rotation_critical_age must be longer than thresholds.rotation_age",
        "thresholds.inventory_lost must be larger than thresholds.inventory_shrunk",
    )
    assert [True] * 6 == [part in each for part, each in zip(parts, problems, strict=True)]


def test_one_scrape_job_for_exporters_and_provisioners_is_refused() -> None:
    (problem,) = refusal(None, "prometheus.provisioner_job=ollama-fleet-exporter")

    assert "prometheus.gateway_job must differ" in problem


@pytest.mark.parametrize(
    "label", ["status", "phase", "shard", "instance", "alertname", "severity", "nan"]
)
def test_a_cluster_label_that_our_series_use_is_refused(label: str) -> None:
    (problem,) = refusal(None, f"prometheus.cluster_label={label}")

    assert f"cannot be {label}: our series use this label, or PromQL this word" in problem


@pytest.mark.parametrize(
    "change",
    [
        "prometheus.job='a{{b'",
        "prometheus.provisioner_job='a{{b'",
        "links.grafana='http://x/{{'",
        "links.runbooks='http://x/{{'",
    ],
)
def test_the_beginning_of_a_template_is_refused(change: str) -> None:
    (problem,) = refusal(None, change)

    assert "must not hold {{, which begins a template" in problem


@pytest.mark.parametrize("change", ["thresholds.queued_per_instance=.inf", "fleet.size='١٢٣'"])
def test_what_is_no_plain_number_is_refused(change: str) -> None:
    assert 1 == len(refusal(None, change))


def test_no_more_than_all_instances_can_be_healthy() -> None:
    (problem,) = refusal(None, "thresholds.healthy_instances=110%")

    assert "must be at most 100%, got '110%'" in problem


@pytest.mark.parametrize("name", ["availability", "requests"])
def test_an_objective_whose_page_could_never_come_is_refused(name: str) -> None:
    (problem,) = refusal(None, f"slo.{name}=90%")

    assert f"slo.{name} is so low that no alert can ever fire" in problem
    config.load(changes=[f"slo.{name}=95%"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("labels: {severity: high}", ":1: labels.severity: cannot be severity: our series use"),
        ("labels:\n  node: n1", ":2: labels.node: cannot be node: our series use this label"),
        ("labels: {long_window: x}", ":1: labels.long_window: the rules set this label themselves"),
        ("labels: {cluster: eu}", "labels must not hold cluster, which distinguishes fleets"),
        ("labels: {my-team: llm}", ":1: labels.my-team: must match"),
        ("labels: {__team: llm}", ":1: labels.__team: must match"),
        ("labels: {team: '{{ $value }}'}", "must not hold {{, which begins a template"),
        ("labels: {team: ''}", "must not be empty"),
        (
            "annotations: {summary: x}",
            ":1: annotations.summary: cannot be summary: our alerts have",
        ),
        ("annotations: {handbook: '{{ x'}", "must not hold {{, which begins a template"),
    ],
)
def test_labels_and_annotations_that_cannot_be_added_to_all_alerts_are_refused(
    tmp_path: Path, text: str, fault: str
) -> None:
    (problem,) = refusal(written(tmp_path, text))

    assert fault in problem


def rules_of(profile: str) -> tuple[Rule, ...]:
    return promtool.read_rules(promtool.RULES / profile)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_alerts_of_a_profile_begin_where_its_settings_say(
    profile: str, promtool_binary: Path, tmp_path: Path
) -> None:
    file = limits.limits_of(profile)
    rules = [rule for rule in rules_of(profile) if rule.name not in file.fed]
    seen = promtool.foundations(file.mentioned, rules)

    written = promtool.write(tmp_path, [one for one in rules if one.name in seen], file.document)
    result = promtool.run(promtool_binary, written)

    assert 0 == result.returncode, result.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_every_rule_that_differs_has_a_test_near_its_limit(profile: str) -> None:
    differing = {rule.name for rule, _ in limits.differing(rules_of(profile))}
    tested = {name for file in limits.tests_of(profile) for name in file.mentioned}

    assert not differing - tested
    assert not {each.name for each in limits.LIMITS[profile]} - differing
