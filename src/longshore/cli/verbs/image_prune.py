"""`longshore image prune`: images that nothing uses go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..arguments.options import pair, seconds
from ..arguments.parser import Arguments, Option, Verb
from ..terminal.output import note, size_text, write

if TYPE_CHECKING:
    from ...engine.engine import Engine


async def run(engine: Engine, args: Arguments) -> int:
    from datetime import UTC, datetime, timedelta

    until = None if args.older_than is None else datetime.now(UTC) - timedelta(seconds=args.older_than)
    pruned = await engine.images.prune(all=args.all, blobs=args.blobs, until=until, labels=dict(args.label))
    write("".join(f"{each}\n" for each in (*pruned.names, *pruned.images)))
    note(f"{size_text(pruned.bytes)} freed")
    return 0


VERB = Verb(
    "image prune",
    "Remove images without a name that no container uses; print what went: names, then digests.",
    options=[
        Option("-a", "--all", help="those with a name, too"),
        Option("--blobs", help="also the compressed layers of all images: a later push needs a registry that has them"),
        Option("--older-than", kind="value", metavar="TIME", convert=seconds,
               help="only images that came here longer ago than this: 12h, 30d"),
        Option("-l", "--label", kind="list", metavar="NAME=TEXT", convert=pair, help="only images with this label"),
    ],
    run=run,
    text="With them goes what pulls that were killed have left. It does not ask before.",
    examples=[
        ("longshore image prune", "what has lost its name"),
        ("longshore image prune --all --older-than 30d", "all that came here before, and is not in use"),
    ],
)  # fmt: skip
