"""What `Spec.root`, `layers` and `oci` mean: where the root file system is, and how it comes to be there."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Sequence
from typing import Any

import msgspec

from ...compute.values import Place
from ...errors import InvalidSpec
from ...spec import Spec, image_of_root
from ..documents import MountEntry
from . import host_view
from .host_view import HostInside
from .layers import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    Overlay,
    Step,
    check_folder,
    check_parents,
    like,
    note_work,
)
from .mounts import READ_ONLY_RECURSIVE, kernel, masks_below, shown
from .resolve_in_root import Folder, Inside, Stack
from .store_masking import Hidden, mount_points, stores


class RootPlan(msgspec.Struct, kw_only=True):
    """A root file system, planned: nothing of it is made before `make`."""

    kind: str  # host, host:full, rootfs, layers
    path: str
    flags: int  # that its mounts must keep, as mount(2) has them: MS_NOSUID, MS_NODEV, of a root in place others, too
    inside: Inside
    hidden: Hidden
    before: Sequence[Overlay | Step] = ()  # mounted before the runtime starts; the first is the root itself
    binds: list[MountEntry] = []  # parts of the root that the runtime mounts, so that a checkpoint knows them
    mounts: list[MountEntry] = []  # that belong to the root: shown folders, and what hides the store
    skeleton: host_view.Skeleton | None = None
    reasons: dict[str, str] = {}

    @property
    def steps(self) -> list[Step]:
        """The mount calls before the runtime starts."""
        return [item.step() if isinstance(item, Overlay) else item for item in self.before]

    @property
    def of_the_machine(self) -> bool:
        """Whether what is seen in it is this machine."""
        return self.kind in ("host", "host:full")

    def make(self, place: Place, files: dict[str, str]) -> None:
        """Make what the mounts need. `files` go to the `/etc` of the `host` root. Raises OSError."""
        if self.skeleton is not None:
            host_view.make_skeleton(self.skeleton, mount_points())
        for item in self.before:
            if isinstance(item, Overlay):
                if item.work is not None:
                    note_work(item.work, place.run)
                item.make()
        if self.skeleton is not None:
            etc = str(place.data / "scratch" / "etc")
            like(f"{self.skeleton.root}/etc", etc)
            for name, text in files.items():
                with open(os.open(f"{etc}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
                    os.fchmod(file.fileno(), 0o644)  # whatever the caller's umask is
                    file.write(text.encode("utf-8", "surrogateescape"))


KERNELS_FOLDERS = ("/proc", "/sys", "/dev")


def check_kernels_folders(root: RootPlan) -> None:
    """InvalidSpec unless /proc, /sys and /dev of a root are folders, or are yet to be made.

    A runtime mounts where a link there leads within the root, and may then go by the path itself, on the machine: crun
    1.8.1 makes its devices and links in the machine's folder that `/dev` names, and removes what was there by their
    names; runc 1.1.5 looks there for `ptmx`. (CVE-2019-19921, CVE-2023-27561 and CVE-2025-52565 are of this kind.)
    """
    for path in KERNELS_FOLDERS:
        link = root.inside.link(path)
        found = root.inside.stat(path) if link is None else None
        if link is not None or (found is not None and not stat.S_ISDIR(found.st_mode)):
            what = "is not a folder" if link is None else f"is a symbolic link, to {link!r}"
            raise InvalidSpec("root", f"its {path} {what}", hint=f"make {path} an empty folder in the root")


def keep_flags(config: dict[str, Any], root: RootPlan, runtime: str) -> None:
    """Have the root of a document keep its flags: runtimes take them from it.

    crun binds the root anew and gives the bind no flags (its do_mount, up to 1.26 at least); a mount of no type on the
    root changes those. Both runtimes remount a root that is to be read-only without its flags. crun has that from a
    last mount instead; for runc, which refuses mounts on the root from 1.3 on, it is read-only before.
    """
    if not root.flags:
        return
    known = (("nosuid", MS_NOSUID), ("nodev", MS_NODEV), ("noexec", MS_NOEXEC))
    names = [name for name, flag in known if root.flags & flag]
    entry = {"destination": "/.", "type": "", "source": "none"}
    mounts = config.setdefault("mounts", [])
    if not config["root"].get("readonly") and not (root.flags & MS_RDONLY and runtime.startswith("crun")):
        if runtime.startswith("crun") and kernel() >= READ_ONLY_RECURSIVE:
            mounts.insert(0, {**entry, "options": [f"r{name}" for name in names]})
    elif runtime.startswith("crun"):
        config["root"]["readonly"] = False
        mounts.append({**entry, "options": ["ro", *names]})
    elif any(mount["destination"] == "/dev" for mount in mounts) and not config.get("hooks"):  # which may write to it
        config["root"]["readonly"] = False
        bound = MS_BIND | MS_REC
        root.before = [
            *root.before,
            Step(source=root.path, target=root.path, fstype="", flags=bound, points=_points(mounts), sealed=True),
        ]


def _points(mounts: Sequence[dict[str, Any]]) -> list[tuple[str, bool]]:
    """The places of mounts that are in the root itself, not in another mount, and whether each is a folder."""
    places = [posixpath.normpath(mount["destination"]) for mount in mounts]
    found = []
    for mount, place in zip(mounts, places, strict=True):
        if not any(place.startswith(f"{other}/") for other in places):
            bind = mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options") or [])
            found.append((place, not bind or os.path.isdir(mount.get("source") or "")))
    return found


def plan_root(place: Place, spec: Spec) -> RootPlan:
    """What the spec's root is. Raises InvalidSpec, naming the field, if it cannot be used."""
    root = _plan(place, spec)
    try:
        check_kernels_folders(root)
    except BaseException:
        root.inside.close()
        raise
    if spec.security.userns is not None:
        _within_reach(root, [mount.source or "" for mount in spec.mounts] + spec.show)
    return root


