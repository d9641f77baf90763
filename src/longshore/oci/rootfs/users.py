"""Who a process runs as: names looked up in the root's own /etc/passwd and /etc/group, never in the machine's."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ...errors import InvalidSpec
from .resolve_in_root import READ_LIMIT, Inside

ID_LIMIT = (1 << 32) - 2  # -1 means "leave it as it is" to the kernel
GROUPS_LIMIT = 65536  # NGROUPS_MAX of the kernel


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One user, as numbers; `home` is None where the root's passwd does not tell."""

    uid: int
    gid: int
    groups: list[int] = []
    home: str | None = None
    name: str | None = None


NOBODY = Account(uid=65534, gid=65534, home="/tmp", name="nobody")


def _lines(data: bytes, fields: int) -> Iterator[list[bytes]]:
    """The lines that have at least so many fields, in the order of the file; what comes after these is one piece.

    One line after the other: a container may have written as much as is read, and other threads are to go on meanwhile.
    """
    for line in io.BytesIO(data):
        if not line.endswith(b"\n") and len(data) == READ_LIMIT:
            return  # the file goes on, and this line may, too
        found = line.rstrip(b"\n").split(b":", fields)
        if len(found) >= fields and line[0] not in b"#+-":
            yield found


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else None


def _id(text: bytes) -> int | None:
    """A number of a passwd or group file; None for what no process can have."""
    number = _number(text.decode("latin-1"))
    return number if number is not None and number <= ID_LIMIT else None


def _text(data: bytes | None) -> str | None:
    """A text of a passwd file, if it can stand in a document: one of JSON has UTF-8, and no environment has NUL."""
    try:
        return data.decode() if data and b"\0" not in data else None
    except UnicodeDecodeError:
        return None


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _checked(number: int, text: str) -> int:
    if number > ID_LIMIT:
        raise InvalidSpec("user", f"{text!r} is out of range: ids end at {ID_LIMIT}")
    return number


def check_ids(user: Mapping[str, Any], field: str) -> None:
    """InvalidSpec, naming the field, for numbers of a document's `user` that no process can have."""
    given = [("uid", user.get("uid", 0)), ("gid", user.get("gid", 0))]
    given += [(f"additionalGids[{index}]", number) for index, number in enumerate(user.get("additionalGids") or [])]
    for name, number in given:
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= ID_LIMIT:
            raise InvalidSpec(f"{field}.{name}", f"{number!r} is not an id: ids are from 0 to {ID_LIMIT}")
    if len(given) - 2 > GROUPS_LIMIT:
        raise InvalidSpec(
            f"{field}.additionalGids", f"has {len(given) - 2} groups: the kernel takes at most {GROUPS_LIMIT}"
        )


def _unknown(kind: str, name: str, path: str, data: bytes) -> InvalidSpec:
    where = f"the first {READ_LIMIT} bytes of the root's {path}" if len(data) == READ_LIMIT else f"the root's {path}"
    return InvalidSpec("user", f"there is no {kind} {name!r} in {where}", hint="give numbers: 1000:1000")


def look_up(user: str, inside: Inside) -> Account:
    """The account that `user` means inside a root: `name`, `uid`, `name:group`, `uid:gid`.

    A number is that id, never a name (a root may name an account `1000` and give it the uid 0), and needs no entry in
    passwd; a name does (InvalidSpec). A group after the colon replaces the account's own group and its supplementary
    ones, as runtimes' users know it from docker.
    """
    who, colon, group = user.partition(":")
    if not who or (colon and not group):
        raise InvalidSpec("user", f"{user!r} is not a name or uid[:gid]")
    number = _number(who)
    found = _by_name(who, inside) if number is None else _by_number(_checked(number, who), inside)
    uid, gid, home, name = (number or 0, 0, None, None) if found is None else found
    groups: list[int] = []
    if group:
        gid = _group_id(group, inside)
    elif name is not None:
        groups = _groups(name, gid, inside)
    return Account(uid=uid, gid=gid, groups=groups, home=_text(home), name=_text(name))


_Entry = tuple[int, int, bytes | None, bytes | None]  # uid, gid, home, name


def _by_name(name: str, inside: Inside) -> _Entry:
    data = inside.read("/etc/passwd") or b""
    wanted = _encoded(name)
    for fields in _lines(data, 6):
        if fields[0] == wanted:
            uid, gid = _id(fields[2]), _id(fields[3])
            if uid is None or gid is None:
                raise InvalidSpec(
                    "user",
                    f"{name!r} has an id in the root's /etc/passwd that no process can have",
                    hint="correct the line, or give numbers: 1000:1000",
                )
            return uid, gid, fields[5], fields[0]
    raise _unknown("user", name, "/etc/passwd", data)


def _by_number(number: int, inside: Inside) -> _Entry | None:
    for fields in _lines(inside.read("/etc/passwd") or b"", 6):
        if _id(fields[2]) == number and (gid := _id(fields[3])) is not None:
            return number, gid, fields[5], fields[0]
    return None


def _groups(name: bytes, own: int, inside: Inside) -> list[int]:
    """The groups that have a member of this name."""
    found: dict[int, None] = {}
    for fields in _lines(inside.read("/etc/group") or b"", 4):
        gid = _id(fields[2])
        if gid is not None and gid != own and b",%b," % name in b",%b," % fields[3]:
            found[gid] = None
    if len(found) > GROUPS_LIMIT:
        raise InvalidSpec("user", f"is in {len(found)} groups of the root: the kernel takes at most {GROUPS_LIMIT}")
    return list(found)


def _group_id(group: str, inside: Inside) -> int:
    number = _number(group)
    if number is not None:
        return _checked(number, group)
    data = inside.read("/etc/group") or b""
    wanted = _encoded(group)
    for fields in _lines(data, 4):
        if fields[0] == wanted:
            gid = _id(fields[2])
            if gid is None:
                raise InvalidSpec("user", f"{group!r} has an id in the root's /etc/group that no process can have")
            return gid
    raise _unknown("group", group, "/etc/group", data)
