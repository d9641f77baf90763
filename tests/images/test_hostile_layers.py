"""Layers that try to reach a file outside of their own folder. Each finds the same two files beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from longshore.errors import InvalidImage

from .tars import file, folder, kinds, link, opaque, symlink, tree, unpacked, whiteout


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder next to the layer, which is the same after the test."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "victim").write_bytes(b"untouched")
    before = tree(folder)
    yield folder
    assert tree(folder) == before


def out(tmp_path: Path, *, absolute: bool) -> bytes:
    return bytes(tmp_path / "outside") if absolute else b"../outside"


ATTACKS: dict[str, Callable[[bytes], list[bytes]]] = {
    "symlink-out": lambda target: [symlink(b"l", target), file(b"l/victim", b"x"), file(b"l/new", b"x")],
    "symlink-chain": lambda target: [symlink(b"a", target), symlink(b"b", b"a"), symlink(b"c", b"b/."), file(b"c/new")],
    "symlink-in-a-folder": lambda target: [folder(b"d"), symlink(b"d/l", b"../" + target), file(b"d/l/victim", b"x")],
    "hard-link-through-a-symlink": lambda target: [
        symlink(b"l", target),
        link(b"h", b"l/victim"),
        file(b"h", b"x"),
    ],
    "hard-link-to-a-symlink": lambda target: [symlink(b"l", target + b"/victim"), link(b"h", b"l"), file(b"h", b"x")],
    "dot-dot": lambda target: [file(b"../outside/victim", b"x"), file(b"d/../../outside/new", b"x")],
    "absolute": lambda target: [file(target + b"/victim", b"x"), file(b"/" + target + b"/new", b"x")],
    "file-over-symlink": lambda target: [symlink(b"l", target + b"/victim"), file(b"l", b"x", mode=0o777)],
    "folder-over-symlink": lambda target: [symlink(b"l", target), folder(b"l", 0o777, uid=5), file(b"l/new", b"x")],
    "whiteout-through-a-symlink": lambda target: [symlink(b"l", target), whiteout(b"l/victim")],
    "opaque-through-a-symlink": lambda target: [symlink(b"l", target), opaque(b"l")],
    "folder-through-a-symlink": lambda target: [symlink(b"l", target), folder(b"l/.", 0o777, uid=5)],
}


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_outside_is_reached(tmp_path: Path, outside: Path, attack: str, absolute: bool) -> None:
    top = tmp_path / "layer"
    unpacked(top, *ATTACKS[attack](out(tmp_path, absolute=absolute)))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["layer", "outside"]


@pytest.mark.parametrize("target", [b"../outside/victim", b"/../outside/victim", b"d/../../outside/victim"])
def test_a_hard_link_cannot_lead_outside(tmp_path: Path, outside: Path, target: bytes) -> None:
    top = tmp_path / "layer"
    assert unpacked(top, folder(b"d"), link(b"h", target), file(b"h2")).missing == [b"h"]
    assert kinds(top) == {"d": "folder", "h2": "file"}


def test_an_absolute_hard_link_cannot_lead_outside(tmp_path: Path, outside: Path) -> None:
    assert unpacked(tmp_path / "layer", link(b"h", bytes(outside / "victim"))).missing == [b"h"]


@pytest.mark.parametrize("name", [b".", b"./", b"/", b"..", b"d/.."])
def test_the_root_can_only_be_a_folder(tmp_path: Path, outside: Path, name: bytes) -> None:
    for number, entry in enumerate((symlink(name, b"../outside"), file(name), link(name, b"x"))):
        if entry[156:157] == b"0" and name.endswith(b"/"):
            continue  # an old way to write a folder
        with pytest.raises(InvalidImage, match="root is no folder"):
            unpacked(tmp_path / str(number), entry)


def test_symbolic_links_are_followed_as_the_image_means_them(tmp_path: Path) -> None:
    top = tmp_path / "layer"
    unpacked(
        top,
        symlink(b"lib", b"usr/lib"),
        symlink(b"abs", b"/usr/./share/../lib"),
        symlink(b"usr", b"../../../real"),
        file(b"lib/a"),
        file(b"abs/b"),
        link(b"abs/c", b"lib/a"),
        whiteout(b"lib/gone"),
    )
    assert kinds(top) == {
        "abs": "symlink",
        "lib": "symlink",
        "usr": "symlink",
        "real": "folder",
        "real/lib": "folder",
        "real/share": "folder",
        "real/lib/a": "file",
        "real/lib/b": "file",
        "real/lib/c": "file",
        "real/lib/gone": "whiteout",
    }
