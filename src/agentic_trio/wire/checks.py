"""Checks of a request's members, in the words of OpenAI's API.

A check takes a decoded JSON value and the path that names it, and raises :class:`InvalidRequest`. The
messages and codes were observed on the live API.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from agentic_trio.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    Check = Callable[[Any, str], None]

_KINDS = {
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "an object",
}


def kind(value: Any) -> str:
    """Name the kind of a JSON value as OpenAI's messages do; null is "an object" there."""
    return _KINDS[type(value)]


def invalid_type(path: str, expected: str, value: Any) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid type for '{path}': expected {expected}, but got {kind(value)} instead.",
        code="invalid_type",
        param=path,
    )


def missing(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"Missing required parameter: '{path}'.", code="missing_required_parameter", param=path
    )


def unknown_parameter(path: str, hint: str = "") -> InvalidRequest:
    return InvalidRequest(f"Unknown parameter: '{path}'.{hint}", code="unknown_parameter", param=path)


def known(names: Iterable[str], members: Collection[str]) -> None:
    """Refuse the first of a request's member names that is not in ``members``."""
    for name in names:
        if name not in members:
            # Comparing costs the square of the length, and no name that is known is long.
            short = len(name) <= 64
            near = difflib.get_close_matches(name, members, n=1, cutoff=0.7) if short else []
            raise unknown_parameter(shortened(name), f" Did you mean '{near[0]}'?" if near else "")


def invalid_value(path: str, value: str, supported: Sequence[str]) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value: '{shortened(value)}'. Supported values are: {_listed(supported)}.",
        code="invalid_value",
        param=path,
    )


MAX_QUOTED = 100
"""How many characters of a value or a path a message repeats."""


