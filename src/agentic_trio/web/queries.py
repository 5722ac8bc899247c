"""Query strings of lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.errors import InvalidRequest
from agentic_trio.gateway.items import page_query as page_query_of
from agentic_trio.wire import checks

if TYPE_CHECKING:
    from agentic_trio.store.contract import PageQuery
    from agentic_trio.web.scope import RequestScope

_include = checks.one_of(*checks.INCLUDABLE)


def page_query(request: RequestScope) -> PageQuery:
    """The ``limit``, ``order``, ``after`` and ``before``.

    Raises:
        InvalidRequest: in the words of OpenAI's API.
    """
    arguments = request.args
    included(request)
    return page_query_of(
        integer_argument(request, "limit", 20),
        arguments.get("order", "desc"),
        arguments.get("after") or None,
        arguments.get("before") or None,
    )


def metadata_filter(request: RequestScope) -> dict[str, str]:
    """The ``metadata[key]=value`` arguments."""
    return {
        name[len("metadata[") : -1]: value
        for name, value in request.args.items()
        if name.startswith("metadata[") and name.endswith("]")
    }


def included(request: RequestScope) -> list[str]:
    """The ``include``, in either spelling of a list. Raises InvalidRequest."""
    values = [value for name in ("include", "include[]") for value in request.args.getlist(name)]
    for index, value in enumerate(values):
        _include(value, f"include[{index}]")
    return values


def integer_argument(request: RequestScope, name: str, default: int) -> int:
    """An integer of the query. Raises InvalidRequest."""
    text = request.args.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 18:
        raise checks.invalid_type(name, "an integer", text)
    return int(text)


def boolean_argument(request: RequestScope, name: str) -> bool:
    """A boolean of the query, false if absent. Raises InvalidRequest."""
    text = request.args.get(name)
    if text not in (None, "true", "false"):
        raise checks.invalid_type(name, "a boolean", text)
    return text == "true"


def check_lists_are_served(request: RequestScope) -> None:
    """Lists show a stranger what others have stored, so they are served only where that was switched on.

    Raises:
        InvalidRequest: they are off, so the method is unknown here, as it is at OpenAI.
    """
    if not request.gateway.config.list_endpoints:
        raise InvalidRequest(
            f"Invalid method for URL ({request.where})", status=405, headers={"allow": "POST"}
        )
