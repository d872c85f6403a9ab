"""Instances from Kubernetes: pods, endpoints of a service, and what its API may answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from exporter.errors import InputError, SourceError
from exporter.inventory import Inventory, Source, SourceSettings, sources_for
from exporter.model import State, Target
from tests.exporter.inventory.kubernetes_api import (
    KubernetesApi,
    endpoint,
    pod,
    slice_of,
    status,
)
from tests.exporter.inventory.serving import Answer, InventoryServer

PODS = "k8s://llm/pods?selector=app=ollama"
SERVICE = "k8s://llm/services/ollama"


@pytest.fixture
def api(
    tls_server: InventoryServer,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> KubernetesApi:
    """An API as a pod sees it: by its environment and its mounted service account."""
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_bytes(certificate.read_bytes())
    host, port = tls_server.url.split("/")[2].split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    made = KubernetesApi(tls_server, tmp_path)
    tls_server.answer = made.answer
    return made


def source_of(api: KubernetesApi, text: str = PODS, **settings: Any) -> Source:
    (source,) = sources_for([text], SourceSettings(service_account=api.account, **settings))
    return source


async def listed(api: KubernetesApi, text: str = PODS) -> tuple[Target, ...]:
    inventory = Inventory([source_of(api, text)])
    try:
        await inventory.load()
    finally:
        await inventory.close()
    return inventory.targets


async def refusal(api: KubernetesApi, text: str = PODS, **settings: float) -> str:
    source = source_of(api, text, **settings)
    with pytest.raises((SourceError, InputError)) as caught:
        await source.read()
    await source.close()
    return str(caught.value)


def addresses(targets: tuple[Target, ...]) -> dict[str, str]:
    return {target.id: target.netloc for target in targets}


async def test_a_pod_is_an_instance_with_what_the_api_and_its_annotations_say(
    api: KubernetesApi,
) -> None:
    """Its labels, too; an annotation goes before a label of the same name."""
    (target,) = await listed(api)

    wanted = Target(
        id="llm/ollama-7d4c9b8f6-x2x9k",
        host="10.244.1.7",
        port=11_434,
        node="gpu-01",
        model="llama3.1:8b",
        developer="ada",
        started_s=datetime(2026, 1, 31, 8, tzinfo=UTC).timestamp(),
        labels={"hardware": "l40s"},
    )
    assert wanted == target
    assert {"limit": "200", "labelSelector": "app=ollama"} == api.queries[0]


async def test_pods_that_end_are_draining_and_those_without_address_or_ended_are_none(
    api: KubernetesApi,
) -> None:
    pending, ended, ending = pod("pending", ip=""), pod("ended"), pod("ending")
    ended["status"]["phase"] = "Succeeded"
    ending["metadata"]["deletionTimestamp"] = "2026-01-31T09:00:00Z"
    api.pods = [pending, ended, ending, pod("annotated", state="draining")]

    found = {target.id: target.state for target in await listed(api)}

    assert {"llm/ending": State.DRAINING, "llm/annotated": State.DRAINING} == found


async def test_the_port_is_chosen_by_name_or_number(api: KubernetesApi) -> None:
    """Of a pod with a sidecar; the start is that of the port's container."""
    api.pods = [two := pod("two", ip="fd00::7")]
    sidecar = {"name": "sidecar", "ports": [{"name": "metrics", "containerPort": 9_090}]}
    two["spec"]["containers"].insert(0, sidecar)
    started = {"running": {"startedAt": "2026-01-31T07:00:00Z"}}
    two["status"]["containerStatuses"].insert(0, {"name": "sidecar", "state": started})

    (by_name,) = await listed(api, f"{PODS}&port=http")
    (by_number,) = await listed(api, f"{PODS}&port=9090")

    assert ("[fd00::7]:11434", "[fd00::7]:9090") == (by_name.netloc, by_number.netloc)
    assert 3_600.0 == (by_name.started_s or 0.0) - (by_number.started_s or 0.0)
    name = "k8s://llm/pods?selector=app=ollama"
    helps = "; give it in the URL as port=NAME or port=NUMBER"
    assert f"{name}: pod llm/two declares 2 of TCP port{helps}" in await refusal(api)
    assert f"llm/two declares no port 'web'{helps}" in await refusal(api, f"{PODS}&port=web")


