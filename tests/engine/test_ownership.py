"""The state directory is only used where no other user could have put, or could replace, what root follows there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from longshore.errors import StoreError
from longshore.store.state_directory import Store

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Windows' folders inherit who may use them"),
    pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="gives files to other users"),
]
OTHER = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o002, 0o077])
def test_state_is_closed_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    base = tmp_path / "a" / "b" / "state"
    before = os.umask(umask)
    try:
        Store.at(base).open()
    finally:
        os.umask(before)
    made = [path for path in (tmp_path / "a").rglob("*") if path.is_dir()]
    assert len(made) > 8
    assert {mode(path) for path in [tmp_path / "a", *made]} == {0o700}
    assert {mode(path) for path in base.rglob("*") if path.is_file()} == {0o600}


def test_folders_that_others_could_only_read_are_closed(tmp_path: Path) -> None:
    base = tmp_path / "state"
    Store.at(base).open()
    for path in (base / "run", base / "lib", base / "run" / "trash"):
        path.chmod(0o755)
    Store.at(base).open()
    assert {mode(base / name) for name in ("run", "lib", "run/trash")} == {0o700}


@pytest.mark.parametrize("name", ["run", "lib", "run/trash", "run/leases", "lib/containers", "lib/journal"])
@pytest.mark.parametrize("problem", ["open", "open to a group", "another user's", "another user's link"])
def test_folder_that_another_user_could_change_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    base = tmp_path / "state"
    Store.at(base).open()
    precious = tmp_path / "precious"
    (precious / "folder").mkdir(parents=True)
    path = base / name
    if problem == "open":
        path.chmod(0o777)
    elif problem == "open to a group":
        os.chown(path, 0, 1234)
        path.chmod(0o770)
    elif problem == "another user's":
        os.chown(path, OTHER, OTHER)
    else:
        path.rename(tmp_path / "before")
        path.symlink_to(precious)
        os.chown(path, OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(StoreError, match="cannot use the state directory: ") as caught:
        Store.at(base).open()
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert (precious / "folder").is_dir()


@pytest.mark.parametrize("problem", ["open", "another user's"])
def test_parent_that_another_user_could_change_is_refused(tmp_path: Path, problem: str) -> None:
    parent = tmp_path / "parent"
    (parent / "mine").mkdir(parents=True)
    if problem == "open":
        parent.chmod(0o777)
    else:
        os.chown(parent, OTHER, OTHER)
    with pytest.raises(StoreError, match=str(parent)):
        Store.at(parent / "mine" / "state").open()
    assert list((parent / "mine").iterdir()) == []


def test_state_below_a_sticky_folder_is_used_unless_made_by_another_user(tmp_path: Path) -> None:
    sticky = tmp_path / "tmp"
    sticky.mkdir()
    sticky.chmod(0o1777)
    Store.at(sticky / "mine").open()
    (sticky / "theirs").mkdir()
    os.chown(sticky / "theirs", OTHER, OTHER)
    with pytest.raises(StoreError, match="belongs to user 65534"):
        Store.at(sticky / "theirs").open()


def test_state_behind_own_links_is_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "absolute").symlink_to(tmp_path / "link")
    Store.at(tmp_path / "absolute" / "state").open()
    assert mode(tmp_path / "real" / "state" / "run") == 0o700
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(StoreError, match="symbolic links"):
        Store.at(tmp_path / "round").open()
    os.chown(tmp_path / "link", OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(StoreError, match="belongs to user"):
        Store.at(tmp_path / "absolute" / "state").open()
