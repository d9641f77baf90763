"""`longshore image`: lists the verbs of images that have two words."""

from __future__ import annotations

from ..arguments.parser import Arguments, HelpWanted, UsageError, Verb, close_match
from . import OF_IMAGES


def show(args: Arguments) -> int:
    if not args.words:
        raise HelpWanted(VERB)
    word = args.words[0]
    raise UsageError(
        f"there is no verb `image {word}`", hint=close_match(word, list(OF_IMAGES)) or "run `longshore image --help`"
    )


VERB = Verb(
    "image",
    "All that can be done with images. `longshore image WORD --help` explains each.",
    arguments=["[WORD...]"],
    simple=show,
    verbatim=True,
    text="WORD is one of:\n" + "\n".join(f"  {word:<9} {what}" for word, (_, what) in OF_IMAGES.items()),
    examples=[
        ("longshore image ls", "what is on this machine"),
        ("longshore image inspect python:3.12-slim", "all that is known of one"),
        ("longshore image prune --all", "remove what no container uses"),
    ],
)
