"""Archives as tests want them, also such as no tool writes; and what unpacking them has made."""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from longshore.images.records import Unpacked
from longshore.images.unpack import unpack

END = bytes(1024)
WHAT = "layer sha256:0"


def header(
    name: bytes,
    kind: bytes = b"0",
    size: int = 0,
    *,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    **fields: bytes,
) -> bytes:
    """One header block. `fields` overwrite what stands at offset `at_N`."""
    block = bytearray(512)

    def put(at: int, data: bytes) -> None:
        block[at : at + len(data)] = data

    put(0, name[:100])
    put(100, b"%07o\0" % mode)
    put(108, b"%07o\0" % uid)
    put(116, b"%07o\0" % gid)
    put(124, b"%011o\0" % size)
    put(136, b"%011o\0" % mtime)
    put(156, kind)
    put(157, link[:100])
    put(257, magic)
    put(329, b"%07o\0" % device[0])
    put(337, b"%07o\0" % device[1])
    put(345, prefix)
    for field, value in fields.items():
        put(int(field.removeprefix("at_")), value)
    put(148, b"        ")
    put(148, b"%06o\0 " % sum(block))
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def file(name: bytes, data: bytes = b"", **more: Any) -> bytes:
    return header(name, b"0", len(data), **more) + padded(data)


def folder(name: bytes, mode: int = 0o755, **more: Any) -> bytes:
    return header(name, b"5", mode=mode, **more)


def symlink(name: bytes, target: bytes, **more: Any) -> bytes:
    return header(name, b"2", link=target, mode=0o777, **more)


def link(name: bytes, target: bytes, **more: Any) -> bytes:
    return header(name, b"1", link=target, **more)


def device(name: bytes, numbers: tuple[int, int], kind: bytes = b"3") -> bytes:
    return header(name, kind, device=numbers)


def fifo(name: bytes) -> bytes:
    return header(name, b"6")


def whiteout(name: bytes) -> bytes:
    """Hide `name`."""
    above, slash, last = name.rpartition(b"/")
    return file(above + slash + b".wh." + last)


def opaque(name: bytes) -> bytes:
    """Hide all that is in the folder `name`; empty for the root."""
    return file(name + b"/.wh..wh..opq" if name else b".wh..wh..opq")


def pax_record(key: bytes, value: bytes) -> bytes:
    text = b" " + key + b"=" + value + b"\n"
    length = len(text)
    while len(b"%d" % length) + len(text) != length:
        length = len(b"%d" % length) + len(text)
    return b"%d" % length + text


def pax(records: dict[bytes, bytes] | Iterable[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    """A PAX header for what follows; of kind `g`, for all that follows."""
    pairs = records.items() if isinstance(records, dict) else records
    data = b"".join(pax_record(key, value) for key, value in pairs)
    return header(b"pax", kind, len(data)) + padded(data)


def gnu_long(kind: bytes, value: bytes) -> bytes:
    """A header with a long name (L) or link target (K) for what follows."""
    data = value + b"\0"
    return header(b"././@LongLink", kind, len(data), magic=b"ustar  \0") + padded(data)


def archive(*entries: bytes) -> bytes:
    return b"".join(entries) + END


def in_pieces(data: bytes, size: int = 700) -> list[bytes]:
    """Pieces whose ends are not those of blocks."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def unpacked(top: Path, *entries: bytes, below: Any = None) -> Unpacked:
    """Unpack an archive of these entries into a new folder."""
    top.mkdir(mode=0o700)
    fd = os.open(top, os.O_RDONLY)
    try:
        return unpack(in_pieces(archive(*entries)), fd, WHAT, below)
    finally:
        os.close(fd)


Tree = dict[str, dict[str, Any]]


def tree(top: Path | str) -> Tree:
    """All that is below a folder, by path; "." is the folder itself."""
    found: Tree = {}
    inodes: dict[int, str] = {}
    for directory, folders, names in os.walk(top):
        paths = [directory] if directory == str(top) else []
        for path in sorted(paths + [os.path.join(directory, each) for each in folders + names]):
            found[os.path.relpath(path, top)] = describe(path, os.path.relpath(path, top), inodes)
    together = [each["links"] for each in found.values() if "links" in each]
    for each in found.values():
        if together.count(each.get("links")) == 1:
            del each["links"]  # its other names are hidden
    return found


def describe(path: str, shown: str, inodes: dict[int, str]) -> dict[str, Any]:
    try:
        status = os.lstat(path)
    except OSError:
        return {"kind": "broken"}  # how overlayfs lists a whiteout that it does not hide
    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "folder",
        stat.S_IFLNK: "symlink",
        stat.S_IFCHR: "character",
        stat.S_IFBLK: "block",
        stat.S_IFIFO: "fifo",
    }
    kind = kinds[stat.S_IFMT(status.st_mode)]
    found: dict[str, Any] = {
        "kind": kind,
        "mode": oct(stat.S_IMODE(status.st_mode)),
        "owner": [status.st_uid, status.st_gid],
        "mtime": status.st_mtime_ns,
    }
    if kind == "file":
        found["data"] = Path(path).read_bytes().hex()
    if kind == "symlink":
        found["target"] = os.readlink(path)
    if kind in ("character", "block"):
        found["device"] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
    if kind in ("file", "folder"):
        names = [name for name in os.listxattr(path) if not name.startswith("system.")]
        found["xattrs"] = {name: os.getxattr(path, name).hex() for name in sorted(names)}
    if kind != "folder" and status.st_nlink > 1:
        found["links"] = inodes.setdefault(status.st_ino, shown)
    return found


def kinds(top: Path) -> dict[str, str]:
    """What kind each path is of, and `opaque` or `whiteout` where it is one."""
    found = {}
    for path, what in tree(top).items():
        kind = what["kind"]
        if kind == "character" and what["device"] == [0, 0]:
            kind = "whiteout"
        elif what.get("xattrs", {}).get("trusted.overlay.opaque") == b"y".hex():
            kind = "opaque"
        found[path] = kind
    del found["."]
    return found


def seen(layers: Sequence[Path], point: Path) -> Tree:
    """What a container would see of these layers, the topmost first: as overlayfs shows them."""
    point.mkdir(exist_ok=True)
    empty = point.parent / "empty"  # overlayfs takes no single folder
    empty.mkdir(exist_ok=True)
    lowers = ":".join(map(str, [*layers, empty] if len(layers) == 1 else layers))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"overlay", bytes(point), b"overlay", 1, f"lowerdir={lowers}".encode()) != 0:  # MS_RDONLY
        raise OSError(ctypes.get_errno(), "cannot mount", lowers)
    try:
        return tree(point)
    finally:
        libc.umount2(bytes(point), 2)  # MNT_DETACH
