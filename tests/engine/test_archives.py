"""Archives of checkpoints, and what a container wrote to its root as a tar file: whole, or refused by what is wrong."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from longshore.compute.values import now
from longshore.engine import archive
from longshore.errors import InvalidSpec
from longshore.oci.rootfs import upper_archive
from longshore.spec import Spec

from ..needs import needs

pytestmark = needs("checkpoints")


def checkpoint(folder: Path) -> Path:
    """The files of a checkpoint, as a service writes them."""
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "core-1.img").write_bytes(b"image")
    (folder / "scratch.tar").write_bytes(b"tar")
    (folder / "service.json").write_text('{"runtime": "crun"}')
    manifest = archive.Manifest(
        version=1,
        longshore="",
        service="oci",
        container="box",
        name="one",
        created_at=now(),
        connections=False,
        stdin=False,
        kernel="",
        machine="x86_64",
        spec=Spec.of(root="host", args=["true"]),
    )
    import msgspec

    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return folder


def members(path: Path, *more: tuple[tarfile.TarInfo, bytes]) -> Path:
    """A tar file of these members."""
    with tarfile.open(path, "w") as tar:
        for member, data in more:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def test_what_is_exported_comes_back_as_it_was(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "made")
    (made / "work").mkdir()
    archive.export(made, tmp_path / "it.tar")
    assert stat.S_IMODE(os.stat(tmp_path / "it.tar").st_mode) == 0o600  # there is memory in it
    found = archive.unpack(tmp_path / "it.tar", tmp_path / "back", limit=1 << 20)
    assert (found.name, found.spec.args) == ("one", ["true"])
    for name in ("images/core-1.img", "scratch.tar", "service.json"):
        assert (tmp_path / "back" / name).read_bytes() == (made / name).read_bytes()
    with pytest.raises(InvalidSpec, match="exists already"):
        archive.export(made, tmp_path / "it.tar")


@pytest.mark.parametrize(
    "member",
    [
        named("../escape"),
        named("/etc/cron.d/escape"),
        named("images/../../escape"),
        named("images/link.img", tarfile.SYMTYPE, "/etc/passwd"),
        named("images/hard.img", tarfile.LNKTYPE, "/etc/passwd"),
        named("images/device.img", tarfile.CHRTYPE),
        named("images/.hidden"),
        named("images/a/b"),
        named("other"),
    ],
    ids=lambda member: member.name,
)
def test_a_hostile_member_is_refused_and_nothing_is_written_elsewhere(tmp_path: Path, member: tarfile.TarInfo) -> None:
    made = checkpoint(tmp_path / "made")
    first = named("manifest.json"), (made / "manifest.json").read_bytes()
    path = members(tmp_path / "hostile.tar", first, (member, b"" if member.type != tarfile.REGTYPE else b"data"))
    with pytest.raises(InvalidSpec, match="not a file of a checkpoint"):
        archive.unpack(path, tmp_path / "back" / "deep", limit=1 << 20)
    assert not list(tmp_path.rglob("escape"))


def test_an_archive_is_bounded_and_cut_ones_are_refused(tmp_path: Path) -> None:
    made = checkpoint(tmp_path / "made")
    (made / "images" / "pages-1.img").write_bytes(bytes(100_000))
    archive.export(made, tmp_path / "it.tar")
    with pytest.raises(InvalidSpec, match="more than 50000 bytes"):
        archive.unpack(tmp_path / "it.tar", tmp_path / "small", limit=50_000)
    data = (tmp_path / "it.tar").read_bytes()
    for length in (0, 100, 600, 3000, 60_000):
        (tmp_path / "cut.tar").write_bytes(data[:length])
        with pytest.raises(InvalidSpec):
            archive.unpack(tmp_path / "cut.tar", tmp_path / f"cut-{length}", limit=1 << 30)
    with pytest.raises(InvalidSpec, match="no file"):
        archive.look(tmp_path / "nowhere.tar")


def test_one_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = members(tmp_path / "later.tar", (named("manifest.json"), b'{"version": 2}'))
    with pytest.raises(InvalidSpec, match="version 2"):
        archive.look(path)


# what was written to the root


def test_a_scratch_layer_comes_back_with_all_that_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    (folder / "etc").mkdir(parents=True)
    (folder / "tmp").mkdir()
    (folder / "tmp").chmod(0o1777)
    (folder / "etc" / "file").write_bytes(b"x" * 3000)
    os.link(folder / "etc" / "file", folder / "etc" / "same")
    os.symlink("/etc/shadow", folder / "etc" / "link")
    os.mkfifo(folder / "tmp" / "fifo")
    os.mknod(folder / "etc" / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(folder / "etc", "trusted.overlay.opaque", b"y")
    os.chown(folder / "etc" / "file", 65534, 65534)
    (folder / "etc" / "file").chmod(0o4755)
    upper_archive.pack(folder, tmp_path / "scratch.tar", limit=1 << 20)
    back = tmp_path / "back"
    upper_archive.unpack(tmp_path / "scratch.tar", back, limit=1 << 20)
    found = os.stat(back / "etc" / "file")
    assert (found.st_uid, stat.S_IMODE(found.st_mode), found.st_nlink) == (65534, 0o4755, 2)
    assert found.st_mtime == os.stat(folder / "etc" / "file").st_mtime
    assert os.readlink(back / "etc" / "link") == "/etc/shadow"
    assert stat.S_ISFIFO(os.stat(back / "tmp" / "fifo").st_mode)
    assert stat.S_IMODE(os.stat(back / "tmp").st_mode) == 0o1777
    assert stat.S_ISCHR(os.lstat(back / "etc" / "gone").st_mode)
    assert os.getxattr(back / "etc", "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize("limit", [1 << 20, 1 << 60], ids=["limit", "disk"])
def test_a_sparse_file_of_a_container_fills_no_disk(tmp_path: Path, limit: int) -> None:
    (tmp_path / "scratch").mkdir()
    with open(tmp_path / "scratch" / "sparse", "wb") as file:
        file.truncate(1 << 43)  # 8 TiB, of which the disk has none
    with pytest.raises(OSError, match="does not fit") as error:
        upper_archive.pack(tmp_path / "scratch", tmp_path / "scratch.tar", limit=limit)
    assert error.value.errno == errno.ENOSPC
    assert (tmp_path / "scratch.tar").stat().st_size < 1 << 20


def test_an_attribute_that_shows_what_is_hidden_is_not_taken(tmp_path: Path) -> None:
    top, folder = named(".", tarfile.DIRTYPE), named("./usr", tarfile.DIRTYPE)
    folder.pax_headers = {"SCHILY.xattr.trusted.overlay.redirect": "/etc"}
    upper_archive.unpack(members(tmp_path / "it.tar", (top, b""), (folder, b"")), tmp_path / "back", limit=1 << 20)
    assert os.listxattr(tmp_path / "back" / "usr") == []


def _device() -> tarfile.TarInfo:
    member = named("./disk", tarfile.BLKTYPE)
    member.devmajor, member.devminor = 8, 0
    return member


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (named("./../escape"), "no name of a file"),
        (named("../escape"), "no name of a file"),
        (named("/escape"), "no name of a file"),
        (named("./link/escape"), "is no folder"),
        (named("./hard", tarfile.LNKTYPE, "./link/passwd"), "is no folder"),
        (named("./hard", tarfile.LNKTYPE, "../../etc/passwd"), "no name of a file"),
        (named("./link"), "twice"),
        (_device(), "a device"),
    ],
    ids=["up", "up, bare", "absolute", "through a link", "hard link through one", "hard link up", "twice", "device"],
)
def test_nothing_of_a_scratch_layer_leaves_its_folder(tmp_path: Path, member: tarfile.TarInfo, why: str) -> None:
    (tmp_path / "outside").mkdir()
    top = named(".", tarfile.DIRTYPE)
    link = named("./link", tarfile.SYMTYPE, str(tmp_path / "outside"))
    data = b"data" if member.isreg() else b""
    path = members(tmp_path / "it.tar", (top, b""), (link, b""), (member, data))
    with pytest.raises(InvalidSpec, match=why):
        upper_archive.unpack(path, tmp_path / "back", limit=1 << 20)
    assert list((tmp_path / "outside").iterdir()) == []
    assert not (tmp_path / "escape").exists()
