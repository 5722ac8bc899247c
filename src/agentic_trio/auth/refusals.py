"""What is told to those who are not let in, in OpenAI's words. None of it repeats what they sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentic_trio.errors import InvalidRequest, ServiceUnavailable

if TYPE_CHECKING:
    from agentic_trio.context import Scope

_CHALLENGE = {"www-authenticate": "Bearer"}


def no_credential() -> InvalidRequest:
    """The request says nothing of who sends it."""
    return InvalidRequest(
        "You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        status=401,
        headers=_CHALLENGE,
    )


def bad_credential() -> InvalidRequest:
    """The credential is unknown, expired, revoked, malformed or not for this gateway: which, isn't told."""
    return InvalidRequest(
        "Incorrect API key provided.", status=401, code="invalid_api_key", headers=_CHALLENGE
    )


def missing_scope(scope: Scope) -> InvalidRequest:
    """The credential is good, but not for this."""
    return InvalidRequest(
        f"You have insufficient permissions for this operation. Missing scopes: {scope}.",
        status=403,
        code="missing_scope",
    )


def cannot_tell() -> ServiceUnavailable:
    """Whether the credential is good can't be found out now."""
    return ServiceUnavailable(
        "Credentials can't be checked now. Please retry in a few seconds.", headers={"retry-after": "1"}
    )
