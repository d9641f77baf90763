"""Archives of every format that images come in, and broken ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from longshore.errors import InvalidImage
from longshore.images.tar_reader import TarEntry, TarReader

from .tars import WHAT, archive, file, folder, gnu_long, header, in_pieces, link, padded, pax, tree, unpacked


def read(data: bytes, piece: int = 700) -> list[tuple[TarEntry, bytes]]:
    reader = TarReader(in_pieces(data, piece), WHAT)
    return [(entry, b"".join(bytes(each) for each in reader.data())) for entry in reader.entries()]


def one(data: bytes) -> TarEntry:
    [(entry, _)] = read(data)
    return entry


@pytest.mark.parametrize("piece", [1, 511, 512, 513, 100_000])
def test_an_archive_reads_the_same_in_pieces_of_any_size(piece: int) -> None:
    data = archive(file(b"a", b"x" * 700), pax({b"path": b"long" * 60}), file(b"b", b"y"), folder(b"c/"))
    assert [(entry.name, entry.kind, content) for entry, content in read(data, piece)] == [
        (b"a", b"0", b"x" * 700),
        (b"long" * 60, b"0", b"y"),
        (b"c/", b"5", b""),
    ]


def test_ustar_joins_prefix_and_name() -> None:
    assert one(archive(header(b"name", prefix=b"some/folder"))).name == b"some/folder/name"


def test_gnu_fields_in_the_place_of_the_prefix_are_no_prefix() -> None:
    assert one(archive(header(b"name", magic=b"ustar  \0", prefix=b"12345670123\0"))).name == b"name"


def test_an_old_header_without_magic_is_read() -> None:
    entry = one(archive(header(b"name", b"\0", magic=b"", mode=0o640)))
    assert (entry.name, entry.kind, entry.mode) == (b"name", b"0", 0o640)


def test_a_file_whose_name_ends_with_a_slash_is_a_folder() -> None:
    [(first, _), (second, data)] = read(archive(header(b"old/", b"\0", 3) + padded(b"xyz"), file(b"f", b"d")))
    assert (first.kind, second.name, data) == (b"5", b"f", b"d")


def test_gnu_long_names_belong_to_the_next_entry_alone() -> None:
    name, target = b"n" * 300, b"t" * 300
    data = archive(gnu_long(b"L", name), gnu_long(b"K", target), header(b"nnn", b"2", link=b"ttt"), file(b"next"))
    assert [(entry.name, entry.link) for entry, _ in read(data)] == [(name, target), (b"next", b"")]


def test_numbers_may_be_base_256() -> None:
    big = b"\x80" + (5_000_000_000).to_bytes(11, "big")
    owner = b"\x80" + (3_000_000_000).to_bytes(7, "big")
    before_1970 = (-5).to_bytes(12, "big", signed=True)
    entry = one(archive(header(b"dir", b"5", at_108=owner, at_124=big, at_136=before_1970)))
    assert (entry.uid, entry.mtime) == (3_000_000_000, -5_000_000_000)


def test_pax_records_replace_what_the_header_says() -> None:
    records = {
        b"path": b"\xff/\xfe",
        b"linkpath": b"\xfd",
        b"uid": b"100000",
        b"gid": b"100001",
        b"mtime": b"12.5",
        b"SCHILY.xattr.user.x": b"\0\xff\n=",
    }
    entry = one(archive(pax(records), header(b"short", b"2", link=b"x")))
    assert (entry.name, entry.link, entry.uid, entry.gid) == (b"\xff/\xfe", b"\xfd", 100000, 100001)
    assert (entry.mtime, entry.xattrs) == (12_500_000_000, {b"user.x": b"\0\xff\n="})


def test_a_pax_size_counts_and_not_that_of_the_header() -> None:
    [(first, data), (second, _)] = read(archive(pax({b"size": b"3"}), header(b"a") + padded(b"xyz"), file(b"b")))
    assert (first.size, data, second.name) == (3, b"xyz", b"b")


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (b"0", 0),
        (b"1.000000001", 1_000_000_001),
        (b"1.9999999999", 1_999_999_999),
        (b"-1.5", -1_500_000_000),
        (b"-0.25", -250_000_000),
        (b"99999999999", 99_999_999_999_000_000_000),
    ],
)
def test_times_have_fractions_and_may_be_negative(text: bytes, nanoseconds: int) -> None:
    assert one(archive(pax({b"mtime": text}), file(b"a"))).mtime == nanoseconds


def test_global_records_hold_until_an_entry_has_its_own() -> None:
    data = archive(
        pax({b"uid": b"7", b"comment": b"x"}, b"g"),
        file(b"a"),
        pax({b"uid": b"8"}),
        file(b"b"),
        pax({b"uid": b""}),
        file(b"c", uid=9),
        file(b"d"),
    )
    assert [entry.uid for entry, _ in read(data)] == [7, 8, 9, 7]


def test_links_and_folders_have_no_data_whatever_their_size_says() -> None:
    data = archive(header(b"l", b"1", 5000, link=b"x"), header(b"d", b"5", 5000), file(b"next"))
    assert [entry.name for entry, _ in read(data)] == [b"l", b"d", b"next"]


def test_what_nobody_asks_for_is_skipped() -> None:
    reader = TarReader(in_pieces(archive(file(b"a", b"x" * 5000), file(b"b"))), WHAT)
    assert [entry.name for entry in reader.entries()] == [b"a", b"b"]


def test_the_rest_of_the_stream_is_read_though_it_says_nothing() -> None:
    pieces = iter(in_pieces(archive(file(b"a")) + b"garbage" * 1000))
    assert [entry.name for entry in TarReader(pieces, WHAT).entries()] == [b"a"]
    assert list(pieces) == []


def test_an_archive_may_be_empty_or_lack_its_end() -> None:
    assert read(b"") == []
    assert read(bytes(1024)) == []
    assert [entry.name for entry, _ in read(file(b"a", b"x"))] == [b"a"]
    assert [entry.name for entry, _ in read(file(b"a", b"x") + bytes(512))] == [b"a"]


GOOD = header(b"name")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (GOOD[:-1], "ends too early"),
        (file(b"a", b"x" * 600)[:700], "ends too early"),
        (GOOD[:5] + b"x" + GOOD[6:], "wrong checksum"),
        (bytes(512) + GOOD, "one block of zeros"),
        (archive(pax({b"path": b"x"})), "does not follow"),
        (archive(gnu_long(b"L", b"x")), "does not follow"),
        (header(b"x", b"x", 2 << 20), "a PAX header in its archive has 2097152 bytes"),
        (header(b"x", b"L", 2 << 20), "a name in its archive has 2097152 bytes"),
        (header(b"x", at_124=b"zzzzzzzzzzz\0"), "its size is no number"),
        (header(b"x", at_124=b"\xff" * 12), "negative size"),
        (header(b"x", at_108=b"\xff" * 8), "the owner -1"),
        (header(b"x", b"x", 5) + padded(b"9 a=b"), "a PAX header of its archive is damaged"),
        (header(b"x", b"x", 5) + padded(b"5 ab\n"), "a PAX header of its archive is damaged"),
        (header(b"x", b"x", 6) + padded(b"6 a=b\0"), "a PAX header of its archive is damaged"),
        (archive(pax({b"path": b"a\0b"}), GOOD), "a NUL character"),
        (archive(pax({b"path": b"a" * 5000}), GOOD), "longer than 4096"),
        (archive(pax({b"linkpath": b"a" * 5000}), GOOD), "longer than 4096"),
        (archive(pax({b"uid": b"4294967295"}), GOOD), "the owner 4294967295"),
        (archive(pax({b"size": b"-1"}), GOOD), "negative size"),
        (archive(pax({b"size": b"9" * 30}), GOOD), "is no number"),
        (archive(pax({b"mtime": b"1e9"}), GOOD), "is no time"),
        (archive(pax({b"path": b"x"}, b"g"), GOOD), "a global PAX header of it sets `path`"),
        (archive(pax({b"size": b"1"}, b"g"), GOOD), "a global PAX header of it sets `size`"),
    ],
)
def test_a_damaged_archive_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidImage, match=problem):
        read(data)


# what GNU tar has written


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"], ["--format=ustar"], ["--format=v7"]])
def test_what_gnu_tar_packs_comes_out_the_same(tmp_path: Path, options: list[str]) -> None:
    source = tmp_path / "source"
    (source / "sub" / "deep").mkdir(parents=True)
    (source / "sub" / "file").write_bytes(b"x" * 1000)
    (source / "sub" / "file").chmod(0o4750)
    (source / "sub" / "link").symlink_to("file")
    (source / "sub" / "hard").hardlink_to(source / "sub" / "file")
    packed = subprocess.run(["tar", "-C", source, *options, "-cf", "-", "."], capture_output=True, check=True).stdout
    unpacked(tmp_path / "made", packed)
    expected, made = tree(source), tree(tmp_path / "made")
    for each in [*expected.values(), *made.values()]:
        each["mtime"] //= 1_000_000_000
        each.pop("links", None)
    assert made == expected
    assert (tmp_path / "made" / "sub" / "hard").samefile(tmp_path / "made" / "sub" / "file")


@pytest.mark.parametrize(
    "options", [["--format=gnu"], *(["--format=pax", f"--sparse-version={each}"] for each in ("0.0", "0.1", "1.0"))]
)
def test_sparse_files_of_every_version_keep_data_and_holes(tmp_path: Path, options: list[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with open(source / "sparse", "wb") as made:
        for number in range(40):  # more parts than a GNU header has room for
            made.seek(number * 200_000)
            made.write(b"%d" % number * 100)
        made.truncate(10_000_000)
    (source / "after").write_bytes(b"there")
    packed = subprocess.run(
        ["tar", "-C", source, *options, "-S", "-cf", "-", "sparse", "after"], capture_output=True, check=True
    ).stdout
    assert len(packed) < 1_000_000
    unpacked(tmp_path / "made", packed)
    assert (tmp_path / "made" / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert (tmp_path / "made" / "sparse").stat().st_blocks * 512 < 1_000_000
    assert (tmp_path / "made" / "after").read_bytes() == b"there"


@pytest.mark.parametrize(
    "records",
    [
        {b"GNU.sparse.map": b"0,4,2,4", b"GNU.sparse.size": b"10"},
        {b"GNU.sparse.map": b"0,4,8,4", b"GNU.sparse.size": b"10"},
        {b"GNU.sparse.map": b"0,4,8", b"GNU.sparse.size": b"10"},
        {b"GNU.sparse.map": b"0,4,-8,4", b"GNU.sparse.size": b"10"},
        {b"GNU.sparse.map": b"0,4", b"GNU.sparse.size": b"9" * 30},
        {b"GNU.sparse.map": b"0,4,6,3", b"GNU.sparse.size": b"10"},
        {b"GNU.sparse.map": b"0,4"},
        {b"GNU.sparse.major": b"1", b"GNU.sparse.realsize": b"10"},
    ],
)
def test_a_sparse_map_that_fits_no_file_is_refused(tmp_path: Path, records: dict[bytes, bytes]) -> None:
    with pytest.raises(InvalidImage, match="sparse"):
        unpacked(tmp_path / "made", pax(records), file(b"a", b"12345678"))


def test_hard_links_carry_over(tmp_path: Path) -> None:
    unpacked(tmp_path / "made", file(b"a", b"x"), link(b"b", b"a"))
    assert (tmp_path / "made" / "b").stat().st_nlink == 2
