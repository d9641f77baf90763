"""What `Spec.root`, `layers` and `oci` mean: where the root file system is, and how it comes to be there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from ..compute import Place
from ..errors import InvalidSpec
from ..spec import Spec
from . import hostview
from .documents import MountEntry
from .hidden import Hidden, mount_points, stores
from .hostview import HostInside
from .inroot import Folder, Inside, Stack
from .layers import MS_NODEV, MS_NOSUID, Overlay, Step, check_folder, check_parents, like
from .mounts import masks_below, shown


class RootPlan(msgspec.Struct, kw_only=True):
    """A root file system, planned: nothing of it is made before `make`."""

    kind: str  # host, host:full, rootfs, layers
    path: str
    inside: Inside
    overlays: Sequence[Overlay] = ()
    mounts: list[MountEntry] = []  # that belong to the root: shown folders, and what hides the store
    skeleton: Path | None = None
    reasons: dict[str, str] = {}

    @property
    def steps(self) -> list[Step]:
        """The mount calls before the runtime starts."""
        return [overlay.step() for overlay in self.overlays]

    @property
    def of_the_machine(self) -> bool:
        """Whether what is seen in it is this machine."""
        return self.kind in ("host", "host:full")

    def make(self, place: Place, files: dict[str, str]) -> None:
        """Make what the mounts need. `files` are written over those of the `host` root. Raises OSError."""
        bundle = place.run / "bundle"
        if self.skeleton is not None:
            (bundle / "view").symlink_to(self.skeleton)
            fresh = not self.skeleton.is_dir()
            hostview.make_skeleton(self.skeleton)
            if fresh:
                hostview.prune(self.skeleton.parent, place.run.parent, self.skeleton)
        for overlay in self.overlays:
            overlay.make()
        if self.overlays and files:
            upper = self.overlays[0].upper_path
            like(f"{self.overlays[0].lowers[0]}/etc", f"{upper}/etc")
            for name, text in files.items():
                path = Path(f"{upper}/{name}")
                with suppress(FileNotFoundError):
                    path.unlink()
                path.write_text(text)
                path.chmod(0o644)


def plan_root(place: Place, spec: Spec) -> RootPlan:
    """What the spec's root is. Raises InvalidSpec, naming the field, if it cannot be used."""
    hidden = Hidden(stores(place))
    no_suid = spec.security.no_new_privileges
    if spec.layers is not None:
        return _layers(place, spec, hidden, no_suid=no_suid)
    if spec.root == "host":
        return _host(place, spec, hidden, no_suid=no_suid)
    if spec.root == "host:full":
        return _full(place, hidden, no_suid=no_suid)
    kind, _, path = spec.root.partition(":")
    if kind == "rootfs":
        return _folder(path, "root", hidden)
    root = (spec.oci or {}).get("root")
    given = root.get("path") if isinstance(root, dict) else None
    if not isinstance(given, str):
        raise InvalidSpec("oci.root.path", "is missing", hint="name an absolute path, or a root beside the document")
    if not given.startswith("/"):
        raise InvalidSpec(
            "oci.root.path", f"{given!r} is relative, and a document alone has no folder", hint="make it absolute"
        )
    return _folder(given, "oci.root.path", hidden)


def _folder(path: str, field: str, hidden: Hidden) -> RootPlan:
    check_folder(path, field)
    hidden.check(path, field)
    real = os.path.realpath(path)  # runtimes want a path without links
    masks = masks_below(real, "/", hidden, mount_points())
    return RootPlan(kind="rootfs", path=real, inside=Folder(real), mounts=masks, reasons={"root": "used in place"})


def _host(place: Place, spec: Spec, hidden: Hidden, *, no_suid: bool) -> RootPlan:
    rootfs = str(place.run / "bundle" / "rootfs")
    mounts = shown(spec.show, hidden)
    skeleton = hostview.skeleton_path(place.run.parents[1] / "views")
    points = mount_points()
    overlays = hostview.overlays(rootfs, str(place.data / "scratch"), str(skeleton), hidden, points, no_suid=no_suid)
    return RootPlan(
        kind="host",
        path=rootfs,
        inside=HostInside(spec.show),
        overlays=overlays,
        mounts=mounts,
        skeleton=skeleton,
        reasons={"root": "this machine's programs and what they need, copy-on-write; no homes, keys or secrets"},
    )


def _full(place: Place, hidden: Hidden, *, no_suid: bool) -> RootPlan:
    rootfs = str(place.run / "bundle" / "rootfs")
    scratch = str(place.data / "scratch")
    flags = MS_NODEV | (MS_NOSUID if no_suid else 0)
    overlays = [
        Overlay(
            target=rootfs if folder == "/" else f"{rootfs}{folder}",
            lowers=[folder],
            scratch=f"{scratch}/{hostview.scratch_name(folder)}",
            flags=flags,
            hidden=hidden.below(folder),
        )
        for folder in hostview.with_mounts(["/"], mount_points(), hidden)
    ]
    return RootPlan(
        kind="host:full",
        path=rootfs,
        inside=Folder("/"),
        overlays=overlays,
        reasons={"root": "all of this machine but longshore's own state, copy-on-write: for trusted code only"},
    )


def _layers(place: Place, spec: Spec, hidden: Hidden, *, no_suid: bool) -> RootPlan:
    layers = spec.layers
    assert layers is not None
    check_parents(layers.parents)
    for index, path in enumerate(layers.parents):
        hidden.check(path, f"layers.parents[{index}]")
    scratch = str(place.data / "scratch" / "root")
    upper = work = None
    if layers.scratch is not None:
        check_folder(layers.scratch, "layers.scratch")
        hidden.check(layers.scratch, "layers.scratch")
        upper = os.path.realpath(layers.scratch)
        work = _work_folder(upper)
    below = sorted({path for parent in layers.parents for path in hidden.below(parent)})
    overlay = Overlay(
        target=str(place.run / "bundle" / "rootfs"),
        lowers=[os.path.realpath(path) for path in layers.parents],
        scratch=scratch,
        upper=upper,
        work=work,
        volatile=upper is None,
        flags=MS_NODEV | (MS_NOSUID if no_suid else 0),
        hidden=below,
    )
    return RootPlan(
        kind="layers",
        path=overlay.target,
        inside=Stack([overlay.upper_path, *overlay.lowers]),
        overlays=[overlay],
        reasons={
            "root": f"{len(layers.parents)} layers under "
            + ("the scratch folder given" if upper else "a scratch folder that goes with the container")
        },
    )


def _work_folder(upper: str) -> str:
    """overlayfs needs an empty folder on the upper folder's file system, which must not be in it: beside it."""
    head, tail = os.path.split(upper)
    return f"{head}/.{tail}.work"
