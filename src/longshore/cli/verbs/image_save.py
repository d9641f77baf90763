"""`longshore save`: images in one file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, UsageError, Verb
from ..terminal.output import Unwritable, on_terminal

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    path = args.output
    if path in (None, "-"):
        if sys.stdout is None or on_terminal():
            raise UsageError("an archive is not written to a terminal", hint="give a file: `-o images.tar`")
        path = None
    if path is not None:
        await engine.images.save(args.images, path)
        return 0
    await _to_output(engine, args.images)
    return 0


async def _to_output(engine: Engine, images: list[str]) -> None:
    from typing import BinaryIO, cast

    from ...errors import StoreError
    from ..terminal.archive_streams import ArchiveOutput

    output = ArchiveOutput()
    try:
        await engine.images.save(images, cast(BinaryIO, output))
    except StoreError:
        if output.error is None:
            raise
        if isinstance(output.error, BrokenPipeError):
            raise output.error from None
        raise Unwritable(1, output.error) from None


VERB = Verb(
    "save",
    "Write images to one tar file, which docker and podman can load, too.",
    arguments=["IMAGE..."],
    options=[
        Option("-o", "--output", kind="value", metavar="FILE", complete="file",
               help="the file (default: standard output); it has its name when it is whole"),
    ],
    run=run,
    text="It is an OCI layout and a docker archive in one, with the bytes that were pulled.",
    examples=[
        ("longshore save -o images.tar python:3.12-slim app:1", "two images; layers that they share are in it once"),
        ("longshore save app:1 | ssh other longshore load", "to another machine"),
    ],
)  # fmt: skip