async def test_the_endpoints_of_a_service_are_instances(api: KubernetesApi) -> None:
    """Those that are not ready, too; a pod that two slices or two families have is one."""
    outside = endpoint("192.0.2.9")
    six = slice_of(endpoint("fd00::1", "a"), address_type="IPv6")
    both = slice_of(endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b", terminating=True))
    other = slice_of(endpoint("10.0.0.9", "c"))
    other["metadata"]["labels"]["kubernetes.io/service-name"] = "other"
    api.slices = [six, both, slice_of(endpoint("10.0.0.2", "b"), outside), slice_of(), other]

    targets = await listed(api, SERVICE)

    assert {
        "192.0.2.9:11434": "192.0.2.9:11434",
        "llm/a": "10.0.0.1:11434",
        "llm/b": "10.0.0.2:11434",
    } == addresses(targets)
    assert [State.RUNNING, State.RUNNING, State.DRAINING] == [one.state for one in targets]
    assert ["192.0.2.9", "gpu-01", "gpu-01"] == [target.node for target in targets]
    assert {"l40s"} == {target.labels["hardware"] for target in targets}


async def test_a_service_without_pods_is_empty_and_one_that_is_not_there_fails(
    api: KubernetesApi,
) -> None:
    api.slices = [slice_of()]
    assert () == await listed(api, SERVICE)

    assert "finds no service 'olama'" in await refusal(api, "k8s://llm/services/olama")


async def test_pages_are_read_to_the_end_and_an_unchanged_list_is_none(api: KubernetesApi) -> None:
    """Though the version of the list differs in each answer."""
    api.pods, api.max_page = [pod(f"p{i}") for i in range(7)], 3
    source = source_of(api)

    body = await source.read()

    assert [f"llm/p{i}" for i in range(7)] == [entry["id"] for entry in json.loads(body or b"")]
    assert [None, "3", "6"] == [query.get("continue") for query in api.queries]
    assert await source.read() is None
    api.pods.pop()
    assert 6 == len(json.loads(await source.read() or b""))
    await source.close()


async def test_the_token_is_read_again_each_time(api: KubernetesApi) -> None:
    source = source_of(api)
    await source.read()
    (api.account / "token").write_text("second")

    assert await source.read() is None
    await source.close()


FORBIDDEN = (
    'pods is forbidden: User "system:serviceaccount:llm:exporter" cannot list resource "pods" in '
    'API group "" in the namespace "llm"'
)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(401, "Unauthorized", "Unauthorized"), "answered 401: the API does not accept the"),
        (status(403, "Forbidden", FORBIDDEN), f"answered 403: {FORBIDDEN}"),
        (status(500, "InternalError", "a\n\tb\x00 c"), "answered 500: a b c"),
        (Answer(b"<html>no", status=502), "answered 502: <html>no"),
        (Answer(b"", status=503), "answered 503"),
        (Answer(status=302, headers={"Location": "/"}), "answered 302, a redirect, which is not"),
        (Answer(b"<html>"), "answered what is no list of Kubernetes: JSON is malformed"),
        (Answer(b'{"x":' + b"[" * 80_000), "answered what is no list of Kubernetes: "),
        (Answer(b'{"kind": "Status"}'), "missing required field `metadata`"),
        (Answer(b'{"metadata": {}, "items": [{}]}'), "missing required field `metadata` - at"),
        (Answer(b"x" * 100_000), "sent more than 90,000 bytes"),
        (Answer(hangs_before_s=60.0), "sent no complete answer within 0.5 s (the timeout)"),
    ],
)
async def test_whatever_else_the_api_answers_is_one_plain_failure(
    api: KubernetesApi, fault: Answer, message: str
) -> None:
    """On the first page and on a later one, where the list may also have expired."""
    bounds = {"timeout_s": 0.5 if fault.hangs_before_s else 100.0, "max_body_bytes": 90_000}
    api.fault_of_later_pages, api.max_page, api.pods = fault, 1, [pod("a"), pod("b")]
    later = await refusal(api, PODS, **bounds)
    api.fault = fault

    assert message in await refusal(api, PODS, **bounds)
    assert message in later
    assert "\n" not in later


