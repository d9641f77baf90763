"""`WWW-Authenticate` headers, and scopes: what a registry wants to see, and what a token is for.

One header may have several challenges, and the scope in one of them has commas of its own, in quotes (RFC 9110, 11.6).
"""

from __future__ import annotations

import re

import msgspec

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(r"\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"=]+))(?=\s*(?:,|$|\s))")
_TOKEN_68 = re.compile(r"[ \t]+[A-Za-z0-9._~+/-]+=*(?=\s*(?:,|$))")
LONGEST = 1 << 16


class Challenge(msgspec.Struct, frozen=True):
    """One way to prove who one is; `scheme` and the names of `parameters` are in lower case."""

    scheme: str
    parameters: dict[str, str] = {}


def parse_challenges(header: str) -> list[Challenge]:
    """Return the challenges of a header, in its order; what cannot be read is passed over."""
    header = header[:LONGEST]
    found: list[tuple[str, dict[str, str]]] = []
    place = 0
    while place < len(header):
        name = _TOKEN.match(header, place)
        if name is None:
            place += 1  # a comma, a space, or something that has no place here
            continue
        place = name.end()
        parameter = _PARAMETER.match(header, place)
        if parameter is not None and found:
            quoted, plain = parameter[1], parameter[2]
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            found[-1][1].setdefault(name[0].lower(), value)
            place = parameter.end()
        elif parameter is not None:
            place = parameter.end()  # of no challenge
        else:
            found.append((name[0].lower(), {}))
            if (token := _TOKEN_68.match(header, place)) is not None:
                place = token.end()
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def pull_scope(path: str) -> str:
    """Return the scope of reading a repository."""
    return f"repository:{path}:pull"


def push_scope(path: str) -> str:
    """Return the scope of writing a repository."""
    return f"repository:{path}:pull,push"


def merged_scopes(*scopes: str) -> str:
    """Return scopes as one, each resource once with all its actions, in a settled order.

    A registry names in its challenge what the request needs; what the operation will need besides is added, so that
    one token serves all of it.
    """
    actions: dict[str, set[str]] = {}
    for scope in " ".join(scopes).split():
        resource, _, wanted = scope.rpartition(":")
        if resource:
            actions.setdefault(resource, set()).update(filter(None, wanted.split(",")))
    return " ".join(f"{resource}:{','.join(sorted(wanted))}" for resource, wanted in sorted(actions.items()))
