"""What a layer becomes when it is unpacked alone."""

from __future__ import annotations

import os
import stat
import subprocess
from itertools import permutations
from pathlib import Path

import pytest

from longshore.errors import InvalidImage

from .tars import (
    archive,
    device,
    fifo,
    file,
    folder,
    header,
    kinds,
    link,
    opaque,
    pax,
    seen,
    symlink,
    tree,
    unpacked,
    whiteout,
)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "layer"


def test_every_kind_of_file_is_made_with_all_that_is_said_of_it(top: Path) -> None:
    found = unpacked(
        top,
        folder(b"./", 0o1777, uid=1, gid=2, mtime=10),
        folder(b"d", 0o2750, uid=3, gid=4, mtime=20),
        file(b"d/f", b"data", mode=0o4711, uid=5, gid=6, mtime=30),
        symlink(b"d/s", b"/any/where", uid=7, gid=8, mtime=40),
        header(b"d/c", b"3", mode=0o600, uid=9, device=(1, 5), mtime=50),
        header(b"d/b", b"4", mode=0o660, gid=9, device=(7, 3), mtime=60),
        header(b"d/p", b"6", mode=0o622, mtime=70),
        header(b"d/h", b"1", link=b"d/f"),
    )
    second = 1_000_000_000
    made = tree(top)
    shared = {"kind": "file", "mode": "0o4711", "owner": [5, 6], "mtime": 30 * second, "data": b"data".hex()}
    assert made["."] == {"kind": "folder", "mode": "0o1777", "owner": [1, 2], "mtime": 10 * second, "xattrs": {}}
    assert made["d"] == {"kind": "folder", "mode": "0o2750", "owner": [3, 4], "mtime": 20 * second, "xattrs": {}}
    assert made["d/f"] == made["d/h"] == {**shared, "xattrs": {}, "links": "d/f"}
    assert made["d/s"]["target"] == "/any/where"
    assert (made["d/s"]["owner"], made["d/s"]["mtime"]) == ([7, 8], 40 * second)
    assert (made["d/c"]["kind"], made["d/c"]["device"], made["d/c"]["owner"]) == ("character", [1, 5], [9, 0])
    assert (made["d/b"]["kind"], made["d/b"]["device"], made["d/b"]["mode"]) == ("block", [7, 3], "0o660")
    assert (made["d/p"]["kind"], made["d/p"]["mode"], made["d/p"]["mtime"]) == ("fifo", "0o622", 70 * second)
    assert (found.size, found.files, found.implied) == (4, 7, [])


