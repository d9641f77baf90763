"""Users are looked up in the root's own files, and by no link that leads out of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.errors import InvalidSpec
from longshore.oci.inroot import Folder, Stack
from longshore.oci.users import look_up

from .roots import make_root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Folder]:
    folder = Folder(str(make_root(tmp_path / "root")))
    yield folder
    folder.close()


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("root", 0, 0, [], "/root"),
        ("web", 1000, 1001, [2000], "/home/web"),
        ("1000", 1000, 1001, [2000], "/home/web"),  # a number that passwd knows has the account's groups
        ("4242", 4242, 0, [], None),
        ("web:extra", 1000, 2000, [], "/home/web"),  # a group that is named replaces the others
        ("web:77", 1000, 77, [], "/home/web"),
        ("5:6", 5, 6, [], None),
    ],
)
def test_a_user_means_what_the_roots_files_say(
    root: Folder, user: str, uid: int, gid: int, groups: list[int], home: str | None
) -> None:
    found = look_up(user, root)
    assert (found.uid, found.gid, found.groups, found.home) == (uid, gid, groups, home)


@pytest.mark.parametrize("user", ["nosuch", "web:nosuch", ":web", "web:", "4294967295", "9999999999", "-1", "web:-1"])
def test_an_unknown_user_is_refused_by_the_name_of_the_field(root: Folder, user: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        look_up(user, root)
    assert error.value.field == "user"


def test_the_machines_users_are_not_known_in_a_root_without_them(root: Folder) -> None:
    with pytest.raises(InvalidSpec):
        look_up("daemon", root)


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../../../etc/passwd", "/proc/self/root/etc/passwd"])
def test_a_passwd_that_links_out_of_the_root_is_not_followed(tmp_path: Path, target: str) -> None:
    path = make_root(tmp_path / "root")
    (path / "etc" / "passwd").unlink()
    (path / "etc" / "passwd").symlink_to(target)
    inside = Folder(str(path))
    with pytest.raises(InvalidSpec):
        look_up("daemon", inside)
    inside.close()


def test_a_link_within_the_root_is_followed(tmp_path: Path) -> None:
    path = make_root(tmp_path / "root")
    (path / "etc" / "passwd").rename(path / "usr" / "passwd")
    (path / "etc" / "passwd").symlink_to("/usr/passwd")
    inside = Folder(str(path))
    assert look_up("web", inside).uid == 1000
    inside.close()


def test_a_fifo_in_place_of_passwd_does_not_block(tmp_path: Path) -> None:
    path = make_root(tmp_path / "root")
    (path / "etc" / "passwd").unlink()
    os.mkfifo(path / "etc" / "passwd")
    inside = Folder(str(path))
    assert look_up("12", inside).uid == 12
    inside.close()


def test_layers_are_looked_through_nearest_first(tmp_path: Path) -> None:
    far, near = make_root(tmp_path / "far"), tmp_path / "near"
    (near / "etc").mkdir(parents=True)
    stack = Stack([str(near), str(far)])
    assert look_up("web", stack).uid == 1000
    (near / "etc" / "passwd").write_text("web:x:7:8::/:\n")
    assert look_up("web", stack).uid == 7
    stack.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make what overlayfs makes of a removed file")
@pytest.mark.parametrize("how", ["file", "folder", "opaque"])
def test_what_a_layer_removed_is_not_found_below_it(tmp_path: Path, how: str) -> None:
    far, near = make_root(tmp_path / "far"), tmp_path / "near"
    near.mkdir()
    if how == "folder":
        os.mknod(near / "etc", 0o020000, 0)
    else:
        (near / "etc").mkdir()
        if how == "file":
            os.mknod(near / "etc" / "passwd", 0o020000, 0)
        else:
            os.setxattr(near / "etc", "trusted.overlay.opaque", b"y")
    stack = Stack([str(near), str(far)])
    with pytest.raises(InvalidSpec):
        look_up("web", stack)
    stack.close()


class _Text:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, path: str, limit: int = 0) -> bytes | None:
        return self._data

    def stat(self, path: str) -> os.stat_result | None:
        return None

    def link(self, path: str) -> str | None:
        return None

    def close(self) -> None: ...


@given(st.binary(max_size=200), st.text(min_size=1, max_size=20))
def test_no_content_of_passwd_and_no_name_breaks_the_lookup(data: bytes, user: str) -> None:
    try:
        found = look_up(user, _Text(data))
    except InvalidSpec:
        return
    assert 0 <= found.uid < 1 << 34
