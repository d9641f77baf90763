"""Who a process runs as: names looked up in the root's own /etc/passwd and /etc/group, never in the machine's."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from ..errors import InvalidSpec
from .inroot import Inside

ID_LIMIT = (1 << 32) - 2  # -1 means "leave it as it is" to the kernel


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """One user, as numbers; `home` is None where the root's passwd does not tell."""

    uid: int
    gid: int
    groups: list[int] = []
    home: str | None = None
    name: str | None = None


NOBODY = Account(uid=65534, gid=65534, home="/tmp", name="nobody")


class _PasswdLine(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


class _GroupLine(msgspec.Struct, frozen=True):
    name: str
    gid: int
    members: list[str]


def _lines(data: bytes | None) -> Iterator[list[str]]:
    for line in (data or b"").decode("utf-8", "surrogateescape").split("\n"):
        if line and line[0] not in "#+-":
            yield line.split(":")


def _passwd(data: bytes | None) -> Iterator[_PasswdLine]:
    for fields in _lines(data):
        if len(fields) >= 6 and _number(fields[2]) is not None and _number(fields[3]) is not None:
            yield _PasswdLine(fields[0], int(fields[2]), int(fields[3]), fields[5])


def _group(data: bytes | None) -> Iterator[_GroupLine]:
    for fields in _lines(data):
        if len(fields) >= 4 and _number(fields[2]) is not None:
            yield _GroupLine(fields[0], int(fields[2]), [name for name in fields[3].split(",") if name])


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,10}", text) else None


def _checked(number: int, text: str) -> int:
    if number > ID_LIMIT:
        raise InvalidSpec("user", f"{text!r} is out of range: ids end at {ID_LIMIT}")
    return number


def look_up(user: str, inside: Inside) -> Account:
    """The account that `user` means inside a root: `name`, `uid`, `name:group`, `uid:gid`.

    A number needs no entry in passwd; a name does (InvalidSpec). A group after the colon replaces the account's own
    group and its supplementary ones, as runtimes' users know it from docker.
    """
    who, colon, group = user.partition(":")
    if not who or (colon and not group):
        raise InvalidSpec("user", f"{user!r} is not a name or uid[:gid]")
    entries = list(_passwd(inside.read("/etc/passwd")))
    number = _number(who)
    found = next((entry for entry in entries if entry.name == who), None)
    if found is None and number is not None:
        found = next((entry for entry in entries if entry.uid == number), None)
    if found is None and number is None:
        raise InvalidSpec(
            "user", f"there is no user {who!r} in the root's /etc/passwd", hint="give a number, as 1000:1000"
        )
    uid = found.uid if found is not None else _checked(int(who), who)
    gid = found.gid if found is not None else 0
    groups: list[int] = []
    if group:
        gid = _group_id(group, inside)
    elif found is not None:
        groups = [line.gid for line in _group(inside.read("/etc/group")) if found.name in line.members]
    return Account(
        uid=uid,
        gid=gid,
        groups=[other for other in dict.fromkeys(groups) if other != gid],
        home=(found.home or None) if found is not None else None,
        name=found.name if found is not None else None,
    )


def _group_id(group: str, inside: Inside) -> int:
    for line in _group(inside.read("/etc/group")):
        if line.name == group:
            return line.gid
    number = _number(group)
    if number is None:
        raise InvalidSpec("user", f"there is no group {group!r} in the root's /etc/group", hint="give a number")
    return _checked(number, group)
