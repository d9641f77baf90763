"""Archives of images: what is saved is loaded with the same digests, by us and by others; and theirs by us."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from longshore import InvalidImage, InvalidSpec
from longshore.engine.engine import Engine
from longshore.images.digests import digest_of

from .packed import Layer, layer
from .runnable import Made, shell
from .tars import file


@pytest_asyncio.fixture
async def engine(state: Path) -> AsyncIterator[Engine]:
    async with Engine(state=state, runtime="crun") as made:
        yield made


def tar(path: Path, *members: tuple[str, bytes], links: dict[str, str] | None = None) -> Path:
    """A tar file of these members; `links` are symbolic ones."""
    with tarfile.open(path, "w") as made:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            made.addfile(header, io.BytesIO(data))
        for name, target in (links or {}).items():
            header = tarfile.TarInfo(name)
            header.type, header.linkname = tarfile.SYMTYPE, target
            made.addfile(header)
    return path


def docker_archive(path: Path, made: Made, tags: list[str] | None) -> Path:
    """What `docker save` wrote before version 25: layers uncompressed, one that occurs twice as a link."""
    members, links, places = [], {}, []
    seen: dict[str, str] = {}
    for number, each in enumerate(made.layers):
        place = f"{number}/layer.tar"
        places.append(place)
        if each.diff_id in seen:
            links[place] = f"../{seen[each.diff_id]}"
        else:
            seen[each.diff_id] = place
            members.append((place, each.content))
    config = f"{made.id[7:]}.json"
    listed = json.dumps([{"Config": config, "RepoTags": tags, "Layers": places}]).encode()
    return tar(path, (config, made.config), *members, ("manifest.json", listed), links=links)


async def test_dockers_archive_is_loaded_and_runs(engine: Engine, tmp_path: Path) -> None:
    twice: Layer = layer(file(b"x", b"1"))
    made = shell()
    made = Made(*made.layers, twice, twice, Cmd=["/bin/cat", "/x"])
    [image] = await engine.images.load(docker_archive(tmp_path / "a.tar", made, ["app:1", "other/app:2"]))
    assert (image.id, image.names) == (made.id, ["app:1", "other/app:2"])
    assert (await engine.run("app:1", pull="never")).stdout == b"1"


async def test_a_compressed_pipe_without_a_name_is_loaded(engine: Engine, tmp_path: Path) -> None:
    made = Made(layer(file(b"x", b"1")))
    packed = gzip.compress(docker_archive(tmp_path / "a.tar", made, None).read_bytes())
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pipe:
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        pipe.stdin.write(packed)
        pipe.stdin.close()
        [image] = await engine.images.load(pipe.stdout)  # type: ignore[arg-type]
    assert (image.id, image.names) == (made.id, [])


async def test_what_is_saved_is_loaded_with_the_same_digests_and_is_the_same_file_again(
    engine: Engine, tmp_path: Path
) -> None:
    await engine.images.load(docker_archive(tmp_path / "a.tar", shell(), ["app:1"]))
    await engine.images.tag("app:1", "app:two")
    before = await engine.images.get("app:1")
    await engine.images.save(["app:1", "app:two"], tmp_path / "saved.tar")
    await engine.images.remove(before.id, force=True)
    await engine.images.prune(all=True)
    assert await engine.images.list() == []

    loaded = await engine.images.load(tmp_path / "saved.tar")
    assert loaded == [before]
    await engine.images.save(["app:1", "app:two"], tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "saved.tar").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "again.tar", "saved.tar"]


async def test_what_is_saved_is_a_layout_that_umoci_unpacks(engine: Engine, tmp_path: Path) -> None:
    await engine.images.load(docker_archive(tmp_path / "a.tar", shell(), ["app:1"]))
    await engine.images.save(["app:1"], tmp_path / "saved.tar")
    with tarfile.open(tmp_path / "saved.tar") as saved:
        saved.extractall(tmp_path / "layout", filter="data")
        [docker] = json.load(saved.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert docker["RepoTags"] == ["app:1"]
        assert digest_of(saved.extractfile(docker["Config"]).read()) == shell().id  # type: ignore[union-attr]
    command = ["umoci", "unpack", "--image", f"{tmp_path}/layout:1", str(tmp_path / "bundle")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "bundle/rootfs/srv/own").read_bytes() == b"of the upper layer\n"
    [image] = await engine.images.load(tmp_path / "layout")
    assert image.names == ["app:1"]


async def test_what_is_no_image_or_was_changed_is_refused(engine: Engine, tmp_path: Path) -> None:
    made = shell()
    wrong = Made(*made.layers)
    wrong.layers = [made.layers[0], layer(file(b"other"))]
    for path, said in (
        (tar(tmp_path / "1", ("etc/passwd", b"")), "neither `index.json` nor `manifest.json`"),
        (tar(tmp_path / "2", ("manifest.json", b'[{"Config": "../../etc/passwd"}]')), "lacks `../../etc/passwd`"),
        (docker_archive(tmp_path / "3", wrong, ["app:1"]), "its content has the digest"),
    ):
        with pytest.raises(InvalidImage, match=said):
            await engine.images.load(path)
    (tmp_path / "4").write_bytes(b"text" * 1000)
    with pytest.raises(InvalidImage, match="no tar file"):
        await engine.images.load(tmp_path / "4")
    with pytest.raises(InvalidSpec, match="No such file"):
        await engine.images.load(tmp_path / "none")
    assert await engine.images.list() == []
    await engine.images.prune()  # a part of a good layer is kept for the next attempt
