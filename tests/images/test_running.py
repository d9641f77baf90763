"""Containers on the layers of an image, by each runtime."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from longshore.engine.engine import Engine
from longshore.images.store import ImageStore

from ..oci.roots import USR, make_root
from .packed import Image, Layer, Registry, layer, pull
from .tars import file, folder, link, opaque, whiteout

pytestmark = pytest.mark.real


def root_layer(tmp_path: Path) -> Layer:
    """A root file system, as GNU tar packs it."""
    root = make_root(tmp_path / "root")
    packed = subprocess.run(["tar", "-C", root, "-cf", "-", "."], capture_output=True, check=True).stdout
    return Layer(packed, packed)


async def test_a_container_sees_the_layers_as_one_root(engine: Engine, state: Path, tmp_path: Path) -> None:
    image = Image(
        [
            root_layer(tmp_path),
            layer(folder(b"srv", 0o1777, uid=1000), file(b"srv/old", b"1"), file(b"srv/gone", b"1")),
            layer(whiteout(b"srv/gone"), file(b"srv/new", b"2"), link(b"hard", b"srv/old"), whiteout(b"no/where")),
            layer(opaque(b"tmp"), file(b"tmp/only", b"3", mode=0o4755)),
        ]
    )
    store = ImageStore(engine._state.store)
    store.open()
    await pull(store, image, Registry(image), "x.io/mine:1")
    script = (
        "cd /srv; echo *; stat -c '%a %u' . ../tmp/only; stat -c %h old ../hard; cat ../hard; echo x > new && rm old"
    )
    for _ in range(2):  # the second one sees nothing of what the first one wrote
        done = await engine.run("x.io/mine:1", ["sh", "-c", script], mounts=[USR], pull="never")
        assert (done.exit_code, done.stderr) == (0, b"")
        assert done.text.split("\n") == ["new old", "1777 1000", "4755 0", "2", "2", "1"]