async def test_a_list_that_expires_between_two_pages_is_read_anew(api: KubernetesApi) -> None:
    api.pods, api.max_page = [pod("a"), pod("b")], 1
    expired = "The provided continue parameter is too old"
    api.fault_of_later_pages = status(410, "Expired", expired)
    source = source_of(api)
    with pytest.raises(SourceError, match="410: the list expired between two pages; the next"):
        await source.read()
    api.fault_of_later_pages = None

    assert 2 == len(json.loads(await source.read() or b""))
    await source.close()


async def test_all_pages_together_have_one_time_and_one_size(api: KubernetesApi) -> None:
    api.pods, api.max_page = [pod(f"p{i}", note="x" * 200) for i in range(600)], 1
    pages = {"timeout_s": 100.0, "max_body_bytes": 20_000}
    assert "lists too many instances" in await refusal(api, PODS, **pages)
    assert "lists more than 500 objects" in await refusal(api)
    api.page_s = 0.2

    assert "sent no complete answer within 0.5 s" in await refusal(api, timeout_s=0.5)


async def test_a_bad_annotation_refuses_the_list_and_names_the_pod(api: KubernetesApi) -> None:
    """As in any inventory. What is huge is not carried along."""
    api.pods = [pod("a", engine="olama"), pod("b"), pod("c", rack="x" * 200_000)]
    for i in range(200):
        api.pods[1]["metadata"]["annotations"][f"ollama-fleet/n{i}"] = "x"

    with pytest.raises(InputError) as caught:
        await listed(api)

    assert "engine must be one of" in str(caught.value)
    assert "did you mean ollama? (instance 'llm/a')" in str(caught.value)
    assert "labels must hold at most 64 labels" in str(caught.value)
    assert "labels.rack must be at most 256 characters long, got 257" in str(caught.value)


async def test_outside_a_cluster_the_message_says_so(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")

    assert "cannot be asked: KUBERNETES_SERVICE_HOST is not set; run the" in await refusal(api)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k8s://pods", "must name one namespace, and pods or a service: k8s://llm/pods?sel"),
        ("k8s:///pods", "must name one namespace"),
        ("k8s://*/pods", "must name one namespace"),
        ("k8s://llm/pods/ollama", "must name one namespace"),
        ("k8s://llm/services", "must name one namespace"),
        ("k8s://llm/services/Ollama", "must name one namespace"),
        ("k8s://ada:s3cret@llm/pods", "must hold no user, password or fragment, such as k8s://"),
        ("k8s://llm/pods?watch=1", "has an unknown option; known: selector, port"),
        ("k8s://llm/pods?selectr=a=s3cret", "has an unknown option; did you mean selector?"),
        ("k8s://llm/pods?port=1&port=2", "must give the option port once, with a value"),
        ("k8s://llm/pods?port=", "must give the option port once, with a value"),
        ("k8s://llm/pods?port=0", "must have a port from 1 to 65535, got 0"),
        ("k8s://llm/pods?port=a b", "must give the port by its name or number"),
        ("k8s://llm/services/ollama?selector=a", "must not have a selector: a service has its own"),
        ("k8s://llm/" + "x" * 2_000, "must be a URL such as k8s://"),
        ("kubernetes://llm/pods", "or with k8s://, consul://"),
    ],
)
def test_a_url_that_asks_for_something_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        sources_for([text])

    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_source_is_called_by_its_whole_url() -> None:
    """It holds no secret, and two may differ only in their selector."""
    texts = ["k8s://llm/pods?selector=app=a", "k8s://llm/pods?selector=app=b"]

    assert texts == [source.name for source in sources_for(texts)]
