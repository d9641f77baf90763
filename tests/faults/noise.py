"""What may happen to a file: it is cut short, filled with noise, replaced, or says something else than it should."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD: list[Any] = [None, True, -1, 0, 2**63, 10**40, 1e308, "", "x" * 5000, "\0", "../../x", "\ud7ff\U0010ffff", [], {}]
ODD += [
    [[[[]]]],
    {"a": {"b": 1}},
    "2026-02-30T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    [1, "a", None],
]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([1, 10, len(data), 5000]))


def flip(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data or b"\0")
    for _ in range(rng.choice([1, 1, 3, 20])):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice([b"\0" * 10, b"\n", b"\xff\xfe", b'"', b"}", b"[" * 5000]) + data[place:]


def zeros(data: bytes, rng: random.Random) -> bytes:
    return b"\0" * rng.choice([1, len(data), 1 << 20])


def twice(data: bytes, rng: random.Random) -> bytes:
    return data + data


def odd_value(data: bytes, rng: random.Random) -> bytes:
    """A JSON document in which one value is another, or missing; of several lines, in one of them."""
    lines = data.split(b"\n")
    index = rng.randrange(len(lines))
    try:
        document = json.loads(lines[index])
    except ValueError:
        return flip(data, rng)
    lines[index] = json.dumps(_changed(document, rng)).encode()
    return b"\n".join(lines)


def _changed(document: Any, rng: random.Random) -> Any:
    if isinstance(document, dict) and document and rng.random() < 0.9:
        name = rng.choice(sorted(document))
        rest = {**document}
        if rng.random() < 0.2:
            del rest[name]
        else:
            rest[name] = _changed(document[name], rng)
        return rest
    if isinstance(document, list) and document and rng.random() < 0.7:
        place = rng.randrange(len(document))
        return [*document[:place], _changed(document[place], rng), *document[place + 1 :]]
    return rng.choice(ODD)


CONTENT: list[Callable[[bytes, random.Random], bytes]] = [cut, noise, flip, insert, zeros, twice, odd_value, odd_value]


def spoil(path: Path, others: list[Path], rng: random.Random) -> str:
    """Do something to a file; what."""
    how = rng.randrange(len(CONTENT) + 5)
    if how < len(CONTENT):
        path.write_bytes(CONTENT[how](path.read_bytes(), rng))
        return CONTENT[how].__name__
    if how == len(CONTENT):
        path.write_bytes(b"")
        return "empty"
    mode = path.stat().st_mode
    if how == len(CONTENT) + 1:
        path.unlink()
        return "gone"
    if how in (len(CONTENT) + 2, len(CONTENT) + 3) and path.suffix == ".json":
        path.unlink()
        if how == len(CONTENT) + 2:
            path.mkdir()
            return "a directory"
        path.symlink_to(rng.choice(["nowhere", path.name, "/"]))
        return "a link"
    other = rng.choice(others)
    shutil.copyfile(other, path) if other != path else path.write_bytes(b"")
    path.chmod(mode & 0o7777)
    return f"a copy of {other.name}"
