"""A model of what one layer means, by the image specification and docs: slow, plain, and without a file system.

It applies entries to a tree of objects, as seen by a program whose root is the layer. `unpack` has to make the same of
the same entries, or both refuse them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LINKS = 40


class Refused(Exception):
    """No archive of a layer may have this."""


@dataclass(eq=False)
class Node:
    """What is at a name: content is the data of a file, the target of a symbolic link, or nothing."""

    kind: str
    content: bytes = b""
    mode: int = 0o755


@dataclass(eq=False)
class Directory(Node):
    kind: str = "folder"
    children: dict[bytes, Node] = field(default_factory=dict)
    implied: bool = True
    opaque: bool = False
    parent: Directory | None = None
    hidden: list[bytes] = field(default_factory=list)  # names that were whited out here


@dataclass(frozen=True)
class Entry:
    """One entry of an archive, before it is one."""

    kind: str  # file, folder, symlink, link, fifo, whiteout, opaque
    name: bytes
    content: bytes = b""
    mode: int = 0o644


def parts_of(name: bytes) -> list[bytes]:
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


class Layer:
    """The root, and what was applied to it."""

    def __init__(self) -> None:
        self.root = Directory()
        self.missing: list[bytes] = []

    def apply(self, entry: Entry) -> None:
        parts = parts_of(entry.name)
        if entry.kind == "opaque":
            self._reach(parts, make=True).opaque = True
            return
        if not parts:
            if entry.kind != "folder":
                raise Refused("root")
            self.root.implied, self.root.mode = False, entry.mode
            return
        name = parts.pop()
        parent = self._reach(parts, make=True)
        if entry.kind == "whiteout":
            parent.hidden.append(name)
        elif entry.kind == "folder":
            self._folder(parent, name, entry.mode)
        elif entry.kind == "link":
            self._link(parent, name, parts_of(entry.content))
        else:
            if entry.kind == "symlink" and not entry.content:
                raise Refused("empty link")
            parent.children[name] = Node(entry.kind, entry.content, entry.mode)

    def _folder(self, parent: Directory, name: bytes, mode: int) -> None:
        found = parent.children.get(name)
        if not isinstance(found, Directory):
            found = Directory(parent=parent, opaque=found is not None)
            parent.children[name] = found
        found.implied, found.mode = False, mode

    def _link(self, parent: Directory, name: bytes, target: list[bytes]) -> None:
        if not target:
            raise Refused("link to the root")
        above = self._reach(target[:-1], make=False)
        found = above.children.get(target[-1]) if above else None
        if isinstance(found, Directory):
            raise Refused("link to a folder")
        at: Directory | None = above
        while at is not None:
            if parent.children.get(name) is at:
                raise Refused("link into what it replaces")
            at = at.parent
        if found is None:
            self.missing.append(b"/".join([*self.path(parent), name]))
        else:
            parent.children[name] = found

    def _reach(self, parts: list[bytes], *, make: bool) -> Directory:
        at = self.root
        left = list(parts)
        links = 0
        while left:
            part = left.pop(0)
            if part == b"..":
                at = at.parent or self.root
                continue
            found = at.children.get(part)
            if found is None:
                if not make:
                    return None  # type: ignore[return-value]
                found = at.children[part] = Directory(parent=at)
            if found.kind == "symlink":
                links += 1
                if links > LINKS:
                    raise Refused("too many links")
                left = [each for each in found.content.split(b"/") if each not in (b"", b".")] + left
                if found.content.startswith(b"/"):
                    at = self.root
            elif isinstance(found, Directory):
                at = found
            else:
                raise Refused("below a file")
        return at

    def path(self, directory: Directory) -> list[bytes]:
        if directory.parent is None:
            return []
        [name] = [name for name, node in directory.parent.children.items() if node is directory]
        return [*self.path(directory.parent), name]

    def outcome(self) -> tuple[dict[bytes, tuple[object, ...]], set[bytes], set[bytes]]:
        """What the folder has: (kind, content, mode, opaque) by path; the implied folders; those with whiteouts."""
        self._settle(self.root)
        found: dict[bytes, tuple[object, ...]] = {}
        implied: set[bytes] = set()
        whiteouts: set[bytes] = set()
        self._list(self.root, b"", self.root.opaque, found, implied, whiteouts)
        return found, implied, whiteouts

    def _settle(self, directory: Directory, *, hidden: bool = False) -> None:
        """Make folders opaque that were whited out where lower layers are still seen."""
        hidden = hidden or directory.opaque
        for name in () if hidden else directory.hidden:
            child = directory.children.get(name)
            if isinstance(child, Directory):
                child.opaque = True
        for child in directory.children.values():
            if isinstance(child, Directory):
                self._settle(child, hidden=hidden)

    def _list(
        self,
        directory: Directory,
        path: bytes,
        below_opaque: bool,
        found: dict[bytes, tuple[object, ...]],
        implied: set[bytes],
        whiteouts: set[bytes],
    ) -> None:
        if directory.implied:
            implied.add(path)
        for name, child in directory.children.items():
            at = path + b"/" + name if path else name
            if isinstance(child, Directory):
                found[at] = ("folder", b"", child.mode, child.opaque)
                self._list(child, at, below_opaque or child.opaque, found, implied, whiteouts)
            else:
                found[at] = (child.kind, child.content, child.mode, False)
        if not below_opaque:
            for name in directory.hidden:
                if name not in directory.children:
                    found[path + b"/" + name if path else name] = ("whiteout", b"", 0, False)
                    whiteouts.add(path)
