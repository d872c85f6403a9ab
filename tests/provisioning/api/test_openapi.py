"""The description of the API is what the API does: every answer is held against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from provisioning.api.routes import NOT_LEADING, OPERATIONS, description
from tests.provisioning.api.served import Served

EXAMPLES = settings(
    max_examples=10,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
THERE = {"id": "llama-00001", "name": "llama"}
NO_END = "/instances/changes"
READS = frozenset(one.name for one in OPERATIONS if not one.order and not one.is_write)
"""Whose every described request is a good one; a specification has rules beyond its schema."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("api")) as running:
        yield running


def operations() -> list[tuple[str, GenerationMode]]:
    """Return what to send where: good data, and bad data to those that take any."""
    with_end = [one for one in OPERATIONS if one.path != NO_END]
    good = [(one.name, GenerationMode.POSITIVE) for one in with_end]
    takers = [
        one for one in with_end if one.order or any("query" == p.where for p in one.parameters)
    ]
    return [*good, *((one.name, GenerationMode.NEGATIVE) for one in takers)]


@pytest.mark.parametrize(("name", "mode"), operations())
@pytest.mark.parametrize("is_there", [True, False])
def test_every_answer_is_one_that_is_described(
    name: str, mode: GenerationMode, is_there: bool, served: Served
) -> None:
    """Parts of paths are made up, or name what is there."""
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operation = schema.find_operation_by_id(name)
    excluded: list[Any] = [] if name in READS else [positive_data_acceptance]
    headers = {"Authorization": f"Bearer {served.token}"}

    @EXAMPLES
    @given(operation.as_strategy(generation_mode=mode))
    def hold(case: Case[Any]) -> None:
        if is_there and case.path_parameters:
            case.path_parameters = {name: THERE[name] for name in case.path_parameters}
        case.call_and_validate(headers=headers, excluded_checks=excluded)

    hold()


def test_every_operation_is_described_once() -> None:
    document = description(OPERATIONS, version="1.2.3")

    found = {
        (method.upper(), path): item["operationId"]
        for path, items in document["paths"].items()
        for method, item in items.items()
    }
    assert {(one.method, one.path): one.name for one in OPERATIONS} == found
    assert ("3.1.0", "1.2.3") == (document["openapi"], document["info"]["version"])


def test_writes_and_what_is_private_ask_for_the_token() -> None:
    document = description(OPERATIONS, version="")

    secured = {
        item["operationId"]
        for items in document["paths"].values()
        for item in items.values()
        if "security" in item
    }
    assert {
        "assign",
        "release",
        "drain",
        "replace",
        "scale",
        "put_spec",
        "plan",
        "spec",
        "delete_orphans",
    } == secured


def test_every_reference_leads_somewhere() -> None:
    document = description(OPERATIONS, version="")

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (value["$ref"],) if isinstance(value.get("$ref"), str) else ()
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= known


@pytest.mark.parametrize("name", ["put_spec", "scale"])
def test_what_changes_the_specification_may_name_the_version_that_it_changes(name: str) -> None:
    (operation,) = (one for one in OPERATIONS if one.name == name)
    (described,) = description((operation,), version="1")["paths"][operation.path].values()

    assert "If-Match" in [one["name"] for one in described["parameters"]]
    assert "412" in described["responses"]


def test_the_types_of_problems_are_described() -> None:
    schemas = description(OPERATIONS, version="1")["components"]["schemas"]

    assert NOT_LEADING in schemas["ProblemDocument"]["properties"]["type"]["description"]
