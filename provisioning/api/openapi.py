"""The OpenAPI description of the API, made of the table of operations and of their types.

In:   Operations.
Out:  an OpenAPI 3.1 document. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from provisioning.api.forms import ProblemDocument
from provisioning.api.operations import JSON, Operation, Parameter

PROBLEM = "application/problem+json"
REF_TEMPLATE = "#/components/schemas/{name}"

Json = dict[str, Any]


def description(operations: Sequence[Operation], *, version: str) -> Json:
    """Return the document."""
    types = [
        kind
        for operation in operations
        for kind in (*_answers(operation), operation.order)
        if kind is not None
    ]
    (*schemas, problem), components = msgspec.json.schema_components(
        [*types, ProblemDocument], ref_template=REF_TEMPLATE
    )
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, Json] = {}
    for operation in operations:
        item = _item(operation, schema_of, problem)
        paths.setdefault(operation.path, {})[operation.method.lower()] = item
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ollama-fleet provisioner",
            "version": version,
            "description": "What needs a bearer token says so. Writes go to the leader.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _item(operation: Operation, schema_of: Mapping[str, Json], problem: Json) -> Json:
    good: Json = {"description": operation.status.phrase}
    schemas = [schema_of[repr(kind)] for kind in _answers(operation)] or [{"type": "string"}]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    good["content"] = {operation.media_type: {"schema": schema}}
    item: Json = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": {str(operation.status.value): good}
        | {str(status.value): _failure(status, problem) for status in operation.failures},
    }
    if operation.parameters:
        item["parameters"] = [_parameter(one) for one in operation.parameters]
    if operation.order is not None:
        content = {JSON: {"schema": schema_of[repr(operation.order)]}}
        item["requestBody"] = {"required": True, "content": content}
    if operation.needs_token:
        item["security"] = [{"token": []}]
    return item


def _answers(operation: Operation) -> tuple[Any, ...]:
    """Return the types that a good answer may have; none where it is no JSON."""
    if isinstance(operation.answer, str):
        return ()
    return operation.answer if isinstance(operation.answer, tuple) else (operation.answer,)


def _failure(status: HTTPStatus, problem: Json) -> Json:
    if status is HTTPStatus.NOT_MODIFIED:
        return {"description": status.phrase}
    return {"description": status.phrase, "content": {PROBLEM: {"schema": problem}}}


def _parameter(parameter: Parameter) -> Json:
    one: Json = {"type": "string"}
    if parameter.choices:
        one["enum"] = list(parameter.choices)
    if parameter.where == "path":
        one["minLength"] = 1
    schema = {"type": "array", "items": one} if parameter.is_repeatable else one
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.where == "path",
        "description": parameter.meaning,
        "schema": schema,
    }