def _flags(spec: Spec) -> int:
    """nodev and nosuid, but for what a document of others has the root for.

    Devices come from the runtime's own /dev; a document without one has them in its root. Setuid programs are of use
    only where privileges may be gained.
    """
    document = spec.oci
    if document is None:
        return MS_NODEV | (MS_NOSUID if spec.security.no_new_privileges else 0)
    own_dev = any(posixpath.normpath(str(mount.get("destination"))) == "/dev" for mount in document.get("mounts") or [])
    no_new = spec.security.no_new_privileges and (document.get("process") or {}).get("noNewPrivileges") is True
    return (MS_NODEV if own_dev else 0) | (MS_NOSUID if no_new else 0)


_CROSSINGS = ("/mnt", "/media", "/srv", "/opt", "/boot", "/home")


def _within_reach(root: RootPlan, used: Sequence[str]) -> None:
    """Have the root mounted, for its runtime only, where every user may go.

    A runtime enters the user namespace before it goes to the root, and is then nobody special on the way there: the
    state directory is closed to it. So the root is bound over a folder that every machine has, and that nothing of
    this container comes from; in the runtime's own mount namespace, like all mounts of ours.
    """
    used = [root.path, *used]
    for folder in _CROSSINGS:
        if os.path.isdir(folder) and not any(f"{os.path.realpath(path)}/".startswith(f"{folder}/") for path in used):
            root.before = [*root.before, Step(source=root.path, target=folder, fstype="", flags=MS_BIND | MS_REC)]
            root.path = folder
            return
    raise InvalidSpec("security.userns", f"needs one of {', '.join(_CROSSINGS)} that the container does not use")


def _plan(place: Place, spec: Spec) -> RootPlan:
    hidden = Hidden(stores(place))
    flags = _flags(spec) | (MS_RDONLY if spec.read_only else 0)
    if spec.layers is not None:
        return _layers(place, spec, hidden, flags=flags)
    if spec.root == "host":
        return _host(place, spec, hidden, flags=flags)
    if spec.root == "host:full":
        return _full(place, hidden, flags=flags)
    kind, _, path = spec.root.partition(":")
    if kind == "rootfs":
        return _folder(place, path, "root", hidden, flags=flags)
    root = (spec.oci or {}).get("root")
    given = root.get("path") if isinstance(root, dict) else None
    if not isinstance(given, str):
        raise InvalidSpec("oci.root.path", "is missing", hint="name an absolute path, or a root beside the document")
    if not given.startswith("/"):
        raise InvalidSpec(
            "oci.root.path", f"{given!r} is relative, and a document alone has no folder", hint="make it absolute"
        )
    return _folder(place, given, "oci.root.path", hidden, flags=flags)


