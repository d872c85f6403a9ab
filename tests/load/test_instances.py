from __future__ import annotations

import json
from pathlib import Path

import pytest

from provisioning.load.instances import Instance, Pool, read_instances
from provisioning.load.settings import LoadTestError
from tests.conftest import ROOT

OF_PROVISIONER = ROOT / "tests/contract/provisioner_instances.json"


def fleet(n: int) -> list[Instance]:
    return [Instance(f"i{number}", f"http://10.0.0.{number}:11434") for number in range(n)]


def test_a_provisioner_s_list_gives_what_runs() -> None:
    found = read_instances(str(OF_PROVISIONER))

    assert ["llama-00001", "llama-00004", "tiny-00001"] == [one.id for one in found]


def test_an_exporter_s_list_gives_what_runs_and_is_healthy(tmp_path: Path) -> None:
    listed = [
        {"id": "a", "url": "http://a", "state": "running", "status": "healthy", "age_seconds": 1},
        {"id": "b", "url": "http://b", "state": "running", "status": "unhealthy"},
        {"id": "c", "url": "http://c", "state": "draining", "status": "healthy"},
        {"id": "d", "url": "d", "state": "running", "status": "healthy"},
    ]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(listed))

    assert ["a"] == [one.id for one in read_instances(str(path))]


def test_lists_that_cannot_be_used_are_refused_in_words(tmp_path: Path) -> None:
    files = {
        "broken.json": b'[{"id": ',
        "other.json": b'{"instances": []}',
        "nameless.json": b'[{"url": "http://a"}]',
        "empty.json": b"[]",
    }
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)

    for name in (*files, "missing.json"):
        with pytest.raises(LoadTestError, match=name):
            read_instances(str(tmp_path / name))
    with pytest.raises(LoadTestError, match="healthy of the models phi3"):
        read_instances(str(OF_PROVISIONER), ["phi3"])


def test_users_get_instances_in_turn_and_each_worker_begins_elsewhere() -> None:
    pools = [Pool(fleet(4), lambda: 0.0, start_at) for start_at in (0.0, 0.5)]

    assert [["i0", "i1"], ["i2", "i3"]] == [[pool.take().id, pool.take().id] for pool in pools]


def test_a_failed_instance_rests_before_anybody_gets_it_again() -> None:
    now_s = 0.0
    pool = Pool(fleet(3), lambda: now_s)
    failed = pool.take()

    while_it_rests = [pool.swap(failed).id, *(pool.take().id for _ in range(3))]
    now_s = 100.0
    afterwards = {pool.take().id for _ in range(3)}

    assert failed.id not in while_it_rests
    assert failed.id in afterwards


def test_where_all_failed_users_get_one_of_them() -> None:
    pool = Pool(fleet(1), lambda: 0.0)

    assert "i0" == pool.swap(pool.take()).id


def test_instances_that_come_are_given_out_and_those_that_go_are_not() -> None:
    pool = Pool(fleet(4), lambda: 0.0)
    pool.replace(fleet(1))

    assert {"i0"} == {pool.take().id for _ in range(3)}
