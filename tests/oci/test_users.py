"""Users are looked up in the root's own files, and by no link that leads out of it."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longshore.errors import InvalidSpec, ServiceError
from longshore.oci.rootfs.resolve_in_root import READ_LIMIT, Folder, Stack, look
from longshore.oci.rootfs.users import ID_LIMIT, check_ids, look_up

from ..opened import Opened
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
    assert 0 <= found.uid <= ID_LIMIT
    assert all(0 <= gid <= ID_LIMIT for gid in [found.gid, *found.groups])
    msgspec.json.encode(found)  # what is read of a root can stand in a document


def passwd(content: bytes) -> _Text:
    return _Text(content)


@pytest.mark.parametrize("number", ["4294967295", "4294967296", "9999999999", "99999999999999", "-1", "+0", "0x0", ""])
@pytest.mark.parametrize("field", ["uid", "gid"])
def test_an_account_with_an_id_that_none_can_have_is_refused(number: str, field: str) -> None:
    ids = f"{number}:7" if field == "uid" else f"7:{number}"
    with pytest.raises(InvalidSpec, match="that no process can have") as error:
        look_up("minus", passwd(f"minus:x:{ids}::/:/bin/sh\n".encode()))
    assert error.value.field == "user"


def test_a_number_is_never_taken_for_the_name_of_an_account() -> None:
    """CVE-2016-3697: an account that a root calls `1000` may have the uid 0."""
    root = passwd(b"1000:x:0:0::/root:/bin/sh\n0:x:5:5::/:/bin/sh\n")
    assert (look_up("1000", root).uid, look_up("1000", root).gid) == (1000, 0)
    assert look_up("0", root).uid == 0
    assert look_up("1000:0", passwd(b"0:x:77:a\n")).gid == 0


@pytest.mark.parametrize(
    "user", ["0x0", "\uff11", "+5", " 5", "5 ", "-0", "1e3", "٣", "0\n", "00000000000", "root\0", "\ud800"]
)
def test_what_looks_like_a_number_and_is_none_is_refused(root: Folder, user: str) -> None:
    with pytest.raises(InvalidSpec):
        look_up(user, root)
    with pytest.raises(InvalidSpec):
        look_up(f"web:{user}", root)


@pytest.mark.parametrize("home", [b"/\xff", b"/a\0b", b"\xc3", b""])
def test_a_home_that_no_document_can_have_is_as_if_it_were_not_there(home: bytes) -> None:
    found = look_up("web", passwd(b"web:x:7:8::" + home + b":/bin/sh\n"))
    assert (found.uid, found.gid, found.home, found.name) == (7, 8, None, "web")


def test_a_name_that_is_not_utf_8_is_found_by_its_number() -> None:
    found = look_up("7", passwd(b"w\xfeb:x:7:8::/home:/bin/sh\n"))
    assert (found.uid, found.gid, found.home, found.name) == (7, 8, "/home", None)


def test_the_first_of_two_accounts_with_one_name_counts() -> None:
    assert look_up("web", passwd(b"web:x:7:8::/:\nweb:x:0:0::/:\n")).uid == 7


def test_a_group_with_an_id_that_none_can_have_is_left_out(tmp_path: Path) -> None:
    path = make_root(tmp_path / "root")
    (path / "etc/group").write_text(
        "a:x:4294967295:web\nb:x:9999999999:web\nc:x:-1:web\nd:x:12:x,web\nwebs:x:13:webs\n"
    )
    inside = Folder(str(path))
    assert look_up("web", inside).groups == [12]
    with pytest.raises(InvalidSpec, match="that no process can have"):
        look_up("web:a", inside)
    inside.close()


def test_more_groups_than_the_kernel_takes_are_refused(tmp_path: Path) -> None:
    path = make_root(tmp_path / "root")
    (path / "etc/group").write_text("".join(f":x:{number}:web\n" for number in range(70000)))
    inside = Folder(str(path))
    with pytest.raises(InvalidSpec, match="65536"):
        look_up("web", inside)
    assert look_up("web:5", inside).groups == []
    inside.close()


async def test_a_root_that_does_not_answer_is_given_up_at_its_limit() -> None:
    answer = threading.Event()
    with pytest.raises(ServiceError, match=r"did not answer within 0\.05 s"):
        await look("box", answer.wait, 0.05)
    answer.set()
    with pytest.raises(TimeoutError):  # of the file system's own making
        await look("box", _times_out, 30)


def _times_out() -> None:
    raise TimeoutError(110, "Connection timed out")


@pytest.mark.parametrize(
    "line",
    [b"a:x:1:1::/:\n", b":" * 100_000 + b"\n", b"\n", b"x" * READ_LIMIT, b"a:x:5:" + b"daemon," * 10_000 + b"\n"],
)
def test_a_huge_file_is_read_to_its_limit_and_stalls_no_thread(tmp_path: Path, line: bytes) -> None:
    path = make_root(tmp_path / "root")
    for name in ("passwd", "group"):
        (path / "etc" / name).write_bytes(line * (READ_LIMIT * 16 // len(line)) + b"daemon:x:1:1:d:/:/bin/sh\n")
    inside = Folder(str(path))
    gaps, done = [], threading.Event()

    def tick() -> None:
        last = time.monotonic()
        while not done.wait(0.001):
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    other = threading.Thread(target=tick)
    other.start()
    try:
        with pytest.raises(InvalidSpec, match=f"first {READ_LIMIT} bytes"):
            look_up("daemon", inside)
    finally:
        done.set()
        other.join()
        inside.close()
    assert max(gaps, default=0) < 0.5  # seconds; the interpreter's lock is given away between the lines


@pytest.mark.parametrize("user", [{"uid": 1 << 32}, {"uid": (1 << 32) - 1}, {"gid": -1}, {"additionalGids": [0, -1]}])
def test_a_document_with_an_id_that_none_can_have_is_refused(user: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match="is not an id"):
        check_ids({"uid": 0, "gid": 0, **user}, "oci.user")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
@pytest.mark.parametrize("kind", ["device", "block", "fifo", "socket", "folder", "leased", "link to a device"])
def test_what_is_no_plain_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    """The device is the machine's own console log: whoever opens it has its messages."""
    path = make_root(tmp_path / "root")
    place = path / "etc" / "passwd"
    place.unlink()
    opened = Opened(place.parent)
    with ExitStack() as left:
        if kind in ("device", "link to a device"):
            at = place if kind == "device" else path / "etc" / "other"
            os.mknod(at, 0o020666, os.makedev(1, 11))
            if at != place:
                place.symlink_to("other")
        elif kind == "block":
            os.mknod(place, 0o060666, os.makedev(7, 0))
        elif kind == "fifo":
            os.mkfifo(place)
        elif kind == "socket":
            os.mknod(place, 0o140644)
        elif kind == "folder":
            place.mkdir()
        else:
            place.write_text("daemon:x:1:1::/:\n")
            held = os.open(place, os.O_RDONLY)
            left.callback(os.close, held)
            left.callback(signal.signal, signal.SIGIO, signal.signal(signal.SIGIO, signal.SIG_IGN))
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)  # an open waits for its holder: 45 s by default
            opened.names()  # ours
        inside = Folder(str(path))
        begun = time.monotonic()
        with pytest.raises(InvalidSpec):
            look_up("daemon", inside)
        assert time.monotonic() - begun < 5
        inside.close()
        if kind != "leased":
            assert opened.names() - {""} == set()
    opened.close()


@pytest.mark.parametrize("target", ["/proc/kmsg", "/proc/self/status", "/proc/sys/kernel/hostname"])
def test_a_table_of_the_kernel_is_not_read_in_the_place_of_a_file(target: str) -> None:
    inside = Folder("/")
    assert inside.stat(target) is not None
    assert inside.read(target) is None
    assert inside.read("/etc/passwd")
    inside.close()
