"""The gateway's series: what a scrape holds, whatever happens to the workers."""

from __future__ import annotations

import http.client
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from exporter.catalogue import BOUNDARIES_S
from exporter.catalogue import gateway as catalogue
from exporter.catalogue.series import Kind, Series
from tests.provisioning.gateway.answers import END, Instance, instances, lines
from tests.provisioning.gateway.nginx import (
    Gateway,
    Listed,
    running_gateway,
    wait_until,
)
from tests.provisioning.gateway.series import samples, wait_total

NO_LIMIT = {"default": {"rate": 10_000, "burst": 10_000, "concurrency": 200}}
LAST = (
    '{"response":"","done":true,"total_duration":9,"prompt_eval_count":2,"eval_count":3,'
    '"eval_duration":1000000}'
)
ANSWER = (lines(LAST), END)
BUCKETS = "request_duration_seconds_bucket"


@contextmanager
def gateway_of(folder: Path, instance: Instance, *others: Listed) -> Iterator[Gateway]:
    """Run a gateway that limits nothing in front of an instance of m:1."""
    listed = others or [Listed(instance.port, loaded=("m:1",))]
    with instances(instance), running_gateway(folder, listed, limits=NO_LIMIT) as gateway:
        yield gateway


def send(gateway: Gateway, n: int, model: str = "m:1") -> None:
    """Send prompts, each over a connection of its own, so that all workers get some."""
    for _ in range(n):
        assert gateway.ask("/api/generate", {"model": model, "prompt": "hi"})[0] == 200


def test_series_are_those_of_the_catalogue(tmp_path: Path) -> None:
    """Names, types, HELP texts, labels and boundaries."""
    instance = Instance(ANSWER)

    with gateway_of(tmp_path, instance) as gateway:
        send(gateway, 1)
        wait_total(gateway, 1)
        found = samples(gateway)

    expected = [one for one in vars(catalogue).values() if isinstance(one, Series)]
    text = {f"# HELP {one.name} {one.help}" for one in expected}
    text |= {f"# TYPE {one.name} {one.kind}" for one in expected}
    assert text == {line for line in found.text.splitlines() if line.startswith("# ")}
    labels_by_name = {
        sample.name.removesuffix("_bucket"): {*sample.labels} - {"le"}
        for family in found.families.values()
        for sample in family.samples
    }
    assert {} == {
        one.name: labels_by_name[one.name]
        for one in expected
        if labels_by_name.get(one.name, {*one.labels}) != {*one.labels}
    }
    boundaries = found.by("le", "request_duration_seconds_bucket")
    assert {*map(str, BOUNDARIES_S)} <= {str(float(le)) for le in boundaries}
    assert 0.15 in BOUNDARIES_S
    assert Kind.HISTOGRAM == catalogue.GATEWAY_REQUEST_DURATION.kind


def test_counters_survive_reloads_and_killed_workers(tmp_path: Path) -> None:
    """Two workers count; what was flushed is never lost, and nothing is counted twice."""
    instance = Instance(ANSWER)

    with gateway_of(tmp_path, instance) as gateway:
        send(gateway, 40)
        wait_total(gateway, 40)
        first = set(gateway.workers())
        gateway.reload()
        wait_until(lambda: len(workers := {*gateway.workers()}) == 2 and not workers & first)
        send(gateway, 40)
        wait_total(gateway, 80)
        wait_total(gateway, 80, "request_duration_seconds_count")
        wait_total(gateway, 240, "generated_tokens_total")
        victim = gateway.workers()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(workers := gateway.workers()) == 2 and victim not in workers)
        send(gateway, 40)
        wait_total(gateway, 120)
        time.sleep(1.2)  # a flush later nothing is added
        found = samples(gateway)

    assert 120 == found.total("requests_total", code="200")
    assert 120 == found.total("request_duration_seconds_count")
    assert 360 == found.total("generated_tokens_total")
    assert 0 == found.total("requests_in_flight")


def test_an_answer_that_ends_after_a_reload_is_counted(tmp_path: Path) -> None:
    """By the old worker, in which no timer runs any more."""
    is_reloaded = threading.Event()
    instance = Instance((b"{", is_reloaded, lines(LAST[1:]), END))

    with gateway_of(tmp_path, instance) as gateway:
        client = threading.Thread(target=send, args=(gateway, 1))
        client.start()
        wait_until(lambda: instance.n_requests)
        assert 1 == samples(gateway).total("requests_in_flight")
        old = {*gateway.workers()}
        gateway.reload()
        wait_until(lambda: len(old & {*gateway.workers()}) == 1)
        is_reloaded.set()
        client.join()
        wait_total(gateway, 1)
        assert 3 == samples(gateway).total("generated_tokens_total")


