"""Writes ``agentic_trio/types.py`` from the OpenAPI document; ``--check`` only says whether it is up to date.

The document is held against the code and against the SDK's models by its own tests, so the types are too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, get_args

from openai.types.responses import ResponseOutputItem, ResponseStreamEvent

from agentic_trio.web.openapi import document

Json = dict[str, Any]

SOURCE = Path(__file__).parents[1] / "src" / "agentic_trio" / "types.py"

ROOTS = (
    "CreateResponse",
    "CreateConversation",
    "UpdateConversation",
    "CreateItems",
    "ResponseObject",
    "ResponseStreamEvent",
    "Conversation",
    "DeletedResponse",
    "DeletedConversation",
    "Item",
    "ItemList",
    "ResponseList",
    "ConversationList",
    "Model",
    "ModelList",
)
"""What the gateway's methods take and return. All that these refer to is written too."""

HEADER = '''"""What the gateway's methods take and return, as types.

``scripts/typed_dicts.py`` writes this module from the OpenAPI document. At run time all of these are plain
dictionaries. ``event["type"]`` and ``item["type"]`` tell the members of the unions apart.
"""

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict
'''

SDK_NAMES = {"ResponseObject": "Response"}
"""The document's names that differ from the SDK's: generators have a ``Response`` of their own."""

WIDTH = 100

TEXT = {"type": "string"}
PARTS = ("InputText", "InputImage", "InputFile", "InputAudio", "OutputText", "Refusal")
INPUT_OUTPUT_TEXT = {
    "properties": {"type": {"const": "output_text"}, "text": TEXT},
    "required": ["type", "text"],
}
OVERRIDES = {
    ("InputMessage", "content"): {
        "anyOf": [
            TEXT,
            {
                "type": "array",
                "items": {
                    "anyOf": [
                        *({"$ref": f"#/components/schemas/{name}"} for name in PARTS),
                        INPUT_OUTPUT_TEXT,
                    ]
                },
            },
        ]
    }
}
"""Members whose schema says less than a program wants to know: a request's parts are checked one by one."""


def tags(union: Any) -> set[str]:
    """The ``type`` of each of the SDK's models in a union."""
    models = get_args(get_args(union)[0])
    return {get_args(model.model_fields["type"].annotation)[0] for model in models}


OTHERS = {
    "OtherEvent": tags(ResponseStreamEvent),
    "OtherItem": tags(ResponseOutputItem),
    "OtherInputItem": tags(ResponseOutputItem),
    "OtherPart": {"computer_screenshot", "reasoning_text", "summary_text", "text"},
}
"""Schemas of any ``type`` that is not listed -> the types that OpenAI has. A checker needs to know them: a
``str`` could be each of the other members' as well, and nothing would tell the union's members apart."""


class Writer:
    """Writes schemas as Python, each after those that it refers to."""

    def __init__(self, schemas: Json) -> None:
        self._schemas = schemas
        self._written: dict[str, str] = {}

    def text(self, roots: tuple[str, ...]) -> str:
        """The module's text."""
        for name in roots:
            self._define(SDK_NAMES.get(name, name), self._schemas[name])
        names = "".join(f'    "{name}",\n' for name in sorted(self._written))
        return "\n\n".join([HEADER, *self._written.values()]) + f"\n\n__all__ = [\n{names}]\n"

    def _define(self, name: str, schema: Json) -> str:
        if name not in self._written:
            text = self._class(name, schema) if "properties" in schema else self._alias(name, schema)
            self._written[name] = text
        return name

    def _class(self, name: str, schema: Json) -> str:
        required = set(schema.get("required", ()))
        lines = [f"class {name}(TypedDict):", *_doc(schema.get("description", ""))]
        for member, found in schema["properties"].items():
            each = OVERRIDES.get((name, member), found)
            if name in OTHERS and member == "type":
                written = _literal(sorted(OTHERS[name] - set(each["not"]["enum"])))
            else:
                written = self._type(each, name + member.title().replace("_", ""))
            lines.append(f"    {member}: {written if member in required else f'NotRequired[{written}]'}")
            if "description" in each:
                lines += _doc(each["description"])
        return "\n".join(lines)

    def _alias(self, name: str, schema: Json) -> str:
        if name == "Item":
            # An item that a client sent is as the others are, as far as types can tell.
            schema = {"anyOf": [each for each in schema["anyOf"] if "KeptItem" not in each["$ref"]]}
        written = self._type(schema, f"{name}Object")
        if name == "InputItem":
            # What a model has generated may be given back as it is.
            written += f" | {self._define('OutputItem', self._schemas['OutputItem'])}"
        text = "".join(f"\n{line[4:]}" for line in _doc(schema.get("description", "")))
        return f"{name}: TypeAlias = {written}{text}"

    def _type(self, schema: Json, name: str) -> str:
        """A schema as an annotation; an object in it becomes a class of this name."""
        if "$ref" in schema:
            target = schema["$ref"].rpartition("/")[2]
            return self._define(SDK_NAMES.get(target, target), self._schemas[target])
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return _union([self._type(each, name) for each in schema[union]])
        if "const" in schema or "enum" in schema:
            return _literal(schema.get("enum", [schema.get("const")]))
        if schema is INPUT_OUTPUT_TEXT:
            return self._define("InputOutputText", schema)
        kinds = schema.get("type", "object")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        return _union([self._simple(kind, schema, name) for kind in kinds])

    def _simple(self, kind: str, schema: Json, name: str) -> str:
        if kind == "array":
            return f"list[{self._type(schema['items'], name) if 'items' in schema else 'Any'}]"
        if kind == "object" and "properties" in schema:
            return self._define(name, schema)
        if kind == "object":
            values = schema.get("additionalProperties", {})
            return "dict[str, str]" if values.get("type") == "string" else "dict[str, Any]"
        return {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}[kind]


def _union(types: list[str]) -> str:
    parts = [part for each in types for part in each.split(" | ")]
    return " | ".join(dict.fromkeys(parts))


def _literal(values: list[Any]) -> str:
    named = ", ".join(repr(value) for value in values if value is not None).replace("'", '"')
    return f"Literal[{named}]" + (" | None" if None in values else "")


def _doc(text: str) -> list[str]:
    """A docstring's lines, in a class."""
    if not text:
        return []
    text = text.replace("\\", "\\\\").replace("`", "``")
    lines = textwrap.wrap(f'"""{text}', WIDTH)
    lines[-1] += '"""'
    return [f"    {line}" for line in lines]


def formatted(text: str) -> str:
    """As ruff has it."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(SOURCE), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = formatted(Writer(document()["components"]["schemas"]).text(ROOTS))
    if not parser.parse_args().check:
        SOURCE.write_text(text)
    elif text != SOURCE.read_text():
        sys.exit("types.py is not up to date: run python scripts/typed_dicts.py")


if __name__ == "__main__":
    main()
