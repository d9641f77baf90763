"""What of a layer depends on those below it: settled as overlayfs then shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longshore.errors import InvalidImage
from longshore.images.lower_layers import LayerStack, find_fixup, needs_below, write_fixup
from longshore.images.records import Unpacked

from .tars import WHAT, Tree, file, folder, kinds, link, opaque, pax, seen, symlink, unpacked, whiteout


class Image:
    """Layers of one image, unpacked alone, then settled; the lowest is the first."""

    def __init__(self, base: Path, *layers: list[bytes]) -> None:
        self.base = base
        self.paths: list[Path] = []  # the topmost first
        self.found: list[Unpacked] = []
        self.again: list[int] = []  # layers that had to be unpacked again
        for number, entries in enumerate(layers):
            alone = unpacked(base / f"{number}", *entries)
            path = base / f"{number}"
            with LayerStack(self.paths) as below:
                if needs_below(alone, below):
                    path = base / f"chain-{number}"
                    alone = unpacked(path, *entries, below=below)
                    self.again.append(number)
            self.paths.insert(0, path)
            self.found.insert(0, alone)
        with LayerStack(self.paths) as stack:
            self.fixup = find_fixup(stack, self.found)
        if self.fixup.folders:
            top = base / "fixup"
            top.mkdir()
            fd = os.open(top, os.O_RDONLY)
            write_fixup(self.fixup.folders, fd, WHAT)
            os.close(fd)
            self.paths.insert(0, top)

    def seen(self) -> Tree:
        return seen(self.paths, self.base / "point")


STATED = folder(b"d", 0o2750, uid=12, gid=34, mtime=5)


def test_implied_folders_have_the_attributes_of_the_layer_that_states_them(tmp_path: Path) -> None:
    image = Image(
        tmp_path,
        [folder(b".", 0o711, uid=1), pax({b"SCHILY.xattr.user.note": b"kept"}), STATED, file(b"d/low")],
        [file(b"d/high")],
        [file(b"d/sub/f"), file(b"other/f")],
    )
    found = image.seen()
    expected = {"kind": "folder", "mode": "0o2750", "owner": [12, 34], "mtime": 5_000_000_000}
    assert found["d"] == {**expected, "xattrs": {"user.note": b"kept".hex()}}
    assert (found["."]["mode"], found["."]["owner"]) == ("0o711", [1, 0])
    assert sorted(found) == [".", "d", "d/high", "d/low", "d/sub", "d/sub/f", "other", "other/f"]
    assert kinds(tmp_path / "fixup") == {"d": "folder"}


def test_what_is_stated_on_top_needs_no_fixup(tmp_path: Path) -> None:
    assert Image(tmp_path, [folder(b"."), file(b"d/f")], [folder(b"."), STATED, file(b"d/g")]).fixup.folders == {}


def test_a_folder_of_a_fixup_has_right_ones_above_it(tmp_path: Path) -> None:
    image = Image(tmp_path, [folder(b"a", 0o700), folder(b"a/b", 0o711)], [folder(b"a", 0o770, uid=3), file(b"a/b/f")])
    found = image.seen()
    assert (found["a"]["mode"], found["a"]["owner"], found["a/b"]["mode"]) == ("0o770", [3, 0], "0o711")


@pytest.mark.parametrize("cut", [[whiteout(b"d")], [opaque(b"d")], [file(b"d")]])
def test_attributes_do_not_come_from_behind_what_hides_them(tmp_path: Path, cut: list[bytes]) -> None:
    image = Image(tmp_path, [STATED], cut, [file(b"d/f")])
    assert (image.seen()["d"]["mode"], image.seen()["d"]["owner"]) == ("0o755", [0, 0])


@pytest.mark.parametrize("name", [b"gone", b"d/gone", b"d/e/gone"])
def test_a_whiteout_of_nothing_is_not_seen(tmp_path: Path, name: bytes) -> None:
    """Such a layer is unpacked again, for overlayfs would list the whiteout."""
    alone = Image(tmp_path, [whiteout(name)])
    assert alone.again == [0]
    assert not [each for each in alone.seen().values() if each["kind"] != "folder"]


def test_a_whiteout_in_a_folder_that_was_hidden_before_is_not_seen(tmp_path: Path) -> None:
    image = Image(tmp_path, [file(b"d/x")], [whiteout(b"d")], [whiteout(b"d/x"), file(b"d/y")])
    assert image.again == [2]
    assert sorted(image.seen()) == [".", "d", "d/y"]


def test_a_whiteout_where_lower_layers_have_the_folder_stays(tmp_path: Path) -> None:
    image = Image(tmp_path, [file(b"d/x"), file(b"d/z")], [file(b"d/y")], [whiteout(b"d/x"), whiteout(b"d/never")])
    assert image.again == []
    assert sorted(image.seen()) == [".", "d", "d/y", "d/z"]


def test_a_hard_link_to_a_lower_file_is_one_file_with_it(tmp_path: Path) -> None:
    image = Image(
        tmp_path,
        [STATED, pax({b"SCHILY.xattr.user.note": b"kept"}), file(b"d/f", b"data", mode=0o4711, uid=5, mtime=9)],
        [link(b"h", b"d/f"), link(b"h2", b"d/f")],
    )
    found = image.seen()
    assert image.again == [1]
    assert found["h"] == found["h2"] == found["d/f"]
    assert (found["h"]["data"], found["h"]["mode"], found["h"]["owner"]) == (b"data".hex(), "0o4711", [5, 0])
    assert (found["h"]["mtime"], found["h"]["xattrs"]) == (9_000_000_000, {"user.note": b"kept".hex()})
    assert (found["d"]["mode"], found["d"]["owner"]) == ("0o2750", [12, 34])


@pytest.mark.parametrize("hide", [whiteout(b"d/f"), opaque(b"d")])
def test_a_hard_link_outlives_the_lower_file(tmp_path: Path, hide: bytes) -> None:
    image = Image(tmp_path, [file(b"d/f", b"x")], [link(b"h", b"d/f"), hide])
    assert sorted(image.seen()) == [".", "d", "h"]


def test_a_file_in_the_place_of_one_that_was_linked_to_is_its_own(tmp_path: Path) -> None:
    image = Image(tmp_path, [file(b"d/f", b"x")], [link(b"h", b"d/f"), file(b"d/f", b"new"), opaque(b"d")])
    assert (image.seen()["d/f"]["data"], image.seen()["h"]["data"]) == (b"new".hex(), b"x".hex())


def test_a_hard_link_to_a_lower_symlink_is_one(tmp_path: Path) -> None:
    image = Image(tmp_path, [symlink(b"s", b"/etc/passwd", uid=4)], [link(b"h", b"s")])
    assert (image.seen()["h"]["target"], image.seen()["h"]["owner"]) == ("/etc/passwd", [4, 0])


@pytest.mark.parametrize(
    "entries",
    [
        [link(b"h", b"nowhere")],
        [link(b"h", b"d/gone")],
        [link(b"h", b"d")],
        [whiteout(b"d/f"), link(b"h", b"d/f")],
        [opaque(b"d"), link(b"h", b"d/f")],
        [opaque(b""), link(b"h", b"d/f")],
        [link(b"h", b"out/victim")],
    ],
)
def test_a_hard_link_to_what_nobody_has_is_refused(tmp_path: Path, entries: list[bytes]) -> None:
    (tmp_path / "victim").write_bytes(b"x")
    lower = [file(b"d/f", b"x"), file(b"d/gone"), symlink(b"out", b"..")]
    with pytest.raises(InvalidImage, match="which is nowhere"):
        Image(tmp_path, lower, [whiteout(b"d/gone")], entries)


def test_a_folder_that_hides_a_link_is_told(tmp_path: Path) -> None:
    image = Image(tmp_path, [folder(b"usr/lib"), symlink(b"lib", b"usr/lib")], [file(b"lib/x")])
    assert image.fixup.hidden_links == [b"lib"]
    assert image.seen()["lib"]["kind"] == "folder"


def test_links_in_lower_layers_lead_nowhere_outside(tmp_path: Path) -> None:
    """Whatever lower layers have: each is looked into by itself, and nothing is followed."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "f").write_bytes(b"secret")
    image = Image(tmp_path, [symlink(b"d", bytes(outside))], [file(b"d/g", b"x"), whiteout(b"d/f")])
    assert image.again == [1]
    assert sorted(image.seen()) == [".", "d", "d/g"]
    assert sorted(os.listdir(outside)) == ["f"]
