"""A server that answers as Kubernetes' API does.

`answers/` has the objects as the API reference describes them (kubernetes.io/docs/reference, Pod v1
and EndpointSlice discovery.k8s.io/v1); pages, Status and 410 are as in its page "API Concepts".
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.exporter.inventory.serving import Answer, InventoryServer

ANSWERS = Path(__file__).parent / "answers"
Object = dict[str, Any]


def template(name: str) -> Any:
    return json.loads((ANSWERS / f"{name}.json").read_text())


POD: Object = template("pod")
SLICE: Object = template("endpointslice")


def pod(name: str, ip: str = "10.244.1.7", **annotations: str) -> Object:
    """Return a pod that runs, with `ollama-fleet/` annotations."""
    made = copy.deepcopy(POD)
    made["metadata"]["name"] = name
    made["metadata"]["annotations"] = {f"ollama-fleet/{k}": text for k, text in annotations.items()}
    made["status"]["podIP"] = ip
    return made


def endpoint(ip: str, of_pod: str = "", *, terminating: bool = False) -> Object:
    made: Object = copy.deepcopy(SLICE["endpoints"][0])
    made["addresses"] = [ip]
    made["conditions"]["terminating"] = terminating
    made["targetRef"]["name"] = of_pod
    if not of_pod:
        del made["targetRef"], made["nodeName"]
    return made


def slice_of(*endpoints: Object, address_type: str = "IPv4") -> Object:
    made = copy.deepcopy(SLICE)
    made["endpoints"] = list(endpoints) or None
    made["addressType"] = address_type
    return made


def status(code: int, reason: str, message: str) -> Answer:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    said = body | {"message": message, "reason": reason, "code": code}
    return Answer(json.dumps(said).encode(), status=code)


@dataclass
class KubernetesApi:
    """Lists pods and EndpointSlices in pages; refuses what has not the token."""

    server: InventoryServer
    account: Path
    """The folder with the token that is accepted, as it is mounted in a pod."""
    pods: list[Object] = field(default_factory=lambda: [POD])
    slices: list[Object] = field(default_factory=lambda: [SLICE])
    max_page: int = 500
    fault: Answer | None = None
    """What is answered to everything."""
    fault_of_later_pages: Answer | None = None
    page_s: float = 0.0
    """How long each page takes."""
    queries: list[dict[str, str]] = field(default_factory=list)
    n_changes: int = 0

    def answer(self, request: web.Request) -> Answer:
        self.queries.append(dict(request.query))
        token = (self.account / "token").read_text().strip()
        if request.headers["Authorization"] != f"Bearer {token}":
            return status(401, "Unauthorized", "Unauthorized")
        if fault := self.fault or ("continue" in request.query and self.fault_of_later_pages):
            return fault
        objects = {
            "/api/v1/namespaces/llm/pods": ("PodList", "v1", self.pods),
            "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices": (
                "EndpointSliceList",
                "discovery.k8s.io/v1",
                self.slices,
            ),
        }
        if request.path not in objects:
            return status(404, "NotFound", "the server could not find the requested resource")
        return self._page(*objects[request.path], request.query.get("labelSelector", ""), request)

    def _page(
        self, kind: str, version: str, objects: list[Object], selector: str, request: web.Request
    ) -> Answer:
        wanted = dict(part.split("=") for part in selector.split(",") if part)
        fit = [one for one in objects if wanted.items() <= one["metadata"]["labels"].items()]
        begin = int(request.query.get("continue", "0"))
        end = begin + min(self.max_page, int(request.query["limit"]))
        self.n_changes += 1
        meta: Object = {"resourceVersion": str(184_500 + self.n_changes)}
        if end < len(fit):
            meta |= {"continue": str(end), "remainingItemCount": len(fit) - end}
        page = {"kind": kind, "apiVersion": version, "metadata": meta, "items": fit[begin:end]}
        return Answer(json.dumps(page).encode(), hangs_before_s=self.page_s)