def test_setuid_and_capabilities_outlive_the_change_of_owner(top: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
    unpacked(
        top,
        file(b"setuid", b"x", mode=0o6755, uid=1000, gid=1000),
        pax({b"SCHILY.xattr.security.capability": capability}),
        file(b"capable", b"x", mode=0o755, uid=1000),
    )
    assert stat.S_IMODE((top / "setuid").stat().st_mode) == 0o6755
    assert os.getxattr(top / "capable", "security.capability")[:8] == capability[:8]


def test_a_folder_keeps_its_mode_and_time_though_files_follow(top: Path) -> None:
    unpacked(top, folder(b"d", 0o500, uid=9, mtime=1), file(b"d/a"), folder(b"d/e", 0, mtime=2), file(b"d/e/b"))
    made = tree(top)
    assert (made["d"]["mode"], made["d"]["mtime"], made["d"]["owner"]) == ("0o500", 1_000_000_000, [9, 0])
    assert (made["d/e"]["mode"], made["d/e"]["mtime"]) == ("0o0", 2_000_000_000)


def test_nothing_is_inherited_from_a_setgid_folder(top: Path) -> None:
    unpacked(top, folder(b"d", 0o2777, gid=50), file(b"d/f"), folder(b"d/sub"), symlink(b"d/s", b"f"))
    made = tree(top)
    assert {made[path]["owner"][1] for path in ("d/f", "d/sub", "d/s")} == {0}
    assert made["d/sub"]["mode"] == "0o755"


def test_missing_parents_are_made_for_all_to_read_and_are_told(top: Path) -> None:
    found = unpacked(top, file(b"a/b/f"), link(b"c/hard", b"a/b/f"), symlink(b"d/s", b"x"), whiteout(b"e/gone"))
    made = tree(top)
    for path in ("a", "a/b", "c", "d", "e"):
        assert (made[path]["mode"], made[path]["owner"], made[path]["mtime"]) == ("0o755", [0, 0], 0)
    assert sorted(found.implied) == [b"", b"a", b"a/b", b"c", b"d", b"e"]


def test_an_entry_states_what_was_implied_before(top: Path) -> None:
    found = unpacked(top, file(b"a/f"), folder(b"a", 0o700), folder(b"."))
    assert found.implied == []
    assert tree(top)["a"]["mode"] == "0o700"


def test_names_are_bytes_and_times_have_nanoseconds(top: Path) -> None:
    unpacked(top, pax({b"path": b"\xff\xfe", b"mtime": b"5.000000007"}), file(b"x"))
    [name] = os.listdir(os.fsencode(top))
    assert (name, os.stat(os.path.join(os.fsencode(top), name)).st_mtime_ns) == (b"\xff\xfe", 5_000_000_007)


def test_times_that_no_file_system_has_are_clamped(top: Path) -> None:
    unpacked(top, pax({b"mtime": b"-5"}), file(b"old"), pax({b"mtime": b"9" * 15}), file(b"late"))
    assert (top / "old").stat().st_mtime == 0
    assert (top / "late").stat().st_mtime > 2**32


def test_only_attributes_that_mean_nothing_here_are_set(top: Path) -> None:
    attributes = {
        b"SCHILY.xattr.user.kept": b"1",
        b"SCHILY.xattr.user.overlay.redirect": b"/x",
        b"SCHILY.xattr.trusted.overlay.redirect": b"/x",
        b"SCHILY.xattr.trusted.overlay.opaque": b"y",
        b"SCHILY.xattr.trusted.overlay.metacopy": b"",
        b"SCHILY.xattr.security.selinux": b"label",
        b"SCHILY.xattr.security.ima": b"x",
        b"SCHILY.xattr.system.posix_acl_access": b"x",
    }
    unpacked(top, pax(attributes), folder(b"d"), pax(attributes), file(b"f"), pax(attributes), symlink(b"s", b"f"))
    assert os.listxattr(top / "d") == os.listxattr(top / "f") == ["user.kept"]
    assert os.listxattr(top / "s", follow_symlinks=False) == []


# what is hidden of lower layers


def test_whiteouts_become_what_overlayfs_takes_for_them(top: Path) -> None:
    found = unpacked(top, folder(b"d"), whiteout(b"d/gone"), folder(b"o"), opaque(b"o"), file(b"o/f"))
    assert kinds(top) == {"d": "folder", "d/gone": "whiteout", "o": "opaque", "o/f": "file"}
    assert (found.whiteouts, found.opaque) == ([b"d"], False)


def test_the_type_of_a_whiteout_does_not_count(top: Path) -> None:
    unpacked(top, folder(b".wh.a"), symlink(b".wh.b", b"x"), link(b".wh.c", b"nowhere"), device(b"d", (0, 0)))
    assert kinds(top) == {"a": "whiteout", "b": "whiteout", "c": "whiteout", "d": "whiteout"}


ENTRIES_OF_ITS_OWN = [
    ([file(b"d/x"), whiteout(b"d/x")], {"d": "folder", "d/x": "file"}),
    ([folder(b"d/x"), whiteout(b"d/x")], {"d": "folder", "d/x": "opaque"}),
    ([file(b"d/x/y"), whiteout(b"d/x")], {"d": "folder", "d/x": "opaque", "d/x/y": "file"}),
    ([file(b"d/x"), opaque(b"d")], {"d": "opaque", "d/x": "file"}),
    ([whiteout(b"d/x"), opaque(b"d")], {"d": "opaque"}),
    ([whiteout(b"d/e/x"), opaque(b"d")], {"d": "opaque", "d/e": "folder"}),
    ([whiteout(b"d"), whiteout(b"d/x"), file(b"d/y")], {"d": "opaque", "d/y": "file"}),
    ([opaque(b""), whiteout(b"d/x")], {"d": "folder"}),
    ([symlink(b"l", b"d"), whiteout(b"l/x"), file(b"d/y")], None),
]


@pytest.mark.parametrize(("entries", "expected"), ENTRIES_OF_ITS_OWN)
def test_the_order_of_whiteouts_and_entries_does_not_count(
    tmp_path: Path, entries: list[bytes], expected: dict[str, str] | None
) -> None:
    for number, order in enumerate(permutations(entries)):
        top = tmp_path / str(number)
        unpacked(top, *order)
        if expected is not None:
            assert kinds(top) == expected
        elif order.index(entries[0]) < order.index(entries[1]):  # only then is `l` known to be a link
            assert kinds(top) == {"d": "folder", "d/x": "whiteout", "d/y": "file", "l": "symlink"}


def test_an_opaque_root_is_told(top: Path) -> None:
    assert unpacked(top, opaque(b""), file(b"f")).opaque
    assert kinds(top) == {"f": "file"}


def test_files_of_aufs_are_left_out(top: Path) -> None:
    unpacked(top, folder(b".wh..wh.plnk"), file(b".wh..wh.plnk/12.34"), file(b".wh..wh.aufs"), file(b"f"))
    assert kinds(top) == {"f": "file"}


@pytest.mark.parametrize("name", [b".wh.", b"d/.wh.", b".wh..", b".wh...", b".wh.x/f"])
def test_a_whiteout_of_nothing_is_refused(top: Path, name: bytes) -> None:
    with pytest.raises(InvalidImage, match="whiteout"):
        unpacked(top, file(name))


# one entry in the place of another

KINDS = {"file": file(b"x", b"new"), "folder": folder(b"x"), "symlink": symlink(b"x", b"target")}


@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_a_later_entry_replaces_an_earlier_one(top: Path, first: str, second: str) -> None:
    before = [KINDS[first], file(b"x/inside")] if first == "folder" else [KINDS[first]]
    unpacked(top, folder(b"target"), *before, KINDS[second])
    expected = {"target": "folder", "x": second}
    if first != "folder" and second == "folder":
        expected["x"] = "opaque"  # a lower folder was hidden by what was replaced
    if first == second == "folder":
        expected["x/inside"] = "file"
    assert kinds(top) == expected


@pytest.mark.parametrize("second", [fifo(b"x"), device(b"x", (1, 3)), link(b"x", b"other")])
def test_nodes_and_links_replace_whole_folders(top: Path, second: bytes) -> None:
    unpacked(top, file(b"other"), folder(b"x/a/b"), file(b"x/a/b/c"), symlink(b"x/s", b"/"), second)
    assert sorted(kinds(top)) == ["other", "x"]


def test_a_folder_that_was_replaced_can_be_made_again(top: Path) -> None:
    unpacked(top, folder(b"x/y/z"), whiteout(b"x/y/gone"), file(b"x"), folder(b"x"), file(b"x/y/f"))
    assert kinds(top) == {"x": "opaque", "x/y": "folder", "x/y/f": "file"}


def test_a_file_below_a_file_is_refused(top: Path) -> None:
    with pytest.raises(InvalidImage, match="`x` is no folder, but has files in it"):
        unpacked(top, file(b"x"), file(b"x/y"))


def test_hard_links_reach_each_kind_of_file(top: Path) -> None:
    unpacked(top, symlink(b"s", b"nowhere"), link(b"s2", b"s"), fifo(b"p"), link(b"p2", b"p"), link(b"p2", b"./p2"))
    assert kinds(top) == {"s": "symlink", "s2": "symlink", "p": "fifo", "p2": "fifo"}


def test_a_hard_link_to_what_is_not_there_is_told(top: Path) -> None:
    found = unpacked(top, link(b"a", b"below/f"), file(b"b"), link(b"c", b"a"))
    assert (found.missing, kinds(top)) == ([b"a", b"c"], {"b": "file"})


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([folder(b"d"), link(b"x", b"d")], "leads to a folder"),
        ([file(b"d/f"), link(b"d", b"d/f")], "would replace what it leads to"),
        ([link(b"x", b".")], "leads to the root"),
        ([symlink(b"x", b"")], "has no target"),
        ([file(b"n" * 100 + b"/" + b"x")], None),
        ([pax({b"path": b"n" * 300}), file(b"x")], "File name too long"),
        ([device(b"x", (5000, 1))], "has the numbers 5000:1"),
        ([header(b"x", b"V")], "unknown type b'V'"),
        ([pax({b"path": b"d/" * 1000}), folder(b"x")], "is too deep"),
        ([symlink(b"a", b"b"), symlink(b"b", b"a"), file(b"a/x")], "too many symbolic links"),
        ([pax({b"SCHILY.xattr.user." + b"n" * 300: b"x"}), file(b"x")], "cannot be set"),
        ([pax({b"SCHILY.xattr.security.capability": b"x"}), file(b"x")], "cannot be set"),
        ([pax({b"SCHILY.xattr.user.large": b"x" * 100_000}), file(b"x")], "cannot be set"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(top: Path, entries: list[bytes], problem: str | None) -> None:
    if problem is None:
        unpacked(top, *entries)
        return
    with pytest.raises(InvalidImage, match=problem):
        unpacked(top, *entries)


def test_a_great_many_folders_need_few_descriptors(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    peak = 0

    def entries() -> list[bytes]:
        return [file(b"/".join([b"%d" % number, *[b"d"] * 40, b"f"])) for number in range(60)]

    unpacked(tmp_path / "layer", *entries())
    peak = len(os.listdir("/proc/self/fd"))
    assert peak == before


# the same as other tools

SAMPLE = [
    [folder(b"./"), folder(b"keep"), file(b"keep/f", b"1"), folder(b"hide"), file(b"hide/f", b"1"), file(b"gone"),
     folder(b"swap"), file(b"swap/f"), symlink(b"to", b"keep"), folder(b"part"), file(b"part/a"), file(b"part/b")],
    [folder(b"./"), whiteout(b"gone"), folder(b"hide"), opaque(b"hide"), file(b"hide/g", b"2"), folder(b"part"),
     whiteout(b"part/a"), file(b"swap", b"now a file"), folder(b"new"), file(b"new/x", b"3"), link(b"new/y", b"new/x")],
    [folder(b"./"), file(b"gone", b"back"), folder(b"swap", 0o700), file(b"swap/again"), whiteout(b"hide"),
     folder(b"new"), file(b"new/x", b"4"), symlink(b"new/z", b"../keep"), fifo(b"pipe"), device(b"null", (1, 3))],
]  # fmt: skip


def test_layers_together_are_what_umoci_makes_of_them(tmp_path: Path) -> None:
    layers: list[Path] = []
    for number, entries in enumerate(SAMPLE):
        unpacked(tmp_path / str(number), *entries)
        layers.insert(0, tmp_path / str(number))
    ours = seen(layers, tmp_path / "point")
    theirs = tree(umoci_unpacked(tmp_path, [archive(*entries) for entries in SAMPLE]))
    for found in (ours, theirs):
        for each in found.values():
            if each["kind"] == "folder":
                each.pop("mtime")  # umoci's own later changes move these
    assert ours == theirs


def umoci_unpacked(tmp_path: Path, layers: list[bytes]) -> Path:
    """What umoci unpacks of an image with these layers."""
    image = f"{tmp_path}/oci:test"

    def umoci(*args: str) -> None:
        subprocess.run(["umoci", *args], check=True, capture_output=True)

    umoci("init", "--layout", f"{tmp_path}/oci")
    umoci("new", "--image", image)
    for number, layer in enumerate(layers):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(layer)
        umoci("raw", "add-layer", "--image", image, str(path))
    umoci("unpack", "--image", image, f"{tmp_path}/bundle")
    return tmp_path / "bundle" / "rootfs"
