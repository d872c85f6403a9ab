from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from provisioning.demo import fleet, programs
from provisioning.demo.errors import DemoError
from provisioning.demo.plan import Plan, Supplies, gather, make_demo, make_plan, pollable
from provisioning.demo.ports import Claims, Ports
from provisioning.demo.rundir import RunDir
from provisioning.gateway.nginx import Nginx
from tests.provisioning.demo.settings import make_settings

NGINX = Nginx(Path("/usr/sbin/nginx"), (), (), ())
SUPPLIES = Supplies(
    own_fleet=None,
    programs_dir=Path("/cache/programs"),
    prometheus=Path("/usr/bin/prometheus"),
    alertmanager=Path("/usr/bin/prometheus-alertmanager"),
    nginx=NGINX,
    model_file=None,
)


def test_instances_that_no_exporter_could_poll_are_refused(plan: Plan) -> None:
    nodes = tuple(node.replace(endpoint="") for node in plan.fleet.nodes)

    with pytest.raises(DemoError, match=r"node node-001 and 99 more: .*simulate --host-containers"):
        pollable(plan.fleet.replace(nodes=nodes))

    assert plan.fleet == pollable(plan.fleet)


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_plan_knows_whether_instances_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_kept: bool
) -> None:
    monkeypatch.setattr(programs, "locate", lambda name, *_, **__: Path("/usr/bin") / name)
    monkeypatch.setattr(programs, "locate_gateway", lambda *_, **__: NGINX)
    spec = tmp_path / "lab.yml"
    node = {"name": "here", "runtime": "process", "cpus": 2, "memory": "4GiB"}
    pool = {"name": "web", "model": "toy", "engine": "ollama", "count": 1, "memory": "1GiB"}
    spec.write_text(json.dumps({"name": "lab", "nodes": [node], "pools": [pool]}))
    settings = dataclasses.replace(make_settings(tmp_path), spec=spec, is_kept=is_kept)

    supplies = gather(settings, say=lambda _: None)
    made = make_plan(settings, supplies, RunDir(tmp_path), Ports(say=lambda _: None))

    assert is_kept is made.is_kept


def test_two_demonstrations_never_give_an_instance_the_same_port(tmp_path: Path) -> None:
    taken = []
    with Claims() as ours, Claims() as theirs:
        for claims in (ours, theirs):
            ports = Ports(say=lambda _: None, claims=claims)
            made = make_demo(make_settings(tmp_path), SUPPLIES, ports)
            taken += [made.control_port, *made.container_ports, *made.llama_ports]

    assert fleet.N_REAL_PORTS == len(made.llama_ports)
    assert sorted(set(taken)) == sorted(taken)
