"""``/docs``: the OpenAPI document as a page, made here so that it needs no script and no other server."""

from __future__ import annotations

import json
import re
from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from agentic_trio.web.dispatch import Routes
from agentic_trio.web.openapi import document
from agentic_trio.web.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentic_trio.web.scope import RequestScope

Json = dict[str, Any]

routes = Routes("docs")

POLICY = b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The page is ours alone: nothing in it comes from a user or a model. It has one style sheet, in itself."""

HEADERS = (
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),
)


@routes.handle("GET", "/docs", public=True)
async def docs(request: RequestScope) -> Reply:
    """Serve the page."""
    return Reply(_page(), headers=list(HEADERS))


@cache
def _page() -> bytes:
    template = Template(files(__package__).joinpath("docs.html").read_text("utf-8"))
    spec = document()
    return template.substitute(
        title=escape(spec["info"]["title"]),
        version=escape(spec["info"]["version"]),
        about=_prose(spec["info"]["description"]),
        contents="".join(_contents(spec)),
        operations="".join(_operations(spec)),
        schemas="".join(_schemas(spec)),
    ).encode()


def _by_tag(spec: Json) -> Iterator[tuple[Json, list[tuple[str, str, Json]]]]:
    for tag in spec["tags"]:
        yield (
            tag,
            [
                (method, path, operation)
                for path, methods in spec["paths"].items()
                for method, operation in methods.items()
                if tag["name"] in operation["tags"]
            ],
        )


def _contents(spec: Json) -> Iterator[str]:
    for tag, operations in _by_tag(spec):
        yield f"<h2>{escape(tag['name'])}</h2><ul>"
        for method, path, operation in operations:
            link = f'<a href="#{operation["operationId"]}">{escape(path)}</a>'
            yield f'<li><b class="{method}">{method}</b> {link}</li>'
        yield "</ul>"


def _operations(spec: Json) -> Iterator[str]:
    for tag, operations in _by_tag(spec):
        yield f"<h2>{escape(tag['name'])}</h2>{_prose(tag.get('description', ''))}"
        for method, path, operation in operations:
            yield f'<section id="{operation["operationId"]}">'
            yield f'<h3><b class="{method}">{method}</b> <code>{escape(path)}</code></h3>'
            yield f"<p><strong>{escape(operation['summary'])}.</strong></p>"
            yield _prose(operation.get("description", ""))
            yield from _parameters(spec, operation)
            yield from _content(operation.get("requestBody", {}), "Body")
            yield from _responses(spec, operation)
            yield "</section>"


def _parameters(spec: Json, operation: Json) -> Iterator[str]:
    parameters = [_resolved(spec, each) for each in operation.get("parameters", ())]
    if parameters:
        yield "<table><thead><tr><th>Parameter</th><th>In</th><th>Type</th><th></th></tr></thead><tbody>"
        for each in parameters:
            name, kind = escape(each["name"]), _type(each["schema"])
            about = _prose(each.get("description", ""))
            yield f"<tr><td><code>{name}</code></td><td>{each['in']}</td><td>{kind}</td><td>{about}</td></tr>"
        yield "</tbody></table>"


def _responses(spec: Json, operation: Json) -> Iterator[str]:
    yield "<details><summary>Answers: " + ", ".join(map(escape, operation["responses"])) + "</summary>"
    for status, reference in operation["responses"].items():
        response = _resolved(spec, reference)
        yield f"<h4>{escape(status)}</h4>{_prose(response.get('description', ''))}"
        yield from _content(response, "")
    yield "</details>"


def _content(node: Json, heading: str) -> Iterator[str]:
    for media_type, content in node.get("content", {}).items():
        yield f"<p>{heading} <code>{escape(media_type)}</code>: {_type(content.get('schema', {}))}</p>"
        for name, example in content.get("examples", {}).items():
            yield f"<details><summary>Example: {escape(example.get('summary', name))}</summary>"
            value = example["value"]
            text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
            yield f"<pre>{escape(text)}</pre></details>"


def _schemas(spec: Json) -> Iterator[str]:
    for name, schema in spec["components"]["schemas"].items():
        yield f'<section id="schema-{name}"><h3>{name}</h3>{_prose(schema.get("description", ""))}'
        if "properties" in schema:
            yield from _members(schema)
        else:
            yield f"<p>{_type(schema)}</p>"
        yield "</section>"


def _members(schema: Json) -> Iterator[str]:
    required = set(schema.get("required", ()))
    yield "<table><thead><tr><th>Member</th><th>Type</th><th></th></tr></thead><tbody>"
    for name, member in schema["properties"].items():
        mark = "" if name in required else " <i>optional</i>"
        about = _prose(member.get("description", ""))
        yield f"<tr><td><code>{escape(name)}</code>{mark}</td><td>{_type(member)}</td><td>{about}</td></tr>"
    yield "</tbody></table>"


def _type(schema: Json) -> str:
    """A schema in a few words, with links to those that it names."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{name}">{name}</a>'
    for union in ("oneOf", "anyOf"):
        if union in schema:
            return " | ".join(_type(each) for each in schema[union])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return " | ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kinds = schema.get("type", "any value")
    return " | ".join(kinds) if isinstance(kinds, list) else str(kinds)


def _prose(text: str) -> str:
    """A description as a paragraph, with its code marks."""
    marked = re.sub("`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return f"<p>{marked}</p>" if text else ""


def _resolved(spec: Json, node: Json) -> Json:
    while "$ref" in node:
        found: Any = spec
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node
