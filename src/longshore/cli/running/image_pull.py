"""The image that is the root of a container: pulled before that is made, so that people see how far it is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypedDict

from ..arguments import options
from ..arguments.parser import Arguments, UsageError

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...images.values import PullPolicy
    from ...spec import Spec


class ImageSettings(TypedDict):
    """The image arguments of `Engine.create` and `launch`."""

    pull: PullPolicy
    platform: str | None
    entrypoint: list[str] | None


async def fetch(engine: Engine, spec: Spec, args: Arguments) -> ImageSettings:
    """Have the image of a spec here, as --pull wants it; return the keywords for the call that makes the container."""
    from ...errors import LongshoreError
    from ...spec import image_of_root
    from ..terminal.pull_progress import LayerProgress

    settings: ImageSettings = {
        "pull": args.pull or "missing",
        "platform": args.platform,
        "entrypoint": options.entrypoint(args),
    }
    name = image_of_root(spec.root)
    if name is None:
        if args.pull is not None:
            raise UsageError("--pull goes with an image, and the root is none", hint="leave --pull out")
        return settings
    if settings["pull"] == "never":
        return settings
    try:
        with LayerProgress(quiet=args.quiet) as progress:
            await engine.images.pull(name, platform=args.platform, policy=settings["pull"], progress=progress)
    except LongshoreError as error:
        if os.path.isdir(name):
            error.hint = f"write rootfs:{name} if you mean the root file system in this folder"
        raise
    return {**settings, "pull": "missing"}