def test_a_histogram_counts_each_duration_in_its_bucket(tmp_path: Path) -> None:
    instance = Instance(ANSWER, (0.11, *ANSWER), (0.3, *ANSWER))
    durations_s: list[float] = []

    with gateway_of(tmp_path, instance) as gateway:
        for n in range(1, 4):
            send(gateway, 1)
            wait_total(gateway, n)
            wait_total(gateway, n, "request_duration_seconds_count")
            found = samples(gateway)
            whole_s = found.total("request_duration_seconds_sum")
            durations_s.append(whole_s - sum(durations_s))

    for least_s, one in zip((0.0, 0.11, 0.3), durations_s, strict=True):
        assert least_s < one + 0.01
    assert {str(float(le)): float(n) for le, n in found.by("le", BUCKETS).items()} == {
        str(le): float(sum(one <= le for one in durations_s)) for le in (*BOUNDARIES_S, math.inf)
    }


def test_names_may_hold_any_character(tmp_path: Path) -> None:
    model = 'we\\ird "name"\nnot_a_series 7:ü'
    instance = Instance(ANSWER)
    listed = Listed(instance.port, loaded=(model,), node='n"1"\\')

    with gateway_of(tmp_path, instance, listed) as gateway:
        send(gateway, 1, model)
        wait_total(gateway, 1)
        found = samples(gateway)

    assert {model: 1.0} == found.by("model", "requests_total")
    assert {'n"1"\\': 1.0} == found.by("node", "requests_total")


def test_the_number_of_series_is_bounded(tmp_path: Path) -> None:
    """Nodes beyond the limit count as other; no series is lost for them."""
    n_nodes = 2100
    instance = Instance(ANSWER)
    listed = [
        Listed(instance.port, id=f"i{n:04}", node=f"n{n}", loaded=("m:1",)) for n in range(n_nodes)
    ]

    with gateway_of(tmp_path, instance, *listed) as gateway:
        address = urlsplit(gateway.url)
        with closing(http.client.HTTPConnection(str(address.hostname), address.port)) as client:
            for _ in range(n_nodes):
                client.request("POST", "/api/generate", '{"model":"m:1","prompt":"hi"}')
                client.getresponse().read()
        wait_total(gateway, n_nodes)
        by_node = samples(gateway).by("node", "requests_total")

    assert n_nodes == sum(by_node.values())
    assert 2000 < len(by_node) < n_nodes
    assert by_node["other"] > 1


def has_retried(gateway: Gateway) -> bool:
    """Ask once more; say whether a request has had to try another instance."""
    send(gateway, 1)
    return samples(gateway).total("retries_total") > 0


def test_refusals_and_retries_count_by_reason(tmp_path: Path) -> None:
    instance = Instance(ANSWER)
    gone = Instance(ANSWER)
    gone.close()
    listed = [Listed(instance.port, loaded=("m:1",)), Listed(gone.port, loaded=("m:1",))]

    with gateway_of(tmp_path, instance, *listed) as gateway:
        gateway.ask("/api/generate", {"model": "unknown", "prompt": "hi"})
        gateway.ask("/api/generate", b"no JSON")
        gateway.ask("/api/pull", {"model": "m:1"})
        wait_until(lambda: has_retried(gateway))
        found = wait_total(gateway, 3, "rejected_total")

    reasons = {"model_unknown": 1.0, "bad_request": 1.0, "forbidden": 1.0}
    none = {"fleet_full": 0.0, "unauthorised": 0.0, "over_limit": 0.0, "too_large": 0.0}
    assert reasons | none == found.by("reason", "rejected_total")
    assert {"refused"} == {*found.by("reason", "retries_total")}
    assert {"200"} == {*found.by("code", "requests_total")}


def test_an_unreachable_fleet_is_an_error(tmp_path: Path) -> None:
    """The last instance that was tried gets the status that the client saw."""
    gone = Instance(ANSWER)
    gone.close()

    with gateway_of(tmp_path, gone) as gateway:
        status, _, _ = gateway.ask("/api/generate", {"model": "m:1", "prompt": "hi"})
        wait_total(gateway, 1)

        found = samples(gateway)

    assert 502 == status
    assert {"502": 1.0} == found.by("code", "requests_total")