def shortened(text: str) -> str:
    """Return what a message may repeat of a client's own words: a megabyte of them must not come back."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."


def _listed(names: Sequence[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    if len(quoted) <= 2:
        return " and ".join(quoted)
    return f"{', '.join(quoted[:-1])}, and {quoted[-1]}"


def boolean(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        raise invalid_type(path, "a boolean", value)


def string(max_length: int | None = None) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise invalid_type(path, "a string", value)
        if max_length is not None and len(value) > max_length:
            raise InvalidRequest(
                f"Invalid '{path}': string too long. Expected a string with maximum length {max_length}, "
                f"but got a string with length {len(value)} instead.",
                code="string_above_max_length",
                param=path,
            )

    return check


def one_of(*supported: str) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise invalid_type(path, f"one of {_listed(supported)}", value)
        if value not in supported:
            raise invalid_value(path, value, supported)

    return check


def integer(minimum: int | None = None, maximum: int | None = None) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise invalid_type(path, "an integer", value)
        _in_range("integer", value, path, minimum, maximum)

    return check


def number(minimum: float, maximum: float) -> Check:
    def check(value: Any, path: str) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise invalid_type(path, "a decimal", value)
        _in_range("decimal", value, path, minimum, maximum)

    return check


def _in_range(kind: str, value: float, path: str, minimum: float | None, maximum: float | None) -> None:
    if minimum is not None and value < minimum:
        side, bound, sign = "below minimum", minimum, ">="
    elif maximum is not None and value > maximum:
        side, bound, sign = "above maximum", maximum, "<="
    else:
        return
    raise InvalidRequest(
        f"Invalid '{path}': {kind} {side} value. Expected a value {sign} {bound}, "
        f"but got {shortened(str(value))} instead.",
        code=f"{kind}_{'below_min' if sign == '>=' else 'above_max'}_value",
        param=path,
    )


def mapping(value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise invalid_type(path, "an object", value)


def array(value: Any, path: str, maximum: int | None = None, expected: str = "an array") -> None:
    if not isinstance(value, list):
        raise invalid_type(path, expected, value)
    if maximum is not None and len(value) > maximum:
        raise InvalidRequest(
            f"Invalid '{path}': array too long. Expected an array with maximum length {maximum}, "
            f"but got an array with length {len(value)} instead.",
            code="array_above_max_length",
            param=path,
        )


MAX_METADATA_PAIRS = 16
_metadata_value = string(512)


def metadata(value: Any, path: str) -> None:
    """At most 16 pairs of strings, keys of 64 characters, values of 512."""
    mapping(value, path)
    if len(value) > MAX_METADATA_PAIRS:
        raise InvalidRequest(
            f"Invalid '{path}': too many properties. Expected an object with at most {MAX_METADATA_PAIRS} "
            f"properties, but got an object with {len(value)} properties instead.",
            code="object_above_max_properties",
            param=path,
        )
    for key, text in value.items():
        if len(key) > 64:
            raise InvalidRequest(
                f"Invalid '{path}': property name too long. Expected a name with maximum length 64, "
                f"but got a name with length {len(key)} instead.",
                code="string_above_max_length",
                param=path,
            )
        _metadata_value(text, f"{path}.{key}")


INCLUDABLE = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
)
_include = one_of(*INCLUDABLE)

MAX_INCLUDED = 100
"""How many values ``include`` may have; OpenAI knows eight."""

MAX_TOOLS = 1024
"""How many tools one request may offer. OpenAI takes 128."""


def include(value: Any, path: str) -> None:
    array(value, path, MAX_INCLUDED)
    for index, name in enumerate(value):
        _include(name, f"{path}[{index}]")


def tools(value: Any, path: str) -> None:
    """Every tool needs a type, and a function needs a name. Unknown types go upstream as they came."""
    array(value, path, MAX_TOOLS)
    for index, tool in enumerate(value):
        where = f"{path}[{index}]"
        mapping(tool, where)
        _required(tool, ("type",), where)
        if tool["type"] in ("function", "custom"):
            _required(tool, ("name",), where)


def _required(value: dict[str, Any], names: Iterable[str], path: str) -> None:
    for name in names:
        if value.get(name) is None:
            raise missing(f"{path}.{name}")
        _any_string(value[name], f"{path}.{name}")


_any_string = string()
_tool_choice = one_of("none", "auto", "required")


def tool_choice(value: Any, path: str) -> None:
    if isinstance(value, dict):
        _required(value, ("type",), path)
    else:
        _tool_choice(value, path)


_format_type = one_of("text", "json_object", "json_schema", "grammar", "python")
_verbosity = one_of("low", "medium", "high")


def text(value: Any, path: str) -> None:
    mapping(value, path)
    if value.get("format") is not None:
        where = f"{path}.format"
        mapping(value["format"], where)
        _required(value["format"], ("type",), where)
        _format_type(value["format"]["type"], f"{where}.type")
        if value["format"]["type"] == "json_schema":
            _required(value["format"], ("name",), where)
            if value["format"].get("schema") is None:
                raise missing(f"{where}.schema")
            mapping(value["format"]["schema"], f"{where}.schema")
    if value.get("verbosity") is not None:
        _verbosity(value["verbosity"], f"{path}.verbosity")


_effort = one_of("none", "minimal", "low", "medium", "high", "xhigh", "max")
_summary = one_of("auto", "concise", "detailed")


def reasoning(value: Any, path: str) -> None:
    mapping(value, path)
    if value.get("effort") is not None:
        _effort(value["effort"], f"{path}.effort")
    if value.get("summary") is not None:
        _summary(value["summary"], f"{path}.summary")


MIN_THRESHOLD = 1000
"""The smallest ``compact_threshold``, as at OpenAI: a summary must be smaller than what it sums up."""

_threshold = integer(MIN_THRESHOLD)
_management = one_of("compaction")


def context_management(value: Any, path: str) -> None:
    """Check what is to be done with a context that grows."""
    array(value, path, 1)
    for index, each in enumerate(value):
        where = f"{path}[{index}]"
        mapping(each, where)
        _required(each, ("type",), where)
        _management(each["type"], f"{where}.type")
        if each.get("compact_threshold") is not None:
            _threshold(each["compact_threshold"], f"{where}.compact_threshold")
