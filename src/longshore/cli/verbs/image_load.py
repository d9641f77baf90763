"""`longshore load`: the images of an archive."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..arguments.parser import Arguments, Option, UsageError, Verb
from ..terminal.output import write
from .pull import QUIET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...engine.engine import Engine
    from ...images.values import Image
    from ..terminal.pull_progress import LayerProgress


async def run(engine: Engine, args: Arguments) -> int:
    from ..terminal.pull_progress import LayerProgress

    if args.file is not None and args.input is not None:
        raise UsageError("load takes one file", hint="give it with -i, or as an argument")
    path = args.file or args.input
    if path in (None, "-"):
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("there is no archive in standard input", hint="give a file: `longshore load images.tar`")
        path = None
    with LayerProgress(quiet=args.quiet) as progress:
        if path is None:
            found = await _from_input(engine, progress)
        else:
            found = await engine.images.load(path, progress=progress)
    for image in found:
        write("".join(f"{name}\n" for name in image.names or [image.id]))
    return 0


async def _from_input(engine: Engine, progress: LayerProgress) -> Sequence[Image]:
    import asyncio
    import io
    from typing import BinaryIO, cast

    from ..terminal.archive_streams import ArchiveInput

    source = ArchiveInput()
    loading = asyncio.ensure_future(engine.images.load(cast(BinaryIO, io.BufferedReader(source)), progress=progress))
    try:
        return await asyncio.shield(loading)
    except asyncio.CancelledError:
        loading.cancel()
        source.stop()
        await asyncio.wait([loading])
        raise


VERB = Verb(
    "load",
    "Add the images of an archive, and print their names, or the id of one that has none.",
    arguments=["[FILE]"],
    options=[
        Option("-i", "--input", kind="value", metavar="FILE", complete="file", help="the archive, as docker has it"),
        QUIET,
    ],
    run=run,
    text="""\
FILE is what `longshore save`, `docker save` or `podman save` wrote, or an OCI layout: a
tar file, also a compressed one, or a folder. Without it, or with -, the archive is read
from standard input.""",
    examples=[
        ("longshore load images.tar", "all images that are in it"),
        ("docker save app:1 | longshore load", "from docker, without a file"),
    ],
)
