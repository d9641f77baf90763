"""A program that pulls, prunes and removes images of one store until it is killed. `scripts/crash-images` starts it."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from longshore.images.collect import prune, remove

from .packed import Image, Registry, layer, opened, pull
from .tars import file, folder, link, whiteout

BASE = layer(folder(b"./"), *[file(b"base/%d" % number, b"%d" % number * 2000) for number in range(60)])
ODD = layer(whiteout(b"never/was"), link(b"hard", b"base/1"))
IMAGES = [
    Image(
        [BASE, *[layer(file(b"d/%d" % number, b"%d" % number * 20_000)) for number in range(count)], ODD][: count + 2]
    )
    for count in range(4)
]


def main(state: str, seed: int) -> None:
    """Work on the store without an end."""
    chance = random.Random(seed)
    store = opened(Path(state))
    print("begun", flush=True)
    while True:
        image = chance.choice(IMAGES)
        what = chance.random()
        name = f"x.io/image:{IMAGES.index(image)}"
        if what < 0.7:
            asyncio.run(pull(store, image, Registry(image, piece=2000), name))
        elif what < 0.8:
            remove(store, [name])
        else:
            prune(store, all=what > 0.9, blobs=chance.random() < 0.3)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
