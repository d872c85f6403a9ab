"""The description of the API is what the API does: every answer is held against it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from provisioning.api.routes import NOT_LEADING, OPERATIONS, Operation, description
from tests.provisioning.api.served import Served

EXAMPLES = settings(
    max_examples=4,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
THERE = {"id": "llama-00001", "name": "llama"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("api")) as running:
        yield running


def modes(operation: Operation) -> list[GenerationMode]:
    """Return what to send: good data, and bad data where any is taken."""
    takes_any = operation.body or any("query" == one.where for one in operation.parameters)
    return [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if takes_any else [])]


@pytest.mark.parametrize("is_there", [True, False])
def test_every_answer_is_one_that_is_described(is_there: bool, served: Served) -> None:
    """Parts of paths are made up, or name what is there.

    A specification has rules beyond its schema: only of reads is every described request good.
    """
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    headers = {"Authorization": f"Bearer {served.token}"}
    for one in OPERATIONS:
        if not is_there and "{" not in one.path:
            continue  # it was sent already
        excluded: list[Any] = [positive_data_acceptance] if one.body or one.is_write else []
        for mode in modes(one):
            strategy = schema.find_operation_by_id(one.name).as_strategy(generation_mode=mode)
            hold(strategy, headers, excluded, is_there=is_there)


def hold(strategy: Any, headers: dict[str, str], excluded: list[Any], *, is_there: bool) -> None:
    @EXAMPLES
    @given(strategy)
    def sent(case: Case[Any]) -> None:
        if is_there and case.path_parameters:
            case.path_parameters = {name: THERE[name] for name in case.path_parameters}
        case.call_and_validate(headers=headers, excluded_checks=excluded)

    sent()


def test_every_operation_is_described_once_with_whether_it_needs_the_token() -> None:
    document = description(OPERATIONS, version="1.2.3")

    found = {
        (method.upper(), path): (item["operationId"], "security" in item)
        for path, items in document["paths"].items()
        for method, item in items.items()
    }
    assert {(one.method, one.path): (one.name, one.needs_token) for one in OPERATIONS} == found
    assert ("3.1.0", "1.2.3") == (document["openapi"], document["info"]["version"])
    problem = document["components"]["schemas"]["ProblemDocument"]
    assert NOT_LEADING in problem["properties"]["type"]["description"]


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


def test_what_changes_the_specification_may_name_the_version_that_it_changes() -> None:
    for operation in OPERATIONS:
        if operation.name in ("put_spec", "scale"):
            (item,) = description((operation,), version="1")["paths"][operation.path].values()
            assert "If-Match" in [one["name"] for one in item["parameters"]]
            assert "412" in item["responses"]
