from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from provisioning.demo import report
from provisioning.demo.fleet import Demo
from provisioning.demo.plan import Plan
from provisioning.demo.report import Alert, FleetStatus, Pages
from provisioning.model import RuntimeKind

SEEN = FleetStatus(
    n_by_status={"healthy": 9_980, "unreachable": 20, "loading": 0, "draining": 2},
    n_inventory=10_002,
    tokens_per_second=420_000.4,
)
LOW = Alert("OllamaFleetHealthyInstancesLow", "critical", is_firing=True)
SLOW = Alert("OllamaNodeSlowerThanFleet", "warning", is_firing=True, n=1_200)
FAILING = Alert("OllamaFleetRequestsFailing", "critical", is_firing=False)
ALL_PAGES = Pages(has_graph=True, has_alertmanager=True)


@pytest.fixture
def made(plan: Plan) -> Demo:
    assert plan.demo is not None
    return plan.demo


def test_a_status_is_a_sentence_without_zeros() -> None:
    assert (
        "9,980 of 10,002 instances healthy, 2 draining, 20 unreachable; "
        "they generate up to 420,000 tokens/s; no alert fires"
    ) == str(SEEN)


@pytest.mark.parametrize(
    ("alerts", "expected"),
    [
        ([FAILING], "no alert fires; pending: OllamaFleetRequestsFailing (critical)"),
        (
            [FAILING, LOW, SLOW],
            "alerts firing: OllamaFleetHealthyInstancesLow (critical), "
            "OllamaNodeSlowerThanFleet (warning) × 1,200; "
            "pending: OllamaFleetRequestsFailing (critical)",
        ),
    ],
)
def test_a_status_ends_with_the_alerts(alerts: list[Alert], expected: str) -> None:
    assert str(replace(SEEN, alerts=tuple(alerts))).endswith(f" tokens/s; {expected}")


def test_the_text_has_the_status_and_all_addresses(plan: Plan) -> None:
    text = report.for_people(plan, SEEN, ALL_PAGES)

    assert str(SEEN) in text
    for url in (
        "http://127.0.0.1:11440/fleet\n",
        "http://127.0.0.1:11440/\n",
        "http://127.0.0.1:11440/metrics",
        "http://127.0.0.1:11440/instances?status=unhealthy",
        "http://127.0.0.1:9090/api/v1/query?query=sum+by",
        "http://127.0.0.1:9090/graph?g0.expr=",
        "http://127.0.0.1:9093/api/v2/alerts\n",
        "http://127.0.0.1:9093/\n",
        "http://127.0.0.1:8080/instances\n",
    ):
        assert url in text
    assert "wait about two minutes: OllamaFleetHealthyInstancesLow fires" in text


def with_containers(plan: Plan) -> Plan:
    first, *others = plan.fleet.nodes
    container = first.replace(runtime=RuntimeKind.CONTAINERD, endpoint="https://10.0.0.1:11480")
    return replace(plan, fleet=plan.fleet.replace(nodes=(container, *others)))


def test_what_ctrl_c_leaves_is_printed_before_and_after(plan: Plan) -> None:
    kept, containers = replace(plan, is_kept=True), with_containers(plan)

    assert report.for_people(plan, SEEN, ALL_PAGES).endswith("\nCtrl-C stops everything.")
    assert report.for_people(kept, SEEN, ALL_PAGES).endswith(
        "\nCtrl-C stops everything but the instances, which go on."
    )
    assert report.for_people(containers, SEEN, ALL_PAGES).endswith(
        "\nCtrl-C stops everything but containers of the fleet, which go on."
    )
    assert "" == report.left_behind(plan, 0) == report.left_behind(kept, 0)
    assert "containers of the fleet go on" == report.left_behind(containers, 0)
    assert (
        "instances that go on as processes, as --keep-instances asks: 1,200; "
        "containers of the fleet go on"
    ) == report.left_behind(replace(containers, is_kept=True), 1_200)


def test_a_speed_that_is_not_known_is_no_speed_of_zero(plan: Plan) -> None:
    unknown = replace(SEEN, tokens_per_second=0.0)

    assert "healthy" in str(unknown)
    assert "; their speed is not known yet; " in str(unknown)
    assert json.loads(report.as_json(plan, unknown, {}, []))["tokens_per_second"] is None


def test_the_text_has_no_faults_for_a_fleet_of_ones_own(plan: Plan) -> None:
    own = report.for_people(replace(plan, demo=None), SEEN, ALL_PAGES)

    assert "curl" in report.for_people(plan, SEEN, ALL_PAGES)
    assert "curl" not in own
    assert "provisioner apply '/runs/my demo/fleet.yml'\n" in own


def test_the_fault_commands_are_one_shell_line_each_and_hold_no_token(
    plan: Plan, made: Demo
) -> None:
    command = report.break_command(plan, made)

    assert "http://127.0.0.1:11451/faults" == shlex.split(command)[-1]
    assert "$(cat '/runs/my demo/control.token')" in command
    assert report.heal_command(plan, made).endswith("-X DELETE http://127.0.0.1:11451/faults")


def test_a_stock_ollama_is_frozen_for_longer_than_its_canary_waits_where_there_is_one(
    plan: Plan, made: Demo
) -> None:
    text = report.for_people(plan, SEEN, ALL_PAGES)
    command = report.freeze_command(plan, made)
    fault = json.loads(shlex.split(command)[shlex.split(command).index("-d") + 1])

    assert ("runner_hang", ["ollama-00001"]) == (fault["kind"], fault["ids"])
    assert fault["seconds"] > report.FOUND_WITHIN_S
    assert command in text
    assert "http://127.0.0.1:11440/instances?condition=stalled\n" in text
    assert "Freeze" not in report.for_people(
        replace(plan, demo=replace(made, n_simulated=2)), SEEN, ALL_PAGES
    )


def test_the_json_is_one_line_with_counts_addresses_and_files(plan: Plan) -> None:
    seen = replace(SEEN, alerts=(FAILING, LOW))

    line = report.as_json(plan, seen, {"exporter": 17}, ["http://127.0.0.1:11460"])

    said = json.loads(line)
    assert "\n" not in line
    assert (9_980, 10_002) == (said["healthy"], said["inventory"])
    assert 20 == said["instances"]["unreachable"]
    assert ["OllamaFleetHealthyInstancesLow"] == said["alerts_firing"]
    assert "http://127.0.0.1:11440/fleet" == said["fleet_url"]
    assert "http://127.0.0.1:9090" == said["prometheus_url"]
    assert "http://127.0.0.1:9093" == said["alertmanager_url"]
    assert "http://127.0.0.1:8080" == said["provisioner_url"]
    assert "/runs/my demo/provisioner.token" == said["provisioner_token_file"]
    assert "/runs/my demo/fleet.yml" == said["spec"]
    assert "http://127.0.0.1:11451" == said["control_url"]
    assert ["http://127.0.0.1:11460"] == said["llama_urls"]
    assert {"exporter": 17} == said["pids"]
