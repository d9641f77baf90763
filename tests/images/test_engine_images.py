"""`engine.images` and roots that are images: from docker's registry on this machine to containers that run."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from longshore import ImageNotFound, InvalidSpec, Layers, PlatformNotFound, PullProgress, Spec
from longshore.engine.engine import Engine
from longshore.engine.image_root import find_again, resolve
from longshore.images.digests import digest_of
from longshore.simulator import Simulator

from .clients import source
from .packed import layer
from .real import registry
from .runnable import Made, push_index, shell
from .tars import file

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with one image, `app`."""
    with registry(tmp_path_factory.mktemp("registry")) as made:
        shell().push(f"{made.host}/app:latest")
        yield made.host


@pytest_asyncio.fixture
async def engine(state: Path) -> AsyncIterator[Engine]:
    async with Engine(state=state, runtime="crun") as made:
        yield made


async def test_an_image_is_pulled_and_runs(engine: Engine, host: str) -> None:
    said: list[PullProgress] = []
    image = await engine.images.pull(f"{host}/app", progress=said.append)
    made = shell()
    assert (image.id, image.digest, image.names) == (made.id, made.digest, [f"{host}/app:latest"])
    assert [each.state for each in said if each.layer == made.layers[1].descriptor.digest][-1] == "done"

    done = await engine.run(f"{host}/app", ["/bin/sh", "-c", "echo $WHO; cat own"], pull="never")
    assert done.stdout == b"image\nof the upper layer\n"


async def test_a_root_that_is_not_here_is_pulled_and_has_its_own_command(engine: Engine, host: str) -> None:
    assert (await engine.run(f"{host}/app")).stdout == b"from the image\n"
    done = await engine.run(f"image:{host}/app", ["/bin/sh", "-c", "echo $WHO"], env={"WHO": "caller"})
    assert done.stdout == b"caller\n"
    done = await engine.run(f"{host}/app", ["own"], entrypoint=["/bin/cat"])
    assert done.stdout == b"of the upper layer\n"


async def test_a_container_keeps_its_image_though_that_is_removed(engine: Engine, host: str) -> None:
    box = await engine.launch("box", root=f"{host}/app", args=["/bin/sh", "-c", "while :; do sleep 1; done"])
    assert (await box.info()).root == f"{host}/app"
    assert await engine.images.remove(f"{host}/app") == [f"{host}/app:latest"]
    assert (await engine.images.prune(all=True)).images == []
    assert [each.names for each in await engine.images.list()] == [[]]
    assert (await box.run(["/bin/cat", "/srv/own"])).stdout == b"of the upper layer\n"
    await box.delete(force=True)
    assert (await engine.images.prune()).images == [shell().digest]
    assert await engine.images.list() == []


async def test_the_image_of_this_machine_is_taken_from_an_index(engine: Engine, host: str) -> None:
    other, ours = Made(layer(file(b"x", b"arm")), architecture="arm64"), shell("echo amd64")
    push_index(f"{host}/many:1", other, ours)
    assert (await engine.images.pull(f"{host}/many:1")).digest == ours.digest
    assert (await engine.images.pull(f"{host}/many:1", platform="linux/arm64")).digest == other.digest
    assert {each.platform for each in await engine.images.list()} == {"linux/amd64", "linux/arm64"}
    assert (await engine.run(f"{host}/many:1")).stdout == b"amd64\n"
    with pytest.raises(PlatformNotFound, match="linux/arm64, linux/amd64"):
        await engine.images.pull(f"{host}/many:1", platform="linux/riscv64")


async def test_a_tag_that_moved_on_is_noticed_and_the_old_image_is_untagged(engine: Engine, host: str) -> None:
    name = f"{host}/moving:1"
    shell("echo one").push(name)
    assert (await engine.run(name)).stdout == b"one\n"
    shell("echo two").push(name)
    assert (await engine.run(name)).stdout == b"one\n"
    assert (await engine.run(name, pull="always")).stdout == b"two\n"
    assert sorted(each.names for each in await engine.images.list()) == [[], [name]]


async def test_images_are_found_by_name_digest_and_id_and_by_nothing_else(engine: Engine, host: str) -> None:
    await engine.images.pull(f"{host}/app")
    made = shell()
    for text in (made.id, made.id[7:], made.id[7:19], made.digest, f"{host}/app", f"{host}/app@{made.digest}"):
        assert (await engine.images.get(text)).id == made.id, text
    for text in ("app", f"{host}/app:other", made.id[7:18], f"{host}/app@sha256:{'0' * 64}"):
        assert not await engine.images.exists(text), text
    await engine.images.tag(made.id[7:19], "app:mine")
    assert sorted((await engine.images.get("app:mine")).names) == sorted(["app:mine", f"{host}/app:latest"])
    with pytest.raises(InvalidSpec, match="2 names"):
        await engine.images.remove(made.id)
    assert await engine.images.remove("app:mine") == ["app:mine"]
    assert await engine.images.remove(made.id) == [f"{host}/app:latest", made.digest]


