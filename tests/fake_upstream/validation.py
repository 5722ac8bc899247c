"""What vLLM refuses, in its own words."""

from __future__ import annotations

import json
from typing import Any

from .encoding import encode


def vllm_error(status: int, message: str, kind: str | None = None, param: str | None = None) -> bytes:
    """vLLM's error body (``code`` is an integer)."""
    kinds = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
    error = {
        "message": message,
        "type": kind or kinds.get(status, "Error"),
        "param": param,
        "code": status,
    }
    return encode({"error": error})


class Refused(Exception):
    """The request is refused as vLLM refuses it."""

    def __init__(self, status: int, message: str, kind: str | None = None, param: str | None = None) -> None:
        self.status = status
        self.body = vllm_error(status, message, kind, param)


def _invalid(param: str, kind: str, message: str) -> Refused:
    detail = f"1 validation error:\n  {{'type': '{kind}', 'loc': '{param}', 'msg': '{message}'}}"
    return Refused(400, detail, "Bad Request", param)


def validate_json(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except ValueError:
        raise _invalid("body.0", "json_invalid", "JSON decode error") from None
    if not isinstance(body, dict):
        raise _invalid("body", "model_attributes_type", "Input should be a valid dictionary or object")
    if not isinstance(body.get("model", ""), str | None):
        raise _invalid("body.model", "string_type", "Input should be a valid string")
    if str(body.get("model")).startswith("nope"):
        message = f"The model `{body['model']}` does not exist. Valid aliases: tiny."
        raise Refused(404, message, "NotFoundError", "model")
    return body


def validate_response_request(raw: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What vLLM 0.32 checks before it answers, in its order and words (observed).

    It takes an empty string as input, a missing model, ``conversation`` and any unknown key.
    """
    body = validate_json(raw)
    if "input" not in body:
        raise _invalid("body.input", "missing", "Field required")
    given = body["input"]
    if not isinstance(given, str | list):
        raise _invalid("body.input", "string_type", "Input should be a valid string")
    if name := body.get("previous_response_id"):
        message = f"Response with id '{name}' not found."
        raise Refused(404, message, "invalid_request_error", "response_id")
    if given == []:
        raise Refused(
            400, "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for item in items:
        _validate_item(item)
    return body, items


def _validate_item(item: Any) -> None:
    if not isinstance(item, dict):
        raise _invalid("body.input", "string_type", "Input should be a valid string")
    kind = item.get("type")
    if kind in ("item_reference", "compaction"):
        raise Refused(
            400, f"Unsupported input item type: {kind} (parameter=input)", "BadRequestError", "input"
        )
    if kind == "reasoning" and item.get("encrypted_content"):
        raise Refused(
            400, "Encrypted content is not supported. (parameter=input)", "BadRequestError", "input"
        )
    parts = item.get("content")
    if (
        kind == "message"
        and isinstance(parts, list)
        and parts
        and isinstance(parts[0], dict)
        and parts[0].get("type") == "refusal"
    ):
        raise Refused(500, "'ResponseOutputRefusal' object has no attribute 'text'", "InternalServerError")
