"""``/openapi.json``: the OpenAPI document, which is the file of that name beside this module.

A test holds it against the routes, the limits and the events of the code, and against the SDK's models.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec

from agentic_trio.web.dispatch import Routes
from agentic_trio.web.reply import Reply

if TYPE_CHECKING:
    from agentic_trio.web.scope import RequestScope

routes = Routes("openapi")


@routes.handle("GET", "/openapi.json", public=True)
async def openapi(request: RequestScope) -> Reply:
    """Serve the document."""
    return Reply(_encoded())


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The document as an object, with the version of the installed package in it."""
    text = files(__package__).joinpath("openapi.json").read_bytes()
    document: dict[str, Any] = msgspec.json.decode(text)
    document["info"]["version"] = version("agentic-trio")
    return document
