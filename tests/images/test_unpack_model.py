"""Archives by the thousand, of few names, so that entries meet: unpacked, they are what the model makes of them.

`scripts/fuzz layers` tries more of them than the tests do.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longshore.errors import InvalidImage
from longshore.images.records import Unpacked
from longshore.images.unpack import unpack

from . import tars
from .model import Entry, Layer, Refused
from .tars import WHAT, archive, in_pieces

CASES = int(os.environ.get("LONGSHORE_EXAMPLES", "150"))

NAMES = st.sampled_from([b"a", b"b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
ODD_PATHS = st.lists(st.sampled_from([b"a", b"b", b"..", b".", b""]), min_size=1, max_size=4).map(b"/".join)
ANY_PATH = st.one_of(PATHS, PATHS, PATHS, ODD_PATHS)
TARGETS = st.one_of(ANY_PATH, ANY_PATH.map(lambda path: b"/" + path))
MODES = st.sampled_from([0o644, 0o755, 0o4711, 0o000, 0o1777])

ENTRIES = st.one_of(
    st.builds(Entry, st.just("file"), ANY_PATH, st.sampled_from([b"", b"x", b"y" * 600]), MODES),
    st.builds(Entry, st.just("folder"), ANY_PATH, mode=MODES),
    st.builds(Entry, st.just("symlink"), ANY_PATH, TARGETS, st.just(0o777)),
    st.builds(Entry, st.just("link"), ANY_PATH, TARGETS),
    st.builds(Entry, st.just("fifo"), ANY_PATH, mode=MODES),
    st.builds(Entry, st.just("whiteout"), PATHS),
    st.builds(Entry, st.just("opaque"), st.one_of(PATHS, st.just(b""))),
)


def packed(entry: Entry) -> bytes:
    name = entry.name
    if entry.kind == "file":
        return tars.file(name.rstrip(b"/") or b".", entry.content, mode=entry.mode)
    if entry.kind == "folder":
        return tars.folder(name, entry.mode)
    if entry.kind == "symlink":
        return tars.symlink(name, entry.content)
    if entry.kind == "link":
        return tars.link(name, entry.content)
    if entry.kind == "fifo":
        return tars.header(name, b"6", mode=entry.mode)
    return tars.whiteout(name) if entry.kind == "whiteout" else tars.opaque(name)


def observed(top: bytes) -> dict[bytes, tuple[object, ...]]:
    found: dict[bytes, tuple[object, ...]] = {}
    for directory, folders, names in os.walk(top):
        for name in folders + names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            mode = stat.S_IMODE(status.st_mode)
            at = os.path.relpath(path, top)
            if stat.S_ISDIR(status.st_mode):
                found[at] = ("folder", b"", mode, "trusted.overlay.opaque" in os.listxattr(path))
            elif stat.S_ISREG(status.st_mode):
                found[at] = ("file", Path(os.fsdecode(path)).read_bytes(), mode, False)
            elif stat.S_ISLNK(status.st_mode):
                found[at] = ("symlink", os.readlink(path), mode, False)
            elif stat.S_ISFIFO(status.st_mode):
                found[at] = ("fifo", b"", mode, False)
            else:
                found[at] = ("whiteout", b"", 0, False)
    return found


def ours(entries: list[Entry], top: str) -> Unpacked:
    fd = os.open(top, os.O_RDONLY)
    try:
        return unpack(in_pieces(archive(*map(packed, entries))), fd, WHAT)
    finally:
        os.close(fd)


@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ENTRIES, max_size=9))
def test_unpacking_makes_what_the_model_says(entries: list[Entry]) -> None:
    layer = Layer()
    refused = False
    try:
        for entry in entries:
            layer.apply(entry)
    except Refused:
        refused = True
    top = tempfile.mkdtemp(prefix="longshore-model-")
    try:
        if refused:
            with pytest.raises(InvalidImage):
                ours(entries, top)
            return
        made = ours(entries, top)
        tree, implied, whiteouts = layer.outcome()
        assert observed(os.fsencode(top)) == tree
        assert (set(made.implied), set(made.whiteouts)) == (implied, whiteouts)
        assert (made.missing, made.opaque) == (layer.missing, layer.root.opaque)
    finally:
        shutil.rmtree(top)
