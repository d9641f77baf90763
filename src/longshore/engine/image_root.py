"""A container's root that is an image: the name is resolved before anything is made, and held until it is on record.

What comes out is a spec like any other: its `layers` are the folders of the image, which the platform mounts, and what
the image says of command, variables and the like stands in its fields. Its `root` still has the name, for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..aio.tasks import in_thread
from ..errors import ImageNotFound, InvalidSpec
from ..images.values import PullPolicy
from ..spec import Layers, Spec, image_of_root
from ..store.records import VERSION

if TYPE_CHECKING:
    from ..images.records import ImagePin, ImageRecord
    from ..images.store import ImageStore
    from .images import Images

POLICIES = ("missing", "always", "newer", "never")
PIN = "image.json"
"""The file of a container's directory that says which image it uses (docs/state.md)."""

_FROM_IMAGE = ("args", "command_line", "env", "cwd", "user", "stop_signal", "labels")
_DEFAULT = Spec(args=["-"])


class ImageRoot(msgspec.Struct, frozen=True):
    """The image that a container is made of."""

    store: ImageStore
    record: ImageRecord
    pin: ImagePin

    def hold(self, home: Path) -> None:
        """Write into a container's directory that it uses the image, which from then on is not removed. It blocks.

        Raises: ImageNotFound if it was removed since it was looked up; StoreError.
        """
        from ..images.transfer.present import is_whole

        with self.store.using():
            if self.store.read_record(self.record.digest) is None or not is_whole(self.store, self.record):
                raise ImageNotFound(
                    self.pin.name, reason="it was removed while the container was made", hint="try again"
                )
            self.store.write_pin(home, self.pin, durable=False)  # `ContainerDir.on_disk` is told of it

    @property
    def reasons(self) -> dict[str, str]:
        """What `plan` tells of it."""
        record = self.record
        layers = [f"{layer.diff_id} in {self.store.layer_path(layer.key)}" for layer in reversed(record.layers)]
        return {"image": f"`{self.pin.name}` is {record.digest}, with the id {record.config}"} | {
            f"layer {number}": text for number, text in enumerate(layers, 1)
        }


def check_policy(value: Any, field: str = "pull") -> PullPolicy:
    """Return a policy if it is one. Raises: InvalidSpec."""
    if value not in POLICIES:
        raise InvalidSpec(field, f"{value!r:.80} is not known", hint=", ".join(POLICIES))
    policy: PullPolicy = value
    return policy


async def resolve(
    images: Images,
    spec: Spec,
    given: Mapping[str, Any],
    *,
    pull: PullPolicy = "missing",
    platform: str | None = None,
    entrypoint: Sequence[str] | None = None,
) -> tuple[Spec, ImageRoot | None]:
    """Return the spec completed by its image, which is pulled if need be; as it is, if its root is no image.

    `given` are the keywords by which the caller said what is in the spec: a value that is the default counts as said
    if its name is there. Raises: InvalidSpec; ImageNotFound and all that a pull raises.
    """
    check_policy(pull)
    name = image_of_root(spec.root)
    if name is None:
        for field, value in (("platform", platform), ("entrypoint", entrypoint)):
            if value is not None:
                raise InvalidSpec(field, f"is an image's, and the root {spec.root!r} is none", hint="leave it out")
        return spec, None
    if spec.oci is not None:
        raise InvalidSpec(
            "oci",
            "is given, and the root is an image: each says command, variables and user",
            hint="give the folders of an image as `layers` beside a document",
        )
    record = await images._pull(name, platform=platform, policy=pull, field="root")
    store = await images._opened()
    return await in_thread(lambda: _complete(store, record, name, spec, given, entrypoint))


def _complete(
    store: ImageStore,
    record: ImageRecord,
    name: str,
    spec: Spec,
    given: Mapping[str, Any],
    entrypoint: Sequence[str] | None,
) -> tuple[Spec, ImageRoot]:
    from ..images.config_spec import spec_fields
    from ..images.lookup import read_config

    config = read_config(store, record)
    said = {
        field: getattr(spec, field)
        for field in _FROM_IMAGE
        if (field in given and given[field] is not None) or getattr(spec, field) != getattr(_DEFAULT, field)
    }
    if not spec.args:
        said.pop("args", None)
    fields = spec_fields(config, said, name, entrypoint=entrypoint)
    layers = Layers(parents=store.mount_paths(record))
    return msgspec.structs.replace(spec, layers=layers, **fields), _root_of(store, record, name)


def _root_of(store: ImageStore, record: ImageRecord, name: str) -> ImageRoot:
    from ..images.records import ImagePin

    mounted = record.layers[-record.mounted :] if record.mounted else record.layers
    pin = ImagePin(
        version=VERSION,
        name=name,
        digest=record.digest,
        config=record.config,
        layers=[layer.key for layer in mounted],
        fixup=record.fixup,
    )
    return ImageRoot(store, record, pin)


async def find_again(images: Images, spec: Spec) -> tuple[Spec, ImageRoot | None]:
    """Return the spec of a container that was made elsewhere, with the folders that its image has here.

    As it is, if its root is no image. Raises: ImageNotFound if the very same image is not here.
    """
    name = image_of_root(spec.root)
    if name is None or spec.layers is None:
        return spec, None
    store = await images._opened()
    parents = spec.layers.parents

    def find() -> tuple[Spec, ImageRoot]:
        for record in store.read_records():
            paths = store.mount_paths(record)
            if [Path(path).parts[-3:] for path in paths] == [Path(path).parts[-3:] for path in parents]:
                return msgspec.structs.replace(spec, layers=Layers(parents=paths)), _root_of(store, record, name)
        hint = "pull the image that the container was made of"
        raise ImageNotFound(name, reason="none that is here has the layers of the container", hint=hint)

    return await in_thread(find)
