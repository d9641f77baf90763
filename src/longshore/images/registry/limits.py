"""How long each step at a registry may take, and how often it is tried again."""

from __future__ import annotations

import msgspec


class RegistryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Time limits in seconds, and bounds of what is tried again. A download as a whole has no time limit.

    connect: a connection, with TLS; each address of a host has as long.
    idle: silence of a connection, or fewer than `slowest` bytes of a blob in that time.
    answer: until the head of an answer is complete, for what reads.
    commit: the same for what writes: a registry may copy a whole layer before it answers.
    document: a manifest, a token or an error as a whole.
    helper: a credential helper, which a locked keyring holds up.
    tries: how often one step is tried without progress, and `first_tries` at a host that never answered yet.
    first_wait, longest_wait: the pause before another try grows from the first to the second.
    retry_after: the longest pause that a registry may ask for.
    """

    connect: float = 10
    idle: float = 30
    answer: float = 60
    commit: float = 600
    document: float = 60
    helper: float = 20
    tries: int = 6
    first_tries: int = 2
    first_wait: float = 0.5
    longest_wait: float = 15
    retry_after: float = 60
    slowest: int = 1024
    progress: int = 1 << 20  # bytes of a blob after which the tries are counted from the start
