"""The archive of a checkpoint: one tar file, to be carried to another container, store or machine.

First `manifest.json`, then plain files under names of a fixed form: nothing else is taken from an archive, whoever made
it, and nothing is written under a name that the archive chooses freely. docs/checkpoints.md describes the format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..errors import InvalidSpec
from ..fs.files import store_error
from ..spec import Spec
from ..typed_json import decode_json

if TYPE_CHECKING:
    import tarfile

VERSION = 1
MANIFEST = "manifest.json"
MANIFEST_LIMIT = 16 << 20  # bytes
MEMBERS_LIMIT = 100_000
_NAME = r"images/[A-Za-z0-9][A-Za-z0-9._-]{0,200}|scratch[A-Za-z0-9._%-]{0,200}\.tar|service\.json"
CHUNK = 1 << 20
MAX_ARCHIVE = 64 << 30  # bytes


class Manifest(msgspec.Struct, kw_only=True):
    """What a checkpoint is of."""

    version: int
    longshore: str  # the version that made it
    service: str
    container: str
    name: str
    created_at: datetime
    connections: bool
    stdin: bool
    kernel: str
    machine: str
    spec: Spec


def read_manifest(data: bytes, where: str) -> Manifest:
    """The manifest, checked. InvalidSpec if it is none, or of a later version."""
    try:
        version = decode_json(data, _Versioned).version
        if version > VERSION:
            raise InvalidSpec(
                "archive", f"{where} has format version {version}, and this longshore reads version {VERSION}"
            )
        return decode_json(data, Manifest)
    except (msgspec.MsgspecError, ValueError) as error:
        if isinstance(error, InvalidSpec):
            raise
        raise InvalidSpec("archive", f"{where}: cannot read its {MANIFEST}: {error}") from None


class _Versioned(msgspec.Struct):
    version: int


def export(directory: Path, target: Path) -> None:
    """Write the checkpoint in `directory` to a new file. InvalidSpec if there is one already. Blocks."""
    if os.path.lexists(target):
        raise InvalidSpec("path", f"{target} exists already", hint="choose another name, or remove it")
    import tarfile  # it takes milliseconds to load, here and below

    temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
    try:
        with tarfile.open(temporary, "x", format=tarfile.PAX_FORMAT) as tar:
            os.chmod(temporary, 0o600)
            for path in _files(directory):
                member = tar.gettarinfo(path, str(path.relative_to(directory)))
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.mode = 0o600
                member.type = tarfile.REGTYPE
                with open(path, "rb") as file:
                    member.size = path.stat().st_size
                    tar.addfile(member, file)
        os.link(temporary, target)
    except FileExistsError:
        raise InvalidSpec("path", f"{target} exists already", hint="choose another name, or remove it") from None
    except OSError as error:
        raise store_error(f"write {target}", error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _files(directory: Path) -> Iterator[Path]:
    yield directory / MANIFEST
    for path in sorted([*directory.iterdir(), *(directory / "images").iterdir()]):
        if path.is_file() and not path.is_symlink() and re.fullmatch(_NAME, str(path.relative_to(directory))):
            yield path


def look(source: Path) -> Manifest:
    """The manifest of an archive. InvalidSpec if it is not one. Blocks."""
    import tarfile

    with _opened(source) as tar:
        try:
            return _first(tar, source)
        except tarfile.TarError as error:
            raise InvalidSpec("archive", f"{source} is not a checkpoint archive: {error}") from None


def _opened(source: Path) -> tarfile.TarFile:
    import tarfile

    try:
        return tarfile.open(source, "r:")
    except FileNotFoundError:
        raise InvalidSpec("archive", f"there is no file {source}") from None
    except tarfile.TarError as error:
        raise InvalidSpec("archive", f"{source} is not a checkpoint archive: {error}") from None
    except OSError as error:
        raise InvalidSpec("archive", f"cannot read {source}: {error.strerror or error}") from None


def _first(tar: tarfile.TarFile, source: Path) -> Manifest:
    first = tar.next()
    if first is None or first.name != MANIFEST or not first.isreg() or first.size > MANIFEST_LIMIT:
        raise InvalidSpec(
            "archive",
            f"{source} does not begin with a {MANIFEST}",
            hint="use a file that `longshore checkpoint --export` wrote",
        )
    file = tar.extractfile(first)
    assert file is not None
    return read_manifest(file.read(), str(source))


def unpack(source: Path, directory: Path, *, limit: int) -> Manifest:
    """Fill a new directory from an archive. InvalidSpec for what `export` did not write, or more than `limit` bytes.

    Whatever was written then is the caller's to remove. Blocks.
    """
    import tarfile

    left = limit
    try:
        with _opened(source) as tar:
            manifest = _first(tar, source)
            directory.mkdir(mode=0o700, parents=True)
            (directory / "images").mkdir(mode=0o700)
            for number, member in enumerate(tar):
                if number == 0:
                    continue
                left -= member.size + 512
                if left < 0 or number > MEMBERS_LIMIT:
                    raise InvalidSpec("archive", f"{source} holds more than {limit} bytes", hint="raise `max_size`")
                if not member.isreg() or member.issparse() or not re.fullmatch(_NAME, member.name):
                    raise InvalidSpec(
                        "archive", f"{source} holds {member.name[:200]!r}, which is not a file of a checkpoint"
                    )
                _copy(tar, member, directory / member.name, source)
            (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    except tarfile.TarError as error:
        raise InvalidSpec("archive", f"{source} is damaged: {error}", hint="export it again") from None
    except OSError as error:
        raise store_error(f"unpack {source} to {directory}", error) from error
    if not (directory / "service.json").is_file():
        raise InvalidSpec("archive", f"{source} is incomplete: it has no service.json", hint="export it again")
    return manifest


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, source: Path) -> None:
    file = tar.extractfile(member)
    assert file is not None
    left = member.size
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidSpec("archive", f"{source} holds {member.name!r} twice") from None
    with open(fd, "wb") as out:
        while data := file.read(CHUNK):
            out.write(data)
            left -= len(data)
    if left:
        raise InvalidSpec("archive", f"{source} ends in the middle of {member.name!r}", hint="copy it again")


__all__ = ["MANIFEST", "MAX_ARCHIVE", "VERSION", "Manifest", "export", "look", "read_manifest", "unpack"]