async def test_what_cannot_be_meant_is_refused_before_anything_is_made(engine: Engine, host: str) -> None:
    Made(layer(file(b"x"))).push(f"{host}/silent:latest")
    with pytest.raises(ImageNotFound, match="manifest unknown"):
        await engine.run(f"{host}/app:nope")
    with pytest.raises(ImageNotFound, match="on this machine"):
        await engine.create("box", root=f"{host}/app", pull="never")
    with pytest.raises(InvalidSpec, match="lower case"):
        await engine.create("box", root=f"{host}/App")
    with pytest.raises(InvalidSpec, match="no command"):
        await engine.create("box", root=f"{host}/silent")
    with pytest.raises(InvalidSpec, match="entrypoint"):
        await engine.create("box", root="host", args=["true"], entrypoint=["sh"])
    assert await engine.list() == []


async def test_a_spec_from_another_machine_gets_the_folders_of_its_image_here(engine: Engine, host: str) -> None:
    """As that of an exported checkpoint does; the very same layers, or none."""
    await engine.images.pull(f"{host}/app")
    spec, root = await resolve(engine.images, Spec.of(root=f"{host}/app"), {})
    assert spec.layers is not None
    moved = Layers(parents=[f"/elsewhere{path}" for path in spec.layers.parents])
    found, again = await find_again(engine.images, msgspec.structs.replace(spec, layers=moved))
    assert root is not None
    assert again is not None
    assert (found, again.pin) == (spec, root.pin)
    with pytest.raises(ImageNotFound, match="none that is here has the layers"):
        other = Layers(parents=spec.layers.parents[1:])
        await find_again(engine.images, msgspec.structs.replace(spec, layers=other))


async def test_the_features_say_where_images_are_kept(engine: Engine, state: Path) -> None:
    feature = (await engine.features()).items["images"]
    assert (feature.supported, feature.reason.partition(";")[0]) == (True, f"kept in {state}/lib/images")


async def test_a_plan_says_which_image_it_is(engine: Engine, host: str) -> None:
    await engine.images.pull(f"{host}/app")
    plan = await engine.plan(root=f"{host}/app")
    assert shell().digest in plan.reasons["image"]
    assert shell().layers[0].diff_id in plan.reasons["layer 2"]


async def test_what_was_pulled_is_pushed_byte_for_byte(engine: Engine, host: str, tmp_path: Path) -> None:
    """Also an index, if all images of it are here; and to a registry that has nothing of it."""
    other = Made(layer(file(b"x", b"arm")), architecture="arm64")
    index = push_index(f"{host}/both:1", other, shell("echo both"))
    await engine.images.pull(f"{host}/both:1")
    with registry(tmp_path / "second") as second:
        name = f"{second.host}/copy/both:2"
        await engine.images.tag(f"{host}/both:1", name)
        assert await engine.images.push(name) == shell("echo both").digest
        await engine.images.pull(f"{host}/both:1", platform="linux/arm64")
        said: list[PullProgress] = []
        assert await engine.images.push(name, progress=said.append) == digest_of(index)
        assert {each.state for each in said} >= {"there", "done"}
        with source(name) as opened:
            assert opened.manifest("2")[0].data == index
            assert opened.manifest(other.digest)[0].data == other.manifest
    with pytest.raises(ImageNotFound, match="on this machine"):
        await engine.images.push(f"{host}/not-here")


async def test_a_damaged_layer_is_told_and_made_again(engine: Engine, host: str, state: Path) -> None:
    await engine.images.pull(f"{host}/app")
    assert await engine.images.verify() == []
    own = state / "lib/images/layers" / shell().layers[1].key / "fs/srv/own"
    own.write_bytes(b"of the upper LAYER\n")
    assert [each.repaired for each in await engine.images.verify(f"{host}/app")] == [False]
    assert [each.repaired for each in await engine.images.verify(repair=True)] == [True]
    assert own.read_bytes() == b"of the upper layer\n"


async def test_an_image_that_is_here_runs_without_what_speaks_to_registries(
    engine: Engine, host: str, state: Path
) -> None:
    """From the blocking API, in a fresh program."""
    await engine.images.pull(f"{host}/app")
    program = (
        "import sys, longshore.sync\n"
        "with longshore.sync.Engine(state=sys.argv[1], runtime='crun') as engine:\n"
        "    print(engine.images.get(sys.argv[2]).platform, engine.run(sys.argv[2]).text, 'urllib3' in sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(state), f"{host}/app"]
    done = await asyncio.to_thread(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    assert (done.stdout, done.stderr) == ("linux/amd64 from the image\n False\n", "")


async def test_the_simulator_takes_images_for_their_command_and_variables(host: str, state: Path) -> None:
    async with Engine(Simulator(), state=state) as engine:
        assert (await engine.run(f"{host}/app", ["hi"], entrypoint=["echo"])).stdout == b"hi\n"
