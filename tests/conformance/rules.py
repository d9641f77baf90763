"""Where longshore differs from the recordings on purpose: each difference as a rule, with its reason.

A rule looks at what a recording contains, at the values that a caller gives and at what the service answers; never at
its name. What no rule speaks of must be as recorded. `RULES` is the list for people; the functions below it are the
rules for programs, one for each line of it that says `documents`. Rules about calls, events and handles are applied in
`expected.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.hcs.argv import command_line_to_argv

from .vectors import Option


@dataclass(frozen=True)
class Rule:
    """One wanted difference. `about` is what it changes: documents, calls, outcomes, events, handles."""

    name: str
    about: str
    rule: str
    reason: str


RULES = (
    Rule(
        "quoted",
        "documents",
        "arguments given as a list are quoted by the rules of CommandLineToArgvW; a command line given as text (and a"
        " command that is null, which is an empty one) is passed as it is",
        "the original joined them by blanks: an argument with a blank, a quote or nothing in it was lost",
    ),
    Rule(
        "refused-values",
        "documents outcomes calls",
        "a value that the document cannot hold, or that means nothing, is InvalidSpec before the service is asked",
        "the original wrapped it around, cut it off, or left the limit out: the container ran without it",
    ),
    Rule(
        "no-layers",
        "documents outcomes calls",
        "a list of parent layers that is null or empty is refused before the service is asked",
        "the original sent null for an empty one, and no such container can start",
    ),
    Rule(
        "options-merged",
        "documents outcomes",
        "options given twice are merged by the runner: the last counts, for pause and resume as for the document",
        "longshore has one typed object of options; the original looked at the first one when it paused",
    ),
    Rule(
        "closed",
        "handles calls",
        "handles of a system or process that has ended, or that failed to start, are unregistered and closed",
        "the original left them to the garbage collector, or for ever (tag `leak`)",
    ),
    Rule(
        "no-crash",
        "outcomes calls events handles",
        "where the original crashed, hung or forgot a container that runs (tag `bug`), there is a typed error or"
        " the thing works, and nothing is left behind",
        "a null dereference, a channel without a reader and an overwritten table entry are nobody's wish",
    ),
    Rule(
        "failures-told",
        "outcomes",
        "a failure of terminate or shutdown, or of ending a process, reaches the caller; already stopped is success",
        "the original only logged it, and answered success",
    ),
    Rule(
        "live-name",
        "outcomes calls events",
        "a second container or process of a name that is alive is refused before the service is asked",
        "the original overwrote its table entry: the first one could not be reached any more",
    ),
    Rule(
        "left-undone",
        "outcomes calls events",
        "`pids`, `restore` and `update` work or are NotSupported with the reason",
        "the original had nothing behind them, and answered success or an invented exit",
    ),
    Rule(
        "no-isolation-no-pause",
        "outcomes calls",
        "pause and resume of a container that was given no isolation option are refused, too",
        "it is process-isolated then, and only utility VMs can be paused; the original asked the service",
    ),
    Rule(
        "no-lock",
        "outcomes calls events",
        "kill, stats and signal get through while a start, a pause or a teardown is pending, and the engine may be"
        " called from an event's handler",
        "the original held the container's lock for up to five minutes",
    ),
    Rule(
        "unknown-code",
        "events",
        "an exit code that could not be read is None, which the runner shows as 4294967295",
        "the original's -1 cannot be told from a process that ended with it",
    ),
)

# documents


def splits_into(line: str, args: Sequence[str]) -> bool:
    """Rule `quoted`: whether programs take the command line apart into just these arguments."""
    return command_line_to_argv(line) == list(args)


def refusals(spec: Mapping[str, Any], options: Sequence[Option]) -> list[str]:
    """Rules `refused-values` and `no-layers`: why a `create` is refused before the service is asked; [] if it is not.

    Written from the recording's own words, not from the code that refuses.
    """
    return [reason for is_so, reason in _refusals(spec, options) if is_so]


def _refusals(spec: Mapping[str, Any], options: Sequence[Option]) -> Iterator[tuple[bool, str]]:
    windows = spec.get("windows") or {}
    resources = windows.get("resources") or {}
    cpu, memory = resources.get("cpu") or {}, resources.get("memory") or {}
    storage = resources.get("storage") or {}
    limit = memory.get("limit") or 0
    yield (cpu.get("percent") or 0) > 100, "percent goes from 1 to 100"
    yield (cpu.get("shares") or 0) > 10_000, "HCS's weight goes from 1 to 10000"
    yield 0 < limit < 1 << 20, "HCS counts memory in megabytes: less than one would be no limit"
    yield limit >= 1 << 63, "the document's member is a signed number of 64 bits"
    yield (storage.get("sandboxSize") or 0) >= 1 << 63, "no disk is so large"

    paths = None
    for option in options:
        if option.type == "Layer":
            paths = option.layer_paths
    yield not paths, "no parent layers"

    root = (spec.get("root") or {}).get("path") or ""
    volume = re.fullmatch(r"\\\\\?\\Volume\{[0-9a-fA-F-]{36}\}\\?", root)
    yield bool(root) and volume is None, "a root is a volume"
    for mount in spec.get("mounts") or []:
        yield (mount.get("type") or "bind") != "bind", "there are no other mounts"
    yield from process_refusals(spec.get("process") or {})


def process_refusals(process: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Rule `refused-values` for one process."""
    args = process.get("args") or []
    size = process.get("consoleSize") or {}
    yield bool(args) and '"' in args[0], "the name of a program holds no quote"
    yield sum(len(argument) + 3 for argument in args) > 32_767, "Windows' command lines are shorter"
    if process.get("terminal"):
        yield not 0 <= size.get("height", 0) <= 0xFFFF, "a console has at most 65535 lines"
        yield not 0 <= size.get("width", 0) <= 0xFFFF, "a console has at most 65535 columns"


def resize_refused(width: int, height: int) -> bool:
    """Rule `refused-values` for `resize`: a console has a size, of 16 bits each."""
    return not (1 <= width <= 0xFFFF and 1 <= height <= 0xFFFF)
