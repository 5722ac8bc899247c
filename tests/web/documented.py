"""Is an answer as the OpenAPI document says? A hook of the tests' HTTP client asks this of every one."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema_rs

from agentic_trio.web.openapi import document

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

Json = dict[str, Any]

DOCUMENT = document()
SCHEMAS: Json = DOCUMENT["components"]["schemas"]


def operations() -> Iterator[tuple[str, str, Json]]:
    """Method, path and operation, of each."""
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def resolved(node: Json) -> Json:
    """What a reference refers to; what is none is itself."""
    while "$ref" in node:
        found: Any = DOCUMENT
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


@cache
def _validator(schema: str) -> Any:
    whole = {**json.loads(schema), "components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(whole)


def refused_by(schema: Json, value: Any) -> list[str]:
    """What is wrong with a value, by a schema of the document."""
    errors = _validator(json.dumps(schema)).iter_errors(value)
    return [f"{error.instance_path}: {error.message}" for error in errors]


def check(name: str, value: Any) -> Any:
    """A value of one of the document's schemas; returns it."""
    assert refused_by({"$ref": f"#/components/schemas/{name}"}, value) == []
    return value


ROUTES = [
    (method, re.compile(re.sub(r"{model}", ".+", re.sub(r"{(id|item)}", "[^/]+", path))), operation)
    for method, path, operation in operations()
]


def _operation(method: str, path: str) -> Json | None:
    found = (each for known, pattern, each in ROUTES if known == method and pattern.fullmatch(path))
    return next(found, None)


async def check_documented(answer: httpx.Response) -> None:
    """An event hook of httpx: the answer's status is documented, and its JSON is what the document says."""
    if answer.request.method in ("HEAD", "OPTIONS"):
        return
    operation = _operation(answer.request.method, answer.request.url.path)
    if operation is None:
        assert answer.status_code in (401, 403, 404, 405), "there is no such route"
        content: Json = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    else:
        responses = operation["responses"]
        documented = responses.get(str(answer.status_code), responses.get("default"))
        assert documented is not None, f"{operation['operationId']} has no status {answer.status_code}"
        content = resolved(documented)["content"]
    assert answer.headers["x-request-id"]
    kind = answer.headers.get("content-type", "")
    relayed = operation is not None and operation["tags"] == ["Relayed"]
    if kind == "application/json" and not relayed:
        await answer.aread()
        assert refused_by(content["application/json"]["schema"], answer.json()) == []
