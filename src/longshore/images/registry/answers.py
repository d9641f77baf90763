"""What registries say of their refusals: a list of errors, each with a code and a message."""

from __future__ import annotations

from typing import Any

from ...typed_json import decode_json

LARGEST_ANSWER = 1 << 20
"""Bytes of a token or of an error."""

_LONGEST = 300


def words_of(data: bytes) -> tuple[str, str]:
    """Return the code and the message of an error's body; empty where it has none. It may be anything at all."""
    try:
        content = decode_json(data, Any)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(content, dict):
        return "", ""
    errors = content.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else content
    if not isinstance(first, dict):
        return "", ""
    code = first.get("code")
    message = first.get("message") or first.get("details") or first.get("error_description")
    return (
        code[:60] if isinstance(code, str) else "",
        " ".join(message.split())[:_LONGEST] if isinstance(message, str) else "",
    )