def _folder(place: Place, path: str, field: str, hidden: Hidden, *, flags: int) -> RootPlan:
    check_folder(path, field)
    hidden.check(path, field)
    real = os.path.realpath(path)  # runtimes want a path without links
    if os.path.samestat(os.stat(real), os.stat("/")):
        raise InvalidSpec(
            field, "the root of this machine cannot be used in place", hint="use root='host' or 'host:full'"
        )
    flags &= MS_NODEV | MS_NOSUID
    if flags:  # what the machine's mount has, too: it stands as far as the path is bound
        flags |= os.statvfs(real).f_flag & (MS_RDONLY | MS_NOEXEC)
    rootfs = str(place.run / "bundle" / "rootfs") if flags else real
    bound = Step(source=real, target=rootfs, fstype="", flags=MS_BIND | MS_REC, added=flags & ~MS_RDONLY)
    return RootPlan(
        kind="rootfs",
        path=rootfs,
        flags=flags,
        before=[bound] if flags else [],
        inside=Folder(real),
        hidden=hidden,
        mounts=masks_below(real, "/", hidden, mount_points()),
        reasons={"root": "used in place"},
    )


def _host(place: Place, spec: Spec, hidden: Hidden, *, flags: int) -> RootPlan:
    rootfs = str(place.run / "bundle" / "rootfs")
    mounts = shown(spec.show, hidden)
    skeleton = host_view.skeleton(place.run.parents[1] / "views")
    points = mount_points()
    before = host_view.mounts(rootfs, str(place.data / "scratch"), skeleton, hidden, points, flags=flags)
    binds: list[MountEntry] = []
    if spec.security.userns is None:  # else its runtime could not reach them
        options = ["bind", "private", "nodev"]
        options += ["nosuid"] if flags & MS_NOSUID else []
        options += ["ro"] if flags & MS_RDONLY else []
        for item in [item for item in before if isinstance(item, Step)]:
            if not any(other.target.startswith(f"{item.target}/") for other in before):  # that comes after it
                before.remove(item)
                at = item.target.removeprefix(rootfs)
                binds.append(MountEntry(destination=at, type="bind", source=item.source, options=options))
    return RootPlan(
        kind="host",
        flags=flags & (MS_NODEV | MS_NOSUID),
        hidden=hidden,
        path=rootfs,
        inside=HostInside(spec.show),
        before=before,
        binds=binds,
        mounts=mounts,
        skeleton=skeleton,
        reasons={"root": "this machine's programs and what they need, copy-on-write; no homes, keys or secrets"},
    )


def _full(place: Place, hidden: Hidden, *, flags: int) -> RootPlan:
    rootfs = str(place.run / "bundle" / "rootfs")
    scratch = str(place.data / "scratch")
    overlays = [
        Overlay(
            target=rootfs if folder == "/" else f"{rootfs}{folder}",
            lowers=[folder],
            scratch=scratch if folder == "/" else f"{scratch}-{host_view.scratch_name(folder)}",
            flags=flags & ~MS_RDONLY if folder == "/" else flags,
            hidden=hidden.below(folder),
        )
        for folder in host_view.with_mounts(["/"], mount_points(), hidden)
    ]
    return RootPlan(
        kind="host:full",
        flags=flags & (MS_NODEV | MS_NOSUID),
        hidden=hidden,
        path=rootfs,
        inside=Folder("/"),
        before=overlays,
        reasons={"root": "all of this machine but longshore's own state, copy-on-write: for trusted code only"},
    )


def _layers(place: Place, spec: Spec, hidden: Hidden, *, flags: int) -> RootPlan:
    layers = spec.layers
    assert layers is not None
    check_parents(layers.parents)
    image = image_of_root(spec.root)
    check = hidden.check if image is None else hidden.check_layer  # an image's layers are in the store
    for index, path in enumerate(layers.parents):
        check(path, f"layers.parents[{index}]")
    scratch = str(place.data / "scratch")
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
        flags=flags & ~MS_RDONLY,  # the runtime makes it so, once it has its mount points
        hidden=below,
    )
    return RootPlan(
        kind="layers",
        flags=flags & (MS_NODEV | MS_NOSUID),
        hidden=hidden,
        path=overlay.target,
        inside=Stack([overlay.upper_path, *overlay.lowers]),
        before=[overlay],
        reasons={
            "root": (f"image {image}: " if image is not None else "")
            + f"{len(layers.parents)} layers under "
            + ("the scratch folder given" if upper else "a scratch folder that goes with the container")
        },
    )


def _work_folder(upper: str) -> str:
    """overlayfs needs an empty folder on the upper folder's file system, which must not be in it: beside it."""
    head, tail = os.path.split(upper)
    return f"{head}/.{tail}.work"
