"""Keeping the store out of containers, and what the host view is made of: without a container."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from longshore.compute.values import Place
from longshore.errors import InvalidSpec
from longshore.oci.rootfs import host_view
from longshore.oci.rootfs.layers import Overlay
from longshore.oci.rootfs.roots import plan_root
from longshore.oci.rootfs.store_masking import Hidden, MountPoint, mount_points, stores
from longshore.spec import Spec

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="longshore needs root for now")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "a" / "store").mkdir(parents=True)
    return tmp_path / "a" / "store"


def test_a_store_is_found_below_every_folder_above_it(store: Path, tmp_path: Path) -> None:
    hidden = Hidden([str(store)])
    assert hidden.below(str(tmp_path)) == ["a/store"]
    assert hidden.below(str(store)) == [""]
    assert hidden.below("/") == [str(store)[1:]]
    (tmp_path / "b").mkdir()
    assert hidden.below(str(tmp_path / "b")) == []


def test_a_store_is_found_by_what_it_is_not_by_its_name(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    hidden = Hidden([str(store)])
    assert hidden.below(str(tmp_path / "link")) == ["store"]
    assert hidden.inside(str(tmp_path / "link" / "store"))
    assert not hidden.inside(str(tmp_path / "a"))


def test_a_store_that_is_yet_to_be_made_is_hidden_too(tmp_path: Path) -> None:
    assert Hidden([str(tmp_path / "x" / "y")]).below(str(tmp_path)) == ["x/y"]


def test_a_store_that_is_mounted_below_is_found(store: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "mounted").mkdir(parents=True)
    (tmp_path / "other" / "mounted").rmdir()
    (tmp_path / "other" / "mounted").symlink_to(tmp_path / "a")  # as a bind mount would: the same folder once more
    points = [MountPoint(str(tmp_path / "other" / "mounted"), "ext4")]
    assert Hidden([str(store)]).below_with_mounts(str(tmp_path / "other"), points) == ["mounted/store"]


def test_the_layers_of_images_may_be_seen_and_nothing_else_of_a_store(store: Path) -> None:
    hidden = Hidden([str(store)])
    images = store / "images"
    (images / "layers" / "1" / "fs" / "etc").mkdir(parents=True)
    (images / "fixups" / "2" / "fs").mkdir(parents=True)
    (store / "link").symlink_to(images / "layers")
    for path in (images / "layers" / "1" / "fs", images / "fixups" / "2" / "fs", store / "link" / "1" / "fs"):
        hidden.check_layer(str(path), "layers")
    for path in (
        store,
        images,
        images / "layers",
        images / "layers" / "1",
        images / "layers" / "1" / "fs" / "etc",
        images / "layers" / "1" / "fs" / "..",
        images / "blobs" / "1" / "fs",
    ):
        path.mkdir(parents=True, exist_ok=True)
        with pytest.raises(InvalidSpec, match="longshore's state directory"):
            hidden.check_layer(str(path), "layers")


def test_mount_points_may_have_blanks_in_their_names() -> None:
    line = "36 35 98:0 / /mnt/a\\040b\\134c rw,noatime shared:1 - ext3 /dev/root rw\n"
    assert mount_points(line) == [MountPoint("/mnt/a b\\c", "ext3")]


def test_both_halves_of_a_store_and_the_machines_own_are_hidden(tmp_path: Path) -> None:
    run = tmp_path / "run" / "containers" / "web"
    found = stores(Place(run=run, data=run))
    assert {str(tmp_path / "run"), str(tmp_path / "lib"), "/run/longshore", "/var/lib/longshore"} <= set(found)


@needs_root
def test_a_store_in_opt_is_hidden_from_the_host_view() -> None:
    run = Path("/opt/longshore-of-a-test/run/containers/web")
    plan = plan_root(Place(run=run, data=run), Spec.of(args=["true"]))
    machine = next(item for item in plan.before if isinstance(item, Overlay) and item.lowers == ["/"])
    assert "/opt/longshore-of-a-test/run" in machine.hidden
    plan.inside.close()


@needs_root
def test_a_read_only_view_is_so_in_all_its_mounts(tmp_path: Path) -> None:
    run = tmp_path / "run" / "containers" / "web"
    plan = plan_root(Place(run=run, data=run), Spec.of(args=["true"], read_only=True))
    overlays = [step for step in plan.steps if step.fstype == "overlay"][1:]  # more, where there are mounts in /usr
    assert {step.flags & 1 for step in overlays} == {1}
    assert plan.binds
    assert all("ro" in bind.options for bind in plan.binds)
    plan.inside.close()


@needs_root
def test_a_folder_that_holds_the_store_is_masked_in_a_document_of_somebody_elses(tmp_path: Path) -> None:
    from longshore.oci.bundle import plan_bundle

    run = tmp_path / "store" / "run" / "containers" / "web"
    run.mkdir(parents=True)
    (tmp_path / "root").mkdir()
    document = {
        "ociVersion": "1.0.2",
        "process": {"args": ["/all/sh"], "cwd": "/"},
        "root": {"path": str(tmp_path / "root")},
        "mounts": [{"destination": "/all", "type": "none", "source": str(tmp_path), "options": ["rbind"]}],
    }
    place = Place(run=run, data=run)
    found, _, _ = plan_bundle(place, "web", Spec.from_oci(document), cgroup_path="/x")
    assert [mount["destination"] for mount in found["mounts"]] == ["/all", "/all/store/run"]
    document["mounts"] = [{"destination": "/all", "type": "bind", "source": str(run)}]
    with pytest.raises(InvalidSpec) as error:
        plan_bundle(place, "web", Spec.from_oci(document), cgroup_path="/x")
    assert error.value.field == "oci.mounts[0].source"


# the skeleton


def test_a_skeleton_is_made_once_and_whole(tmp_path: Path) -> None:
    skeleton = host_view.skeleton(tmp_path / "views")
    host_view.make_skeleton(skeleton, [])
    inode = skeleton.path.stat().st_ino
    host_view.make_skeleton(skeleton, [])
    assert skeleton.path.stat().st_ino == inode
    assert {path.name for path in skeleton.path.parent.iterdir()} == {skeleton.path.name, host_view.ASIDE}


def test_a_skeleton_does_not_depend_on_the_callers_umask(tmp_path: Path) -> None:
    skeleton = host_view.skeleton(tmp_path / "views")
    before = os.umask(0o077)
    try:
        host_view.make_skeleton(skeleton, [])
    finally:
        os.umask(before)
    for path in Path(skeleton.root).rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o004, path


def test_password_hashes_in_passwd_itself_are_left_out() -> None:
    text = b"root:$6$secret:0:0:root:/root:/bin/sh\n+@netgroup\nweb:x:1:1::/:\n"
    assert host_view._without_passwords(text) == b"root:x:0:0:root:/root:/bin/sh\n+@netgroup\nweb:x:1:1::/:\n"


def test_old_skeletons_go_and_those_in_use_or_lately_used_stay(tmp_path: Path) -> None:
    views = tmp_path / "views"
    (views / "old").mkdir(parents=True)
    (views / "lately").mkdir()
    long_ago = time.time() - 2 * host_view.AGE_LIMIT
    os.utime(views / "old", (long_ago, long_ago))
    skeleton = host_view.skeleton(views)
    host_view.make_skeleton(skeleton, [])
    assert {path.name for path in views.iterdir()} == {"lately", host_view.ASIDE, skeleton.path.name}
