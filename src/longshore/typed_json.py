"""JSON into types, from any thread.

msgspec prepares a type when it is first asked for it, and lets other threads use what is half prepared: they crash, and
the program with them (msgspec 0.18 to 0.22: `StructInfo_Convert` in its `_core.c` shows a class's fields before it has
looked at them). Here each type is prepared by one thread, once. Nothing else in longshore gives msgspec a type.
"""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {}
_PREPARING = threading.Lock()


def decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """What reads this type: a struct, or anything else that msgspec knows."""
    found = _DECODERS.get(kind)
    if found is None:
        with _PREPARING:  # one for all: types share the types of their fields
            found = _DECODERS.setdefault(kind, msgspec.json.Decoder(kind))
    return found


def decode_json(data: bytes | str, kind: type[T]) -> T:
    """JSON as this type. Raises msgspec.ValidationError or DecodeError (both are ValueError)."""
    return decoder(kind).decode(data)


def convert(value: object, kind: type[T]) -> T:
    """Lists, dicts and plain values as this type. Raises msgspec.ValidationError."""
    decoder(kind)
    return msgspec.convert(value, kind)
